//! The mount tree before it is built: the settled policy's entries as bytes that the child can use without
//! allocating, and room for what it makes on the way. [`tree`](super::tree) builds it.

use std::cell::OnceCell;
use std::ffi::CString;
use std::os::fd::OwnedFd;

use crate::jail::Jail;
use crate::proto::MountPt;
use crate::sys::MountAttributes;

use super::NativeError;

/// nsjail's root, when the policy has none: a small tmpfs that becomes read-only.
const ROOT_SIZE: &str = "size=16777216";

/// A file system option, with a value or as a flag.
#[derive(Debug)]
pub(super) struct Setting {
    pub key: CString,
    pub value: Option<CString>,
}

/// A file system to be made.
#[derive(Debug)]
pub(super) struct FileSystem {
    pub fstype: CString,
    pub settings: Vec<Setting>,
}

/// Where a mount comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// A detached tree with its attributes, made by root beforehand.
    Staged(OwnedFd),
    /// A host path, bound with everything below it.
    Path(CString),
    FileSystem(FileSystem),
    /// A file with these bytes; the name is for the hidden file system that it is made in.
    Content {
        name: CString,
        bytes: Vec<u8>,
    },
    /// Not a mount.
    Symlink(CString),
}

/// What the child has made of an entry.
#[derive(Debug)]
pub(super) struct Made {
    pub mount: OwnedFd,
    /// Device number of a file system that was made: mount points are created in those only.
    pub device: Option<u64>,
}

/// One entry, in the policy's order.
#[derive(Debug)]
pub(super) struct Point {
    /// For messages.
    pub dst: CString,
    /// Path below the root, never empty.
    pub below: CString,
    /// Its components.
    pub names: Vec<CString>,
    pub source: Source,
    pub rw: bool,
    pub is_dir: bool,
    pub mandatory: bool,
    pub attributes: MountAttributes,
    /// A bind's nosuid and nodev are the policy's to say; otherwise they are always on.
    pub own_flags: bool,
    pub made: OnceCell<Made>,
    /// The detached tree of a [`Source::Content`].
    pub content: OnceCell<OwnedFd>,
}

/// The whole tree.
#[derive(Debug)]
pub(super) struct MountTree {
    pub root: FileSystem,
    /// For the policy's own files, while they are made.
    pub hidden: FileSystem,
    pub root_attributes: MountAttributes,
    pub root_rw: bool,
    /// The root, once it is there.
    pub made: OnceCell<OwnedFd>,
    pub points: Vec<Point>,
}

impl MountTree {
    pub(super) fn new(jail: &Jail) -> Result<MountTree, NativeError> {
        let mounts = &jail.config().mount;
        let mut tree = MountTree {
            root: file_system("/", "tmpfs", ROOT_SIZE)?,
            hidden: file_system("/", "tmpfs", ROOT_SIZE)?,
            root_attributes: MountAttributes::default(),
            root_rw: false,
            made: OnceCell::new(),
            points: Vec::with_capacity(mounts.len()),
        };
        for (index, point) in mounts.iter().enumerate() {
            if point.dst == "/" {
                tree.root = file_system("/", point.fstype(), point.options())?;
                tree.root_attributes = attributes(point);
                tree.root_rw = point.rw();
            } else {
                tree.points.push(settle(jail, index, point)?);
            }
        }
        Ok(tree)
    }

    pub(super) fn has_content(&self) -> bool {
        self.points.iter().any(|point| matches!(point.source, Source::Content { .. }))
    }
}

fn settle(jail: &Jail, index: usize, point: &MountPt) -> Result<Point, NativeError> {
    let dst = point.dst.as_str();
    let source = if point.is_symlink() {
        Source::Symlink(c_string(dst, point.src())?)
    } else if !point.src_content().is_empty() {
        Source::Content { name: c_string(dst, index.to_string())?, bytes: point.src_content().to_vec() }
    } else if !point.is_bind() {
        Source::FileSystem(file_system(dst, point.fstype(), point.options())?)
    } else if let Some(staged) = jail.staged().iter().find(|staged| staged.mount == index) {
        let tree = staged.tree.try_clone().map_err(|source| NativeError::Start {
            stage: format!("bind source of {dst}"),
            source,
            hint: Vec::new(),
        })?;
        Source::Staged(tree)
    } else {
        let bytes = jail.raw_source(point.src()).unwrap_or(point.src().as_bytes());
        Source::Path(c_string(dst, bytes)?)
    };
    let is_dir = match source {
        Source::Content { .. } => false,
        Source::FileSystem(_) => true,
        _ => point.is_dir(),
    };
    let names = dst
        .split('/')
        .filter(|name| !name.is_empty())
        .map(|name| c_string(dst, name))
        .collect::<Result<_, _>>()?;
    Ok(Point {
        dst: c_string(dst, dst)?,
        below: c_string(dst, dst.trim_start_matches('/'))?,
        names,
        attributes: attributes(point),
        own_flags: jail.has_own_flags(index),
        source,
        rw: point.rw(),
        is_dir,
        mandatory: point.mandatory(),
        made: OnceCell::new(),
        content: OnceCell::new(),
    })
}

/// Read-only is not among them yet: a file system has to stay writable until its mount points are made.
fn attributes(point: &MountPt) -> MountAttributes {
    MountAttributes { read_only: false, nosuid: point.nosuid(), nodev: point.nodev(), noexec: point.noexec() }
}

fn file_system(dst: &str, fstype: &str, options: &str) -> Result<FileSystem, NativeError> {
    let settings = options
        .split(',')
        .filter(|option| !option.is_empty())
        .map(|option| {
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(c_string(dst, value)?)),
                None => (option, None),
            };
            Ok(Setting { key: c_string(dst, key)?, value })
        })
        .collect::<Result<_, NativeError>>()?;
    Ok(FileSystem { fstype: c_string(dst, fstype)?, settings })
}

fn c_string(dst: &str, bytes: impl Into<Vec<u8>>) -> Result<CString, NativeError> {
    CString::new(bytes)
        .map_err(|_| NativeError::Value { field: format!("mount of {dst:?}"), reason: "contains a NUL byte" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::tests::caller;
    use crate::{Overrides, Policy};

    #[test]
    fn entries_become_bytes() {
        let text = "mount { dst: \"/\" fstype: \"tmpfs\" rw: true options: \"size=1M,,noswap\" nosuid: true } \
            mount { dst: \"/a/b\" fstype: \"tmpfs\" } mount { dst: \"/m\" src_content: \"hi\" } \
            mount { dst: \"/l\" src: \"/a\" is_symlink: true } \
            mount { dst: \"/etc\" src: \"/etc\" is_bind: true mandatory: false noexec: true }";
        let policy = Policy::parse("p", text.as_bytes()).unwrap();
        let jail = Jail::new(policy, Overrides::default(), &caller(1001)).unwrap();
        let tree = MountTree::new(&jail).unwrap();
        assert!(tree.root_rw && tree.root_attributes.nosuid && tree.has_content());
        let settings: Vec<String> =
            tree.root.settings.iter().map(|s| format!("{:?} {:?}", s.key, s.value)).collect();
        assert_eq!(settings, ["\"size\" Some(\"1M\")", "\"noswap\" None"]);
        let kinds: Vec<String> = tree
            .points
            .iter()
            .map(|p| {
                let kind = match &p.source {
                    Source::Staged(_) => "staged",
                    Source::Path(_) => "path",
                    Source::FileSystem(_) => "fs",
                    Source::Content { .. } => "content",
                    Source::Symlink(_) => "link",
                };
                format!("{} {kind} {}", p.below.to_str().unwrap(), p.names.len())
            })
            .collect();
        assert_eq!(kinds, ["a/b fs 2", "m content 1", "l link 1", "etc path 1", "proc fs 1"]);
        assert!(!tree.points[3].mandatory && tree.points[3].is_dir && tree.points[3].attributes.noexec);
    }
}
