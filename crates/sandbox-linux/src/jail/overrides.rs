//! What whoever starts a jail adds to its policy.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::path::PathBuf;

/// Whom a jail is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tenant {
    /// ktl's own guest, which speaks with a builder: a policy gets what that needs and none of what it does not.
    #[default]
    Client,
    /// Any program: the policy's own word counts, as nsjail would take it, but for what opens the host.
    Program,
}

/// A host path to be seen inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Absolute host path; symbolic links are followed.
    pub src: PathBuf,
    /// Absolute path inside, UTF-8, without `..`.
    pub dst: PathBuf,
    pub rw: bool,
    /// The tree must be usable by the guest even if it belongs to somebody else on the host: when root starts the
    /// jail, the tree owner's id is mapped to the guest's on this mount, where the file system can.
    pub idmap: bool,
    pub is_dir: bool,
}

/// What ktl adds to a policy.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// Whom the jail is for.
    pub tenant: Tenant,
    /// Mounted after the policy's own entries, in this order. For a [`Tenant::Program`] they may be sockets; a policy's
    /// stay outside.
    pub binds: Vec<Bind>,
    /// Environment of the guest. A policy's own `NAME=value` entries stay beside it unless named here.
    pub env: Vec<(String, String)>,
    /// Where the guest starts; empty leaves the policy's.
    pub cwd: PathBuf,
    /// No network whatever the policy says.
    pub no_network: bool,
    /// Descriptor numbers that the guest is given besides 0, 1 and 2.
    pub pass_fds: Vec<RawFd>,
    /// Values for `prefix_src_env` and `prefix_dst_env`; a prefix that is not here is refused.
    pub prefix_env: BTreeMap<String, String>,
    /// The host's environment, for the `keep_env` and `envar: "NAME"` of a [`Tenant::Program`]'s policy.
    pub host_env: BTreeMap<String, String>,
}
