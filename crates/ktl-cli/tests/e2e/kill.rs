//! What is left when something dies in the middle: the right exit code, and nothing else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ktl::{NATIVE, World};

/// Longest that an end may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A build whose only step runs until somebody ends it.
struct Running {
    world: World,
    child: Child,
    /// All of stderr, as it comes.
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Waits until the step runs.
    fn start(args: &[&str], configure: impl FnOnce(&mut std::process::Command)) -> Running {
        let mut running = Running::spawn(args, configure);
        running.wait_for("the-step-runs");
        running
    }

    fn spawn(args: &[&str], configure: impl FnOnce(&mut std::process::Command)) -> Running {
        let marker = format!("{:?}", Instant::now());
        let world =
            World::with_dockerfile(&format!("FROM BUSYBOX\nRUN echo the-step-runs {marker:?}; sleep 300\n"));
        let mut command = world.command();
        command
            .args(["build", "ctx", "--progress", "plain", "-o", "out", "-o", "type=tar,dest=out.tar"])
            .args(args);
        configure(&mut command);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Running { world, child, lines }
    }

    fn wait_for(&mut self, part: &str) {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                // The step's own echo has no shell quoting around it.
                Ok(line) if line.contains(part) && !line.contains("RUN echo") => return,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error} before {part:?}:\n{}", seen.join("\n")),
            }
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// The process and all its descendants.
    fn family(&self) -> Vec<Pid> {
        let mut family = vec![self.pid()];
        let mut next = 0;
        while next < family.len() {
            family.extend(children(family[next]));
            next += 1;
        }
        family
    }

    /// Waits for the end and checks what is left. Returns the exit code (128 + n after a signal) and the last lines.
    fn end(mut self, family: &[Pid]) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "still there after {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(20));
        };
        for pid in family {
            while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
                assert!(start.elapsed() < PATIENCE, "process {pid} outlives ktl");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        while self.world.names() != ["ctx", "home"] {
            assert!(start.elapsed() < PATIENCE, "left behind: {:?}", self.world.names());
            std::thread::sleep(Duration::from_millis(20));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("nsjail") && !mounts.contains("/ktl."), "{mounts}");
        let text = self.lines.try_iter().collect::<Vec<_>>().join("\n");
        (status.code().unwrap_or_else(|| 128 + status.signal().unwrap()), text)
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

const WAYS: [&[&str]; 3] = [&[], &["--sandbox=off"], NATIVE];

#[test]
fn interrupt_and_terminate_cancel() {
    for args in WAYS {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            let running = Running::start(args, |_| {});
            let family = running.family();
            kill(running.pid(), signal).unwrap();
            let (code, text) = running.end(&family);
            assert_eq!(code, 128 + signal as i32, "{args:?} {signal}: {text}");
        }
    }
}

#[test]
fn an_end_at_any_moment_leaves_nothing() {
    for round in 0..24u64 {
        let signal = [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM][round as usize % 3];
        let running = Running::spawn(WAYS[round as usize / 3 % 3], |_| {});
        std::thread::sleep(Duration::from_millis(round * round / 2));
        let family = running.family();
        kill(running.pid(), signal).unwrap();
        let (code, text) = running.end(&family);
        assert_eq!(code, 128 + signal as i32, "round {round}: {text}");
    }
}

#[test]
fn a_terminal_that_interrupts_the_whole_group_cancels_once() {
    use std::os::unix::process::CommandExt;
    let running = Running::start(&[], |command| {
        command.process_group(0);
    });
    let family = running.family();
    nix::sys::signal::killpg(running.pid(), Signal::SIGINT).unwrap();
    let (code, text) = running.end(&family);
    assert_eq!(code, 130, "{text}");
    assert!(!text.contains("lost"), "{text}");
}

#[test]
fn a_killed_ktl_takes_everything_with_it() {
    for args in WAYS {
        let running = Running::start(args, |_| {});
        let family = running.family();
        kill(running.pid(), Signal::SIGKILL).unwrap();
        let (code, _) = running.end(&family);
        assert_eq!(code, 137, "{args:?}");
    }
}

#[test]
fn a_killed_nsjail_or_guest_ends_the_build() {
    for (way, depth) in [(WAYS[0], 1), (WAYS[0], 2), (NATIVE, 1), (NATIVE, 2)] {
        let running = Running::start(way, |_| {});
        let family = running.family();
        let mut victim = running.pid();
        for _ in 0..depth {
            // The last child: the first may be ktl's own tidier.
            victim = *children(victim).last().unwrap();
        }
        kill(victim, Signal::SIGKILL).unwrap();
        let (code, text) = running.end(&family);
        assert_eq!(code, 4, "{way:?} depth {depth}: {text}");
        assert!(text.contains("signal 9") || text.contains("SIGKILL"), "{text}");
    }
}

#[test]
fn a_killed_builder_is_told_as_lost() {
    for args in WAYS {
        let scratch = xtask::parts::ScratchDir::new("kill").unwrap();
        let options = xtask::parts::Options {
            plain_http: vec![crate::ktl::PARTS.registry.address().to_owned()],
            ..Default::default()
        };
        let daemon = xtask::parts::Buildkitd::start(&scratch.join("d"), &options).unwrap();
        let address = daemon.address();
        let running = Running::start(args, |command| {
            command.env("KTL_BUILDER", address);
        });
        let family = running.family();
        daemon.kill().unwrap();
        let (code, text) = running.end(&family);
        assert_eq!(code, 3, "{args:?}: {text}");
        assert!(text.contains("builder"), "{text}");
    }
}

#[test]
fn a_cancelled_build_is_cancelled_on_the_daemon_too() {
    let running = Running::start(&[], |_| {});
    let dockerfile = running.world.read("ctx/Dockerfile");
    let family = running.family();
    kill(running.pid(), Signal::SIGINT).unwrap();
    running.end(&family);
    let marker = dockerfile.split('"').nth(1).unwrap_or(&dockerfile).to_owned();
    let start = Instant::now();
    while processes_with(&marker) {
        assert!(start.elapsed() < PATIENCE, "the step goes on in the daemon");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn processes_with(text: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains(text))
    })
}
