//! The directories that nsjail makes for itself on the host and leaves behind.
//!
//! It looks for a place at `/run/user/UID/nsjail`, `/run/user` and `/tmp`, makes two empty directories there and
//! mounts over them in its own namespace. They are taken away when the jail has ended, unless they belong to somebody
//! else; a keeper process does that, because this one may be killed. Removing a mount point pulls the mount away in
//! every namespace, so it must not hit a jail that is being set up; one that runs has moved its root away from there and
//! does not care.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::event::Timespec;
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions};

use crate::sys::contain;

/// Set-up takes some milliseconds; under a steady stream of jails the directories stay for the next one.
const TRIES: u32 = 5;
/// How often the keeper looks after a sudden end: nsjail is being ended in the same moment, and may be making them.
const TRIES_AFTER_DEATH: u32 = 50;
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };

/// The directories that nsjail may leave in the name of one caller.
#[derive(Debug)]
pub(crate) struct WorkDirs {
    /// Held shared while a jail is set up, exclusively for removing.
    lock: Option<OwnedFd>,
    keeper: Option<Keeper>,
    /// nsjail was killed: what it started is being ended, and may still be making them.
    sudden: bool,
}

/// A process that removes the directories when it gets a byte, or the pipe ends because this process was killed.
#[derive(Debug)]
struct Keeper {
    pid: Pid,
    pipe: OwnedFd,
    places: Places,
}

/// What is to be removed, and the directory that the lock is on.
#[derive(Debug)]
struct Places {
    lock: CString,
    /// Children before parents.
    removable: Vec<CString>,
}

impl WorkDirs {
    /// Looks before the start, and sets the keeper. `by_root` says whose names nsjail will use, and that they are made by
    /// another id.
    pub(crate) fn before(by_root: bool) -> io::Result<WorkDirs> {
        let uid = if by_root { 0 } else { rustix::process::getuid().as_raw() };
        let run = format!("/run/user/{uid}");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = [run.as_str(), "/run/user", "/tmp"]
            .into_iter()
            .find_map(|dir| Some((dir, rustix::fs::open(dir, flags, Mode::empty()).ok()?)))
            .filter(|(_, lock)| rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared).is_ok());
        let Some((dir, lock)) = found else {
            return Ok(WorkDirs { lock: None, keeper: None, sudden: false });
        };
        let mut removable: Vec<String> = Vec::new();
        for purpose in ["root", "tmp"] {
            removable.push(format!("{run}/nsjail/{purpose}"));
            removable.push(format!("/run/user/nsjail.{uid}.{purpose}"));
            removable.push(format!("/tmp/nsjail.{uid}.{purpose}"));
        }
        removable.push(format!("{run}/nsjail"));
        removable.retain(|path| {
            let found = Path::new(path).symlink_metadata();
            found.map_or(true, |found| found.is_dir() && (by_root || found.uid() == uid))
        });
        let text = |text: String| CString::new(text).map_err(io::Error::other);
        let places = Places {
            lock: text(dir.to_owned())?,
            removable: removable.into_iter().map(text).collect::<io::Result<_>>()?,
        };
        let keeper = Keeper::start(places)?;
        Ok(WorkDirs { lock: Some(lock), keeper: Some(keeper), sudden: false })
    }

    /// The jail's mount tree stands.
    pub(crate) fn set_up(&self) {
        if let Some(lock) = &self.lock {
            let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
        }
    }

    /// nsjail did not end by itself.
    pub(crate) fn killed(&mut self) {
        self.sudden = true;
    }
}

impl Drop for WorkDirs {
    fn drop(&mut self) {
        drop(self.lock.take());
        let Some(Keeper { pid, pipe, places }) = self.keeper.take() else { return };
        if !self.sudden {
            let _ = rustix::io::write(&pipe, &[1]);
        }
        drop(pipe);
        let ended = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        // Somebody may have killed it.
        if !matches!(ended, Ok(Some((_, status))) if status.exit_status() == Some(0)) {
            remove_patiently(&places, !self.sudden);
        }
    }
}

impl Keeper {
    fn start(places: Places) -> io::Result<Keeper> {
        let (end, pipe) = pipe_with(PipeFlags::CLOEXEC)?;
        let pid = contain::fork(|| keep(end.as_fd(), &places))?;
        Ok(Keeper { pid, pipe, places })
    }
}

/// The keeper's life. Runs on a copy of the parent's memory and allocates nothing.
fn keep(pipe: BorrowedFd<'_>, places: &Places) -> i32 {
    if contain::block_signals().is_err()
        || rustix::process::setsid().is_err()
        || contain::close_all_but(pipe).is_err()
    {
        return 1;
    }
    let orderly = rustix::io::read(pipe, &mut [0]) == Ok(1);
    remove_patiently(places, orderly);
    0
}

fn remove_patiently(places: &Places, orderly: bool) {
    let tries = if orderly { TRIES } else { TRIES_AFTER_DEATH };
    for _ in 0..tries {
        if remove(places) && orderly {
            break;
        }
        let _ = rustix::event::poll(&mut [], Some(&PAUSE));
    }
}

/// False when a jail that is being set up may be using them.
fn remove(places: &Places) -> bool {
    let there = |path: &CString| rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if !places.removable.iter().any(there) {
        return true;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(lock) = rustix::fs::open(&places.lock, flags, Mode::empty()) else { return true };
    let alone = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    if alone {
        for path in &places.removable {
            // Only empty directories go; anything else is not nsjail's.
            let _ = rustix::fs::rmdir(path);
        }
    }
    alone
}
