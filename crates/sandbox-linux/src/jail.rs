//! A jail that is ready to be started: policy, overrides and facts about the caller, settled into one value.
//!
//! This is the one place where defaults are decided. A policy written for nsjail leaves much unsaid or says what
//! a build cannot live with; each change made to it is a [`Correction`] that the user is shown once. What cannot
//! be corrected is refused. The result is an effective policy, the list of [`Promises`] that the guest checks
//! from inside, and, when root is the caller, the bind sources as detached mounts.

mod ids;
mod mounts;
mod place;
mod process;
mod staging;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use crate::caller::{Caller, NAMESPACES};
use crate::limits;
use crate::policy::Policy;
use crate::promises::Promises;
use crate::proto::{self, NsJailConfig};

pub(crate) use staging::{STAGED_PREFIX, Staged};

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
    /// Mounted after the policy's own entries, in this order.
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
}

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
    by_root: bool,
}

impl Jail {
    /// Settles a policy for this caller.
    ///
    /// # Errors
    /// See [`JailError`]; the field is named as in the policy, or `bind` for an override.
    pub fn new(policy: Policy, overrides: Overrides, caller: &Caller) -> Result<Jail, JailError> {
        let mut config = policy.into_config();
        let mut corrections = Vec::new();
        process::settle(&mut config, overrides.no_network, &mut corrections)?;
        let limits = limits::settle(&mut config, &caller.hard_limits, &mut corrections);
        let uid_map = ids::settle(ids::Which::Uid, &mut config.uidmap, caller, &mut corrections)?;
        let gid_map = ids::settle(ids::Which::Gid, &mut config.gidmap, caller, &mut corrections)?;
        let (Some(uid), Some(gid)) = (uid_map.first(), gid_map.first()) else {
            return Err(JailError::refused("uidmap", "is empty"));
        };
        let host_ids = HostIds { uid: uid.outside, gid: gid.outside };
        let staging = caller.is_root() && staging::possible();
        let tree = mounts::settle(&mut config, &overrides, caller, staging, &mut corrections)?;
        let staged = if staging { staging::stage(&tree.binds, host_ids)? } else { Vec::new() };
        let env = settle_env(&mut config, &overrides)?;
        if !overrides.cwd.as_os_str().is_empty() {
            config.cwd = Some(mounts::guest_path("cwd", &overrides.cwd)?);
        }
        config.pass_fd.clone_from(&overrides.pass_fds);

        let mut host_namespaces = caller.namespaces.clone();
        host_namespaces.retain(|kind, _| NAMESPACES.contains(&kind.as_str()));
        if !config.clone_newnet() {
            host_namespaces.remove("net");
        }
        let promises = Promises {
            host_namespaces,
            uid_map,
            gid_map,
            by_root: caller.is_root(),
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
            by_root: caller.is_root(),
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
    /// A plain user's guest has the user's own id, so for it the answer is always true.
    pub fn idmapped(&self, dst: &Path) -> bool {
        !self.by_root
            || self.staged.iter().any(|staged| Path::new(&staged.dst) == dst && staged.owner_is_guest)
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
        Policy::from_config("effective", config)
    }

    /// The effective policy in nsjail's text form, with every string escaped.
    pub fn config_text(&self) -> String {
        self.config_text_for("/run/user")
    }

    /// The same for a staging mount at another place.
    pub(crate) fn config_text_for(&self, base: &str) -> String {
        let mut config = self.config.clone();
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
}

/// Writes the environment into the policy and returns its names.
fn settle_env(config: &mut NsJailConfig, overrides: &Overrides) -> Result<Vec<String>, JailError> {
    for (name, value) in &overrides.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(JailError::refused("env", "a name or value that no environment can hold"));
        }
    }
    let name_of = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    config.envar.retain(|entry| !overrides.env.iter().any(|(name, _)| *name == name_of(entry)));
    for (name, value) in &overrides.env {
        config.envar.push(format!("{name}={value}"));
    }
    let mut names: Vec<String> = config.envar.iter().map(|entry| name_of(entry)).collect();
    names.sort();
    names.dedup();
    Ok(names)
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
