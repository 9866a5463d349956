//! SIGKILL at random moments, to a random one of the processes involved: whoever it hits, nothing is left.
//!
//! Three processes play: the test; a watcher, which adopts every orphan of its descendants (`PR_SET_CHILD_SUBREAPER`), so
//! that no process can get out of its sight; and a starter, which starts one jail after the other. The watcher kills one of
//! its descendants, tells the starter to stop, and has to come to the end of its children.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use sandbox_linux::{Caller, Command as Guest, Jail, OnSignal, Overrides, Policy, Runtime};

use crate::cgroups::Parents;
use crate::rig::{Rig, bind, is_root, role, traces};

/// Longest that the end of everything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// A moment is up to this long after the starter's first jail was about to start.
const MOMENTS_MS: u64 = 60;
/// Outlived by a process that the jail's end has to end.
const SCRIPT: &str = "/ktl-bin/busybox sleep 100 & /ktl-bin/busybox sleep 0.02";

#[test]
fn a_kill_at_any_moment_leaves_nothing() {
    for rig in Rig::each() {
        moments(&rig, if rig.runtime == Runtime::Native { 100 } else { 40 });
    }
}

/// Called for the plain user by its suite as well.
pub fn moments(rig: &Rig, count: u32) {
    // nsjail itself leaves its groups when it is killed.
    let parents = (rig.runtime == Runtime::Native && is_root()).then(Parents::of_version_1).flatten();
    let group = parents.as_ref().map_or("-", |parents| &parents.name);
    let before = rig.listing();
    let output = again(
        "watcher_role",
        &format!("watcher {} {count} {} {group}", rig.runtime, rig.dir.path().display()),
    )
    .output()
    .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rig.listing(), before);
    if let Some(parents) = parents {
        assert_eq!(parents.children(), Vec::<PathBuf>::new());
    }
    eprintln!("{}: {}", rig.runtime, said.lines().find(|line| line.starts_with("seed")).unwrap_or_default());
}

/// This program again, for one of the roles below.
fn again(test: &str, role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("killed::{test}"), "--nocapture", "--test-threads=1", "--quiet"])
        .env("KTL_TEST_ROLE", role);
    command
}

/// The words of this process's role, if its name is `name`.
fn words(name: &str) -> Option<Vec<String>> {
    let role = role()?.into_string().ok()?;
    let words: Vec<String> = role.split(' ').map(str::to_owned).collect();
    (words[0] == name).then_some(words)
}

#[test]
#[expect(
    clippy::zombie_processes,
    reason = "the watcher collects every child that it has, however it came by it"
)]
fn watcher_role() {
    let Some(words) = words("watcher") else { return };
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let mut random = Random(seed);
    let mut hits: BTreeMap<String, u32> = BTreeMap::new();
    let before = traces();
    for round in 0..words[2].parse().unwrap() {
        let mut starter = again("starter_role", &format!("starter {} {} {}", words[1], words[3], words[4]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = starter.stdout.take().unwrap();
        // The harness may say something as well.
        let mut byte = [0];
        while byte != *b">" {
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "seed {seed}, round {round}: no start");
        }
        std::thread::sleep(Duration::from_micros(random.below(MOMENTS_MS * 1000)));
        let family = descendants(std::process::id());
        let (victim, what) = &family[random.below(family.len() as u64) as usize];
        let _ = kill(Pid::from_raw(*victim), Signal::SIGKILL);
        *hits.entry(what.clone()).or_default() += 1;
        drop((starter.stdin.take(), stdout));
        let end = Instant::now() + PATIENCE;
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => {}
                Err(error) => panic!("{error}"),
                Ok(status) if status.pid().is_some() => {}
                Ok(_) => {
                    let left = || descendants(std::process::id());
                    assert!(
                        Instant::now() < end,
                        "seed {seed}, round {round}, killed {what}: left {:?}",
                        left()
                    );
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        // The next round may tidy up after this one. Other jails of this host may be using nsjail's directories.
        while let Some(left) = traces().into_iter().find(|trace| !before.contains(trace)) {
            assert!(Instant::now() < end, "seed {seed}, round {round}, killed {what}: left {left}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    println!("\nseed {seed}, killed {hits:?}");
}

/// All processes below one, as pairs of id and name.
fn descendants(parent: u32) -> Vec<(i32, String)> {
    let mut found: Vec<(i32, String)> = Vec::new();
    let mut next = vec![i32::try_from(parent).unwrap()];
    while let Some(pid) = next.pop() {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().map(|child| child.parse().unwrap()) {
                let name = fs::read_to_string(format!("/proc/{child}/comm")).unwrap_or_default();
                let own = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
                let inside = own.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
                let place = match inside.split_whitespace().nth(1) {
                    Some("1") => "first in the jail",
                    Some(_) => "in the jail",
                    None => "outside",
                };
                found.push((child, format!("{} {place}", name.trim())));
                next.push(child);
            }
        }
    }
    found
}

/// Starts jails until its standard input ends.
#[test]
fn starter_role() {
    let Some(words) = words("starter") else { return };
    let runtime =
        if words[1] == "native" { Runtime::Native } else { Runtime::Nsjail(crate::rig::nsjail().unwrap()) };
    let limits = match words[3].as_str() {
        "-" => String::new(),
        parent => format!(
            "cgroup_pids_max: 20 cgroup_pids_parent: \"{parent}\" cgroup_mem_max: 33554432 \
             cgroup_mem_parent: \"{parent}\" cgroup_cpu_ms_per_sec: 900 cgroup_cpu_parent: \"{parent}\""
        ),
    };
    let policy = format!(
        "{limits} mount {{ dst: \"/proc\" fstype: \"proc\" }} mount {{ dst: \"/tmp\" fstype: \"tmpfs\" }}"
    );
    let busybox = Path::new(&words[2]).join("busybox");
    print!(">");
    std::io::stdout().flush().unwrap();
    let stdin = std::io::stdin();
    loop {
        let mut ended = [PollFd::new(std::os::fd::AsFd::as_fd(&stdin), PollFlags::POLLIN)];
        if poll(&mut ended, PollTimeout::ZERO).unwrap() > 0 {
            return;
        }
        let overrides = Overrides {
            binds: vec![bind(&busybox, "/ktl-bin/busybox")],
            cwd: "/".into(),
            ..Overrides::default()
        };
        let policy = Policy::parse("p", policy.as_bytes()).unwrap();
        let jail = Jail::new(policy, overrides, &Caller::current().unwrap()).unwrap();
        let args = ["sh", "-c", SCRIPT].map(Into::into).to_vec();
        let command = Guest { program: "/ktl-bin/busybox".into(), args, fds: Vec::new() };
        // Where the victim is hit before the program runs, the start fails.
        if let Ok(running) = runtime.spawn(&jail, command) {
            running.supervise(&mut |_| OnSignal::Kill, &mut |_| ());
        }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
