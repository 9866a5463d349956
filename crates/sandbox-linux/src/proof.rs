//! The guest's look around: is this the jail that was promised?
//!
//! Nothing that was handed in can answer that: a variable or a flag can be set by anybody, and a program named
//! `nsjail` may do no more than execute its arguments. So the guest asks the kernel, through `/proc`, for each
//! thing that makes the jail and compares it with the [`Promises`]. What cannot be read counts as broken.
//! Run it first, before any thread or runtime exists and before files are opened.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::fs::{CWD, Dir, Mode, OFlags};

use crate::caller::{self, Extent};
use crate::mountinfo::{self, MountEntry};
use crate::promises::Promises;

/// Every promise holds. Displays as one line.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    #[error("cannot read {what}: {source}")]
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

/// What the kernel says about this process.
#[derive(Debug, Clone)]
struct Facts {
    namespaces: BTreeMap<String, u64>,
    uid_map: Vec<Extent>,
    gid_map: Vec<Extent>,
    /// `/proc/self/status`, field to value.
    status: BTreeMap<String, String>,
    mounts: Vec<MountEntry>,
    fds: Vec<i32>,
    env: Vec<String>,
    /// Hard limits.
    limits: BTreeMap<String, u64>,
    interfaces: Vec<String>,
    /// `/proc/self` is this process, so `/proc` belongs to its process namespace.
    own_proc: bool,
}

/// Compares the running process with the promises.
///
/// # Errors
/// Something cannot be read, or differs.
pub fn verify(promises: &Promises) -> Result<Proof, ProofError> {
    compare(promises, &Facts::read(promises)?)
}

impl Facts {
    fn read(promises: &Promises) -> Result<Facts, ProofError> {
        let unreadable =
            |what: &'static str| move |source: io::Error| ProofError::Unreadable { what, source };
        let file = |path: &'static str| fs::read_to_string(path).map_err(unreadable(path));
        let map = |path: &'static str| caller::parse_id_map(&file(path)?).map_err(unreadable(path));
        let status = file("/proc/self/status")?
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let environ = fs::read("/proc/self/environ").map_err(unreadable("/proc/self/environ"))?;
        let env = environ
            .split(|byte| *byte == 0)
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
                String::from_utf8_lossy(name).into_owned()
            })
            .collect();
        let mut limits = BTreeMap::new();
        for name in promises.limits.keys() {
            let limit = caller::resource(name)
                .ok_or_else(|| io::Error::other(format!("no limit {name:?}")))
                .and_then(|resource| Ok(nix::sys::resource::getrlimit(resource)?))
                .map_err(unreadable("resource limits"))?;
            limits.insert(name.clone(), limit.1);
        }
        let this = fs::read_link("/proc/self").map_err(unreadable("/proc/self"))?;
        Ok(Facts {
            namespaces: caller::namespaces().map_err(unreadable("/proc/self/ns"))?,
            uid_map: map("/proc/self/uid_map")?,
            gid_map: map("/proc/self/gid_map")?,
            status,
            mounts: mountinfo::read().map_err(unreadable("/proc/self/mountinfo"))?,
            fds: open_fds().map_err(unreadable("/proc/self/fd"))?,
            env,
            limits,
            interfaces: file("/proc/self/net/dev")?
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()))
                .collect(),
            own_proc: this.to_str() == Some(&std::process::id().to_string()),
        })
    }
}

fn open_fds() -> io::Result<Vec<i32>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, "/proc/self/fd", flags, Mode::empty())?;
    let own = directory.as_raw_fd();
    let mut fds = Vec::new();
    for entry in Dir::new(directory)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        let name = name.to_string_lossy();
        if name == "." || name == ".." {
            continue;
        }
        let number = name.parse().map_err(|_| io::Error::other(format!("entry {name:?}")))?;
        if number != own {
            fds.push(number);
        }
    }
    fds.sort_unstable();
    Ok(fds)
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
mod tests {
    use super::*;
    use crate::promises::PromisedMount;

    fn promises() -> Promises {
        let extent = Extent { inside: 1000, outside: 77_000, count: 1 };
        let mount = |dst: &str, fstype: Option<&str>, read_only| PromisedMount {
            dst: dst.to_owned(),
            fstype: fstype.map(str::to_owned),
            read_only,
            optional: dst == "/maybe",
        };
        Promises {
            host_namespaces: caller::NAMESPACES.iter().map(|k| ((*k).to_owned(), 1)).collect(),
            uid_map: vec![extent],
            gid_map: vec![extent],
            by_root: true,
            mounts: vec![
                mount("/", Some("tmpfs"), false),
                mount("/proc", Some("proc"), true),
                mount("/ws", None, true),
                mount("/out", None, false),
                mount("/maybe", None, true),
            ],
            fds: vec![10],
            env: vec!["LANG".to_owned()],
            limits: BTreeMap::from([("core".to_owned(), 0), ("nofile".to_owned(), 64)]),
            no_network: true,
        }
    }

    fn facts() -> Facts {
        let status = "CapInh 0\nCapPrm 0\nCapEff 0\nCapBnd 0\nCapAmb 0\nNoNewPrivs 1\nSeccomp 2\nGroups ";
        Facts {
            namespaces: caller::NAMESPACES.iter().map(|k| ((*k).to_owned(), 2)).collect(),
            uid_map: promises().uid_map,
            gid_map: promises().gid_map,
            status: status
                .lines()
                .filter_map(|l| l.split_once(' '))
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect(),
            mounts: [
                ("/", false, "tmpfs"),
                ("/proc", true, "proc"),
                ("/ws", true, "ext4"),
                ("/out", false, "ext4"),
            ]
            .into_iter()
            .map(entry)
            .collect(),
            fds: vec![0, 1, 2, 10],
            env: vec!["LANG".to_owned()],
            limits: BTreeMap::from([("core".to_owned(), 0), ("nofile".to_owned(), 64)]),
            interfaces: vec!["lo".to_owned()],
            own_proc: true,
        }
    }

    fn entry((point, read_only, fstype): (&str, bool, &str)) -> MountEntry {
        MountEntry { mount_point: point.as_bytes().to_vec(), read_only, fstype: fstype.to_owned() }
    }

    type Edit = fn(&mut Facts);

    #[test]
    fn the_promised_jail_passes() {
        let same: [Edit; 4] = [
            |_| (),
            |f| f.mounts.push(entry(("/ws/sub", true, "xfs"))),
            |f| f.mounts.extend([entry(("/ws/sub", false, "xfs")), entry(("/ws/sub", true, "xfs"))]),
            |f| f.mounts.push(entry(("/out/sub", false, "xfs"))),
        ];
        for edit in same {
            let mut facts = facts();
            edit(&mut facts);
            let proof = compare(&promises(), &facts).unwrap();
            assert!(proof.to_string().contains("uid 1000 as host 77000"), "{proof}");
            assert!(!proof.to_string().contains('\n') && proof.warnings.is_empty());
        }
    }

    #[test]
    fn each_difference_is_found() {
        let cases: [(Edit, &str); 26] = [
            (
                |f| {
                    f.namespaces.insert("user".into(), 1);
                },
                "user namespace is the host's",
            ),
            (
                |f| {
                    f.namespaces.insert("mnt".into(), 1);
                },
                "mnt namespace is the host's",
            ),
            (
                |f| {
                    f.namespaces.insert("pid".into(), 1);
                },
                "pid namespace is the host's",
            ),
            (
                |f| {
                    f.namespaces.insert("net".into(), 1);
                },
                "net namespace is the host's",
            ),
            (
                |f| {
                    f.namespaces.remove("uts");
                },
                "uts namespace is unknown",
            ),
            (|f| f.own_proc = false, "/proc belongs to another"),
            (|f| f.interfaces.push("eth0".into()), "network interface \"eth0\""),
            (|f| f.uid_map[0].outside = 0, "uid_map reaches the host's id 0"),
            (|f| f.uid_map[0].inside = 0, "uid_map is"),
            (|f| f.gid_map.clear(), "gid_map is"),
            (
                |f| {
                    f.status.insert("Groups".into(), "27".into());
                },
                "groups are left: 27",
            ),
            (
                |f| {
                    f.status.remove("Groups");
                },
                "groups are unknown",
            ),
            (
                |f| {
                    f.status.insert("CapBnd".into(), "0000000000000001".into());
                },
                "CapBnd is",
            ),
            (
                |f| {
                    f.status.remove("CapAmb");
                },
                "CapAmb is unknown",
            ),
            (
                |f| {
                    f.status.insert("NoNewPrivs".into(), "0".into());
                },
                "no_new_privs",
            ),
            (
                |f| {
                    f.status.insert("Seccomp".into(), "0".into());
                },
                "no system call filter",
            ),
            (
                |f| {
                    f.mounts.remove(2);
                },
                "nothing is mounted on \"/ws\"",
            ),
            (|f| f.mounts[2].read_only = false, "\"/ws\" is writable"),
            (|f| f.mounts[1].fstype = "tmpfs".into(), "\"/proc\" is tmpfs, not proc"),
            (|f| f.mounts.push(entry(("/ws/sub", false, "xfs"))), "writable below the read-only"),
            (|f| f.mounts.push(entry(("/wsx", true, "xfs"))), "\"/wsx\" is mounted and was not promised"),
            (|f| f.mounts.push(entry(("/ws", false, "xfs"))), "\"/ws\" is writable"),
            (|f| f.fds.push(7), "descriptor 7 leaked"),
            (|f| f.env.push("AWS_SECRET".into()), "\"AWS_SECRET\" came in"),
            (
                |f| {
                    f.limits.insert("core".into(), 1);
                },
                "limit core is 1",
            ),
            (
                |f| {
                    f.limits.remove("nofile");
                },
                "limit nofile is unknown",
            ),
        ];
        for (edit, want) in cases {
            let mut facts = facts();
            edit(&mut facts);
            let error = compare(&promises(), &facts).unwrap_err().to_string();
            assert!(error.contains(want), "{want}: {error}");
        }
    }

    #[test]
    fn empty_promises_prove_nothing() {
        let mut none = promises();
        none.host_namespaces.clear();
        none.uid_map.clear();
        assert!(compare(&none, &facts()).is_err());
    }

    #[test]
    fn plain_users_groups_are_a_warning() {
        let mut promises = promises();
        promises.by_root = false;
        let mut facts = facts();
        facts.status.insert("Groups".into(), "65534".into());
        assert_eq!(compare(&promises, &facts).unwrap().warnings.len(), 1);
    }

    #[test]
    fn this_process_is_in_no_jail() {
        let mut promises = promises();
        promises.host_namespaces = caller::namespaces().unwrap();
        let error = verify(&promises).unwrap_err().to_string();
        assert!(error.contains("the user namespace is the host's"), "{error}");
    }
}
