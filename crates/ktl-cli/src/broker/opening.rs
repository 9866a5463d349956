//! Context files opened for a guest that may not read them itself.
//!
//! A guest that was given another user id meets files that only the user may read. It then asks the desk, which opens
//! the one file and hands out its descriptor. What the guest can do with a descriptor is the point of the rules here:
//! regular files are opened for reading alone, devices and fifos never, and a directory only where the guest cannot
//! climb out of it. For `openat(descriptor, "..")` heeds no jail: a directory of the host's own tree would give the
//! guest the host's root. So each local is first cloned into a mount of its own that hangs nowhere (`open_tree(2)`),
//! whose root is its own parent. Where the kernel denies the clone, directories are refused.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use buildsvc::session::host::Access;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

const PATH_LIMIT: usize = 4096;

#[derive(Debug)]
pub struct Locals(BTreeMap<String, Local>);

#[derive(Debug)]
struct Local {
    dir: OwnedFd,
    /// Whether `..` of `dir` is `dir`.
    sealed: bool,
}

impl Locals {
    pub fn new(dirs: BTreeMap<String, OwnedFd>) -> Locals {
        Locals(dirs.into_iter().map(|(name, dir)| (name, Local::new(dir))).collect())
    }

    /// Opens `path` beneath the local called `name`. `EACCES` stands for what is refused by rule, `ENOENT` for a local
    /// that there is not; other numbers are the kernel's.
    pub fn open(&self, name: &str, path: &[u8], access: Access) -> Result<OwnedFd, Errno> {
        let local = self.0.get(name).ok_or(Errno::NOENT)?;
        let path = clean(path)?;
        let found = beneath(local.dir.as_fd(), path, OFlags::PATH)?;
        let kind = kind(&found)?;
        match access {
            _ if kind == FileType::Directory && !local.sealed => Err(Errno::ACCESS),
            Access::Locate => Ok(found),
            Access::List if kind == FileType::Directory => {
                beneath(local.dir.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
            }
            Access::List => Err(Errno::NOTDIR),
            // Looked at before it is opened, because opening a device may already do something, and after, because
            // the name may stand for another file by then.
            Access::Read if kind == FileType::RegularFile => {
                let file = beneath(local.dir.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                match self::kind(&file)? {
                    FileType::RegularFile => Ok(file),
                    _ => Err(Errno::ACCESS),
                }
            }
            Access::Read => Err(Errno::ACCESS),
        }
    }
}

impl Local {
    fn new(dir: OwnedFd) -> Local {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        match rustix::mount::open_tree(&dir, "", flags) {
            Ok(dir) => Local { dir, sealed: true },
            Err(_) => Local { sealed: is_sealed(&dir).unwrap_or(false), dir },
        }
    }
}

/// Whether a descriptor, such as one of a mount that the caller detached, has no way up.
fn is_sealed(dir: &OwnedFd) -> Result<bool, Errno> {
    let identity = |name: &str| {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let stat = rustix::fs::statx(dir, name, flags, StatxFlags::INO | StatxFlags::MNT_ID)?;
        Ok((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, stat.stx_mnt_id))
    };
    Ok(identity("")? == identity("..")?)
}

fn kind(file: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

fn beneath(dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    // With O_PATH the kernel takes no flags that speak of opening.
    let flags = if flags.contains(OFlags::PATH) { flags - OFlags::NOCTTY } else { flags };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // The kernel asks to be asked again when something was renamed during a walk.
    let mut result = Err(Errno::AGAIN);
    for _ in 0..8 {
        result = rustix::io::retry_on_intr(|| rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve));
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
    }
    result
}

/// A relative path without `..`. The kernel would refuse the others as well; this keeps them from reaching it.
fn clean(bytes: &[u8]) -> Result<&Path, Errno> {
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Errno::INVAL);
    }
    if bytes.len() >= PATH_LIMIT {
        return Err(Errno::NAMETOOLONG);
    }
    let path = Path::new(OsStr::from_bytes(bytes));
    match path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        true => Ok(path),
        false => Err(Errno::ACCESS),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("context");
        std::fs::create_dir_all(root.join("sub/deep")).unwrap();
        std::fs::write(root.join("file"), "top").unwrap();
        std::fs::write(root.join("sub/file"), "below").unwrap();
        std::fs::write(dir.path().join("outside"), "outside").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("file", root.join("link")).unwrap();
        symlink("sub", root.join("dirlink")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        drop(UnixListener::bind(root.join("socket")).unwrap());
        dir
    }

    fn locals(dir: &tempfile::TempDir) -> Locals {
        let root = File::open(dir.path().join("context")).unwrap();
        Locals::new([("context".to_owned(), OwnedFd::from(root))].into())
    }

    #[test]
    fn files_are_read_and_nothing_else() {
        let dir = tree();
        let locals = locals(&dir);
        let read = |path: &str| -> Result<String, Errno> {
            let mut text = String::new();
            File::from(locals.open("context", path.as_bytes(), Access::Read)?)
                .read_to_string(&mut text)
                .unwrap();
            Ok(text)
        };
        assert_eq!(read("file").as_deref(), Ok("top"));
        assert_eq!(read("./sub/./file").as_deref(), Ok("below"));
        let table = [
            ("absent", Errno::NOENT),
            ("fifo", Errno::ACCESS),
            ("socket", Errno::ACCESS),
            ("sub", Errno::ACCESS),
            (".", Errno::ACCESS),
            ("link", Errno::ACCESS),
            ("out", Errno::ACCESS),
            ("dirlink/file", Errno::LOOP),
            ("../outside", Errno::ACCESS),
            ("sub/../file", Errno::ACCESS),
            ("/etc/passwd", Errno::ACCESS),
            ("", Errno::INVAL),
            ("a\0b", Errno::INVAL),
        ];
        for (path, errno) in table {
            assert_eq!(read(path), Err(errno), "{path:?}");
        }
        assert_eq!(read(&"x/".repeat(2048)), Err(Errno::NAMETOOLONG));
        assert_eq!(locals.open("other", b"file", Access::Read).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn a_file_that_was_read_cannot_be_written() {
        let dir = tree();
        let file = locals(&dir).open("context", b"file", Access::Read).unwrap();
        let flags = rustix::fs::fcntl_getfl(&file).unwrap();
        assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY);
        assert_eq!(rustix::io::write(&file, b"x"), Err(Errno::BADF));
    }

    #[test]
    fn everything_but_directories_is_located() {
        let dir = tree();
        let locals = locals(&dir);
        for (path, expected) in [
            ("file", FileType::RegularFile),
            ("link", FileType::Symlink),
            ("out", FileType::Symlink),
            ("fifo", FileType::Fifo),
            ("socket", FileType::Socket),
        ] {
            let found = locals.open("context", path.as_bytes(), Access::Locate).unwrap();
            assert_eq!(kind(&found).unwrap(), expected, "{path}");
        }
        let link = locals.open("context", b"out", Access::Locate).unwrap();
        assert_eq!(rustix::fs::readlinkat(&link, "", []).unwrap().as_bytes(), b"../outside");
        assert_eq!(locals.open("context", b"file", Access::List).unwrap_err(), Errno::NOTDIR);
    }

    #[test]
    fn directories_are_handed_out_only_where_there_is_no_way_up() {
        let dir = tree();
        let locals = locals(&dir);
        for (path, access) in [(".", Access::List), ("sub", Access::List), ("sub/deep", Access::Locate)] {
            match locals.open("context", path.as_bytes(), access) {
                Ok(handed) => {
                    assert!(locals.0["context"].sealed);
                    // As a guest would: climb, and look at what lies beside the context.
                    let up = rustix::fs::openat(&handed, "../../../..", OFlags::PATH, Mode::empty()).unwrap();
                    assert!(rustix::fs::statat(&up, "sub", AtFlags::empty()).is_ok());
                    assert_eq!(
                        rustix::fs::statat(&up, "context", AtFlags::empty()).unwrap_err(),
                        Errno::NOENT
                    );
                    assert_eq!(rustix::fs::statat(&up, "etc", AtFlags::empty()).unwrap_err(), Errno::NOENT);
                }
                Err(errno) => {
                    assert_eq!(errno, Errno::ACCESS);
                    assert!(!locals.0["context"].sealed);
                }
            }
        }
        // A directory of the host's tree as it is, which no clone was made of.
        let plain = OwnedFd::from(File::open(dir.path().join("context")).unwrap());
        assert_eq!(is_sealed(&plain), Ok(false));
        let bare = Locals([("context".to_owned(), Local { dir: plain, sealed: false })].into());
        assert_eq!(bare.open("context", b"sub", Access::List).unwrap_err(), Errno::ACCESS);
        assert_eq!(bare.open("context", b"sub", Access::Locate).unwrap_err(), Errno::ACCESS);
        assert!(bare.open("context", b"sub/file", Access::Read).is_ok());
        assert_eq!(is_sealed(&OwnedFd::from(File::open("/").unwrap())), Ok(true));
    }
}
