//! What is the native runtime's own: named failures, its init, its clock, and that it leaves nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use sandbox_linux::{Builtin, NativeError, Outcome, Policy, Runtime, RuntimeError};

use crate::rig::{Rig, bind, is_root, role, run_with};

fn rig() -> Option<Rig> {
    Rig::with(Runtime::Native)
}

fn parse(text: &str) -> Policy {
    Policy::parse("p", text.as_bytes()).unwrap()
}

#[test]
fn each_failure_names_its_step() {
    let Some(rig) = rig() else { return };
    for (text, program, cwd, stage, detail) in [
        ("#", "/ktl-bin/none", "/", "start of the program", "execve('/ktl-bin/none') failed: No such file"),
        ("#", "/ktl-bin", "/", "start of the program", "Permission denied"),
        ("#", "/ktl-bin/busybox", "/nowhere", "working directory", "chdir('/nowhere') failed: No such file"),
        (
            "mount { dst: \"/t\" fstype: \"tmpfs\" options: \"nonsense=1\" }",
            "/ktl-bin/busybox",
            "/",
            "mount tree",
            "mount('/t') failed: Invalid argument",
        ),
        (
            "mount { dst: \"/d/x\" fstype: \"tmpfs\" } mount { dst: \"/d\" src: \"b\" is_symlink: true }",
            "/ktl-bin/busybox",
            "/",
            "mount tree",
            "mount('/d') failed: File exists",
        ),
        (
            "seccomp_string: \"ERRNO(5) { execve } DEFAULT ALLOW\"",
            "/ktl-bin/busybox",
            "/",
            "start of the program",
            "Input/output error",
        ),
    ] {
        let mut overrides = rig.overrides();
        overrides.cwd = cwd.into();
        let run = rig.run(&rig.jail(parse(text), overrides), program, &["true"]);
        match &run.outcome {
            Outcome::JailFailed { stage: got, detail: said, log, .. } => {
                assert_eq!(got, stage, "{run:#?}");
                assert!(said.contains(detail), "{detail}: {run:#?}");
                assert_eq!(log.len(), 1);
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    let jail = rig.jail(parse("seccomp_string: \"ALLOW { no_such_call } DEFAULT KILL\""), rig.overrides());
    let error = run_with(&rig.runtime, &jail, "/ktl-bin/busybox", &["true"]).unwrap_err();
    assert!(matches!(error, RuntimeError::Native(NativeError::Filter(_))), "{error}");
    assert!(error.to_string().starts_with("seccomp_string: 1:9:"), "{error}");
}

/// In a user namespace of the test's own, so that the host's setting stays.
#[test]
fn refused_namespaces_are_explained() {
    if role().is_some_and(|role| role == "no namespaces") {
        fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
        let rig = rig().unwrap();
        let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
        let error = run_with(&rig.runtime, &jail, "/ktl-bin/busybox", &["true"]).unwrap_err();
        assert_eq!(error.hints().len(), 1);
        let RuntimeError::Native(NativeError::Start { stage, source, hint }) = error else {
            panic!("{error}");
        };
        assert_eq!((stage.as_str(), source.raw_os_error()), ("namespaces", Some(libc_enospc())));
        assert!(hint[0].contains("user.max_user_namespaces is 0"), "{hint:?}");
        return;
    }
    in_container("no namespaces", "native::refused_namespaces_are_explained");
}

fn libc_enospc() -> i32 {
    rustix::io::Errno::NOSPC.raw_os_error()
}

/// The root of a user namespace.
#[test]
fn works_in_a_user_namespace() {
    if role().is_some_and(|role| role == "inner") {
        let rig = rig().unwrap();
        let run = rig.guest(&rig.jail(Policy::builtin(Builtin::Strict), rig.overrides()));
        assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
        return;
    }
    in_container("inner", "native::works_in_a_user_namespace");
}

/// Runs a test of this program as the root of a user namespace: one that root makes has many ids, one that a user
/// makes has the user's.
fn in_container(role: &str, test: &str) {
    let Some(rig) = rig() else { return };
    let mut command = Command::new("unshare");
    command.args(["--user", "--mount", "--keep-caps", "--"]);
    command.args(["sh", "-c", "echo; read go; exec setpriv --reuid 0 --regid 0 $0 \"$@\""]);
    if is_root() {
        command.arg("--clear-groups");
    } else {
        command.arg("--keep-groups");
    }
    let child = command
        .arg(rig.path("guest"))
        .args(["--exact", test, "--nocapture"])
        .env("KTL_TEST_ROLE", role)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return eprintln!("skipped: unshare: {error}"),
    };
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let file = |name: &str| format!("/proc/{}/{name}", child.id());
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let lines = if is_root() {
        ["0 100000 65536\n".to_owned(), "0 100000 65536\n".to_owned()]
    } else {
        fs::write(file("setgroups"), "deny").unwrap();
        [format!("0 {uid} 1\n"), format!("0 {gid} 1\n")]
    };
    fs::write(file("gid_map"), &lines[1]).unwrap();
    fs::write(file("uid_map"), &lines[0]).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_clock_ends_a_jail() {
    let Some(rig) = rig() else { return };
    let jail = rig.jail(parse("time_limit: 1"), rig.overrides());
    let run = rig.shell(&jail, "trap '' TERM INT; echo up >&10; while :; do /ktl-bin/busybox sleep 1; done");
    assert_eq!(run.outcome, Outcome::Signaled(9), "{run:#?}");
    assert_eq!(run.report, "up\n");
}

#[test]
fn init_reaps_and_outlives_nobody() {
    let Some(rig) = rig() else { return };
    // Orphans that end are gone; one that stays does not hold the jail.
    let script = "b=/ktl-bin/busybox; for i in 1 2 3; do ($b true &) ; done; $b sleep 0.2; \
                  ($b sleep 1000 &); cd /proc; n=0; for p in [0-9]*; do \
                  grep -q 'State:.Z' $p/status && n=$((n+1)); done; echo zombies $n >&10; exit 3";
    let script = script.replace("grep", "$b grep");
    let run = rig.shell(&rig.jail(Policy::builtin(Builtin::Ci), rig.overrides()), &script);
    assert_eq!(run.outcome, Outcome::Exited(3), "{run:#?}");
    assert_eq!(run.report, "zombies 0\n");
}

#[test]
fn a_limit_below_the_descriptors_is_no_hindrance() {
    let Some(rig) = rig() else { return };
    let jail = rig.jail(parse("rlimit_nofile: 9"), rig.overrides());
    // The guest has descriptors 10 and 11.
    let run = rig.guest(&jail);
    assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
}

#[test]
fn nothing_is_made_in_a_bound_tree() {
    let Some(rig) = rig() else { return };
    let tree = rig.path("tree");
    fs::create_dir_all(tree.join("have")).unwrap();
    let mut overrides = rig.overrides();
    let mut outer = bind(&tree, "/tree");
    outer.rw = true;
    overrides.binds.extend([outer, bind(rig.dir.path(), "/tree/have")]);
    let jail = rig.jail(parse("#"), overrides);
    // Settled while the place was there; gone, or a link that leads out, when the tree is built.
    fs::remove_dir(tree.join("have")).unwrap();
    for target in [None, Some("/"), Some("../..")] {
        if let Some(target) = target {
            std::os::unix::fs::symlink(target, tree.join("have")).unwrap();
        }
        let run = rig.run(&jail, "/ktl-bin/busybox", &["true"]);
        assert!(
            matches!(&run.outcome, Outcome::JailFailed { stage, .. } if stage == "mount tree"),
            "{run:#?}"
        );
        let left: Vec<_> = fs::read_dir(&tree).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(left.len(), usize::from(target.is_some()), "{left:?}");
        if target.is_some() {
            fs::remove_file(tree.join("have")).unwrap();
        }
        if is_root() {
            // The sources of a jail made by root are used up.
            break;
        }
    }
}

#[test]
fn the_course_is_the_policys() {
    let Some(rig) = rig() else { return };
    let jail = rig.jail(parse("oom_score_adj: 77 nice_level: 3 hostname: \"a-b\""), rig.overrides());
    let run = rig.shell(&jail, "cd /proc; /ktl-bin/busybox cat self/oom_score_adj sys/kernel/hostname >&10; /ktl-bin/busybox cut -d' ' -f19 self/stat >&10");
    assert_eq!(run.report, "77\na-b\n3\n", "{run:#?}");
}

#[test]
fn a_violation_kills_by_sigsys() {
    let Some(rig) = rig() else { return };
    let jail =
        rig.jail(parse("seccomp_string: \"KILL_PROCESS { mkdir, mkdirat } DEFAULT ALLOW\""), rig.overrides());
    let run = rig.run(&jail, "/ktl-bin/busybox", &["mkdir", "/tmp"]);
    assert_eq!(run.outcome, Outcome::Signaled(31), "{run:#?}");
}

/// Called for the plain user by its suite.
pub fn checks() {
    each_failure_names_its_step();
    refused_namespaces_are_explained();
    works_in_a_user_namespace();
    the_clock_ends_a_jail();
    init_reaps_and_outlives_nobody();
    a_limit_below_the_descriptors_is_no_hindrance();
    nothing_is_made_in_a_bound_tree();
    the_course_is_the_policys();
    a_violation_kills_by_sigsys();
}
