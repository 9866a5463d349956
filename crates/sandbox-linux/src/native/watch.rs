//! The native runtime's side of a running jail: the records of the status pipe are all that it says.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::cgroup::Groups;
use super::stage::{RECORD, Record, Stage, parse};
use crate::host::HostFacts;
use crate::log::{Level, LogLine};
use crate::supervise::{Outcome, Watch, wait_for};

#[derive(Debug)]
pub(super) struct NativeWatch {
    pid: Pid,
    pidfd: OwnedFd,
    status: File,
    closed: bool,
    /// Held open: its closing tells the child, while it is set up, that this process has ended.
    _go: OwnedFd,
    /// Its control groups, which go with it.
    groups: Option<Groups>,
    program: PathBuf,
    by_root: bool,
    deadline: Option<Instant>,
    started: bool,
    failure: Option<LogLine>,
    failed_stage: &'static str,
    end: Option<Outcome>,
    reaped: bool,
}

impl NativeWatch {
    /// `status` is non-blocking. `program` is for the log, `time_limit` in seconds, 0 for none.
    pub(super) fn new(
        (pid, pidfd): (Pid, OwnedFd),
        status: OwnedFd,
        go: OwnedFd,
        groups: Option<Groups>,
        program: PathBuf,
        by_root: bool,
        time_limit: u32,
    ) -> NativeWatch {
        let limit = Duration::from_secs(time_limit.into());
        NativeWatch {
            pid,
            pidfd,
            status: status.into(),
            closed: false,
            _go: go,
            groups,
            program,
            by_root,
            deadline: (time_limit > 0).then(|| Instant::now() + limit),
            started: false,
            failure: None,
            failed_stage: "set-up",
            end: None,
            reaped: false,
        }
    }

    fn take(&mut self, record: Record, on_log: &mut dyn FnMut(&LogLine)) {
        match record {
            Record::Starting => {
                self.started = true;
                on_log(&line(Level::Info, &format!("Executing {:?}", self.program)));
            }
            Record::Failed { stage, errno, detail } => {
                let said = line(Level::Error, &text_of(stage, errno, &detail));
                on_log(&said);
                self.failed_stage = stage.name();
                self.failure = Some(said);
            }
            Record::Exited(code) => self.end = Some(Outcome::Exited(code)),
            Record::Signaled(signal) => self.end = Some(Outcome::Signaled(signal)),
        }
    }
}

impl Watch for NativeWatch {
    fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn reports(&self) -> Option<BorrowedFd<'_>> {
        // After the start comes only the end, which is read when init has ended as well: one wake-up for both.
        (!self.closed && !self.started).then(|| self.status.as_fd())
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn read(&mut self, on_log: &mut dyn FnMut(&LogLine)) {
        let mut bytes = [0; RECORD];
        while !self.closed {
            match self.status.read(&mut bytes) {
                Ok(RECORD) => match parse(&bytes) {
                    Ok(record) => self.take(record, on_log),
                    Err(_) => self.closed = true,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => self.closed = true,
            }
        }
    }

    /// The end of init is the end of its process namespace, and the kernel reports it only after that.
    fn kill(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        wait_for(self.pidfd.as_fd(), Duration::from_secs(5));
    }

    fn finish(&mut self, killed: bool, on_log: &mut dyn FnMut(&LogLine)) -> Outcome {
        let ended = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
        self.reaped = true;
        self.groups = None;
        self.read(on_log);
        if killed {
            if self.deadline.is_some_and(|end| Instant::now() >= end) {
                on_log(&line(Level::Warning, "run time >= time limit, the jail was killed"));
            }
            return Outcome::Signaled(libc::SIGKILL);
        }
        if self.failure.is_none() {
            if let Some(end) = self.end.take() {
                return end;
            }
            // Killed from outside, and everything in the jail with it.
            if self.started {
                return Outcome::Signaled(libc::SIGKILL);
            }
        }
        let said = self.failure.take().unwrap_or_else(|| {
            let how = match ended.and_then(|status| status.terminating_signal()) {
                Some(signal) => format!("was killed by signal {signal}"),
                None => "ended".to_owned(),
            };
            line(Level::Error, &format!("the jail's first process {how} before the program was started"))
        });
        Outcome::JailFailed {
            stage: self.failed_stage.to_owned(),
            detail: said.text.clone(),
            hint: hints(self.by_root, std::slice::from_ref(&said)),
            log: vec![said],
        }
    }

    fn abandon(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
            self.reaped = true;
            self.groups = None;
        }
    }
}

/// `call('detail') failed: reason`, the form in which the host's hints are looked up.
pub(super) fn text_of(stage: Stage, errno: i32, detail: &[u8]) -> String {
    let reason = io::Error::from_raw_os_error(errno).to_string();
    let reason = reason.split(" (os error").next().unwrap_or_default();
    match String::from_utf8_lossy(detail) {
        detail if detail.is_empty() => format!("{} failed: {reason}", stage.call()),
        detail => format!("{}('{detail}') failed: {reason}", stage.call()),
    }
}

/// What to change on this host, given what went wrong.
pub(super) fn hints(by_root: bool, log: &[LogLine]) -> Vec<String> {
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    HostFacts::read().hints(by_root, &program, log)
}

pub(super) fn line(level: Level, text: &str) -> LogLine {
    let text = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    LogLine { level, text }
}
