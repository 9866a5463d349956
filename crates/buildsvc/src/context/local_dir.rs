//! A directory that cannot be left.
//!
//! [`LocalDir`] is the one place where the context touches the disk. Every open goes through `openat2` with
//! `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`, so neither a name nor a symlink that changes under
//! our feet leads outside. What this process may not read is asked of the [`Opener`], if there is one.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, openat, openat2, statat,
};
use rustix::io::Errno;

use super::entries::Identity;
use super::fence::Fence;
use super::guard::Guard;
use crate::session::host::{Access, Opener};

/// A local directory under the name by which the daemon asks for it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalDir {
    name: Arc<str>,
    root: Arc<OwnedFd>,
    opener: Option<Arc<dyn Opener>>,
    hidden: Arc<[u8]>,
    fence: Arc<Fence>,
    times: Option<i64>,
    guard: Option<Arc<Guard>>,
    inodes_last: bool,
}

/// `FUSE_SUPER_MAGIC` of linux/magic.h.
const FUSE: i64 = 0x6573_5546;

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const LIST: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);
const LOCATE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Not blocking: an open of a fifo would otherwise wait for a writer.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

impl LocalDir {
    /// Opens `path`, following symlinks this once. `name` is what the daemon calls it.
    pub fn open(name: &str, path: &Path) -> io::Result<LocalDir> {
        let root = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        #[allow(clippy::useless_conversion)]
        let inodes_last = !fstatfs(&root).is_ok_and(|found| i64::from(found.f_type) == FUSE);
        Ok(LocalDir {
            name: name.into(),
            root: Arc::new(root),
            opener: None,
            hidden: Arc::new([]),
            fence: Arc::default(),
            times: None,
            guard: None,
            inodes_last,
        })
    }

    /// Sets who opens what this process may not read.
    pub fn with_opener(self, opener: Arc<dyn Opener>) -> LocalDir {
        LocalDir { opener: Some(opener), ..self }
    }

    /// Leaves out every entry whose name begins with `prefix`, wherever it lies: what a build puts aside for its own
    /// results may lie in the context, and must neither be sent nor change what is cached. Empty leaves out nothing.
    pub fn hiding(self, prefix: &str) -> LocalDir {
        LocalDir { hidden: prefix.as_bytes().into(), ..self }
    }

    /// Sets what the daemon may have of it, whatever it asks for.
    pub fn fenced(self, fence: Fence) -> LocalDir {
        LocalDir { fence: Arc::new(fence), ..self }
    }

    /// Gives every entry this modification time, in seconds since 1970.
    ///
    /// The daemon tells a file that changed by its size and time, so a copy that it keeps from another build must not be used:
    /// the session needs a shared key that no other has.
    pub fn timed(self, seconds: i64) -> LocalDir {
        LocalDir { times: Some(seconds.saturating_mul(1_000_000_000)), ..self }
    }

    /// In nanoseconds, where not its own counts.
    pub(super) fn times(&self) -> Option<i64> {
        self.times
    }

    /// Sets who looks at what is about to be sent.
    pub fn guarded(self, guard: Arc<Guard>) -> LocalDir {
        LocalDir { guard: Some(guard), ..self }
    }

    pub(super) fn guard(&self) -> Option<&Guard> {
        self.guard.as_deref()
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.fence
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a file must still be when it is read. Inode numbers of FUSE may change with each lookup.
    pub(super) fn identity(&self, inode: (u64, u64), size: u64) -> Identity {
        Identity { inode: if self.inodes_last { inode } else { (0, 0) }, size }
    }

    /// Whether a listing of a directory must not have this name.
    pub(super) fn leaves_out(&self, name: &[u8]) -> bool {
        name == b"." || name == b".." || (!self.hidden.is_empty() && name.starts_with(&self.hidden))
    }

    /// Opens the directory at `path` (empty for the root) for listing. With `parent`, `name` in it is that same entry.
    pub(super) fn list(&self, parent: Option<(BorrowedFd<'_>, &CStr)>, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let opened = match parent {
            Some((parent, name)) => openat2(parent, name, LIST, Mode::empty(), BENEATH),
            None => self.open_beneath(path, LIST),
        };
        let (fd, lent) = self.or_ask(opened, path, Access::List)?;
        if lent && FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        Ok(fd)
    }

    /// The status of `name` in `parent`, which lies at `path`, and an `O_PATH` descriptor of it if one was needed.
    pub(super) fn stat(
        &self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> io::Result<(Stat, Option<OwnedFd>)> {
        match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
            Ok(stat) => Ok((stat, None)),
            Err(Errno::ACCESS) if self.opener.is_some() => {
                let (fd, _) = self.or_ask(Err(Errno::ACCESS), path, Access::Locate)?;
                Ok((fstat(&fd)?, Some(fd)))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// An `O_PATH` descriptor of the entry at `path`, which may be a symlink.
    pub(super) fn locate(&self, path: &[u8]) -> io::Result<OwnedFd> {
        Ok(self.or_ask(self.open_beneath(path, LOCATE), path, Access::Locate)?.0)
    }

    /// Opens the file at `path` for reading, without waiting for anything.
    pub(crate) fn read(&self, path: &[u8]) -> io::Result<OwnedFd> {
        Ok(self.or_ask(self.open_beneath(path, READ), path, Access::Read)?.0)
    }

    fn open_beneath(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        loop {
            match openat2(self.root.as_fd(), path, flags, Mode::empty(), BENEATH) {
                // A rename somewhere made the kernel unsure; trying again is what it asks for.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// The descriptor, and whether it came from the opener.
    fn or_ask(
        &self,
        opened: rustix::io::Result<OwnedFd>,
        path: &[u8],
        access: Access,
    ) -> io::Result<(OwnedFd, bool)> {
        match (opened, &self.opener) {
            (Ok(fd), _) => Ok((fd, false)),
            (Err(Errno::ACCESS), Some(opener)) => {
                Ok((opener.open(&self.name, Path::new(OsStr::from_bytes(path)), access)?, true))
            }
            (Err(errno), _) => Err(errno.into()),
        }
    }
}
