//! Inside the jail: the program as the guest's child.
//!
//! The guest could become the program itself, but under nsjail it is PID 1, whom the kernel shields from every signal that
//! it has no handler for. So it stays: it passes on what the host side and anybody else sends, and collects orphans.

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::{DumpableBehavior, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::env;
use crate::failure::Failure;
use crate::plan::ExecPlan;

/// How the program ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    Exited(u8),
    Signaled(u8),
    /// 127 when the kernel finds no such file, 126 when it will not run it, as shells have it.
    NotStarted {
        code: u8,
        why: String,
    },
}

/// Signals that mean the program, whoever sends them to the guest.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// Makes the plan's files, starts the program and waits for its end. A byte on `control` is a signal for it.
pub fn run(plan: &ExecPlan, control: OwnedFd) -> Result<Ended, Failure> {
    let failed = |what: &str, error: io::Error| Failure::internal(format!("failed to {what}: {error}"));
    // The program has the guest's ids, and no business with its memory and descriptors.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| failed("close this process to others", error.into()))?;
    for (path, text) in &plan.files {
        if let Err(error) = write_whole(path, text, &plan.nonce) {
            let _ = writeln!(io::stderr().lock(), "[sandbox] {}: {error}", path.display());
        }
    }
    let (name, arguments) =
        plan.argv.split_first().ok_or_else(|| Failure::internal("the plan names no program"))?;
    // The nonce is between ktl and itself.
    let started =
        Command::new(&plan.program).arg0(name).args(arguments).env_remove(env::KTL_SANDBOX_NONCE).spawn();
    let child = match started {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&plan.program, &error)),
    };
    let child = Pid::from_raw(
        i32::try_from(child.id()).map_err(|error| failed("read a process id", io::Error::other(error)))?,
    );
    // Only now, because the program inherits what is blocked.
    let watched: SigSet = PASSED_ON.into_iter().chain([Signal::SIGCHLD]).collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&watched), None)
        .map_err(|error| failed("block signals", error.into()))?;
    let signals = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| failed("watch signals", error.into()))?;
    // It may have ended before anybody watched.
    if let Some(ended) = reap(child) {
        return Ok(ended);
    }
    let mut control = Some(control);
    loop {
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(control.as_ref().map(|control| PollFd::new(control.as_fd(), PollFlags::POLLIN)));
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let asked = fds.get(1).is_some_and(|fd| fd.any().unwrap_or(true));
        drop(fds);
        if let Some(open) = control.as_ref().filter(|_| asked) {
            let mut byte = [0];
            match nix::unistd::read(open, &mut byte) {
                Ok(1) => pass_on(child, i32::from(byte[0])),
                // The host side is gone, and the jail with it in a moment.
                _ => control = None,
            }
        }
        while let Ok(Some(info)) = signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if number == libc::SIGCHLD {
                if let Some(ended) = reap(child) {
                    return Ok(ended);
                }
            } else {
                pass_on(child, number);
            }
        }
    }
}

/// Only before the program was collected: until then its number is nobody else's.
fn pass_on(child: Pid, number: i32) {
    if let Ok(signal) = Signal::try_from(number) {
        let _ = kill(child, signal);
    }
}

/// Collects everything that has ended. The program's end, once it is among it.
fn reap(child: Pid) -> Option<Ended> {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() != child.as_raw() {
            continue;
        }
        let byte = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        if let Some(code) = status.exit_status() {
            return Some(Ended::Exited(byte(code)));
        }
        if let Some(signal) = status.terminating_signal() {
            return Some(Ended::Signaled(byte(signal)));
        }
    }
    None
}

fn not_started(program: &Path, error: &io::Error) -> Ended {
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    Ended::NotStarted {
        code,
        why: format!("{}: the jail's kernel does not run it: {error}", program.display()),
    }
}

/// Another run may read the file at this moment.
fn write_whole(path: &Path, text: &str, nonce: &str) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let fresh = dir.join(crate::outputs::staging_name(nonce));
    fs::write(&fresh, text)?;
    fs::rename(&fresh, path)
}
