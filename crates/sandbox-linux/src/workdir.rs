//! The directories that nsjail makes for itself on the host and leaves behind.
//!
//! It looks for a place at `/run/user/UID/nsjail`, `/run/user` and `/tmp`, makes two empty directories there and
//! mounts over them in its own namespace. What was not there before is taken away when the jail has ended, unless
//! another jail of the same user still runs: removing a mount point would pull its mount away.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::fs::FlockOperation;

/// The candidates that did not exist when the jail was started.
#[derive(Debug)]
pub(crate) struct WorkDirs {
    absent: Vec<PathBuf>,
    /// Held shared while a jail runs; who gets it exclusively is the last one.
    lock: Option<File>,
}

impl WorkDirs {
    /// Looks before the start. `by_root` only chooses the paths.
    pub(crate) fn before(by_root: bool) -> WorkDirs {
        let uid = if by_root {
            0
        } else {
            rustix::process::getuid().as_raw()
        };
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
            .filter(|dir| rustix::fs::flock(dir, FlockOperation::LockShared).is_ok());
        candidates.retain(|path| path.symlink_metadata().is_err());
        WorkDirs {
            absent: candidates,
            lock,
        }
    }
}

impl Drop for WorkDirs {
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        if rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            for path in &self.absent {
                // Only empty directories go; anything else is not nsjail's.
                let _ = fs::remove_dir(path);
            }
        }
    }
}
