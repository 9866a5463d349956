//! Waiting for a jail: signals in, log lines out, one outcome.
//!
//! The supervisor is a plain loop over three descriptors (the process, its log, pending signals), because the host
//! side has no runtime and no second thread. A signal is first told to the caller, who can ask the guest to end by
//! itself; killing is the second step. nsjail stands in a process group of its own, so a Ctrl-C typed at the
//! terminal reaches the caller only.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::{HostFacts, stage_of};
use crate::log::{Ending, Level, LineSplitter, LogLine, MAX_LINE};
use crate::workdir::WorkDirs;

/// Lines kept for a failure report.
const KEPT_LINES: usize = 200;
/// How long nsjail gets to clear up after its guest was killed.
const GRACE: Duration = Duration::from_millis(700);

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
        /// The log line that says it best.
        detail: String,
        /// What to change on this host, if its settings explain the failure.
        hint: Vec<String>,
        /// The end of nsjail's log.
        log: Vec<LogLine>,
    },
}

/// The signals that are read here instead of ending this process.
pub(crate) fn signals() -> SigSet {
    [NixSignal::SIGINT, NixSignal::SIGTERM, NixSignal::SIGHUP, NixSignal::SIGQUIT].into_iter().collect()
}

/// A jail that was started. Dropping it kills the jail.
#[derive(Debug)]
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    log: File,
    splitter: LineSplitter,
    signals: SignalFd,
    old_mask: SigSet,
    nsjail: PathBuf,
    by_root: bool,
    record: Record,
    /// The guest's init, once it runs.
    inits: Vec<OwnedFd>,
    reaped: bool,
    work_dirs: WorkDirs,
}

/// What the log has said so far.
#[derive(Debug, Default)]
struct Record {
    lines: VecDeque<LogLine>,
    started: bool,
    exec_failed: bool,
    ending: Option<Ending>,
}

impl Record {
    fn add(&mut self, line: LogLine) {
        if self.started {
            self.exec_failed |= line.level >= Level::Error && self.ending.is_none();
            self.ending = line.ending().or(self.ending);
        }
        self.started |= line.is_start();
        // A quoted path may hold newlines; what follows one belongs to the line before.
        if line.level == Level::Debug
            && let Some(last) = self.lines.back_mut()
            && last.text.len() + line.text.len() < MAX_LINE
        {
            last.text.push(' ');
            last.text.push_str(&line.text);
            return;
        }
        if self.lines.len() == KEPT_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

impl Running {
    pub(crate) fn new(
        mut child: Child,
        log: File,
        nsjail: PathBuf,
        by_root: bool,
        old_mask: SigSet,
        work_dirs: WorkDirs,
    ) -> io::Result<Running> {
        let watch = || -> io::Result<(OwnedFd, SignalFd)> {
            let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?)
                .ok_or(io::ErrorKind::NotFound)?;
            let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
            let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
            Ok((pidfd, SignalFd::with_flags(&signals(), flags)?))
        };
        match watch() {
            Ok((pidfd, signals)) => Ok(Running {
                child,
                pidfd,
                log,
                splitter: LineSplitter::default(),
                signals,
                old_mask,
                nsjail,
                by_root,
                record: Record::default(),
                inits: Vec::new(),
                reaped: false,
                work_dirs,
            }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&old_mask), None);
                Err(error)
            }
        }
    }

    /// Process id of nsjail.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the jail's end. `on_signal` is told each INT, TERM, HUP and QUIT that this process gets;
    /// `on_log` sees each line of nsjail's log, whose text is untrusted.
    pub fn supervise(
        mut self,
        on_signal: &mut dyn FnMut(i32) -> OnSignal,
        on_log: &mut dyn FnMut(&LogLine),
    ) -> Outcome {
        let mut killed = false;
        loop {
            let mut fds = [
                PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.log.as_fd(), PollFlags::POLLIN),
            ];
            // A closed log must not turn the wait into a spin.
            let watched = if self.splitter.closed { 2 } else { 3 };
            if poll(&mut fds[..watched], PollTimeout::NONE).is_err() {
                continue;
            }
            let ended = fds[0].any().unwrap_or(true);
            self.read_log(on_log);
            if self.record.started && self.inits.is_empty() {
                self.inits = self.children();
                self.work_dirs.set_up();
            }
            while let Ok(Some(info)) = self.signals.read_signal() {
                let number = i32::try_from(info.ssi_signo).unwrap_or_default();
                if on_signal(number) == OnSignal::Kill && !killed {
                    killed = true;
                    self.kill();
                }
            }
            if ended || killed {
                break;
            }
        }
        let status = self.reap();
        // If nsjail itself was killed, the kernel is still ending its guest.
        for init in &self.inits {
            wait_for(init, Duration::from_secs(5));
        }
        self.read_log(on_log);
        let record = &mut self.record;
        self.splitter.finish(|line| {
            on_log(&line);
            record.add(line);
        });
        if killed {
            return Outcome::Signaled(libc::SIGKILL);
        }
        self.outcome(status)
    }

    fn read_log(&mut self, on_log: &mut dyn FnMut(&LogLine)) {
        let mut chunk = [0; 8192];
        // Bounded, so that a chatty log cannot keep signals waiting.
        for _ in 0..16 {
            match self.log.read(&mut chunk) {
                Ok(0) => {
                    self.splitter.closed = true;
                    break;
                }
                Ok(n) => {
                    let record = &mut self.record;
                    self.splitter.push(&chunk[..n], |line| {
                        on_log(&line);
                        record.add(line);
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    }

    /// Kills the guest's init first, so that nsjail sees it end and clears up; then nsjail itself. When this
    /// returns, no process of the jail is left.
    fn kill(&mut self) {
        let inits = self.children();
        for init in &inits {
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
        if !wait_for(&self.pidfd, GRACE) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            wait_for(&self.pidfd, Duration::from_secs(5));
        }
        // nsjail's death takes its child along; the child's end ends its whole process namespace.
        for init in &inits {
            wait_for(init, Duration::from_secs(5));
        }
    }

    /// nsjail's children, which are the guest's init or processes on the way to it.
    fn children(&self) -> Vec<OwnedFd> {
        let pid = self.child.id();
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|child| pidfd_open(Pid::from_raw(child.parse().ok()?)?, PidfdFlags::empty()).ok())
            .collect()
    }

    fn reap(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap_or_default();
        self.reaped = true;
        status
    }

    fn outcome(&mut self, status: ExitStatus) -> Outcome {
        let record = &self.record;
        if record.started && !record.exec_failed {
            return match (record.ending, status.code(), status.signal()) {
                (Some(Ending::Exited(code)), ..) => Outcome::Exited(code),
                (Some(Ending::Signaled(signal)), ..) => Outcome::Signaled(signal),
                (None, Some(code), _) if code > 128 && code < 128 + 65 => Outcome::Signaled(code - 128),
                (None, Some(code), _) => Outcome::Exited(code),
                (None, None, signal) => Outcome::Signaled(signal.unwrap_or(libc::SIGKILL)),
            };
        }
        let log: Vec<LogLine> = record.lines.iter().cloned().collect();
        let cause = log
            .iter()
            .filter(|line| line.level >= Level::Warning)
            .find(|line| says_why(&line.text))
            .or_else(|| log.iter().find(|line| line.level >= Level::Error));
        let (stage, detail) = match cause {
            Some(line) => (stage_of(&line.text).to_owned(), line.text.clone()),
            None => ("start".to_owned(), format!("nsjail ended ({status}) without starting the program")),
        };
        let mut hint = HostFacts::read().hints(self.by_root, &self.nsjail, &log);
        if log.is_empty() && status.code() == Some(127) {
            hint.push(format!(
                "a program ends with 127 when its libraries are missing; try: {} --help",
                self.nsjail.display()
            ));
        }
        Outcome::JailFailed { stage, detail, hint, log }
    }
}

/// True for a line that carries the kernel's answer, which tells more than the summaries after it.
fn says_why(text: &str) -> bool {
    ["failed", "Couldn't", "No such", "denied", "not permitted", "Invalid argument", "rror"]
        .iter()
        .any(|word| text.contains(word))
        && !text.starts_with("Received error message")
        && !text.contains("net user namespace")
}

/// Waits until a process has ended; false when the time is over.
fn wait_for(pidfd: &OwnedFd, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
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
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.old_mask), None);
    }
}
