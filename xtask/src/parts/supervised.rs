//! A daemon that cannot outlive its owner.
//!
//! Between us and the daemon stands a shell that waits for the end of its standard input, which is a pipe of ours:
//! when the value is dropped, or when our process dies in whatever way, the shell sends TERM, gives the daemon a
//! grace, and leaves. With [`Isolation::Namespaces`] the shell is process 1 of a PID namespace with mounts of its
//! own, so its end takes every container and every mount along.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::User;
use crate::command;

/// TERM at the end of stdin, then up to ten seconds, then KILL.
const SHELL: &str = r#"
"$@" </dev/null & daemon=$!
read -r _
kill -TERM $daemon 2>/dev/null
tries=0
while kill -0 $daemon 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
kill -KILL $daemon 2>/dev/null
wait
"#;

/// Longer than the shell's own grace.
const STOP: Duration = Duration::from_secs(15);

/// How much of the machine the daemon shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Everything; for a daemon that starts no processes and mounts nothing.
    None,
    /// PID and mount namespaces of its own; needs root or sudo.
    Namespaces,
}

/// A running daemon and its log file.
#[derive(Debug)]
pub struct Supervised {
    shell: Child,
    stdin: Option<ChildStdin>,
    program: PathBuf,
    log: PathBuf,
}

impl Supervised {
    /// Starts `daemon` (its program, arguments and environment) with both streams in the file `log`.
    pub fn start(daemon: &Command, isolation: Isolation, log: &Path) -> Result<Supervised> {
        Supervised::start_as(None, daemon, isolation, log)
    }

    /// As [`Supervised::start`], with the daemon as another user; needs root.
    pub fn start_as(
        user: Option<&User>,
        daemon: &Command,
        isolation: Isolation,
        log: &Path,
    ) -> Result<Supervised> {
        let mut shell = match isolation {
            Isolation::None => Command::new("sh"),
            Isolation::Namespaces => {
                let mut unshare = command::as_root("unshare");
                unshare.args([
                    "--mount",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--kill-child=KILL",
                    "--",
                    "env",
                ]);
                // sudo drops the environment; env(1) sets it again.
                for (name, value) in daemon.get_envs() {
                    let mut pair = name.to_owned();
                    pair.push("=");
                    pair.push(value.unwrap_or_default());
                    unshare.arg(pair);
                }
                unshare.arg("sh");
                unshare
            }
        };
        for (name, value) in daemon.get_envs().filter_map(|(name, value)| Some((name, value?))) {
            shell.env(name, value);
        }
        shell.args(["-c", SHELL, "sh"]);
        if let Some(user) = user {
            let ids = [format!("--reuid={}", user.uid()), format!("--regid={}", user.gid())];
            shell.arg("setpriv").args(ids).args(["--clear-groups", "--"]);
        }
        shell.arg(daemon.get_program()).args(daemon.get_args());
        let output = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(output.try_clone().context("share the log file")?)
            .stderr(output)
            // A Ctrl-C in the terminal is for us; the daemon is stopped in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", command::line(daemon)))?;
        let stdin = shell.stdin.take();
        Ok(Supervised { shell, stdin, program: PathBuf::from(daemon.get_program()), log: log.to_owned() })
    }

    /// Calls `answers` until it is true. The error of a daemon that ended or stays silent carries its last words.
    pub fn wait_until(&mut self, answers: impl Fn() -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let name = self.program.file_name().unwrap_or_default().display().to_string();
        // The daemon appears a moment after the shell.
        let mut seen = false;
        loop {
            if answers() {
                return Ok(());
            }
            let running = self.pid().is_some();
            let ended = (seen && !running) || self.shell.try_wait().is_ok_and(|status| status.is_some());
            seen |= running;
            if ended || Instant::now() > deadline {
                let how = if ended { "ended before it answered" } else { "does not answer" };
                bail!("{name} {how}; its log says:\n{}", command::last_lines(&self.log_text(), 20));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The daemon's process id as the host sees it; `None` when it has ended.
    pub fn pid(&self) -> Option<u32> {
        let program = self.program.as_os_str().as_encoded_bytes();
        descendants(self.shell.id()).into_iter().find(|pid| {
            // Some daemons write a title over their command line; the program of a user's is closed to others.
            let named = fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).next() == Some(program));
            named || fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|path| path == self.program)
        })
    }

    /// Kills the daemon at once, as a crash would; what it started stays until [`Supervised::stop`].
    pub fn kill(&self) -> Result<()> {
        let pid = self.pid().context("the daemon has ended already")?;
        signal(pid, Signal::SIGKILL)
    }

    /// Stops the daemon and all that it started. Does nothing the second time.
    pub fn stop(&mut self) {
        self.stdin = None;
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline {
            match self.shell.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                _ => return,
            }
        }
        let _gone_already = signal(self.shell.id(), Signal::SIGKILL);
        let _status = self.shell.wait();
    }

    pub fn log_text(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop();
    }
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let number = i32::try_from(pid).context("a process id")?;
    if kill(Pid::from_raw(number), signal).is_ok() {
        return Ok(());
    }
    command::run(command::as_root("kill").arg(format!("-{}", signal.as_str())).arg(pid.to_string()))
}

/// All processes below `pid`, parents first.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found.remove(0);
    found
}
