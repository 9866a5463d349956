//! Entries as fsutil describes them.
//!
//! The mode on the wire is Go's `os.FileMode`, not `st_mode`; owner and group are left out so that cache keys do not
//! depend on who builds. Follows fsutil `stat.go` and `stat_unix.go`.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, getxattr, lgetxattr, listxattr,
    llistxattr, openat, statat,
};
use rustix::io::Errno;

use crate::proto::fsutil::types;

pub(crate) const MODE_DIR: u32 = 1 << 31;
pub(crate) const MODE_SYMLINK: u32 = 1 << 27;
pub(crate) const MODE_DEVICE: u32 = 1 << 26;
pub(crate) const MODE_NAMED_PIPE: u32 = 1 << 25;
pub(crate) const MODE_SOCKET: u32 = 1 << 24;
pub(crate) const MODE_SETUID: u32 = 1 << 23;
pub(crate) const MODE_SETGID: u32 = 1 << 22;
pub(crate) const MODE_CHAR_DEVICE: u32 = 1 << 21;
pub(crate) const MODE_STICKY: u32 = 1 << 20;
pub(crate) const MODE_IRREGULAR: u32 = 1 << 19;

/// An entry with none of these is a file whose content may be requested.
pub(crate) const MODE_TYPE: u32 =
    MODE_DIR | MODE_SYMLINK | MODE_DEVICE | MODE_NAMED_PIPE | MODE_SOCKET | MODE_CHAR_DEVICE | MODE_IRREGULAR;

/// `st_mode` as Go has it, with sockets appearing as regular files.
pub(crate) fn go_mode(st_mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(st_mode) {
        FileType::RegularFile | FileType::Socket => 0,
        FileType::Directory => MODE_DIR,
        FileType::Symlink => MODE_SYMLINK,
        FileType::BlockDevice => MODE_DEVICE,
        FileType::CharacterDevice => MODE_DEVICE | MODE_CHAR_DEVICE,
        FileType::Fifo => MODE_NAMED_PIPE,
        FileType::Unknown => MODE_IRREGULAR,
    };
    let special = [(0o4000, MODE_SETUID), (0o2000, MODE_SETGID), (0o1000, MODE_STICKY)];
    special
        .iter()
        .filter(|(bit, _)| st_mode & bit != 0)
        .fold(kind | st_mode & 0o777, |mode, (_, go)| mode | go)
}

/// Describes what lies at `path`, apart from link targets and extended attributes. `time` in nanoseconds stands for its own.
pub(super) fn describe(path: Vec<u8>, stat: &Stat, time: Option<i64>) -> types::Stat {
    let mode = go_mode(stat.st_mode);
    let device = mode & MODE_DEVICE != 0;
    types::Stat {
        path: path.into(),
        mode,
        // A directory's size says nothing about its content and differs between filesystems.
        size: if mode & MODE_DIR != 0 { 0 } else { stat.st_size },
        mod_time: time.unwrap_or_else(|| nanoseconds(stat)),
        devmajor: if device { (stat.st_rdev >> 8 & 0xfff) as i64 } else { 0 },
        devminor: if device { (stat.st_rdev & 0xff | stat.st_rdev >> 12 & 0xfff00) as i64 } else { 0 },
        ..types::Stat::default()
    }
}

/// Modification time in nanoseconds since the epoch. Wraps outside of the years 1678 to 2262, as Go does.
#[allow(clippy::unnecessary_cast)]
fn nanoseconds(stat: &Stat) -> i64 {
    (stat.st_mtime as i64).wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as i64)
}

/// Reads extended attributes, reusing its buffers.
#[derive(Debug)]
pub(super) struct XattrReader {
    names: Vec<u8>,
    value: Vec<u8>,
    path: Vec<u8>,
    /// `/proc` is there: the only way to attributes of something that cannot be opened.
    has_proc: bool,
}

impl XattrReader {
    pub(super) fn new() -> XattrReader {
        let has_proc = statat(CWD, c"/proc/self/fd", AtFlags::empty()).is_ok();
        XattrReader { names: vec![0; 1024], value: vec![0; 1024], path: Vec::with_capacity(300), has_proc }
    }

    /// Of `name` in the directory `parent`, which has the type `kind`. No system call takes both, so the way leads
    /// through `/proc`; without it, of regular files that may be opened.
    pub(super) fn of_name(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        kind: FileType,
    ) -> io::Result<Vec<types::Xattr>> {
        if !self.has_proc {
            if kind != FileType::RegularFile {
                return Ok(Vec::new());
            }
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return match openat(parent, name, flags, Mode::empty()) {
                Ok(fd) => self.of_fd(&fd),
                Err(Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::NXIO) => Ok(Vec::new()),
                Err(errno) => Err(errno.into()),
            };
        }
        self.proc_path(parent);
        self.path.push(b'/');
        self.path.extend_from_slice(name.to_bytes_with_nul());
        self.read(|path, names| llistxattr(path, names), |path, name, value| lgetxattr(path, name, value))
    }

    /// Of what an `O_PATH` descriptor refers to, even if that is a symlink.
    pub(super) fn of_located(&mut self, fd: BorrowedFd<'_>) -> io::Result<Vec<types::Xattr>> {
        if !self.has_proc {
            return Ok(Vec::new());
        }
        self.proc_path(fd);
        self.path.push(0);
        // Following, for the path ends in the link that /proc has for the descriptor.
        self.read(|path, names| listxattr(path, names), |path, name, value| getxattr(path, name, value))
    }

    /// Of an open file or directory.
    pub(super) fn of_fd(&mut self, fd: impl AsFd) -> io::Result<Vec<types::Xattr>> {
        let fd = fd.as_fd();
        self.read(|_, names| flistxattr(fd, names), |_, name, value| fgetxattr(fd, name, value))
    }

    fn proc_path(&mut self, fd: BorrowedFd<'_>) {
        use std::io::Write;
        self.path.clear();
        // Writing to a vector cannot fail.
        let _ = write!(self.path, "/proc/self/fd/{}", fd.as_raw_fd());
    }

    fn read(
        &mut self,
        list: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
        get: impl Fn(&CStr, &CStr, &mut [u8]) -> rustix::io::Result<usize>,
    ) -> io::Result<Vec<types::Xattr>> {
        let path = CStr::from_bytes_until_nul(&self.path).unwrap_or_default();
        let listed = match growing(&mut self.names, |buffer| list(path, buffer)) {
            Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Ok(listed) => listed,
            Err(errno) => return Err(errno.into()),
        };
        let mut found = Vec::new();
        let mut rest = &self.names[..listed];
        while let Ok(name) = CStr::from_bytes_until_nul(rest) {
            rest = &rest[name.to_bytes_with_nul().len()..];
            if name.to_bytes().starts_with(b"com.apple.") {
                continue;
            }
            // One that went away or may not be read is left out, as upstream does.
            if let Ok(length) = growing(&mut self.value, |buffer| get(path, name, buffer)) {
                found.push(types::Xattr {
                    key: name.to_bytes().to_vec().into(),
                    value: self.value[..length].to_vec().into(),
                });
            }
        }
        Ok(found)
    }
}

/// The kernel bounds both lists and values at 64 KiB.
fn growing(
    buffer: &mut Vec<u8>,
    call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    match call(buffer) {
        Err(Errno::RANGE) if buffer.len() < 1 << 16 => {
            buffer.resize(1 << 16, 0);
            call(buffer)
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_gos() {
        for (st_mode, expected) in [
            (0o100644, 0o644),
            (0o040755, MODE_DIR | 0o755),
            (0o120777, MODE_SYMLINK | 0o777),
            (0o010600, MODE_NAMED_PIPE | 0o600),
            (0o020620, MODE_DEVICE | MODE_CHAR_DEVICE | 0o620),
            (0o060660, MODE_DEVICE | 0o660),
            (0o140755, 0o755),
            (0o104755, MODE_SETUID | 0o755),
            (0o102755, MODE_SETGID | 0o755),
            (0o041777, MODE_DIR | MODE_STICKY | 0o777),
        ] {
            assert_eq!(go_mode(st_mode), expected, "{st_mode:o}");
        }
    }

    #[test]
    fn attributes_are_the_same_with_and_without_proc() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let long = vec![b'x'; 2000];
        for (key, value) in [("user.ktl", &b"value"[..]), ("user.long", &long), ("com.apple.x", b"")] {
            if rustix::fs::setxattr(&path, key, value, rustix::fs::XattrFlags::empty()).is_err() {
                // Not every file system has them, and none has Apple's.
                assert!(key.starts_with("com.") || XattrReader::new().of_fd(open(&path)).unwrap().is_empty());
            }
        }
        let parent = open(dir.path());
        let mut reader = XattrReader::new();
        let of_fd = reader.of_fd(open(&path)).unwrap();
        assert_eq!(reader.of_name(parent.as_fd(), c"file", FileType::RegularFile).unwrap(), of_fd);
        reader.has_proc = false;
        assert_eq!(reader.of_name(parent.as_fd(), c"file", FileType::RegularFile).unwrap(), of_fd);
        assert!(reader.of_name(parent.as_fd(), c"file", FileType::Symlink).unwrap().is_empty());
        assert!(of_fd.iter().all(|xattr| &*xattr.key != b"user.ktl" || &*xattr.value == b"value"));
    }

    fn open(path: &std::path::Path) -> std::fs::File {
        std::fs::File::open(path).unwrap()
    }
}
