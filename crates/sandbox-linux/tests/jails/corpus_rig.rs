//! Probes of §5.2 that it takes a caller to make: `6` sources that are not there, `7` destinations that lead elsewhere, `8` the
//! host's tree afterwards, `21` descriptors that leaked, `24` exit codes. `25`, signals to the supervisor, is in `signals`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sandbox_linux::{JailError, Outcome, Runtime};

use crate::corpus::Bench;
use crate::rig::{Run, nsjail, run_with};

/// One rig, and each runtime that is here.
fn benches() -> Option<(Bench, Vec<Runtime>)> {
    let runtimes: Vec<Runtime> = nsjail().map(Runtime::Nsjail).into_iter().chain([Runtime::Native]).collect();
    Some((Bench::new(Runtime::Native)?, runtimes))
}

fn shell(bench: &Bench, runtime: &Runtime, policy: &str, script: &str) -> Run {
    let jail = bench.jail(policy, bench.overrides()).unwrap();
    let script = format!("b=/ktl-bin/busybox; {script}");
    run_with(runtime, &jail, "/ktl-bin/busybox", &["sh", "-c", &script]).unwrap()
}

/// `7` and the first half of `6`: what nsjail would create on the host, or mount somewhere else, is refused for both.
#[test]
fn places_that_lead_elsewhere_are_refused() {
    let Some((bench, _)) = benches() else { return };
    let shared = bench.rig.path("shared");
    std::os::unix::fs::symlink("/tmp", shared.join("link")).unwrap();
    let before = tree(bench.rig.dir.path());
    let bound = "mount { prefix_src_env: \"RIG\" src: \"/shared\" dst: \"/s\" is_bind: true rw: true }";
    for (entry, field) in [
        ("mount { dst: \"/../../tmp/x\" fstype: \"tmpfs\" }", "mount[1]"),
        ("mount { dst: \"/a/../../b\" src_content: \"x\" }", "mount[1]"),
        ("mount { dst: \"a\" fstype: \"tmpfs\" }", "mount[1]"),
        ("mount { dst: \"/s/new\" fstype: \"tmpfs\" }", "mount[1]"),
        ("mount { dst: \"/s/new\" src_content: \"x\" }", "mount[1]"),
        ("mount { dst: \"/s/new\" src: \"x\" is_symlink: true }", "mount[1]"),
        ("mount { dst: \"/s/link/x\" fstype: \"tmpfs\" }", "mount[1]"),
        ("mount { dst: \"/s/link\" fstype: \"tmpfs\" }", "mount[1]"),
        ("mount { dst: \"/s/file\" fstype: \"tmpfs\" }", "mount[1]"),
        (
            "mount { dst: \"/l\" src: \"/tmp\" is_symlink: true } mount { dst: \"/l/x\" fstype: \"tmpfs\" }",
            "mount[2]",
        ),
        ("mount { dst: \"/\" fstype: \"tmpfs\" }", "mount[1]"),
        ("mount { src: \"/\" dst: \"/host\" is_bind: true }", "mount[1]"),
        ("mount { prefix_dst_env: \"UNSET\" dst: \"/x\" fstype: \"tmpfs\" }", "mount[1]"),
        (
            "mount { prefix_src_env: \"UNSET\" src: \"/x\" dst: \"/x\" is_bind: true mandatory: false }",
            "mount[1]",
        ),
        ("mount { src: \"/no/such\" dst: \"/x\" is_bind: true }", "mount[1]"),
        ("mount { src: \"no/such\" dst: \"/x\" is_bind: true }", "mount[1]"),
        ("mount { dst: \"/x\" fstype: \"ext4\" src: \"/dev/vda\" }", "mount[1]"),
        ("clone_newns: false", "clone_newns"),
    ] {
        let error = bench.jail(&format!("{bound} {entry}"), bench.overrides()).expect_err(entry);
        let named = match &error {
            JailError::Refused { field, .. } | JailError::Source { field, .. } => field.as_str(),
            JailError::NoFreeId { field } => field,
            other => panic!("{other}"),
        };
        assert_eq!(named, field, "{entry}: {error}");
    }
    assert_eq!(tree(bench.rig.dir.path()), before);
}

/// `6`: what is optional and fails is left out, and the rest is there.
#[test]
fn optional_mounts_that_fail_are_left_out() {
    let Some((bench, runtimes)) = benches() else { return };
    let optional = "mount { dst: \"/t\" fstype: \"tmpfs\" options: \"nonsense=1\" mandatory: false } \
                    mount { src: \"/no/such\" dst: \"/u\" is_bind: true mandatory: false } \
                    mount { dst: \"/v\" fstype: \"tmpfs\" options: \"size=64k\" }";
    for runtime in &runtimes {
        let run = shell(&bench, runtime, optional, "$b grep -o ' /[tuv] ' /proc/self/mountinfo >&10; exit 0");
        assert_eq!(
            (&run.outcome, run.report.as_str()),
            (&Outcome::Exited(0), " /v \n"),
            "{runtime}: {run:#?}"
        );
        let mandatory = optional.replacen(" mandatory: false", "", 1);
        let run = shell(&bench, runtime, &mandatory, "exit 0");
        assert!(matches!(run.outcome, Outcome::JailFailed { .. }), "{runtime}: {run:#?}");
    }
}

/// `8`: mounts below a bind, read-only or not, leave nothing in the source, and nothing else changes it either.
#[test]
fn the_hosts_tree_stays_as_it_was() {
    let Some((bench, runtimes)) = benches() else { return };
    let nested = include_str!("../policies/bind-nested.cfg");
    let before = tree(bench.rig.dir.path());
    assert!(before.len() > 15);
    for runtime in &runtimes {
        let script = "exec >&10 2>&1; $b mkdir /ro/sub/inner /ro/new; $b touch /ro/file /rw/sub/new; echo x > /ro/file; \
                      $b ls /ro/sub";
        let run = shell(&bench, runtime, nested, script);
        assert!(run.report.ends_with("inner\n"), "{runtime}: {run:#?}");
        assert_eq!(run.report.matches("Read-only file system").count(), 4, "{runtime}: {run:#?}");
        assert_eq!(tree(bench.rig.dir.path()), before, "{runtime}");
        // What is bound writable is the host's.
        let run = shell(&bench, runtime, nested, "echo x > /rw/made; $b rm /rw/made; exit 0");
        assert_eq!(run.outcome, Outcome::Exited(0), "{runtime}: {run:#?}");
        assert_ne!(tree(bench.rig.dir.path()), before, "{runtime}: the directory's time has not changed");
        let shared = fs::File::open(bench.rig.path("shared")).unwrap();
        let (_, when, ..) = before[&bench.rig.path("shared")];
        shared.set_modified(when).unwrap();
        assert_eq!(tree(bench.rig.dir.path()), before, "{runtime}");
    }
}

type Facts = (u32, std::time::SystemTime, u32, u64);

/// Everything below a directory: mode, time of change, owner, size.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        let m = fs::symlink_metadata(&path).unwrap();
        if m.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.insert(path, (m.mode(), m.modified().unwrap(), m.uid(), m.size()));
    }
    found
}

/// `21`: a descriptor without close-on-exec stays outside.
#[test]
fn leaked_descriptors_stay_outside() {
    let Some((bench, runtimes)) = benches() else { return };
    let file = fs::File::open("/etc").unwrap();
    // Far from the numbers that the shell takes for itself.
    let leak = nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD(70)).unwrap();
    assert!(leak >= 70);
    for runtime in &runtimes {
        let run = shell(&bench, runtime, "#", "for f in /proc/self/fd/*; do echo ${f##*/}; done >&10");
        let numbers: Vec<i32> = run.report.lines().map(|line| line.parse().unwrap()).collect();
        assert!([0, 1, 2, 10].iter().all(|kept| numbers.contains(kept)), "{runtime}: {numbers:?}");
        assert!(numbers.iter().all(|number| *number < 20), "{runtime}: {numbers:?}");
    }
    nix::unistd::close(leak).unwrap();
}

/// `24`: how the program ended is what the caller is told. Without an init of its own nsjail's program is the first of its
/// namespace, where signals that it raises against itself do nothing.
#[test]
fn ends_are_told_as_they_were() {
    use Outcome::{Exited, Signaled};
    let Some((bench, runtimes)) = benches() else { return };
    let room = "mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true options: \"size=8M\" } \
                mount { src: \"/dev/zero\" dst: \"/dev/zero\" is_bind: true rw: true }";
    let raise = |signal| (Exited(3), Signaled(signal));
    let both = |outcome: Outcome| (outcome.clone(), outcome);
    for (policy, script, (theirs, ours)) in [
        ("#", "exit 0", both(Exited(0))),
        ("#", "exit 7", both(Exited(7))),
        ("#", "exit 255", both(Exited(255))),
        ("#", "kill -TERM $$; exit 3", raise(libc::SIGTERM)),
        ("#", "kill -KILL $$; exit 3", raise(libc::SIGKILL)),
        ("#", "kill -SEGV $$; exit 3", raise(libc::SIGSEGV)),
        ("#", "kill -ABRT $$; exit 3", raise(libc::SIGABRT)),
        ("#", "$b sh -c 'kill -SEGV $$'; exit $?", both(Exited(139))),
        ("#", "$b sh -c 'kill -ABRT $$'; exit $?", both(Exited(134))),
        (room, "$b dd if=/dev/zero of=/tmp/f bs=1M count=2; exit $?", both(Exited(128 + libc::SIGXFSZ))),
        (room, "exec $b dd if=/dev/zero of=/tmp/f bs=1M count=2", (Exited(1), Signaled(libc::SIGXFSZ))),
        ("rlimit_cpu: 1", "while :; do :; done", both(Signaled(libc::SIGKILL))),
        ("time_limit: 1", "$b sleep 60", both(Signaled(libc::SIGKILL))),
        (
            "seccomp_string: \"KILL_PROCESS { getppid } DEFAULT ALLOW\"",
            "exec /ktl-bin/calls/getppid",
            both(Signaled(libc::SIGSYS)),
        ),
    ] {
        for runtime in &runtimes {
            let want = if *runtime == Runtime::Native { &ours } else { &theirs };
            let run = shell(&bench, runtime, policy, script);
            assert_eq!(run.outcome, *want, "{runtime}: {script}: {run:#?}");
        }
    }
    for runtime in &runtimes {
        for (policy, program) in [
            ("cwd: \"/nowhere\"", "/ktl-bin/busybox"),
            ("#", "/ktl-bin/none"),
            ("#", "/ktl-bin/calls"),
            ("seccomp_string: \"ERRNO(5) { execve } DEFAULT ALLOW\"", "/ktl-bin/busybox"),
            ("mount { dst: \"/t\" fstype: \"tmpfs\" options: \"nonsense=1\" }", "/ktl-bin/busybox"),
        ] {
            let jail = bench.jail(policy, bench.overrides()).unwrap();
            let run = run_with(runtime, &jail, program, &["true"]).unwrap();
            assert!(matches!(run.outcome, Outcome::JailFailed { .. }), "{runtime}: {policy}: {run:#?}");
        }
    }
}
