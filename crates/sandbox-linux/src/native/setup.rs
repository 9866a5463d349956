//! Everything that the child works from, made by the parent: after the clone nothing may be allocated.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::resource::Resource;
use nix::sys::signal::SigSet;
use rustix::fs::{Mode, OFlags};
use rustix::thread::CpuSet;

use super::mnt::MountTree;
use super::user::Ids;
use super::{NativeError, cpu, landlock, net, rlimit};
use crate::command::{self, Command, Unfit};
use crate::jail::Jail;
use crate::proto::NsJailConfig;
use crate::sys::PreparedFilter;
use crate::sys::contain::{Image, RulesetAttributes};

/// The bit of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Setup {
    /// Where the records go; a high number, like all that the child holds.
    pub status: OwnedFd,
    /// A byte comes here when the id maps are written, and the end when the parent is gone.
    pub go: OwnedFd,
    /// The parent's end of it, to be closed in the child.
    pub go_parent: OwnedFd,
    /// `None` leaves the host's, which a jail without a UTS namespace has.
    pub hostname: Option<String>,
    pub loopback: bool,
    pub ids: Ids,
    pub tree: MountTree,
    pub cwd: CString,
    /// Where the jail's processes may run, once it is set up.
    pub cpus: CpuSet,
    pub nice: i32,
    /// Programs start in a time namespace of their own.
    pub own_time: bool,
    /// The jail's end is that of its process namespace; without one, the program's at least.
    pub own_processes: bool,
    /// What each capability set of the program holds.
    pub capabilities: u64,
    pub no_new_privs: bool,
    /// The program stays in the caller's session, and with its terminal.
    pub keep_session: bool,
    pub personality: Option<u64>,
    pub forbid_tsc: bool,
    /// The host's `/dev/null` and the streams that it stands for.
    pub null: Option<(OwnedFd, std::ops::RangeInclusive<RawFd>)>,
    /// Descriptors for the program and their numbers there.
    pub fds: Vec<(OwnedFd, RawFd)>,
    pub limits: Vec<(Resource, u64)>,
    /// The program's signal mask.
    pub mask: SigSet,
    pub landlock: Option<RulesetAttributes>,
    pub filter: Option<PreparedFilter>,
    pub program: CString,
    pub image: Image,
}

/// The pipes' ends that the child gets.
#[derive(Debug)]
pub(super) struct Ends {
    pub status: OwnedFd,
    pub go: OwnedFd,
    pub go_parent: OwnedFd,
}

impl Setup {
    pub(super) fn new(
        jail: &Jail,
        command: &Command,
        ends: Ends,
        mask: SigSet,
    ) -> Result<Setup, NativeError> {
        let config = jail.config();
        let failed = |stage: &str| {
            let stage = stage.to_owned();
            move |source| NativeError::Start { stage, source, hint: Vec::new() }
        };
        let fds = command::park(&command.fds, jail.pass_fds()).map_err(|unfit| match unfit {
            Unfit::Number { number, reason } => NativeError::Descriptor { number, reason },
            Unfit::Kernel(source) => failed("descriptors")(source),
        })?;
        let high = |fd: OwnedFd| command::high(fd.as_fd()).map_err(|e| failed("descriptors")(e.into()));
        let promises = jail.promises();
        let program = c_string("program", command.program.as_os_str())?;
        let named = jail.exec_bin().filter(|named| named.path == command.program);
        let name = match named.and_then(|named| named.arg0.as_ref()) {
            Some(name) => c_string("exec_bin", OsStr::new(name))?,
            None => program.clone(),
        };
        let mut args = vec![name];
        for arg in &command.args {
            args.push(c_string("args", arg)?);
        }
        let mut env: Vec<CString> = Vec::new();
        for entry in last_of_each(&config.envar) {
            env.push(c_string("envar", OsStr::new(entry))?);
        }
        let open = |path: &CStr, flags| {
            let opened = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty());
            opened
                .map_err(|e| failed(&format!("opening of {}", path.to_string_lossy()))(e.into()))
                .and_then(high)
        };
        let null = match (config.silent(), config.stderr_to_null()) {
            (true, _) => Some((open(c"/dev/null", OFlags::RDWR)?, 0..=2)),
            (false, true) => Some((open(c"/dev/null", OFlags::RDWR)?, 2..=2)),
            _ => None,
        };
        let mut image = Image::new(program.clone(), args, env);
        if named.is_some_and(|named| named.by_fd) {
            image = image.of_file(open(&program, OFlags::PATH)?);
        }
        // Landlock forbids mounting, so it is not for whoever may mount; and only a process that gets no privileges may
        // put itself under it.
        let fenced = promises.no_new_privs && promises.capabilities & SYS_ADMIN == 0;
        Ok(Setup {
            status: high(ends.status)?,
            go: high(ends.go)?,
            go_parent: ends.go_parent,
            hostname: config.clone_newuts().then(|| config.hostname().to_owned()),
            loopback: net::wants_loopback(config),
            ids: Ids::new(jail),
            tree: MountTree::new(jail)?,
            cwd: c_string("cwd", OsStr::new(config.cwd()))?,
            cpus: cpu::subset(config.max_cpus(), std::process::id())
                .map_err(|error| failed("processors")(error.into()))?,
            nice: config.nice_level(),
            own_time: config.clone_newtime(),
            own_processes: config.clone_newpid(),
            capabilities: promises.capabilities,
            no_new_privs: promises.no_new_privs,
            keep_session: config.skip_setsid(),
            personality: personality(config),
            forbid_tsc: config.disable_tsc(),
            null,
            fds,
            limits: rlimit::values(config).map_err(|error| failed("resource limits")(error.into()))?,
            mask,
            landlock: if fenced { landlock::supported() } else { None },
            filter: super::filter(config)?,
            image,
            program,
        })
    }
}

/// The execution domain that the policy wants; `None` leaves the caller's.
fn personality(config: &NsJailConfig) -> Option<u64> {
    let bits = [
        (config.persona_addr_compat_layout(), libc::ADDR_COMPAT_LAYOUT),
        (config.persona_mmap_page_zero(), libc::MMAP_PAGE_ZERO),
        (config.persona_read_implies_exec(), libc::READ_IMPLIES_EXEC),
        (config.persona_addr_limit_3gb(), libc::ADDR_LIMIT_3GB),
        (config.persona_addr_no_randomize(), libc::ADDR_NO_RANDOMIZE),
    ];
    let wanted = bits.into_iter().filter(|(wanted, _)| *wanted);
    Some(wanted.fold(0, |all, (_, bit)| all | u64::from(bit.unsigned_abs()))).filter(|bits| *bits != 0)
}

/// As putenv(3) leaves an environment: of two entries with one name the later counts, at the earlier's place.
fn last_of_each(entries: &[String]) -> Vec<&str> {
    fn name(entry: &str) -> &str {
        entry.split('=').next().unwrap_or_default()
    }
    let mut kept: Vec<&str> = Vec::new();
    for entry in entries {
        match kept.iter_mut().find(|other| name(other) == name(entry)) {
            Some(place) => *place = entry,
            None => kept.push(entry),
        }
    }
    kept
}

fn c_string(field: &str, text: &OsStr) -> Result<CString, NativeError> {
    CString::new(text.as_bytes())
        .map_err(|_| NativeError::Value { field: field.to_owned(), reason: "contains a NUL byte" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_of_a_name_counts() {
        let own = |entries: &[&str]| entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>();
        assert_eq!(last_of_each(&own(&["A=1", "B=2", "A=3"])), ["A=3", "B=2"]);
        assert!(last_of_each(&[]).is_empty());
    }
}
