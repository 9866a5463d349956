//! What a jail promises: the list that the host side writes down before it starts the jail, and that the guest
//! compares with what the kernel tells it. It crosses the boundary inside the sealed plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Extent;

/// Facts that must hold inside. Everything here was settled by [`Jail::new`](crate::Jail::new).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// Kind of namespace (a name in `/proc/self/ns`) to the host's inode, which the guest's must differ from.
    pub host_namespaces: BTreeMap<String, u64>,
    /// Kinds that the guest shares with the host, because the policy says so.
    pub shared_namespaces: Vec<String>,
    /// The guest's id maps, extent by extent; without a user namespace, the host's.
    pub uid_map: Vec<Extent>,
    pub gid_map: Vec<Extent>,
    /// The ids that the guest has inside.
    pub uid: u32,
    pub gid: u32,
    /// True when root started the jail: no extent may then reach outside id 0, and no group may be left.
    pub by_root: bool,
    /// What each of the five capability sets holds: bit N is capability N of capabilities(7).
    pub capabilities: u64,
    /// True when no exec may give privileges.
    pub no_new_privs: bool,
    /// System call filters that the jail puts on.
    pub filters: u32,
    /// Those that were on the caller; `None` where the kernel does not count.
    pub host_filters: Option<u32>,
    /// The mount tree, in mounting order.
    pub mounts: Vec<PromisedMount>,
    /// Open descriptors besides 0, 1 and 2.
    pub fds: Vec<i32>,
    /// Names of the environment variables that may be set.
    pub env: Vec<String>,
    /// Name of a limit (as in `rlimit_NAME`) to the highest value that its hard limit may have.
    pub limits: BTreeMap<String, u64>,
    /// True when the network namespace holds nothing but a loopback device.
    pub no_network: bool,
}

/// One mount point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromisedMount {
    /// Absolute path inside.
    pub dst: String,
    /// `None` for something bound from the host, whose file system may be any.
    pub fstype: Option<String>,
    pub read_only: bool,
    /// The jail may come up without it.
    pub optional: bool,
}
