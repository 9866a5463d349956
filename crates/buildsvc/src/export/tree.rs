//! Writing a tree that somebody else describes.
//!
//! [`Tree`] creates entries beneath a directory descriptor. Every path is resolved by `openat2` with `RESOLVE_BENEATH |
//! RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`, and what stands in the way of a new entry is removed rather than written
//! through. Follows fsutil `rootdiskwriter.go`, with two differences: directories get their modes last, so that a
//! read-only one can be filled, and so do files, so that writing does not cost them their set-user-id bit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dev, FileType, Mode, OFlags, RawDir, ResolveFlags, Timespec, Timestamps, XattrFlags, chmodat,
    fchmod, fsetxattr, futimens, linkat, makedev, mkdirat, mknodat, openat2, statat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;

use crate::context::gopath::{base, dir};
use crate::context::stat;
use crate::proto::fsutil::types::Xattr;

const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const OPEN_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const CREATE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often an entry is removed that another stream puts back at once.
const ATTEMPTS: usize = 16;
const PRIVATE: Mode = Mode::RWXU;

/// The destination. One per stream: it remembers the directory that was written to last.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    root: &'a OwnedFd,
    last_dir: Option<(Vec<u8>, OwnedFd)>,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a OwnedFd) -> Tree<'a> {
        Tree { root, last_dir: None }
    }

    /// Creates an empty file for writing, which only this user can open until it is finished.
    pub(super) fn create_file(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        let root = self.root;
        self.replacing(path, |_| openat2(root, path, CREATE, Mode::RUSR | Mode::WUSR, BENEATH))
    }

    /// Gives a written file its attributes.
    pub(super) fn finish_file(file: &OwnedFd, mode: u32, mtime: i64, xattrs: &[Xattr]) -> io::Result<()> {
        set_xattrs(file, xattrs);
        fchmod(file, permissions(mode))?;
        Ok(futimens(file, &times(mtime))?)
    }

    /// Makes sure that there is a directory at `path` that can be filled.
    pub(super) fn create_dir(&mut self, path: &[u8], xattrs: &[Xattr]) -> io::Result<()> {
        let parent = self.parent(path)?;
        let name = base(path);
        for _ in 0..ATTEMPTS {
            match mkdirat(parent, name, PRIVATE) {
                Ok(()) => break,
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                    if found.st_mode & 0o700 != 0o700 {
                        // Of the owner's own; the name cannot be a symlink unless it is exchanged right now.
                        let dir = openat2(parent, name, OPEN_DIR, Mode::empty(), BENEATH)?;
                        fchmod(&dir, Mode::from_raw_mode(found.st_mode & 0o7777) | PRIVATE)?;
                    }
                    break;
                }
                Ok(_) => remove(parent, name)?,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if !xattrs.is_empty() {
            set_xattrs(&self.open_dir(path)?, xattrs);
        }
        Ok(())
    }

    /// Gives a filled directory its mode and time.
    pub(super) fn finish_dir(&mut self, path: &[u8], mode: u32, mtime: i64) -> io::Result<()> {
        let dir = self.open_dir(path)?;
        fchmod(&dir, permissions(mode))?;
        Ok(futimens(&dir, &times(mtime))?)
    }

    pub(super) fn create_symlink(&mut self, path: &[u8], target: &[u8], mtime: i64) -> io::Result<()> {
        let name = base(path);
        self.replacing(path, |parent| symlinkat(target, parent, name))?;
        Ok(utimensat(self.parent(path)?, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Creates another link to the file at `target`.
    pub(super) fn create_link(&mut self, path: &[u8], target: &[u8]) -> io::Result<()> {
        let source = self.open_dir(match dir(target) {
            b"." => b"",
            parent => parent,
        })?;
        let name = base(path);
        self.replacing(path, |parent| linkat(&source, base(target), parent, name, AtFlags::empty()))
    }

    /// Creates a fifo or a device, as far as the user may.
    pub(super) fn create_special(
        &mut self,
        path: &[u8],
        mode: u32,
        device: (i64, i64),
        mtime: i64,
    ) -> io::Result<()> {
        let kind = if mode & stat::MODE_CHAR_DEVICE != 0 {
            FileType::CharacterDevice
        } else if mode & stat::MODE_NAMED_PIPE != 0 {
            FileType::Fifo
        } else {
            FileType::BlockDevice
        };
        let number: Dev = match (u32::try_from(device.0), u32::try_from(device.1)) {
            _ if kind == FileType::Fifo => 0,
            (Ok(major), Ok(minor)) => makedev(major, minor),
            _ => return Err(Errno::INVAL.into()),
        };
        let name = base(path);
        self.replacing(path, |parent| mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, number))?;
        let parent = self.parent(path)?;
        // The entry is new and the directory not yet anybody else's, so the name still means it.
        chmodat(parent, name, permissions(mode), AtFlags::empty())?;
        Ok(utimensat(parent, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Tries `create` until nothing is in its way any more.
    fn replacing<T>(
        &mut self,
        path: &[u8],
        mut create: impl FnMut(&OwnedFd) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let parent = self.parent(path)?;
        for _ in 0..ATTEMPTS {
            match create(parent) {
                Err(Errno::EXIST) => match remove(parent, base(path)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                // A rename elsewhere made the kernel unsure.
                Err(Errno::AGAIN | Errno::INTR) => {}
                created => return Ok(created?),
            }
        }
        Err(Errno::EXIST.into())
    }

    /// The directory that `path` lies in.
    fn parent(&mut self, path: &[u8]) -> io::Result<&OwnedFd> {
        let parent = match dir(path) {
            b"." => return Ok(self.root),
            parent => parent,
        };
        let fd = match self.last_dir.take() {
            Some((path, fd)) if path == parent => fd,
            _ => self.open_dir(parent)?,
        };
        Ok(&self.last_dir.insert((parent.to_vec(), fd)).1)
    }

    fn open_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        loop {
            match openat2(self.root, path, OPEN_DIR, Mode::empty(), BENEATH) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return Ok(opened?),
            }
        }
    }
}

/// Removes `name`, and if it is a directory everything in it, without following anything.
fn remove(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return Ok(done?),
    }
    // Directories that are being emptied, innermost last, each with its name in the one before.
    let mut stack: Vec<(OwnedFd, Vec<u8>)> =
        vec![(openat2(parent, name, OPEN_DIR, Mode::empty(), BENEATH)?, name.to_vec())];
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 8 << 10];
    while let Some((fd, _)) = stack.last() {
        let mut inner = None;
        rustix::fs::seek(fd, rustix::fs::SeekFrom::Start(0))?;
        let mut dir = RawDir::new(fd.as_fd(), &mut buffer);
        while let Some(entry) = dir.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match unlinkat(fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    inner = Some((
                        openat2(fd, name, OPEN_DIR, Mode::empty(), BENEATH)?,
                        name.to_bytes().to_vec(),
                    ));
                    break;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        if let Some(inner) = inner {
            stack.push(inner);
            continue;
        }
        if let Some((_, name)) = stack.pop() {
            let outer = stack.last().map_or(parent, |(fd, _)| fd);
            unlinkat(outer, name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Sets what can be set; the rest does not matter, as upstream. Capabilities of files are left out, for upstream's change
/// of owner takes them away again.
fn set_xattrs(fd: &OwnedFd, xattrs: &[Xattr]) {
    for xattr in xattrs {
        if &*xattr.key != b"security.capability" {
            let _ = fsetxattr(fd, &*xattr.key, &xattr.value, XattrFlags::empty());
        }
    }
}

/// Permissions of a Go mode for `chmod`.
fn permissions(mode: u32) -> Mode {
    let special = [(stat::MODE_SETUID, 0o4000), (stat::MODE_SETGID, 0o2000), (stat::MODE_STICKY, 0o1000)];
    Mode::from_raw_mode(
        special.iter().filter(|(go, _)| mode & go != 0).fold(mode & 0o777, |all, (_, bit)| all | bit),
    )
}

fn times(mtime: i64) -> Timestamps {
    let time =
        Timespec { tv_sec: mtime.div_euclid(1_000_000_000), tv_nsec: mtime.rem_euclid(1_000_000_000) as _ };
    Timestamps { last_access: time, last_modification: time }
}
