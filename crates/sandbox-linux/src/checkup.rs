//! Questions about this host that are answered by trying. Settings and versions explain a refusal; whether there is one is
//! for the kernel to say, so each function here really does the thing, in a child or on a mount that nobody sees.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::mount::OpenTreeFlags;

use crate::caller::{Caller, Extent};
use crate::jail::{HostIds, Jail, Overrides};
use crate::policy::{Builtin, Policy};
use crate::sys::{self, trial};

/// Makes a namespace of this kind (a name of [`NAMESPACES`](crate::NAMESPACES)) together with a user namespace, as a jail
/// has it.
///
/// # Errors
/// The kernel's refusal; `InvalidInput` for another name.
pub fn namespace_works(kind: &str) -> io::Result<()> {
    let flag = match kind {
        "user" => 0,
        "mnt" => libc::CLONE_NEWNS,
        "pid" => libc::CLONE_NEWPID,
        "ipc" => libc::CLONE_NEWIPC,
        "uts" => libc::CLONE_NEWUTS,
        "cgroup" => libc::CLONE_NEWCGROUP,
        "net" => libc::CLONE_NEWNET,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    trial::unshare(libc::CLONE_NEWUSER | flag, None)
}

/// Maps the ids that a jail started by this caller maps, and returns the host ids of its guest.
///
/// # Errors
/// No ids can be found, or the kernel refuses the map.
pub fn id_maps_work(caller: &Caller) -> io::Result<HostIds> {
    let jail = Jail::new(Policy::builtin(Builtin::Strict), Overrides::default(), caller)
        .map_err(io::Error::other)?;
    let promises = jail.promises();
    let lines = |map: &[Extent]| {
        let line = |extent: &Extent| format!("{} {} {}\n", extent.inside, extent.outside, extent.count);
        map.iter().map(line).collect::<String>()
    };
    let (uid, gid) = (lines(&promises.uid_map), lines(&promises.gid_map));
    if caller.is_root() {
        sys::user_namespace(&uid, &gid)?;
    } else {
        let (uid, gid) = (CString::new(uid)?, CString::new(gid)?);
        trial::unshare(libc::CLONE_NEWUSER, Some(&trial::Maps { uid: &uid, gid: &gid }))?;
    }
    Ok(jail.host_ids())
}

/// Gives a detached copy of the mount at `dir` an id map from its owner to `guest`, as a jail started by root does with the
/// build context. Nothing is left of it.
///
/// # Errors
/// `InvalidInput` with the kernel's EINVAL: the file system cannot map ids. Others: mounts may not be handled here.
pub fn idmapped_mounts_work(dir: &Path, guest: HostIds) -> io::Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, dir, flags)?;
    let owner = dir.metadata()?;
    let line = |from: u32, to: u32| format!("{from} {to} 1\n");
    let namespace = sys::user_namespace(&line(owner.uid(), guest.uid), &line(owner.gid(), guest.gid))?;
    sys::mount_idmap(tree.as_fd(), namespace.as_fd())
}

/// The kernel's version of Landlock, 0 for none.
pub fn landlock_version() -> u32 {
    sys::contain::landlock_version()
}

/// The version of the control groups at their usual place; `None` when there are none.
pub fn cgroup_version() -> Option<u8> {
    const PLACE: &str = "/sys/fs/cgroup";
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    if rustix::fs::statfs(PLACE).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC) {
        return Some(2);
    }
    // Version 1 has a directory for each controller there.
    let controllers = ["memory", "pids", "cpu"].map(|name| Path::new(PLACE).join(name).join("cgroup.procs"));
    controllers.iter().any(|file| file.exists()).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NAMESPACES;

    #[test]
    fn kinds_are_tried_one_by_one() {
        let user = namespace_works("user");
        for kind in NAMESPACES {
            let tried = namespace_works(kind);
            // A host that refuses user namespaces refuses all of them; one that does not gives every kind that it has.
            assert_eq!(tried.is_ok(), user.is_ok(), "{kind}: {tried:?}");
        }
        assert_eq!(namespace_works("nonsense").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_refusal_is_the_kernels_own() {
        let wrong = CString::new("no map\n").unwrap();
        let maps = trial::Maps { uid: &wrong, gid: &wrong };
        let refused = trial::unshare(libc::CLONE_NEWUSER, Some(&maps)).unwrap_err();
        assert!(refused.raw_os_error().is_some_and(|errno| errno > 0), "{refused:?}");
    }

    #[test]
    fn maps_and_mapped_mounts() {
        if namespace_works("user").is_err() {
            eprintln!("skipped: this host gives no user namespaces");
            return;
        }
        let caller = Caller::current().unwrap();
        let guest = id_maps_work(&caller).unwrap();
        if caller.is_root() {
            assert_ne!(guest.uid, 0);
            // /proc never takes an id map.
            assert!(idmapped_mounts_work(Path::new("/proc"), guest).is_err());
            assert!(idmapped_mounts_work(Path::new("/no/such/dir"), guest).is_err());
        } else {
            assert_eq!(guest.uid, caller.uid);
        }
    }
}
