//! What a jail promises: the list that the host side writes down before it starts nsjail, and that the guest
//! compares with what the kernel tells it. It crosses the boundary inside the sealed plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Extent;

/// Facts that must hold inside. Everything here was settled by [`Jail::new`](crate::Jail::new).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// Kind of namespace (a name in `/proc/self/ns`) to the host's inode, which the guest's must differ from.
    pub host_namespaces: BTreeMap<String, u64>,
    /// The guest's id maps, extent by extent.
    pub uid_map: Vec<Extent>,
    pub gid_map: Vec<Extent>,
    /// True when root started the jail: no extent may then reach outside id 0, and no group may be left.
    pub by_root: bool,
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
