//! Waiting for a jail: signals in, log lines out, one outcome.
//!
//! The supervisor is a plain loop over three descriptors (the process, what it reports, pending signals), because
//! the host side has no runtime and no second thread. A signal is first told to the caller, who can ask the guest to
//! end by itself; killing is the second step. A jail stands in a process group of its own, so a Ctrl-C typed at the
//! terminal reaches the caller only. What the runtimes differ in is behind [`Watch`].

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::log::LogLine;

/// What to do about a signal that this process got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSignal {
    /// Go on waiting: the guest was told, or the signal is ignored.
    Continue,
    /// End the jail now.
    Kill,
}

/// What became of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The program in the jail ended by itself.
    Exited(i32),
    /// The program was killed by this signal, or the jail was (then SIGKILL).
    Signaled(i32),
    /// The program was never started.
    JailFailed {
        /// Which part of the set-up.
        stage: String,
        /// What says it best: a line of nsjail's log, or what the native runtime was about to do.
        detail: String,
        /// What to change on this host, if its settings explain the failure.
        hint: Vec<String>,
        /// The end of the runtime's log.
        log: Vec<LogLine>,
    },
}

/// The signals that are read here instead of ending this process.
pub(crate) fn signals() -> SigSet {
    [NixSignal::SIGINT, NixSignal::SIGTERM, NixSignal::SIGHUP, NixSignal::SIGQUIT].into_iter().collect()
}

/// One runtime's side of a running jail.
pub(crate) trait Watch: fmt::Debug {
    /// The process that was started: nsjail, or the jail's init.
    fn id(&self) -> u32;
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// Where the runtime reports, while it may still say something.
    fn reports(&self) -> Option<BorrowedFd<'_>>;
    /// When the jail has to be killed, for a runtime that leaves the clock to the supervisor.
    fn deadline(&self) -> Option<Instant>;
    /// Takes in what was reported since the last call, without waiting.
    fn read(&mut self, on_log: &mut dyn FnMut(&LogLine));
    /// Kills the jail. When this returns, no process of it is left.
    fn kill(&mut self);
    /// Collects the ended process and says what became of the guest.
    fn finish(&mut self, killed: bool, on_log: &mut dyn FnMut(&LogLine)) -> Outcome;
    /// Kills and collects a jail that nobody waits for any more; nothing after [`Watch::finish`].
    fn abandon(&mut self);
}

/// A jail that was started. Dropping it kills the jail.
#[derive(Debug)]
pub struct Running {
    watch: Box<dyn Watch>,
    signals: SignalFd,
    old_mask: SigSet,
}

impl Running {
    /// `old_mask` is restored in the end.
    pub(crate) fn new(mut watch: Box<dyn Watch>, old_mask: SigSet) -> io::Result<Running> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        match SignalFd::with_flags(&signals(), flags) {
            Ok(signals) => Ok(Running { watch, signals, old_mask }),
            Err(error) => {
                watch.abandon();
                Err(error.into())
            }
        }
    }

    /// Process id of nsjail, or of the native jail's init.
    pub fn id(&self) -> u32 {
        self.watch.id()
    }

    /// Waits for the jail's end. `on_signal` is told each INT, TERM, HUP and QUIT that this process gets;
    /// `on_log` sees each line of the runtime's log, whose text is untrusted.
    pub fn supervise(
        mut self,
        on_signal: &mut dyn FnMut(i32) -> OnSignal,
        on_log: &mut dyn FnMut(&LogLine),
    ) -> Outcome {
        let mut killed = false;
        loop {
            let pidfd = PollFd::new(self.watch.pidfd(), PollFlags::POLLIN);
            let signals = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
            // A closed log must not turn the wait into a spin.
            let reports = self.watch.reports();
            let watched = if reports.is_some() { 3 } else { 2 };
            let reports = PollFd::new(reports.unwrap_or(self.signals.as_fd()), PollFlags::POLLIN);
            let mut fds = [pidfd, signals, reports];
            let deadline = self.watch.deadline();
            let timeout = deadline.map_or(PollTimeout::NONE, |end| {
                let left = end.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            if poll(&mut fds[..watched], timeout).is_err() {
                continue;
            }
            let ended = fds[0].any().unwrap_or(true);
            self.watch.read(on_log);
            let overdue = !ended && deadline.is_some_and(|end| Instant::now() >= end);
            let mut kill = overdue;
            while let Ok(Some(info)) = self.signals.read_signal() {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                kill |= on_signal(number) == OnSignal::Kill;
            }
            if kill {
                killed = true;
                self.watch.kill();
            }
            if ended || killed {
                break;
            }
        }
        self.watch.finish(killed, on_log)
    }
}

/// Waits until a process has ended; false when the time is over.
pub(crate) fn wait_for(pidfd: BorrowedFd<'_>, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(_) if Instant::now() >= end => return false,
            Err(_) => {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.abandon();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.old_mask), None);
    }
}
