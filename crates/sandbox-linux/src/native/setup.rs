//! Everything that the child works from, made by the parent: after the clone nothing may be allocated.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::sys::resource::Resource;
use nix::sys::signal::SigSet;
use rustix::thread::CpuSet;

use super::mnt::MountTree;
use super::user::Ids;
use super::{NativeError, cpu, landlock, net, rlimit};
use crate::command::{self, Command, Unfit};
use crate::jail::Jail;
use crate::sys::PreparedFilter;
use crate::sys::contain::{Image, RulesetAttributes};

/// See the module's text.
#[derive(Debug)]
pub(super) struct Setup {
    /// Where the records go; a high number, like all that the child holds.
    pub status: OwnedFd,
    /// A byte comes here when the id maps are written, and the end when the parent is gone.
    pub go: OwnedFd,
    /// The parent's end of it, to be closed in the child.
    pub go_parent: OwnedFd,
    pub hostname: String,
    pub loopback: bool,
    pub ids: Ids,
    pub tree: MountTree,
    pub cwd: CString,
    /// Where the jail's processes may run, once it is set up.
    pub cpus: CpuSet,
    pub nice: i32,
    /// Descriptors for the program and their numbers there.
    pub fds: Vec<(OwnedFd, RawFd)>,
    pub limits: Vec<(Resource, u64)>,
    /// The program's signal mask.
    pub mask: SigSet,
    pub landlock: Option<RulesetAttributes>,
    pub filter: PreparedFilter,
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
        let mut args = vec![program.clone()];
        for arg in &command.args {
            args.push(c_string("args", arg)?);
        }
        let mut env: Vec<CString> = Vec::new();
        for entry in last_of_each(&config.envar) {
            env.push(c_string("envar", OsStr::new(entry))?);
        }
        Ok(Setup {
            status: high(ends.status)?,
            go: high(ends.go)?,
            go_parent: ends.go_parent,
            hostname: config.hostname().to_owned(),
            loopback: net::wants_loopback(config),
            ids: Ids::new(&promises.uid_map, &promises.gid_map, jail.by_root()),
            tree: MountTree::new(jail)?,
            cwd: c_string("cwd", OsStr::new(config.cwd()))?,
            cpus: cpu::subset(config.max_cpus(), std::process::id())
                .map_err(|error| failed("processors")(error.into()))?,
            nice: config.nice_level(),
            fds,
            limits: rlimit::values(config).map_err(|error| failed("resource limits")(error.into()))?,
            mask,
            landlock: landlock::supported(),
            filter: super::filter(config)?,
            image: Image::new(program.clone(), args, env),
            program,
        })
    }
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
