//! The parent half: settles the child's work, clones it into its namespaces and writes its id maps.

use std::io;
use std::os::fd::AsFd as _;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::cpu::OneProcessor;
use super::setup::{Ends, Setup};
use super::stage::Stage;
use super::watch::{NativeWatch, hints, line, text_of};
use super::{NativeError, cgroup, child, refuse};
use crate::command::Command;
use crate::jail::Jail;
use crate::log::Level;
use crate::proto::NsJailConfig;
use crate::supervise::{Running, signals};
use crate::sys::contain;

/// Starts the jail without any other program. Standard streams are inherited. INT, TERM, HUP and QUIT stay blocked
/// in this thread until the [`Running`] is gone; it reads them.
///
/// The jail ends with the thread that calls this. Other threads may exist; a build starts its jail before any does.
///
/// # Errors
/// The policy asks for what only nsjail has, the command does not fit the jail, or the kernel gave no namespaces.
/// Later failures come as the outcome.
pub fn spawn(jail: &Jail, command: Command) -> Result<Running, NativeError> {
    refuse(jail.config())?;
    let plain = |stage: &'static str| {
        move |source: io::Error| NativeError::Start { stage: stage.to_owned(), source, hint: Vec::new() }
    };
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| plain("pipes")(error.into()));
    let (status, status_child) = pipe()?;
    rustix::io::ioctl_fionbio(&status, true).map_err(|error| plain("pipes")(error.into()))?;
    let (go_child, go) = pipe()?;
    let ends = Ends { status: status_child, go: go_child, go_parent: go };

    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals()), Some(&mut mask))
        .map_err(|error| plain("signals")(error.into()))?;
    let restored = |error| {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
        error
    };
    let setup = Setup::new(jail, &command, ends, mask).map_err(restored)?;
    let wanted = cgroup::wanted(jail.config()).map_err(restored)?;
    let (started, groups) = start(jail, &setup, &wanted).map_err(restored)?;
    // The only writing end: the child closed its copy.
    let Setup { go_parent: go, .. } = setup;
    let watch = NativeWatch::new(
        (started.pid, started.pidfd),
        status,
        go,
        groups,
        command.program,
        jail.by_root(),
        jail.config().time_limit(),
    );
    Running::new(Box::new(watch), mask).map_err(|error| restored(plain("supervision")(error)))
}

fn start(
    jail: &Jail,
    setup: &Setup,
    wanted: &[cgroup::Group],
) -> Result<(contain::Cloned, Option<cgroup::Groups>), NativeError> {
    let failed = |stage: Stage, source: io::Error| {
        let text = match source.raw_os_error() {
            Some(errno) => text_of(stage, errno, b""),
            None => source.to_string(),
        };
        let hint = hints(jail.by_root(), &[line(Level::Error, &text)]);
        NativeError::Start { stage: stage.name().to_owned(), source, hint }
    };
    let one_processor = OneProcessor::stay();
    let cloned = contain::clone_into(namespaces(jail.config()), || child::run(setup))
        .map_err(|error| failed(Stage::Namespaces, error.into()))?;
    let mut groups = None;
    let mut ready = || {
        let maps = |error| (Stage::IdMaps, error);
        if let Some(score) = jail.config().oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", cloned.pid.as_raw_nonzero());
            std::fs::write(path, score.to_string()).map_err(|error| (Stage::Priority, error))?;
        }
        setup.ids.write_maps(cloned.pid).map_err(maps)?;
        let failed = |error| (Stage::ControlGroups, error);
        groups = cgroup::Groups::keep(wanted, cloned.pid, cloned.pidfd.as_fd()).map_err(failed)?;
        for group in wanted {
            group.make(cloned.pid).map_err(failed)?;
        }
        rustix::io::write(&setup.go_parent, &[1]).map_err(|error| maps(error.into()))?;
        Ok(())
    };
    let made = ready();
    drop(one_processor);
    match made {
        Ok(()) => Ok((cloned, groups)),
        // The groups go after the child.
        Err((stage, error)) => {
            let _ = pidfd_send_signal(&cloned.pidfd, Signal::KILL);
            let _ = waitid(WaitId::PidFd(cloned.pidfd.as_fd()), WaitIdOptions::EXITED);
            Err(failed(stage, error))
        }
    }
}

/// The namespaces that clone(2) makes; that of time is made later, by the child.
fn namespaces(config: &NsJailConfig) -> libc::c_int {
    [
        (config.clone_newuser(), libc::CLONE_NEWUSER),
        (config.clone_newns(), libc::CLONE_NEWNS),
        (config.clone_newpid(), libc::CLONE_NEWPID),
        (config.clone_newipc(), libc::CLONE_NEWIPC),
        (config.clone_newuts(), libc::CLONE_NEWUTS),
        (config.clone_newcgroup(), libc::CLONE_NEWCGROUP),
        (config.clone_newnet(), libc::CLONE_NEWNET),
    ]
    .into_iter()
    .filter(|(wanted, _)| *wanted)
    .fold(0, |all, (_, flag)| all | flag)
}
