//! Who starts the jail: ids, id maps, limits and namespaces of this process. They are collected once, so that
//! the settling of a jail is a function of values and can be tested as one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use nix::sys::resource::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

/// One line of a user or group id map: `count` ids from `inside` on are those from `outside` on in the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The kinds of namespace that a jail has of its own, in the order that messages list them. The names are those
/// of `/proc/self/ns`.
pub const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"];

/// The kind that a jail has only where its policy asks for it.
pub(crate) const TIME: &str = "time";

/// Facts about this process that decide how a jail is made.
#[derive(Debug, Clone)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    pub uid_map: Vec<Extent>,
    pub gid_map: Vec<Extent>,
    /// Hard limits in the kernel's units, `u64::MAX` for none; keys as in [`limit_names`](crate::limit_names).
    pub hard_limits: BTreeMap<&'static str, u64>,
    /// Inode of each of this process's namespaces.
    pub namespaces: BTreeMap<String, u64>,
    /// Mount points of this process, for finding submounts of a bind source.
    pub mount_points: Vec<Vec<u8>>,
    /// The capabilities that the kernel knows, bit by bit: what the first process of a user namespace has.
    pub capabilities: u64,
    /// System call filters on this thread, which a jail inherits; `None` where the kernel does not count them.
    pub filters: Option<u32>,
}

impl Caller {
    /// Reads the facts from the kernel.
    ///
    /// # Errors
    /// `/proc` is not there or not readable, which no jail could be proven without.
    pub fn current() -> io::Result<Caller> {
        let mut hard_limits = BTreeMap::new();
        for (name, resource) in crate::limits::RESOURCES {
            hard_limits.insert(name, getrlimit(resource)?.1);
        }
        // Of this thread: a jail inherits the filters of the one that starts it.
        let status = fs::read_to_string("/proc/thread-self/status")?;
        let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
        Ok(Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            pid: std::process::id(),
            groups: rustix::process::getgroups()?.into_iter().map(rustix::process::Gid::as_raw).collect(),
            uid_map: parse_id_map(&fs::read_to_string("/proc/self/uid_map")?)?,
            gid_map: parse_id_map(&fs::read_to_string("/proc/self/gid_map")?)?,
            hard_limits,
            namespaces: namespaces()?,
            mount_points: crate::mountinfo::read()?.into_iter().map(|entry| entry.mount_point).collect(),
            capabilities: known_capabilities(),
            filters: filters.and_then(|count| count.trim().parse().ok()),
        })
    }

    /// True when jails are started with root's rights over this process's user namespace.
    ///
    /// "Root" whose only mapped id is somebody else's (`unshare -r`, some CI containers) has no other id to give to
    /// the guest; it is that user, and counts as one.
    pub fn is_root(&self) -> bool {
        let alone = |map: &[Extent]| matches!(map, [only] if only.count == 1 && only.outside != 0);
        self.uid == 0 && !(alone(&self.uid_map) && alone(&self.gid_map))
    }
}

/// Inodes of this process's namespaces; the one of time, which not every kernel has and few policies want, where it is.
///
/// # Errors
/// One of [`NAMESPACES`] cannot be read.
pub(crate) fn namespaces() -> io::Result<BTreeMap<String, u64>> {
    let inode = |kind: &str| fs::metadata(format!("/proc/self/ns/{kind}")).map(|m| m.ino());
    let mut found: BTreeMap<String, u64> =
        NAMESPACES.iter().map(|kind| Ok(((*kind).to_owned(), inode(kind)?))).collect::<io::Result<_>>()?;
    if let Ok(time) = inode(TIME) {
        found.insert(TIME.to_owned(), time);
    }
    Ok(found)
}

/// Bits of all capabilities of this kernel. Without an answer, those of Linux 5.9, which no later one took away.
fn known_capabilities() -> u64 {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap");
    let last = last.ok().and_then(|last| last.trim().parse::<u32>().ok()).filter(|last| *last < 64);
    u64::MAX >> (63 - last.unwrap_or(40))
}

/// Reads `/proc/PID/uid_map` or `gid_map`.
///
/// # Errors
/// `InvalidData` when a line has another form.
pub(crate) fn parse_id_map(text: &str) -> io::Result<Vec<Extent>> {
    text.lines()
        .map(|line| {
            let numbers: Vec<u32> =
                line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
            match numbers[..] {
                [inside, outside, count] => Ok(Extent { inside, outside, count }),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("id map line {line:?}"))),
            }
        })
        .collect()
}

/// The kernel's resource for a name; used by the proof too.
pub(crate) fn resource(name: &str) -> Option<Resource> {
    crate::limits::RESOURCES.iter().find(|(known, _)| *known == name).map(|(_, resource)| *resource)
}
