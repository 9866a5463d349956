//! Ends that come from outside: signals to the supervisor, and its sudden death. The supervisor is this program in
//! a child process, because the signals go to a whole process.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandbox_linux::{Builtin, Command as Guest, OnSignal, Outcome, Policy, Runtime};

use crate::rig::{PROMISES, REPORT, Rig};

/// The child's role: one jail with a guest that waits, and a line on stdout for each event.
#[test]
fn supervisor_role() {
    let runtime = match crate::rig::role() {
        Some(role) if role == "supervisor nsjail" => Runtime::Nsjail(crate::rig::nsjail().unwrap()),
        Some(role) if role == "supervisor native" => Runtime::Native,
        _ => return,
    };
    let rig = Rig::with(runtime).unwrap();
    let mut overrides = rig.overrides();
    overrides.pass_fds.retain(|fd| *fd != PROMISES);
    let jail = rig.jail(Policy::builtin(Builtin::Ci), overrides);
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let script = "trap 'exit 9' USR1; echo up >&10; while :; do /ktl-bin/busybox sleep 1; done";
    let command = Guest {
        program: "/ktl-bin/busybox".into(),
        args: ["sh", "-c", script].map(Into::into).to_vec(),
        fds: vec![(writer, REPORT)],
    };
    let running = rig.runtime.spawn(&jail, command).unwrap();
    let nsjail = running.id();
    let mut up = [0; 3];
    File::from(reader).read_exact(&mut up).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{nsjail}/task/{nsjail}/children")).unwrap();
    println!("\nup {nsjail} {}", children.trim());
    let mut count = 0;
    let outcome = running.supervise(
        &mut |signal| {
            count += 1;
            println!("\nsignal {signal}");
            if count < 2 { OnSignal::Continue } else { OnSignal::Kill }
        },
        &mut |_| (),
    );
    println!("\noutcome {outcome:?}");
}

struct Supervisor {
    _rig: Rig,
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    pids: Vec<i32>,
}

impl Supervisor {
    fn each(check: impl Fn(Supervisor)) {
        for rig in Rig::each() {
            check(Supervisor::start(rig));
        }
    }

    fn start(rig: Rig) -> Supervisor {
        // The child may be killed; its directory lies in this one.
        // The harness has more than one thread; a signal must not find one where it is not blocked.
        let mut child = Command::new("env")
            .args(["HUP", "INT", "TERM"].map(|signal| format!("--block-signal={signal}")))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "signals::supervisor_role", "--nocapture", "--test-threads=1"])
            .env("KTL_TEST_ROLE", format!("supervisor {}", rig.runtime))
            .env("TMPDIR", rig.dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut supervisor = Supervisor { _rig: rig, child, lines, pids: Vec::new() };
        let up = supervisor.wait_for("up ");
        supervisor.pids = up.split_whitespace().skip(1).map(|p| p.parse().unwrap()).collect();
        assert_eq!(supervisor.pids.len(), 2, "{up}");
        supervisor
    }

    fn wait_for(&mut self, prefix: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "no line {prefix:?}");
            if line.starts_with(prefix) {
                return line.trim().to_owned();
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for nsjail and the guest to be gone; zombies count as gone.
    fn assert_gone(&self) {
        let end = Instant::now() + Duration::from_secs(20);
        for pid in &self.pids {
            let alive = || {
                std::fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
            };
            while alive() {
                assert!(Instant::now() < end, "process {pid} is still there");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn first_signal_is_told_second_kills() {
    Supervisor::each(|mut supervisor| {
        supervisor.signal(Signal::SIGINT);
        assert_eq!(supervisor.wait_for("signal"), "signal 2");
        supervisor.signal(Signal::SIGHUP);
        assert_eq!(supervisor.wait_for("signal"), "signal 1");
        let want = format!("outcome {:?}", Outcome::Signaled(libc::SIGKILL));
        assert_eq!(supervisor.wait_for("outcome"), want);
        supervisor.assert_gone();
        assert!(supervisor.child.wait().unwrap().success());
    });
}

#[test]
fn a_killed_guest_is_reported_as_killed() {
    Supervisor::each(|mut supervisor| {
        kill(Pid::from_raw(supervisor.pids[1]), Signal::SIGKILL).unwrap();
        let want = format!("outcome {:?}", Outcome::Signaled(libc::SIGKILL));
        assert_eq!(supervisor.wait_for("outcome"), want);
        supervisor.assert_gone();
        supervisor.child.wait().unwrap();
    });
}

#[test]
fn a_guest_may_end_by_itself_after_a_signal() {
    Supervisor::each(|mut supervisor| {
        supervisor.signal(Signal::SIGTERM);
        supervisor.wait_for("signal");
        kill(Pid::from_raw(supervisor.pids[1]), Signal::SIGUSR1).unwrap();
        assert_eq!(supervisor.wait_for("outcome"), format!("outcome {:?}", Outcome::Exited(9)));
        supervisor.child.wait().unwrap();
    });
}

#[test]
fn a_killed_nsjail_takes_its_guest_along() {
    Supervisor::each(|mut supervisor| {
        kill(Pid::from_raw(supervisor.pids[0]), Signal::SIGKILL).unwrap();
        let want = format!("outcome {:?}", Outcome::Signaled(libc::SIGKILL));
        assert_eq!(supervisor.wait_for("outcome"), want);
        supervisor.assert_gone();
        supervisor.child.wait().unwrap();
    });
}

#[test]
fn a_killed_supervisor_leaves_no_process() {
    Supervisor::each(|mut supervisor| {
        supervisor.child.kill().unwrap();
        supervisor.child.wait().unwrap();
        supervisor.assert_gone();
    });
}
