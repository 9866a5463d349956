//! A jail that is ready to be started: policy, overrides and facts about the caller, settled into one value.
//!
//! This is the one place where defaults are decided. A policy written for nsjail leaves much unsaid or says what
//! its [`Tenant`] cannot live with; each change made to it is a [`Correction`] that the user is shown once. What cannot
//! be corrected is refused. The result is an effective policy, the list of [`Promises`] that the guest checks
//! from inside, and, when root is the caller, the bind sources as detached mounts.

mod env;
mod ids;
mod maps;
mod mounts;
mod overrides;
mod place;
mod points;
mod process;
mod program;
mod staging;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::caller::{Caller, TIME};
use crate::limits;
use crate::policy::Policy;
use crate::promises::Promises;
use crate::proto::{self, NsJailConfig};

pub use overrides::{Bind, Overrides, Tenant};
pub use program::ExecBin;
pub(crate) use staging::{STAGED_PREFIX, Staged};

/// A change made to a policy. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Correction {
    pub field: String,
    pub was: String,
    pub now: String,
    pub why: String,
}

impl Correction {
    pub(crate) fn new(field: &str, was: &str, now: &str, why: &str) -> Correction {
        let own = str::to_owned;
        Correction { field: own(field), was: own(was), now: own(now), why: own(why) }
    }
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = format!("{}: {} -> {} ({})", self.field, self.was, self.now, self.why);
        line.chars().try_for_each(|c| fmt::Write::write_char(f, if c.is_control() { '\u{fffd}' } else { c }))
    }
}

/// Why no jail can be made of a policy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JailError {
    /// The policy asks for something that cannot be given and not be corrected.
    #[error("{field}: {why}")]
    Refused { field: String, why: String },
    /// A host file that the jail needs.
    #[error("{field}: {}", path.display())]
    Source { field: String, path: PathBuf, source: io::Error },
    /// Root in a container whose id map has nothing but root's id.
    #[error("{field}: no unprivileged id is mapped in this container to give to the guest")]
    NoFreeId { field: &'static str },
}

impl JailError {
    pub(crate) fn refused(field: &str, why: &str) -> JailError {
        JailError::Refused { field: field.to_owned(), why: why.to_owned() }
    }
}

/// Host ids that the guest runs under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostIds {
    pub uid: u32,
    pub gid: u32,
}

/// A settled jail. It is good for one start: the bind sources of a jail made by root move into it.
#[derive(Debug)]
pub struct Jail {
    config: NsJailConfig,
    corrections: Vec<Correction>,
    promises: Promises,
    host_ids: HostIds,
    staged: Vec<Staged>,
    /// Host paths that are not UTF-8: the stand-in in the message, and the bytes.
    raw_sources: Vec<(String, Vec<u8>)>,
    /// Indices of mounts whose nosuid and nodev are the policy's to say.
    own_flags: Vec<usize>,
    exec_bin: Option<ExecBin>,
    by_root: bool,
    /// Who writes the maps: newuidmap, newgidmap.
    helpers: Helpers,
    /// The guest is the caller on the host.
    as_caller: bool,
}

/// Which maps the set-uid programs of subordinate ids write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Helpers {
    pub uid: bool,
    pub gid: bool,
}

impl Jail {
    /// Settles a policy for this caller.
    ///
    /// # Errors
    /// See [`JailError`]; the field is named as in the policy, or `bind` for an override.
    pub fn new(policy: Policy, overrides: Overrides, caller: &Caller) -> Result<Jail, JailError> {
        let mut config = policy.into_config();
        let mut corrections = Vec::new();
        let mut helpers = Helpers::default();
        let (process, limits, uid_map, gid_map) = match overrides.tenant {
            Tenant::Client => {
                process::settle(&mut config, overrides.no_network, &mut corrections)?;
                let limits = limits::settle(&mut config, &caller.hard_limits, &mut corrections);
                let uids = ids::settle(ids::Which::Uid, &mut config.uidmap, caller, &mut corrections)?;
                let gids = ids::settle(ids::Which::Gid, &mut config.gidmap, caller, &mut corrections)?;
                (program::Settled::client(), limits, uids, gids)
            }
            Tenant::Program => {
                let process = program::settle(&mut config, &overrides, caller, &mut corrections)?;
                let limits = limits::as_written(&mut config, &caller.hard_limits, &mut corrections);
                let own = config.clone_newuser();
                let (uid, gid) = (ids::Which::Uid, ids::Which::Gid);
                let uids = maps::settle(uid, &mut config.uidmap, caller, own, &mut corrections)?;
                let gids = maps::settle(gid, &mut config.gidmap, caller, own, &mut corrections)?;
                helpers = Helpers { uid: uids.by_helper, gid: gids.by_helper };
                (process, limits, uids.extents, gids.extents)
            }
        };
        let (Some(uid), Some(gid)) = (uid_map.first().copied(), gid_map.first().copied()) else {
            return Err(JailError::refused("uidmap", "is empty"));
        };
        let host_ids = HostIds { uid: uid.outside, gid: gid.outside };
        let staging = caller.is_root() && staging::possible();
        let tree = mounts::settle(&mut config, &overrides, caller, staging, &mut corrections)?;
        let staged = if staging { staging::stage(&tree.binds, host_ids)? } else { Vec::new() };
        let env = env::settle(&mut config, &overrides, &mut corrections)?;
        if !overrides.cwd.as_os_str().is_empty() {
            config.cwd = Some(mounts::guest_path("cwd", &overrides.cwd)?);
        }
        config.pass_fd.clone_from(&overrides.pass_fds);

        let mut host_namespaces = BTreeMap::new();
        let mut shared_namespaces = Vec::new();
        for (kind, own) in namespaces(&config) {
            if !own {
                shared_namespaces.push(kind.to_owned());
            } else if let Some(host) = caller.namespaces.get(kind) {
                host_namespaces.insert(kind.to_owned(), *host);
            }
        }
        if config.clone_newtime() {
            let Some(host) = caller.namespaces.get(TIME) else {
                return Err(JailError::refused("clone_newtime", "this kernel has no time namespaces"));
            };
            host_namespaces.insert(TIME.to_owned(), *host);
        }
        let own_ids = config.clone_newuser();
        let promises = Promises {
            host_namespaces,
            shared_namespaces,
            uid_map: if own_ids { uid_map } else { caller.uid_map.clone() },
            gid_map: if own_ids { gid_map } else { caller.gid_map.clone() },
            uid: uid.inside,
            gid: gid.inside,
            by_root: caller.is_root(),
            capabilities: process.capabilities,
            no_new_privs: process.no_new_privs,
            filters: process.filters,
            host_filters: caller.filters,
            mounts: tree.promised,
            fds: overrides.pass_fds,
            env,
            limits,
            no_network: config.clone_newnet()
                && config.user_net.is_none()
                && config.macvlan_iface().is_empty()
                && config.iface_own.is_empty(),
        };
        Ok(Jail {
            config,
            corrections,
            promises,
            host_ids,
            staged,
            raw_sources: tree.raw_sources,
            own_flags: tree.own_flags,
            exec_bin: process.exec_bin,
            by_root: caller.is_root(),
            helpers,
            as_caller: host_ids == HostIds { uid: caller.uid, gid: caller.gid },
        })
    }

    /// What was changed in the policy, in the order of settling.
    pub fn corrections(&self) -> &[Correction] {
        &self.corrections
    }

    /// What the guest has to verify.
    pub fn promises(&self) -> Promises {
        self.promises.clone()
    }

    /// The host ids of the guest: owner of what it writes where nothing is mapped.
    pub fn host_ids(&self) -> HostIds {
        self.host_ids
    }

    /// True when the bind at this path inside lets the guest act as the tree's owner. False for a jail made by
    /// root means: the file system cannot map ids, hand the tree over with chown or open its files for the guest.
    /// A plain user's guest mostly has the user's own id, and then the answer is always true.
    pub fn idmapped(&self, dst: &Path) -> bool {
        self.as_caller
            || self.staged.iter().any(|staged| Path::new(&staged.dst) == dst && staged.owner_is_guest)
    }

    /// The program that the policy names, for a [`Tenant::Program`]. Whoever starts the jail may run it, or another one.
    pub fn exec_bin(&self) -> Option<&ExecBin> {
        self.exec_bin.as_ref()
    }

    /// The effective policy, for reports: bind sources are the host's paths even where root stages them elsewhere, and what
    /// is not UTF-8 in them is shown by a replacement character.
    pub fn policy(&self) -> Policy {
        let mut config = self.config.clone();
        for (stand_in, bytes) in &self.raw_sources {
            for entry in config.mount.iter_mut().filter(|entry| entry.src() == stand_in) {
                entry.src = Some(String::from_utf8_lossy(bytes).into_owned());
            }
        }
        config.exec_bin = self.exec_bin.as_ref().map(as_message);
        Policy::from_config("effective", config)
    }

    /// The effective policy in nsjail's text form, with every string escaped.
    pub fn config_text(&self) -> String {
        self.config_text_for("/run/user", None)
    }

    /// The same for a staging mount at another place, and for running the policy's own program.
    pub(crate) fn config_text_for(&self, base: &str, exec_bin: Option<&ExecBin>) -> String {
        let mut config = self.config.clone();
        config.exec_bin = exec_bin.map(as_message);
        for (number, staged) in self.staged.iter().enumerate() {
            if let Some(entry) = config.mount.get_mut(staged.mount) {
                entry.src = Some(format!("{base}/{STAGED_PREFIX}{number}"));
            }
        }
        let options = prost_reflect::text_format::FormatOptions::new().pretty(true);
        let mut text = proto::reflect(&config).to_text_format_with_options(&options);
        for (stand_in, bytes) in &self.raw_sources {
            let escaped: String = bytes.iter().map(|b| format!("\\{b:03o}")).collect();
            text = text.replace(stand_in, &escaped);
        }
        text.push('\n');
        text
    }

    /// The effective policy. A source in it may be a stand-in of [`Jail::raw_source`].
    pub(crate) fn config(&self) -> &NsJailConfig {
        &self.config
    }

    /// The bytes behind a source that is not UTF-8.
    pub(crate) fn raw_source(&self, stand_in: &str) -> Option<&[u8]> {
        self.raw_sources.iter().find(|(name, _)| name == stand_in).map(|(_, bytes)| bytes.as_slice())
    }

    pub(crate) fn staged(&self) -> &[Staged] {
        &self.staged
    }

    pub(crate) fn by_root(&self) -> bool {
        self.by_root
    }

    pub(crate) fn pass_fds(&self) -> &[RawFd] {
        &self.promises.fds
    }

    pub(crate) fn helpers(&self) -> Helpers {
        self.helpers
    }

    /// True when nosuid and nodev of this mount are as the policy says, and not always on.
    pub(crate) fn has_own_flags(&self, mount: usize) -> bool {
        self.own_flags.contains(&mount)
    }
}

/// What the policy says of each kind of namespace that a jail has by default; the names are the kernel's.
fn namespaces(config: &NsJailConfig) -> [(&'static str, bool); 7] {
    [
        ("user", config.clone_newuser()),
        ("mnt", config.clone_newns()),
        ("pid", config.clone_newpid()),
        ("ipc", config.clone_newipc()),
        ("uts", config.clone_newuts()),
        ("cgroup", config.clone_newcgroup()),
        ("net", config.clone_newnet()),
    ]
}

fn as_message(exec_bin: &ExecBin) -> proto::Exe {
    proto::Exe {
        path: exec_bin.path.to_string_lossy().into_owned(),
        arg: exec_bin.args.clone(),
        arg0: exec_bin.arg0.clone(),
        exec_fd: exec_bin.by_fd.then_some(true),
    }
}

/// A small host file that a policy names.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = crate::policy::MAX_POLICY_BYTES as u64;
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "is larger than 1 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
