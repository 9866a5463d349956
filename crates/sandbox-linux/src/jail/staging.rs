//! Bind sources as detached mounts, for jails that root starts.
//!
//! nsjail's child makes the mount tree after it took the guest's unprivileged id, so it may not search `/root` or
//! any other private parent of a bind source. Root therefore clones each source into a detached mount while it can
//! still reach it, fixes its attributes for the whole tree (nsjail's own read-only does not reach submounts), maps
//! the owner's id to the guest's where wanted and possible, and moves it to a place that everybody can search.
//! See mount_setattr(2) for id-mapped mounts, open_tree(2) for detached ones.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::mount::OpenTreeFlags;

use super::{HostIds, JailError};
use crate::sys::{self, MountAttributes};

/// Names of the mount points in the staging tmpfs begin with this.
pub(crate) const STAGED_PREFIX: &str = "ktl.";

/// A bind of the settled tree, before staging.
#[derive(Debug)]
pub(super) struct BindSource {
    /// Index in the policy's mount list.
    pub mount: usize,
    pub field: String,
    pub src: PathBuf,
    pub dst: String,
    pub rw: bool,
    pub idmap: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub is_dir: bool,
    /// Owner of the tree's root.
    pub owner: HostIds,
}

/// A bind source that can be moved into the jail's private mount namespace.
#[derive(Debug)]
pub(crate) struct Staged {
    pub mount: usize,
    pub dst: String,
    pub tree: OwnedFd,
    pub is_dir: bool,
    /// The tree's owner and the guest are one, by mapping or already.
    pub owner_is_guest: bool,
}

/// False for a root that may not handle mounts (a container without CAP_SYS_ADMIN, an old kernel): nsjail then binds the paths by
/// itself, as for a plain user.
pub(super) fn possible() -> bool {
    sys::may_handle_mounts()
}

/// Clones every source.
pub(super) fn stage(binds: &[BindSource], guest: HostIds) -> Result<Vec<Staged>, JailError> {
    let mut namespaces: HashMap<HostIdsKey, Option<OwnedFd>> = HashMap::new();
    let mut staged = Vec::with_capacity(binds.len());
    for bind in binds {
        let failed = |source: io::Error| JailError::Source {
            field: bind.field.clone(),
            path: bind.src.clone(),
            source,
        };
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = rustix::mount::open_tree(rustix::fs::CWD, &bind.src, flags)
            .map_err(|error| failed(error.into()))?;
        let attributes =
            MountAttributes { read_only: !bind.rw, nosuid: bind.nosuid, nodev: bind.nodev, noexec: false };
        sys::mount_setattr(tree.as_fd(), attributes).map_err(failed)?;
        let mut owner_is_guest = bind.owner == guest;
        if bind.idmap && !owner_is_guest {
            let key = (bind.owner.uid, bind.owner.gid);
            let namespace = namespaces.entry(key).or_insert_with(|| {
                let line = |from, to| format!("{from} {to} 1\n");
                let uids = line(bind.owner.uid, guest.uid);
                let gids = line(bind.owner.gid, guest.gid);
                sys::user_namespace(&uids, &gids).ok()
            });
            owner_is_guest =
                namespace.as_ref().is_some_and(|ns| sys::mount_idmap(tree.as_fd(), ns.as_fd()).is_ok());
        }
        staged.push(Staged {
            mount: bind.mount,
            dst: bind.dst.clone(),
            tree,
            is_dir: bind.is_dir,
            owner_is_guest,
        });
    }
    Ok(staged)
}

type HostIdsKey = (u32, u32);
