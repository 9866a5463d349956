//! Directories for the state of daemons: on a real disk (an overlay snapshotter works on neither tmpfs nor another
//! overlay), with short paths (a socket's must fit into 107 bytes), open to the users that tests make.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, statfs};

use crate::{command, workspace};

/// A directory that is removed, with all that daemons left in it, when the value goes.
#[derive(Debug)]
pub struct ScratchDir {
    path: PathBuf,
}

impl ScratchDir {
    /// Makes `<parts>/<label>-<pid>-<number>`, mode 0755.
    pub fn new(label: &str) -> Result<ScratchDir> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parts = parts_dir()?;
        remove_abandoned(&parts);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = parts.join(format!("{label}-{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        open_to_all(&path)?;
        Ok(ScratchDir { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside; nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Makes a directory inside, open to all, and returns its path.
    pub fn dir(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        open_to_all(&path)?;
        Ok(path)
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// The first of the candidates that overlayfs works on; without one, the first.
fn parts_dir() -> Result<PathBuf> {
    let user = nix::unistd::geteuid();
    let candidates =
        [PathBuf::from(format!("/var/tmp/ktl-parts-{user}")), workspace::target_dir().join("parts")];
    for dir in &candidates {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        // Everybody may write to /var/tmp, so the name may have been taken by somebody else.
        let found = dir.symlink_metadata().with_context(|| format!("stat {}", dir.display()))?;
        if !found.is_dir() || found.uid() != user.as_raw() {
            bail!("{} is not a directory of ours", dir.display());
        }
        open_to_all(dir)?;
    }
    let is_disk = |dir: &&PathBuf| {
        statfs(dir.as_path()).is_ok_and(|fs| {
            fs.filesystem_type() != TMPFS_MAGIC && fs.filesystem_type() != OVERLAYFS_SUPER_MAGIC
        })
    };
    Ok(candidates.iter().find(is_disk).unwrap_or(&candidates[0]).clone())
}

fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("chmod {}", dir.display()))
}

/// Removes the directories of processes that ended without doing so.
fn remove_abandoned(parts: &Path) {
    let Ok(entries) = fs::read_dir(parts) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(owner) = owner(&name.to_string_lossy()) else { continue };
        if !Path::new("/proc").join(owner.to_string()).exists() {
            remove(&entry.path());
        }
    }
}

/// The process id in `<label>-<pid>-<number>`.
fn owner(name: &str) -> Option<u32> {
    let mut words = name.rsplit('-');
    words.next()?.parse::<u32>().ok()?;
    words.next()?.parse().ok()
}

/// A daemon that runs through sudo leaves files of root's.
fn remove(path: &Path) {
    if fs::remove_dir_all(path).is_err() && path.exists() && !nix::unistd::geteuid().is_root() {
        let removed = command::run(Command::new("sudo").args(["--", "rm", "-rf", "--"]).arg(path));
        if let Err(error) = removed {
            eprintln!("parts: {} stays: {error:#}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_the_name() {
        assert_eq!(owner("demo-123-0"), Some(123));
        assert_eq!(owner("a-label-with-dashes-77-12"), Some(77));
        assert_eq!(owner("demo"), None);
        assert_eq!(owner("demo-123-x"), None);
    }

    #[test]
    fn a_scratch_dir_goes_with_its_value() -> Result<()> {
        let scratch = ScratchDir::new("scratch-test")?;
        let path = scratch.path().to_owned();
        fs::write(scratch.dir("a/b")?.join("file"), "x")?;
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists());
        Ok(())
    }
}
