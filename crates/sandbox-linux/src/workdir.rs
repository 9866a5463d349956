//! The directories that nsjail makes for itself on the host and leaves behind.
//!
//! It looks for a place at `/run/user/UID/nsjail`, `/run/user` and `/tmp`, makes two empty directories there and
//! mounts over them in its own namespace. They are taken away when the jail has ended, unless they belong to somebody
//! else. Removing a mount point pulls the mount away in every namespace, so it must not hit a jail that is being set
//! up; one that runs has moved its root away from there and does not care.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

use rustix::fs::FlockOperation;

/// The directories that nsjail may leave in the name of one caller.
#[derive(Debug)]
pub(crate) struct WorkDirs {
    removable: Vec<PathBuf>,
    /// Held shared while a jail is set up, exclusively for removing.
    lock: Option<File>,
}

impl WorkDirs {
    /// Looks before the start. `by_root` says whose names nsjail will use, and that they are made by another id.
    pub(crate) fn before(by_root: bool) -> WorkDirs {
        let uid = if by_root { 0 } else { rustix::process::getuid().as_raw() };
        let run = format!("/run/user/{uid}");
        let lock = [run.as_str(), "/run/user", "/tmp"]
            .into_iter()
            .find_map(|dir| File::open(dir).ok())
            .filter(|dir| rustix::fs::flock(dir, FlockOperation::NonBlockingLockShared).is_ok());
        // Children before parents, the order of removal.
        let mut removable: Vec<PathBuf> = Vec::new();
        for purpose in ["root", "tmp"] {
            removable.push(format!("{run}/nsjail/{purpose}").into());
            removable.push(format!("/run/user/nsjail.{uid}.{purpose}").into());
            removable.push(format!("/tmp/nsjail.{uid}.{purpose}").into());
        }
        removable.push(format!("{run}/nsjail").into());
        removable.retain(|path| {
            path.symlink_metadata().map_or(true, |found| found.is_dir() && (by_root || found.uid() == uid))
        });
        WorkDirs { removable, lock }
    }

    /// The jail's mount tree stands.
    pub(crate) fn set_up(&self) {
        if let Some(lock) = &self.lock {
            let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
        }
    }
}

impl Drop for WorkDirs {
    fn drop(&mut self) {
        let Some(lock) = &self.lock else { return };
        if self.removable.iter().all(|path| path.symlink_metadata().is_err()) {
            return;
        }
        // Set-up takes some milliseconds; under a steady stream of jails the directories stay for the next one.
        for _ in 0..5 {
            if rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                for path in &self.removable {
                    // Only empty directories go; anything else is not nsjail's.
                    let _ = fs::remove_dir(path);
                }
                return;
            }
            sleep(Duration::from_millis(10));
        }
    }
}
