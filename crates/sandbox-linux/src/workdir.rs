//! The directories that nsjail makes for itself on the host and leaves behind.
//!
//! It looks for a place at `/run/user/UID/nsjail`, `/run/user` and `/tmp`, makes two empty directories there and
//! mounts over them in its own namespace. They are taken away when the jail has ended, unless they belong to somebody
//! else, or another jail still runs: removing a mount point pulls the mount away in every namespace.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

/// The candidates that did not exist when the jail was started, or were this user's.
#[derive(Debug)]
pub(crate) struct WorkDirs {
    removable: Vec<PathBuf>,
    /// Held shared while a jail runs; who gets it exclusively is the last one.
    lock: Option<File>,
}

impl WorkDirs {
    /// Looks before the start. `by_root` only chooses the paths.
    pub(crate) fn before(by_root: bool) -> WorkDirs {
        let uid = if by_root { 0 } else { rustix::process::getuid().as_raw() };
        let run = format!("/run/user/{uid}");
        // Children before parents, the order of removal.
        let mut candidates: Vec<PathBuf> = Vec::new();
        for purpose in ["root", "tmp"] {
            candidates.push(format!("{run}/nsjail/{purpose}").into());
            candidates.push(format!("/run/user/nsjail.{uid}.{purpose}").into());
            candidates.push(format!("/tmp/nsjail.{uid}.{purpose}").into());
        }
        candidates.push(format!("{run}/nsjail").into());
        let lock = [run.as_str(), "/run/user", "/tmp"]
            .into_iter()
            .find_map(|dir| File::open(dir).ok())
            .filter(|dir| rustix::fs::flock(dir, FlockOperation::NonBlockingLockShared).is_ok());
        candidates.retain(|path| {
            path.symlink_metadata().map_or(true, |found| found.is_dir() && (by_root || found.uid() == uid))
        });
        WorkDirs { removable: candidates, lock }
    }
}

impl Drop for WorkDirs {
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        if rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            for path in &self.removable {
                // Only empty directories go; anything else is not nsjail's.
                let _ = fs::remove_dir(path);
            }
        }
    }
}
