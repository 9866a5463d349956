//! Logs of failed runs, `<cache>/logs/<time>-<pid>.jsonl`: for their user only, and never more than a few.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::memory::Memory;
use super::{Event, KeepError, Line, utc};

/// How many are left when a new one has come.
const NEWEST: usize = 20;
const DIR: &str = "logs";
const EXTENSION: &str = "jsonl";

/// Writes the lines to a new file and removes the oldest of its kind.
pub fn keep(cache: &Path, stamp: &str, memory: Memory) -> Result<PathBuf, KeepError> {
    let dir = cache.join(DIR);
    let failed = |path: &Path, source: io::Error| KeepError::Io { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| failed(&dir, error))?;
    let found = dir.symlink_metadata().map_err(|error| failed(&dir, error))?;
    if !found.is_dir() || found.uid() != nix::unistd::geteuid().as_raw() {
        return Err(KeepError::Foreign { path: dir });
    }
    let path = dir.join(format!("{stamp}-{}.{EXTENSION}", std::process::id()));
    let mut text = memory.lines(dropped).join("\n");
    text.push('\n');
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| failed(&path, error))?;
    prune(&dir);
    Ok(path)
}

fn dropped(lines: u64) -> String {
    let time = utc(SystemTime::now());
    serde_json::to_string(&Line { time: &time, event: &Event::Dropped { lines } }).unwrap_or_default()
}

/// Names begin with their time, so the order of names is that of age. One that cannot be removed is left for the next time.
fn prune(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut logs: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
        .collect();
    logs.sort();
    let surplus = logs.len().saturating_sub(NEWEST);
    for log in &logs[..surplus] {
        let _ = fs::remove_file(log);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_newest_are_kept_and_are_their_users() {
        let cache = tempfile::tempdir().unwrap();
        let memory = || {
            let mut memory = Memory::default();
            memory.add("{}".to_owned(), false);
            memory
        };
        for number in 0..NEWEST + 5 {
            let path = keep(cache.path(), &format!("20261124T0930{number:02}"), memory()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "{}\n");
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let dir = cache.path().join(DIR);
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        keep(cache.path(), "20261124T100000", memory()).unwrap();
        let mut names: Vec<String> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len(), NEWEST + 1);
        assert!(names[0].starts_with("20261124T093006-"), "{names:?}");
        assert!(names.contains(&"notes.txt".to_owned()));
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_link_is_no_place_to_keep_them() {
        let cache = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), cache.path().join(DIR)).unwrap();
        let error = keep(cache.path(), "x", Memory::default()).unwrap_err();
        assert!(matches!(error, KeepError::Foreign { .. }), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }
}
