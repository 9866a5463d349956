//! Everything that the proof asks the kernel, read in one go through `/proc`.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;

use rustix::fs::{CWD, Dir, Mode, OFlags};

use super::ProofError;
use crate::caller::{self, Extent};
use crate::mountinfo::{self, MountEntry};
use crate::promises::Promises;

/// What the kernel says about this process.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) namespaces: BTreeMap<String, u64>,
    pub(super) uid_map: Vec<Extent>,
    pub(super) gid_map: Vec<Extent>,
    /// `/proc/self/status`, field to value.
    pub(super) status: BTreeMap<String, String>,
    pub(super) mounts: Vec<MountEntry>,
    pub(super) fds: Vec<i32>,
    pub(super) env: Vec<String>,
    /// Hard limits.
    pub(super) limits: BTreeMap<String, u64>,
    pub(super) interfaces: Vec<String>,
    /// `/proc/self` is this process, so `/proc` belongs to its process namespace.
    pub(super) own_proc: bool,
}

impl Facts {
    pub(super) fn read(promises: &Promises) -> Result<Facts, ProofError> {
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
            interfaces: interfaces(&file("/proc/self/net/dev")?),
            own_proc: this.to_str() == Some(&std::process::id().to_string()),
        })
    }
}

fn interfaces(listed: &str) -> Vec<String> {
    listed.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// Not so the loopback, and the inert devices that some kernels put into every new namespace.
pub(super) fn leads_out(interface: &str) -> bool {
    const INERT: [&str; 10] =
        ["lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"];
    !INERT.contains(&interface)
}

/// The network interfaces of a process, by its number or as `self`, that could lead anywhere.
pub fn ways_out(process: &str) -> io::Result<Vec<String>> {
    let listed = fs::read_to_string(format!("/proc/{process}/net/dev"))?;
    Ok(interfaces(&listed).into_iter().filter(|interface| leads_out(interface)).collect())
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
