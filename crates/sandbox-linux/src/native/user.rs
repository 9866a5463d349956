//! Ids: the parent writes the maps of the child's user namespace, the child takes the first id of each.
//! See user_namespaces(7); the order (setgroups, groups, users) is the kernel's demand.

use std::ffi::CStr;
use std::fs;
use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::io::Result;
use rustix::process::{Gid, Pid, Uid};

use crate::caller::Extent;

/// The setting of the user namespace of whoever opens it.
pub(super) const NESTING: &CStr = c"/proc/sys/user/max_user_namespaces";

/// Lines of `/proc/PID/uid_map` and `gid_map`, and the ids that the guest takes.
#[derive(Debug)]
pub(super) struct Ids {
    pub uid: u32,
    pub gid: u32,
    uid_lines: String,
    gid_lines: String,
    /// Root may drop supplementary groups; for anybody else the kernel wants setgroups(2) off, and they stay.
    by_root: bool,
}

impl Ids {
    pub(super) fn new(uid_map: &[Extent], gid_map: &[Extent], by_root: bool) -> Ids {
        let lines = |map: &[Extent]| {
            map.iter().map(|e| format!("{} {} {}\n", e.inside, e.outside, e.count)).collect::<String>()
        };
        let first = |map: &[Extent]| map.first().map_or(0, |extent| extent.inside);
        Ids {
            uid: first(uid_map),
            gid: first(gid_map),
            uid_lines: lines(uid_map),
            gid_lines: lines(gid_map),
            by_root,
        }
    }

    /// The parent's half.
    pub(super) fn write_maps(&self, child: Pid) -> io::Result<()> {
        let file = |name: &str| format!("/proc/{}/{name}", child.as_raw_nonzero());
        let failed = |name: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"))
        };
        if !self.by_root {
            fs::write(file("setgroups"), "deny").map_err(failed("setgroups"))?;
        }
        fs::write(file("gid_map"), &self.gid_lines).map_err(failed("gid_map"))?;
        fs::write(file("uid_map"), &self.uid_lines).map_err(failed("uid_map"))
    }

    /// The child's half, with full capabilities in its namespace; it keeps them.
    pub(super) fn take(&self) -> Result<()> {
        use rustix::thread::CapabilitiesSecureBits as Bits;
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // Without these the change from the caller's id would cost the capabilities that the mounts need.
        rustix::thread::set_capabilities_secure_bits(Bits::KEEP_CAPS | Bits::NO_SETUID_FIXUP)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        if self.by_root {
            rustix::thread::set_thread_groups(&[])?;
        }
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        rustix::thread::set_capabilities_secure_bits(Bits::empty())
    }
}

/// Nobody below makes user namespaces: a guest without capabilities would have them all in one, and with them much
/// kernel code in reach. nsjail leaves that to the filter.
pub(super) fn forbid_nesting() -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let setting = rustix::fs::open(NESTING, flags, Mode::empty())?;
    rustix::io::write(&setting, b"0").map(drop)
}
