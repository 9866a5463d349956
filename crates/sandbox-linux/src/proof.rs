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
use crate::caller::Extent;
use crate::mountinfo::MountEntry;
use crate::promises::Promises;

/// Every promise holds. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Kinds of namespace that are the guest's own.
    pub namespaces: Vec<String>,
    pub uid_map: Vec<Extent>,
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
        let map: Vec<String> =
            self.uid_map.iter().map(|e| format!("{} as host {}", e.inside, e.outside)).collect();
        write!(
            f,
            "own namespaces: {}; uid {}; {} mounts, all promised; no capability, no new privileges, system call filter on",
            self.namespaces.join(" "),
            map.join(", "),
            self.mounts
        )?;
        if self.no_network {
            f.write_str("; no network")?;
        }
        for warning in &self.warnings {
            write!(f, "; warning: {warning}")?;
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
    check_privileges(facts, &mut broken);
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
    if !broken.is_empty() {
        return Err(ProofError::Broken(broken));
    }
    Ok(Proof {
        namespaces: promises.host_namespaces.keys().cloned().collect(),
        uid_map: facts.uid_map.clone(),
        mounts: facts.mounts.len(),
        no_network: promises.no_network,
        warnings,
    })
}

fn check_namespaces(promises: &Promises, facts: &Facts, broken: &mut Vec<String>) {
    for kind in ["user", "mnt", "pid", "ipc", "uts", "cgroup"] {
        if !promises.host_namespaces.contains_key(kind) {
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
        // The last ones are inert devices that some kernels put into every new namespace.
        const INERT: [&str; 10] = [
            "lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0",
        ];
        for interface in &facts.interfaces {
            if !INERT.contains(&interface.as_str()) {
                broken.push(format!("there is a network interface {interface:?}"));
            }
        }
    }
}

fn check_ids(promises: &Promises, facts: &Facts, broken: &mut Vec<String>, warnings: &mut Vec<String>) {
    for (name, promised, found) in
        [("uid_map", &promises.uid_map, &facts.uid_map), ("gid_map", &promises.gid_map, &facts.gid_map)]
    {
        if promised.is_empty() || promised != found {
            broken.push(format!("{name} is {found:?}, not {promised:?}"));
        }
        if promises.by_root && found.iter().any(|extent| extent.outside == 0) {
            broken.push(format!("{name} reaches the host's id 0"));
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

fn check_privileges(facts: &Facts, broken: &mut Vec<String>) {
    let status = |name: &str| facts.status.get(name).map_or("unknown", String::as_str);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        let value = status(set);
        if value.is_empty() || value.bytes().any(|digit| digit != b'0') {
            broken.push(format!("capability set {set} is {value}"));
        }
    }
    for (name, want, meaning) in
        [("NoNewPrivs", "1", "no_new_privs is not set"), ("Seccomp", "2", "no system call filter is on")]
    {
        if status(name) != want {
            broken.push(format!("{meaning} ({name}: {})", status(name)));
        }
    }
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
