//! A directory that is filled beside its destination and then put in its place.
//!
//! Two ways to do that: what is there stays and is merged with, or all of it goes. The second is done only to a directory that
//! is new or empty, or that ktl has marked when it did so before: a wrong path would cost what nobody can bring back.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{OutputError, at, parent, sibling, staging_name};
use crate::failure::Failure;
use crate::tidy::Tidier;

/// In a directory whose whole content is ktl's to replace.
pub const MARKER: &str = ".ktl-mirror";
const MARKER_TEXT: &str = "ktl replaces everything in this directory: -o type=local,mode=delete\n";

/// What becomes of what is in the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    Merge,
    Delete,
}

#[derive(Debug)]
pub struct PendingDirectory {
    pub staging: PathBuf,
    pub path: PathBuf,
    existing: Existing,
}

impl PendingDirectory {
    pub fn create(
        path: &Path,
        existing: Existing,
        nonce: &str,
        tidier: Option<&mut Tidier>,
    ) -> Result<PendingDirectory, Failure> {
        // Within the destination where there is one: it may be a mount point, or lie in a directory that is not ours. The
        // guest is shown the staging directory alone, so what else is there stays none of its business.
        let staging = match fs::metadata(path) {
            Ok(found) if found.is_dir() => path.join(staging_name(nonce)),
            Ok(_) => {
                return Err(Failure::usage(format!("the output directory {} is a file", path.display()))
                    .hint("Name a directory, or use type=tar for a file."));
            }
            Err(_) => {
                fs::create_dir_all(parent(path)).map_err(at("create", parent(path)))?;
                sibling(path, nonce)
            }
        };
        if let Some(tidier) = tidier {
            tidier.watch(&staging).map_err(at("have somebody watch over", &staging))?;
        }
        DirBuilder::new().mode(0o700).create(&staging).map_err(at("create", &staging))?;
        Ok(PendingDirectory { staging, path: path.to_owned(), existing })
    }

    /// Puts it in its place. With `privileged` files may keep their set-user-id bits, and devices are let in; without, the
    /// number of files that lost such bits is told.
    pub fn commit(self, privileged: bool) -> Result<u64, OutputError> {
        take_back(&self.staging)?;
        let tamed = if privileged { 0 } else { tame(&self.staging)? };
        // Only ktl marks a directory.
        let marker = self.staging.join(MARKER);
        match fs::symlink_metadata(&marker) {
            Ok(found) if found.is_dir() => {
                fs::remove_dir_all(&marker).map_err(at("remove", &marker))?;
            }
            Ok(_) => fs::remove_file(&marker).map_err(at("remove", &marker))?,
            Err(_) => {}
        }
        if self.existing == Existing::Delete {
            fs::write(&marker, MARKER_TEXT).map_err(at("write", &marker))?;
        }
        if self.path.exists() {
            if self.existing == Existing::Delete {
                empty(&self.path, &self.staging)?;
            }
            merge(&self.staging, &self.path)?;
            fs::remove_dir_all(&self.staging).map_err(at("remove", &self.staging))?;
            return Ok(tamed);
        }
        // Made anew so that the user's umask has its say, then replaced by what was received.
        DirBuilder::new().mode(0o755).create(&self.path).map_err(at("create", &self.path))?;
        let mode = fs::symlink_metadata(&self.path).map_err(at("stat", &self.path))?.permissions();
        fs::set_permissions(&self.staging, mode).map_err(at("set the mode of", &self.staging))?;
        fs::rename(&self.staging, &self.path).map_err(at("move the result to", &self.path))?;
        Ok(tamed)
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.staging);
    }
}

/// Whether everything in `path` may go, if there is such a directory.
pub fn may_delete(path: &Path) -> Result<(), Failure> {
    if !path.is_dir() {
        return Ok(());
    }
    let own = nix::unistd::geteuid().as_raw();
    let marked =
        fs::symlink_metadata(path.join(MARKER)).is_ok_and(|found| found.is_file() && found.uid() == own);
    let is_empty = || fs::read_dir(path).map(|mut entries| entries.next().is_none());
    if marked || is_empty().map_err(at("read", path))? {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "mode=delete would remove what is in {}, which ktl did not put there",
        path.display()
    ))
    .hint(format!("Name a new or an empty directory. ktl marks what it may replace with a file {MARKER}.")))
}

/// Removes everything in `dir` but `keep`. Nothing is followed.
fn empty(dir: &Path, keep: &Path) -> Result<(), OutputError> {
    for entry in fs::read_dir(dir).map_err(at("read", dir))? {
        let entry = entry.map_err(at("read", dir))?;
        let path = entry.path();
        if path == keep {
            continue;
        }
        let removed = match entry.file_type().map_err(at("stat", &path))?.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
        removed.map_err(at("remove", &path))?;
    }
    Ok(())
}

/// Takes the set-user-id and set-group-id bits of files below `dir`; how many had some. A device is an error.
fn tame(dir: &Path) -> Result<u64, OutputError> {
    let mut tamed = 0;
    for entry in fs::read_dir(dir).map_err(at("read", dir))? {
        let path = entry.map_err(at("read", dir))?.path();
        let found = fs::symlink_metadata(&path).map_err(at("stat", &path))?;
        let kind = found.file_type();
        if kind.is_dir() {
            tamed += tame(&path)?;
        } else if kind.is_block_device() || kind.is_char_device() {
            let refused = io::Error::other("it is a device; --output-privileged lets it in");
            return Err(at("accept", &path)(refused));
        } else if kind.is_file() && found.mode() & 0o6000 != 0 {
            let harmless = fs::Permissions::from_mode(found.mode() & 0o1777);
            fs::set_permissions(&path, harmless).map_err(at("set the mode of", &path))?;
            tamed += 1;
        }
    }
    Ok(tamed)
}

/// Gives everything below `dir`, which a guest of another id has filled, to this process.
pub fn take_back(dir: &Path) -> Result<(), OutputError> {
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    match fs::symlink_metadata(dir).map_err(at("stat", dir))? {
        meta if meta.uid() != own.0 => take_over(dir, own),
        _ => Ok(()),
    }
}

/// Gives everything below `dir` to `own`: needed where the file system cannot map the guest's id.
fn take_over(dir: &Path, own: (u32, u32)) -> Result<(), OutputError> {
    std::os::unix::fs::lchown(dir, Some(own.0), Some(own.1)).map_err(at("take ownership of", dir))?;
    for entry in fs::read_dir(dir).map_err(at("read", dir))? {
        let entry = entry.map_err(at("read", dir))?;
        let path = entry.path();
        if entry.file_type().map_err(at("stat", &path))?.is_dir() {
            take_over(&path, own)?;
        } else {
            std::os::unix::fs::lchown(&path, Some(own.0), Some(own.1))
                .map_err(at("take ownership of", &path))?;
        }
    }
    Ok(())
}

/// Moves what lies in `from` into the existing directory `to`: directories are merged, everything else replaces what has its
/// name, as fsutil's disk writer does. Nothing is followed.
fn merge(from: &Path, to: &Path) -> Result<(), OutputError> {
    for entry in fs::read_dir(from).map_err(at("read", from))? {
        let entry = entry.map_err(at("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let is_dir = entry.file_type().map_err(at("stat", &source))?.is_dir();
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() && is_dir => {
                merge(&source, &target)?;
                keep_metadata(&source, &target)?;
                continue;
            }
            Ok(found) if found.is_dir() => fs::remove_dir_all(&target).map_err(at("replace", &target))?,
            Ok(found) if is_dir || found.file_type().is_socket() => {
                fs::remove_file(&target).map_err(at("replace", &target))?;
            }
            _ => {}
        }
        fs::rename(&source, &target).map_err(at("move the result to", &target))?;
    }
    Ok(())
}

/// An existing directory takes mode and times of the one that was sent.
fn keep_metadata(source: &Path, target: &Path) -> Result<(), OutputError> {
    let meta = fs::symlink_metadata(source).map_err(at("stat", source))?;
    fs::set_permissions(target, meta.permissions()).map_err(at("set the mode of", target))?;
    let modified = meta.modified().map_err(at("stat", source))?;
    let times = fs::FileTimes::new().set_modified(modified).set_accessed(modified);
    File::open(target).and_then(|dir| dir.set_times(times)).map_err(at("set the times of", target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_is_merged_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        write(&outside.join("kept"), "kept");
        let path = dir.path().join("out");
        write(&path.join("stays"), "stays");
        write(&path.join("both/old"), "old");
        write(&path.join("dir-becomes-file/x"), "x");
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();

        let pending = PendingDirectory::create(&path, Existing::Merge, "n", None).unwrap();
        let staging = pending.staging.clone();
        write(&staging.join("both/new"), "new");
        write(&staging.join("dir-becomes-file"), "file");
        write(&staging.join("link/inside"), "inside");
        pending.commit(false).unwrap();

        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(
            ["stays", "both/old", "both/new", "dir-becomes-file", "link/inside"].map(read),
            ["stays", "old", "new", "file", "inside"]
        );
        assert!(fs::symlink_metadata(path.join("link")).unwrap().is_dir());
        assert!(!outside.join("inside").exists() && outside.join("kept").exists());
        assert!(!staging.exists());
    }

    #[test]
    fn an_abandoned_directory_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("new");
        let pending = PendingDirectory::create(&new, Existing::Merge, "n", None).unwrap();
        write(&pending.staging.join("x"), "x");
        drop(pending);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn everything_goes_only_where_ktl_has_been_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let outside = dir.path().join("outside");
        write(&outside.join("precious"), "precious");
        let export = |existing, content: &[&str]| -> Result<(), Failure> {
            if existing == Existing::Delete {
                may_delete(&path)?;
            }
            let pending = PendingDirectory::create(&path, existing, "n", None)?;
            for name in content {
                write(&pending.staging.join(name), name);
            }
            Ok(pending.commit(false).map(|_| ())?)
        };
        // An ordinary export does not mark, whatever the builder sends.
        export(Existing::Merge, &["mine", MARKER]).unwrap();
        assert_eq!(names(&path), ["mine"]);
        let refused = export(Existing::Delete, &["new"]).unwrap_err();
        assert!(refused.title.contains("which ktl did not put there"), "{}", refused.title);
        assert_eq!(names(&path), ["mine"]);

        fs::remove_dir_all(&path).unwrap();
        export(Existing::Delete, &["old", "dir/old"]).unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        export(Existing::Delete, &["dir/new", "new"]).unwrap();
        assert_eq!(names(&path), [MARKER, "dir", "new"]);
        assert_eq!(names(&path.join("dir")), ["new"]);
        assert!(outside.join("precious").exists(), "nothing is followed");

        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        export(Existing::Delete, &["in-an-empty-one"]).unwrap();
        // A link of that name is no mark.
        fs::remove_file(path.join(MARKER)).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", path.join(MARKER)).unwrap();
        assert!(export(Existing::Delete, &["x"]).is_err());
    }

    #[test]
    fn set_user_id_bits_are_for_those_who_ask() {
        let dir = tempfile::tempdir().unwrap();
        for (privileged, mode, tamed) in [(false, 0o755, 1), (true, 0o6755, 0)] {
            let path = dir.path().join(format!("out-{privileged}"));
            let pending = PendingDirectory::create(&path, Existing::Merge, "n", None).unwrap();
            write(&pending.staging.join("sub/su"), "");
            let bits = fs::Permissions::from_mode(0o6755);
            fs::set_permissions(pending.staging.join("sub/su"), bits).unwrap();
            assert_eq!(pending.commit(privileged).unwrap(), tamed);
            assert_eq!(fs::metadata(path.join("sub/su")).unwrap().mode() & 0o7777, mode);
        }
    }
}
