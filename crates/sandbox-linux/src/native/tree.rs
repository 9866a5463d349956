//! Builds the mount tree, in the child, and makes it the root.
//!
//! Until the very end the process still has the host's root, so that bind sources can be found; everything that is
//! *made* goes through a descriptor of the new root, with openat2(2) refusing symbolic links and any way out. So an
//! entry can at worst fail. Missing mount points are made in file systems of the jail's own, never in a bound one.
//! See mount_setattr(2), open_tree(2), move_mount(2), pivot_root(2).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};

use super::mnt::{FileSystem, Made, MountTree, Point, Source};
use super::stage::{Failure, Stage};
use crate::sys::{self, MountAttributes};

/// What stacks can lie on the host's root; more than any host has.
const MAX_STACKED: usize = 16;

/// Cuts the new mount namespace off from the host's, so that nothing made here shows there.
pub(super) fn make_private() -> Result<()> {
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
}

/// Builds everything and pivots into it.
pub(super) fn enter(tree: &MountTree) -> std::result::Result<(), Failure<'_>> {
    let on_root = || Stage::MountTree.failed_on(b"/");
    if tree.has_content() {
        make_contents(tree)?;
    }
    let root = make(&tree.root, tree.root_attributes).map_err(on_root())?;
    // Over the host's root, which this process keeps looking through: its own lookups start below the new mount.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&root, c"", CWD, c"/", flags).map_err(on_root())?;
    let device = device(root.as_fd()).map_err(on_root())?;
    let new = NewRoot { root: root.as_fd(), device, points: &tree.points };
    for point in &tree.points {
        match new.add(point) {
            Err(errno) if point.mandatory => {
                return Err(Stage::MountTree.failed_on(point.dst.as_bytes())(errno));
            }
            _ => {}
        }
    }
    for point in &tree.points {
        if let (Source::FileSystem(_), false, Some(made)) = (&point.source, point.rw, point.made.get()) {
            let failed = Stage::MountTree.failed_on(point.dst.as_bytes());
            read_only(made.mount.as_fd()).map_err(failed)?;
        }
    }
    if !tree.root_rw {
        read_only(root.as_fd()).map_err(on_root())?;
    }
    pivot(root.as_fd()).map_err(Stage::Root.failed())?;
    let _ = tree.made.set(root);
    Ok(())
}

struct NewRoot<'a> {
    root: BorrowedFd<'a>,
    device: u64,
    points: &'a [Point],
}

impl NewRoot<'_> {
    fn add(&self, point: &Point) -> Result<()> {
        let mount = match &point.source {
            Source::Symlink(target) => {
                let (parent, name) = self.parent(point)?;
                self.may_create_in(parent.as_fd())?;
                return rustix::fs::symlinkat(target.as_c_str(), &parent, name);
            }
            Source::Staged(tree) => {
                if point.rw {
                    refuse_read_only(tree.as_fd())?;
                }
                if point.attributes.noexec {
                    set(tree.as_fd(), point.attributes)?;
                }
                None
            }
            Source::Path(path) => Some(bind(path, point)?),
            Source::FileSystem(file_system) => {
                let mut attributes = point.attributes;
                // Only tmpfs has mount points to be made in it.
                attributes.read_only = !point.rw && file_system.fstype.as_bytes() != b"tmpfs";
                Some(make(file_system, attributes)?)
            }
            Source::Content { .. } => None,
        };
        let place = match beneath(self.root, &point.below) {
            Err(Errno::NOENT) => self.create(point)?,
            found => found?,
        };
        let from = match (&mount, &point.source) {
            (Some(mount), _) => mount.as_fd(),
            (None, Source::Staged(tree)) => tree.as_fd(),
            (None, _) => point.content.get().ok_or(Errno::NOENT)?.as_fd(),
        };
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        rustix::mount::move_mount(from, c"", &place, c"", flags)?;
        if let Some(mount) = mount {
            let device = match point.source {
                Source::FileSystem(_) => Some(device(mount.as_fd())?),
                _ => None,
            };
            let _ = point.made.set(Made { mount, device });
        }
        Ok(())
    }

    /// The directory of the entry, made where missing, and the entry's name in it.
    fn parent<'a>(&self, point: &'a Point) -> Result<(OwnedFd, &'a std::ffi::CStr)> {
        let (name, parents) = point.names.split_last().ok_or(Errno::INVAL)?;
        let mut at = beneath(self.root, c".")?;
        for parent in parents {
            at = match beneath(at.as_fd(), parent) {
                Err(Errno::NOENT) => {
                    self.may_create_in(at.as_fd())?;
                    rustix::fs::mkdirat(&at, parent.as_c_str(), Mode::from_raw_mode(0o755))?;
                    beneath(at.as_fd(), parent)?
                }
                found => found?,
            };
        }
        Ok((at, name))
    }

    fn create(&self, point: &Point) -> Result<OwnedFd> {
        let (parent, name) = self.parent(point)?;
        self.may_create_in(parent.as_fd())?;
        if point.is_dir {
            rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o711))?;
        } else {
            let mode = Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(&parent, name, rustix::fs::FileType::RegularFile, mode, 0)?;
        }
        beneath(parent.as_fd(), name)
    }

    /// Host directories that are bound stay as they are, writable or not.
    fn may_create_in(&self, dir: BorrowedFd<'_>) -> Result<()> {
        let device = device(dir)?;
        let own =
            self.points.iter().filter_map(|point| point.made.get()).any(|made| made.device == Some(device));
        if own || device == self.device { Ok(()) } else { Err(Errno::ROFS) }
    }
}

/// Opens a place, without a symbolic link on the way and without a way out of `dir`.
fn beneath(dir: BorrowedFd<'_>, path: &std::ffi::CStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let place = rustix::fs::openat2(dir, path, flags, Mode::empty(), resolve)?;
    Ok(place)
}

fn device(fd: BorrowedFd<'_>) -> Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_dev)
}

/// A detached file system.
fn make(file_system: &FileSystem, attributes: MountAttributes) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(file_system.fstype.as_c_str(), FsOpenFlags::FSOPEN_CLOEXEC)?;
    for setting in &file_system.settings {
        let key = setting.key.as_c_str();
        match &setting.value {
            Some(value) => rustix::mount::fsconfig_set_string(&context, key, value.as_c_str())?,
            None => rustix::mount::fsconfig_set_flag(&context, key)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    let mut flags = MountAttrFlags::empty();
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, attributes.read_only);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, attributes.nosuid);
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, attributes.nodev);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, attributes.noexec);
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// A detached copy of a host tree with its attributes: read-only down to the last submount, and, where it is not the
/// policy's to say, never set-uid and without device nodes unless it is one.
fn bind(path: &std::ffi::CStr, point: &Point) -> Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(CWD, path, flags)?;
    if point.rw {
        refuse_read_only(tree.as_fd())?;
    }
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&tree)?.st_mode);
    let attributes = MountAttributes {
        read_only: !point.rw,
        nosuid: point.attributes.nosuid || !point.own_flags,
        nodev: point.attributes.nodev
            || !(point.own_flags || kind.is_char_device() || kind.is_block_device()),
        noexec: point.attributes.noexec,
    };
    set(tree.as_fd(), attributes)?;
    Ok(tree)
}

/// A writable bind of something that the host mounted read-only is a mistake of the policy's.
fn refuse_read_only(tree: BorrowedFd<'_>) -> Result<()> {
    let found = rustix::fs::fstatvfs(tree)?;
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) { Err(Errno::ROFS) } else { Ok(()) }
}

fn set(tree: BorrowedFd<'_>, attributes: MountAttributes) -> Result<()> {
    sys::mount_setattr(tree, attributes).map_err(errno)
}

fn read_only(mount: BorrowedFd<'_>) -> Result<()> {
    sys::mount_read_only(mount).map_err(errno)
}

pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Writes the policy's files into a file system that nobody will see, and clones each into a detached mount.
fn make_contents(tree: &MountTree) -> std::result::Result<(), Failure<'_>> {
    let failed = || Stage::MountTree.failed_on(b"src_content");
    let hidden = make(&tree.hidden, MountAttributes::default()).map_err(failed())?;
    // Only what is mounted can be cloned, so it covers the host's root for a moment.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    rustix::mount::move_mount(&hidden, c"", CWD, c"/", flags).map_err(failed())?;
    for point in &tree.points {
        if let Source::Content { name, bytes } = &point.source {
            let failed = Stage::MountTree.failed_on(point.dst.as_bytes());
            let made = make_content(hidden.as_fd(), name, bytes, point).map_err(failed)?;
            let _ = point.content.set(made);
        }
    }
    rustix::mount::unmount(c"/", UnmountFlags::DETACH).map_err(failed())
}

fn make_content(
    hidden: BorrowedFd<'_>,
    name: &std::ffi::CStr,
    mut bytes: &[u8],
    point: &Point,
) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(hidden, name, flags, Mode::from_raw_mode(0o644))?;
    while !bytes.is_empty() {
        let written = rustix::io::write(&file, bytes)?;
        bytes = bytes.get(written..).unwrap_or_default();
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(hidden, name, flags)?;
    set(mount.as_fd(), MountAttributes { read_only: !point.rw, ..point.attributes })?;
    Ok(mount)
}

/// Makes `root`, which is mounted over the old root, the only one.
fn pivot(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(c".", c".")?;
    let own = rustix::fs::fstat(root)?;
    // The old root, and whatever the host had stacked on it, now lies on the new one. A lookup of "/.." comes to the
    // top of such a stack, so it says when nothing is left.
    for _ in 0..MAX_STACKED {
        rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
        let top = rustix::fs::stat(c"/..")?;
        if (top.st_dev, top.st_ino) == (own.st_dev, own.st_ino) {
            return rustix::process::chdir(c"/");
        }
    }
    Err(Errno::BUSY)
}
