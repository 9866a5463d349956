//! Ids: the parent writes the maps of the child's user namespace, the child takes the first id of each.
//! See user_namespaces(7); the order (setgroups, groups, users) is the kernel's demand.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::process::{Gid, Pid, Uid};

use crate::caller::Extent;
use crate::jail::{Helpers, Jail};

/// The setting of the user namespace of whoever opens it.
pub(super) const NESTING: &CStr = c"/proc/sys/user/max_user_namespaces";

/// Lines of `/proc/PID/uid_map` and `gid_map`, and the ids that the guest takes.
#[derive(Debug)]
pub(super) struct Ids {
    pub uid: u32,
    pub gid: u32,
    uid_lines: String,
    gid_lines: String,
    /// Root may drop supplementary groups; for anybody else who writes the map the kernel wants setgroups(2) off, and they
    /// stay.
    by_root: bool,
    /// False without a user namespace: the ids are the host's, and nobody writes a map.
    pub own: bool,
    helpers: Helpers,
}

/// Where nsjail looks for the set-uid programs that write ranges of subordinate ids.
const HELPERS: [&str; 2] = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"];

impl Ids {
    pub(super) fn new(jail: &Jail) -> Ids {
        let promises = jail.promises();
        let (uid_map, gid_map) = (&promises.uid_map, &promises.gid_map);
        let lines = |map: &[Extent]| {
            map.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect::<String>()
        };
        Ids {
            uid: promises.uid,
            gid: promises.gid,
            uid_lines: lines(uid_map),
            gid_lines: lines(gid_map),
            by_root: jail.by_root(),
            own: jail.config().clone_newuser(),
            helpers: jail.helpers(),
        }
    }

    /// The parent's half.
    pub(super) fn write_maps(&self, child: Pid) -> io::Result<()> {
        let file = |name: &str| format!("/proc/{}/{name}", child.as_raw_nonzero());
        let failed = |name: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"))
        };
        if !self.own {
            return Ok(());
        }
        if !self.by_root && !self.helpers.gid {
            fs::write(file("setgroups"), "deny").map_err(failed("setgroups"))?;
        }
        let [uids, gids] = HELPERS;
        if self.helpers.gid {
            help(gids, child, &self.gid_lines)?;
        } else {
            fs::write(file("gid_map"), &self.gid_lines).map_err(failed("gid_map"))?;
        }
        if self.helpers.uid {
            help(uids, child, &self.uid_lines)
        } else {
            fs::write(file("uid_map"), &self.uid_lines).map_err(failed("uid_map"))
        }
    }

    /// The child's half, with full capabilities in its namespace; it keeps them.
    pub(super) fn take(&self) -> Result<()> {
        use rustix::thread::CapabilitiesSecureBits as Bits;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // Without these the change from the caller's id would cost the capabilities that the mounts need.
        rustix::thread::set_capabilities_secure_bits(Bits::KEEP_CAPS | Bits::NO_SETUID_FIXUP)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        match rustix::thread::set_thread_groups(&[]) {
            // setgroups(2) is off; the proof warns of what stays.
            Err(Errno::PERM) if !self.by_root => {}
            other => other?,
        }
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        rustix::thread::set_capabilities_secure_bits(Bits::empty())
    }
}

/// Runs one of [`HELPERS`]; what it says when it refuses becomes the error.
fn help(program: &'static str, child: Pid, lines: &str) -> io::Result<()> {
    let output = Command::new(program)
        .arg(child.as_raw_nonzero().to_string())
        .args(lines.split_ascii_whitespace())
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or("refused").trim().to_owned();
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{program}: {said}")))
}

/// Nobody below makes user namespaces: a guest without capabilities would have them all in one, and with them much
/// kernel code in reach. nsjail leaves that to the filter.
pub(super) fn forbid_nesting() -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let setting = rustix::fs::open(NESTING, flags, Mode::empty())?;
    rustix::io::write(&setting, b"0").map(drop)
}
