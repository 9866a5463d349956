//! Many builds on one private daemon, and what becomes of them when it is killed.

use std::fs;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ktl::is_root;
use crate::private::{Private, wait_until};

const BUILDS: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub name: String,
    parent: i32,
    /// In ticks since the machine came up: a number may come again, but not with the same start.
    started: u64,
}

pub fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stat = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let (parent, started) = (fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?);
        Some(Process { pid, name: name.to_owned(), parent, started })
    };
    entries.filter_map(stat).collect()
}

/// The process and all that descend from it.
pub fn family(of: i32) -> Vec<Process> {
    let all = processes();
    let mut family: Vec<Process> = all.iter().filter(|process| process.pid == of).cloned().collect();
    let mut next = 0;
    while let Some(parent) = family.get(next).map(|process| process.pid) {
        family.extend(all.iter().filter(|process| process.parent == parent).cloned());
        next += 1;
    }
    family
}

#[test]
fn a_daemon_that_is_killed_under_many_builds_is_made_anew() {
    if !is_root("a_daemon_that_is_killed_under_many_builds_is_made_anew") {
        return;
    }
    let private = Private::new("ARG N\nRUN [ \"$N\" = quick ] || sleep 1000\n");
    let world = private.world();
    let build = |number: &str| {
        let mut command = private.command();
        command.env("KTL_SANDBOX_RUNTIME", "native").args(["build", "ctx", "--progress=plain"]);
        command.args(["--builder", "jail://many", "--build-arg", &format!("N={number}")]);
        command
    };
    world.run(&mut build("quick")).ok().says("started jail://many");
    let log = |number: usize| world.path(format!("log.{number}"));
    let mut builds: Vec<Child> = (0..BUILDS)
        .map(|number| {
            let stderr = fs::File::create(log(number)).unwrap();
            build(&number.to_string()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap()
        })
        .collect();
    let says = |number: usize, part: &str| fs::read_to_string(log(number)).unwrap().contains(part);
    wait_until("all have come to their step", || (0..BUILDS).all(|number| says(number, "sleep 1000")));
    let [supervisor] = private.supervisors()[..] else { panic!("{:?}", private.supervisors()) };
    let named = |family: &[Process], name: &str| family.iter().filter(|process| process.name == name).count();
    wait_until("half of the steps run", || named(&family(supervisor), "sleep") >= BUILDS / 2);
    let first = family(supervisor);
    let Some(daemon) = first.iter().find(|process| process.name == "buildkitd") else { panic!("{first:?}") };
    kill(Pid::from_raw(daemon.pid), Signal::SIGKILL).unwrap();
    for (number, build) in builds.iter_mut().enumerate() {
        let code = build.wait().unwrap().code();
        let said = fs::read_to_string(log(number)).unwrap();
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("lost the connection to the builder"), "{said}");
    }

    // Whatever the killed one left, the next one has its cache and a step that runs.
    world.run(&mut build("quick")).ok().says("started jail://many").says("CACHED");
    world.run(&mut build("quick")).ok().says_not("started");
    let [supervisor] = private.supervisors()[..] else { panic!("{:?}", private.supervisors()) };
    let second = family(supervisor);
    assert_eq!(named(&second, "buildkitd"), 1, "{second:?}");
    private.builder(&["rm", "many"]).ok();
    wait_until("no process is left of either", || {
        let all = processes();
        !first.iter().chain(&second).any(|process| all.contains(process))
    });
    assert!(!world.path("s/daemons/many").exists());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(world.path("s").to_str().unwrap()), "{mounts}");
}
