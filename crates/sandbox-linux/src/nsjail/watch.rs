//! nsjail's side of a running jail: its log is all that it says, and its child is the guest.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::host::{HostFacts, stage_of};
use crate::log::{Ending, Level, LineSplitter, LogLine, MAX_LINE};
use crate::supervise::{Outcome, Watch, wait_for};
use crate::workdir::WorkDirs;

/// Lines kept for a failure report.
const KEPT_LINES: usize = 200;
/// How long nsjail gets to clear up after its guest was killed.
const GRACE: Duration = Duration::from_millis(700);

#[derive(Debug)]
pub(super) struct NsjailWatch {
    child: Child,
    pidfd: OwnedFd,
    log: File,
    splitter: LineSplitter,
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

impl NsjailWatch {
    pub(super) fn new(
        mut child: Child,
        log: File,
        nsjail: PathBuf,
        by_root: bool,
        work_dirs: WorkDirs,
    ) -> io::Result<NsjailWatch> {
        let watch = || -> io::Result<OwnedFd> {
            let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?)
                .ok_or(io::ErrorKind::NotFound)?;
            Ok(pidfd_open(pid, PidfdFlags::empty())?)
        };
        match watch() {
            Ok(pidfd) => Ok(NsjailWatch {
                child,
                pidfd,
                log,
                splitter: LineSplitter::default(),
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
                Err(error)
            }
        }
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

    /// nsjail's children, which are the guest's init or processes on the way to it.
    fn children(&self) -> Vec<OwnedFd> {
        let pid = self.child.id();
        fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .unwrap_or_default()
            .split_ascii_whitespace()
            .filter_map(|child| pidfd_open(Pid::from_raw(child.parse().ok()?)?, PidfdFlags::empty()).ok())
            .collect()
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

impl Watch for NsjailWatch {
    fn id(&self) -> u32 {
        self.child.id()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn reports(&self) -> Option<BorrowedFd<'_>> {
        (!self.splitter.closed).then(|| self.log.as_fd())
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn read(&mut self, on_log: &mut dyn FnMut(&LogLine)) {
        self.read_log(on_log);
        if self.record.started && self.inits.is_empty() {
            self.inits = self.children();
            self.work_dirs.set_up();
        }
    }

    /// Kills the guest's init first, so that nsjail sees it end and clears up; then nsjail itself.
    fn kill(&mut self) {
        let inits = self.children();
        for init in &inits {
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
        if !wait_for(self.pidfd.as_fd(), GRACE) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            wait_for(self.pidfd.as_fd(), Duration::from_secs(5));
        }
        // nsjail's death takes its child along; the child's end ends its whole process namespace.
        for init in &inits {
            wait_for(init.as_fd(), Duration::from_secs(5));
        }
    }

    fn finish(&mut self, killed: bool, on_log: &mut dyn FnMut(&LogLine)) -> Outcome {
        let status = self.child.wait().unwrap_or_default();
        self.reaped = true;
        if status.signal().is_some() {
            self.work_dirs.killed();
        }
        // If nsjail itself was killed, the kernel is still ending its guest.
        for init in &self.inits {
            wait_for(init.as_fd(), Duration::from_secs(5));
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

    fn abandon(&mut self) {
        if !self.reaped {
            self.kill();
            if self.child.wait().is_ok_and(|status| status.signal().is_some()) {
                self.work_dirs.killed();
            }
            self.reaped = true;
        }
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
