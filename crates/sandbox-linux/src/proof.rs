//! The guest's look around: is this the jail that was promised?
//!
//! Nothing that was handed in can answer that: a variable or a flag can be set by anybody, and a program named
//! `nsjail` may do no more than execute its arguments. So the guest asks the kernel, through `/proc`, for each
//! thing that makes the jail and compares it with the [`Promises`]. What cannot be read counts as broken.
//! Run it first, before any thread or runtime exists and before files are opened.

mod facts;

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

use self::facts::Facts;
pub use self::facts::ways_out;
use crate::caller::Extent;
use crate::mountinfo::MountEntry;
use crate::probe::CAPABILITIES;
use crate::promises::Promises;

/// The bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// Every promise holds. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Kinds of namespace that are the guest's own.
    pub namespaces: Vec<String>,
    /// Kinds that the policy leaves to the host.
    pub shared_namespaces: Vec<String>,
    /// The guest's id, as it is inside.
    pub uid: u32,
    pub uid_map: Vec<Extent>,
    /// What each capability set holds, bit by bit.
    pub capabilities: u64,
    pub no_new_privs: bool,
    /// System call filters on the guest.
    pub filters: u32,
    /// Number of mounts in sight.
    pub mounts: usize,
    /// True when a network namespace with nothing but loopback was found.
    pub no_network: bool,
    /// What holds but is weaker than it could be.
    pub warnings: Vec<String>,
}

/// The jail is not the promised one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// The kernel would not say.
    #[error("cannot read {what}")]
    Unreadable { what: &'static str, source: io::Error },
    /// At least one fact differs; all that do are listed.
    #[error("{}", .0.join("; "))]
    Broken(Vec<String>),
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = |first: u32, count: u32| match count {
            1 => first.to_string(),
            many => format!("{first}-{}", u64::from(first) + u64::from(many) - 1),
        };
        let line = |e: &Extent| format!("{} as host {}", ids(e.inside, e.count), ids(e.outside, e.count));
        let map: Vec<String> = self.uid_map.iter().map(line).collect();
        let own = self.namespaces.iter().any(|kind| kind == "user");
        write!(f, "own namespaces: {}; ", self.namespaces.join(" "))?;
        if !self.shared_namespaces.is_empty() {
            write!(f, "the host's: {}; ", self.shared_namespaces.join(" "))?;
        }
        match own {
            true => write!(f, "uid {}; ", map.join(", "))?,
            false => write!(f, "uid {} of the host; ", self.uid)?,
        }
        write!(f, "{} mounts, all promised; ", self.mounts)?;
        write!(f, "{}, ", Held(self.capabilities))?;
        f.write_str(if self.no_new_privs { "no new privileges, " } else { "new privileges by exec, " })?;
        f.write_str(if self.filters > 0 { "system call filter on" } else { "no system call filter" })?;
        if self.no_network {
            f.write_str("; no network")?;
        }
        for warning in &self.warnings {
            write!(f, "; warning: {warning}")?;
        }
        Ok(())
    }
}

/// A capability set in words.
struct Held(u64);

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = u64::MAX >> (64 - CAPABILITIES.len());
        if self.0 == 0 {
            return f.write_str("no capability");
        }
        if self.0 & known == known {
            return f.write_str("all capabilities of its user namespace");
        }
        f.write_str("capabilities:")?;
        for bit in (0..64).filter(|bit| self.0 >> bit & 1 == 1) {
            match CAPABILITIES.get(bit) {
                Some(name) => write!(f, " {name}")?,
                None => write!(f, " {bit}")?,
            }
        }
        Ok(())
    }
}

/// Compares the running process with the promises.
///
/// # Errors
/// Something cannot be read, or differs.
pub fn verify(promises: &Promises) -> Result<Proof, ProofError> {
    compare(promises, &Facts::read(promises)?)
}

fn compare(promises: &Promises, facts: &Facts) -> Result<Proof, ProofError> {
    let mut broken = Vec::new();
    let mut warnings = Vec::new();
    check_namespaces(promises, facts, &mut broken);
    check_ids(promises, facts, &mut broken, &mut warnings);
    check_privileges(promises, facts, &mut broken);
    let filters = check_filters(promises, facts, &mut broken);
    check_mounts(promises, &facts.mounts, &mut broken);
    for fd in &facts.fds {
        if *fd > 2 && !promises.fds.contains(fd) {
            broken.push(format!("descriptor {fd} leaked in"));
        }
    }
    for name in &facts.env {
        if !promises.env.contains(name) {
            broken.push(format!("the variable {name:?} came in"));
        }
    }
    for (name, most) in &promises.limits {
        match facts.limits.get(name) {
            Some(limit) if limit <= most => {}
            Some(limit) => broken.push(format!("limit {name} is {limit}, more than {most}")),
            None => broken.push(format!("limit {name} is unknown")),
        }
    }
    if promises.capabilities & SYS_ADMIN != 0 {
        warnings.push("with SYS_ADMIN the guest may make read-only mounts writable".to_owned());
    }
    if promises.shared_namespaces.iter().any(|kind| kind == "pid") {
        warnings.push("processes may outlive the jail, which has the host's process namespace".to_owned());
    }
    if !broken.is_empty() {
        return Err(ProofError::Broken(broken));
    }
    Ok(Proof {
        namespaces: promises.host_namespaces.keys().cloned().collect(),
        shared_namespaces: promises.shared_namespaces.clone(),
        uid: promises.uid,
        uid_map: facts.uid_map.clone(),
        capabilities: promises.capabilities,
        no_new_privs: promises.no_new_privs,
        filters,
        mounts: facts.mounts.len(),
        no_network: promises.no_network,
        warnings,
    })
}

fn check_namespaces(promises: &Promises, facts: &Facts, broken: &mut Vec<String>) {
    for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        let shared = kind != "mnt" && promises.shared_namespaces.iter().any(|shared| shared == kind);
        if !shared && !promises.host_namespaces.contains_key(kind) {
            broken.push(format!("no {kind} namespace was promised"));
        }
    }
    if promises.no_network && !promises.host_namespaces.contains_key("net") {
        broken.push("no net namespace was promised".to_owned());
    }
    for (kind, host) in &promises.host_namespaces {
        match facts.namespaces.get(kind) {
            Some(own) if own != host => {}
            Some(_) => broken.push(format!("the {kind} namespace is the host's")),
            None => broken.push(format!("the {kind} namespace is unknown")),
        }
    }
    if !facts.own_proc {
        broken.push("/proc belongs to another process namespace".to_owned());
    }
    if promises.no_network {
        for interface in facts.interfaces.iter().filter(|interface| facts::leads_out(interface)) {
            broken.push(format!("there is a network interface {interface:?}"));
        }
    }
}

fn check_ids(promises: &Promises, facts: &Facts, broken: &mut Vec<String>, warnings: &mut Vec<String>) {
    for (name, promised, found) in
        [("uid_map", &promises.uid_map, &facts.uid_map), ("gid_map", &promises.gid_map, &facts.gid_map)]
    {
        // Of more than five extents the kernel makes a sorted list.
        let sorted = |map: &[Extent]| {
            let mut map = map.to_vec();
            map.sort_by_key(|extent| extent.inside);
            map
        };
        if promised.is_empty() || sorted(promised) != sorted(found) {
            broken.push(format!("{name} is {found:?}, not {promised:?}"));
        }
        let own = promises.host_namespaces.contains_key("user");
        if promises.by_root && own && found.iter().any(|extent| extent.outside == 0) {
            broken.push(format!("{name} reaches the host's id 0"));
        }
    }
    let own = promises.host_namespaces.contains_key("user");
    for (name, promised) in [("Uid", promises.uid), ("Gid", promises.gid)] {
        let found = facts.status.get(name).map_or("unknown", String::as_str);
        // Real, effective, saved and of the file system.
        let numbers: Vec<u32> = found.split_ascii_whitespace().map_while(|id| id.parse().ok()).collect();
        if numbers != [promised; 4] {
            broken.push(format!("{name} is {found}, not {promised}"));
        }
        if !own && promised == 0 {
            broken.push(format!("{name} is the host's 0"));
        }
    }
    match facts.status.get("Groups").map(String::as_str) {
        Some("") => {}
        Some(groups) if promises.by_root => {
            broken.push(format!("supplementary groups are left: {groups}"));
        }
        Some(_) => warnings
            .push("the caller's supplementary groups stay, because only root can drop them".to_owned()),
        None => broken.push("supplementary groups are unknown".to_owned()),
    }
}

fn check_privileges(promises: &Promises, facts: &Facts, broken: &mut Vec<String>) {
    let status = |name: &str| facts.status.get(name).map_or("unknown", String::as_str);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = status(set);
        if u64::from_str_radix(value, 16) != Ok(promises.capabilities) {
            broken.push(format!("capability set {set} is {value}"));
        }
    }
    if promises.capabilities != 0 && !promises.host_namespaces.contains_key("user") {
        broken.push("the capabilities are the host's".to_owned());
    }
    let (want, meaning) = match promises.no_new_privs {
        true => ("1", "no_new_privs is not set"),
        false => ("0", "no_new_privs is set"),
    };
    if status("NoNewPrivs") != want {
        broken.push(format!("{meaning} (NoNewPrivs: {})", status("NoNewPrivs")));
    }
}

/// The jail's filters come on top of the caller's, so a count that did not grow says that none was put on.
fn check_filters(promises: &Promises, facts: &Facts, broken: &mut Vec<String>) -> u32 {
    let status = |name: &str| facts.status.get(name).map_or("unknown", String::as_str);
    let all = promises.host_filters.unwrap_or(0).saturating_add(promises.filters);
    let mode = status("Seccomp");
    if all > 0 && mode != "2" {
        broken.push(format!("no system call filter is on (Seccomp: {mode})"));
    }
    if promises.host_filters.is_some() && status("Seccomp_filters") != all.to_string() {
        broken.push(format!("{} system call filters are on, not {all}", status("Seccomp_filters")));
    }
    all
}

fn check_mounts(promises: &Promises, mounts: &[MountEntry], broken: &mut Vec<String>) {
    let shown = |path: &[u8]| format!("{:?}", String::from_utf8_lossy(path));
    // The last mount on a point is the one in sight.
    let visible: BTreeMap<&[u8], &MountEntry> =
        mounts.iter().map(|m| (m.mount_point.as_slice(), m)).collect();
    let promised: BTreeMap<&[u8], _> = promises.mounts.iter().map(|m| (m.dst.as_bytes(), m)).collect();
    for (dst, promise) in &promised {
        match visible.get(dst) {
            None if promise.optional => {}
            None => broken.push(format!("nothing is mounted on {}", shown(dst))),
            Some(found) => {
                if promise.read_only && !found.read_only {
                    broken.push(format!("{} is writable", shown(dst)));
                }
                if let Some(fstype) = &promise.fstype
                    && *fstype != found.fstype
                {
                    broken.push(format!("{} is {}, not {fstype}", shown(dst), found.fstype));
                }
            }
        }
    }
    for (point, found) in &visible {
        if promised.contains_key(point) {
            continue;
        }
        // A mount inside a bound host tree comes along with it, and is as writable as the tree may be.
        let within = promised.iter().rev().find(|(dst, promise)| {
            promise.fstype.is_none() && point.starts_with(dst) && point.get(dst.len()) == Some(&b'/')
        });
        match within {
            None => broken.push(format!("{} is mounted and was not promised", shown(point))),
            Some((dst, promise)) if promise.read_only && !found.read_only => {
                broken.push(format!("{} is writable below the read-only {}", shown(point), shown(dst)))
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
