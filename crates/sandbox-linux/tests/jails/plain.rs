//! Jails that a plain user starts. When the tests run as root, this file's suite runs in a child process under an
//! id that no account has; otherwise it runs as it is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox_linux::{Builtin, NativeError, Nsjail, Outcome, Policy, Runtime, RuntimeError};

use crate::guest::HOST_PATHS;
use crate::rig::{GUEST_ARGS, Rig, bind, is_root, role, run_with, traces};

/// No account has an id from here on. Each run takes another one: it looks at what jails of its id leave behind.
const NOBODY: u32 = 0x0d00_0000;

#[test]
fn suite() {
    if !is_root() {
        return checks();
    }
    let Some(rig) = Rig::with(Runtime::Native) else { return };
    let id = (NOBODY + std::process::id()).to_string();
    // Cargo's directory may be private; the copy in the rig is not.
    for (role, groups) in [("alone", "--clear-groups"), ("groups", "--groups=54322")] {
        let status = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, groups])
            .arg(rig.path("guest"))
            .args(["--exact", "plain::suite", "--nocapture", "--test-threads=1"])
            .env("KTL_TEST_ROLE", role)
            .current_dir("/")
            .status();
        match status {
            Ok(status) => assert!(status.success(), "the suite failed as a plain user: {status}"),
            Err(error) => eprintln!("skipped: setpriv: {error}"),
        }
    }
}

fn checks() {
    let before = traces();
    for rig in &Rig::each() {
        builtin_policies(rig);
        if role().is_some_and(|role| role == "groups") {
            continue;
        }
        strict_filter(rig);
        article(rig);
        exit_codes(rig);
        odd_names(rig);
        failures(rig);
        shim(rig);
    }
    if role().is_none_or(|role| role != "groups") {
        crate::native::checks();
        Rig::each().iter().for_each(|rig| crate::killed::moments(rig, 20));
        crate::corpus::compare();
        crate::escapes::attempts();
        crate::escapes::a_shared_network_is_not_the_hosts_sockets();
        crate::escapes::a_swapped_destination_leads_nowhere();
    }
    // A jail's directories have a keeper of their own, which ends after the jail.
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let after = traces();
        let new: Vec<_> = after.iter().filter(|trace| !before.contains(trace)).collect();
        if new.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "left on the host: {new:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn builtin_policies(rig: &Rig) {
    for which in Builtin::ALL {
        let run = rig.guest(&rig.jail(Policy::builtin(which), rig.overrides()));
        assert_eq!(run.outcome, Outcome::Exited(0), "{which:?}: {run:#?}");
        let processes = format!("threads 6\nprocesses {}\n", rig.processes());
        assert!(run.report.contains(&processes), "{}", run.report);
        let groups = !rustix::process::getgroups().unwrap().is_empty();
        assert_eq!(
            run.report.contains("warning: the caller's supplementary groups"),
            groups,
            "{}",
            run.report
        );
        rig.assert_hidden(&run.report, HOST_PATHS);
    }
}

/// The same attempts with and without the filter, so that it is the filter that refuses.
fn strict_filter(rig: &Rig) {
    let script = "exec >&10 2>&1; b=/ktl-bin/busybox; $b unshare -U $b echo nested; \
                  $b nc 127.0.0.1 1; $b echo end";
    let open = rig.shell(&rig.jail(Policy::builtin(Builtin::Ci), rig.overrides()), script);
    // The native runtime allows no nested user namespace under any filter.
    let nested = if rig.runtime == Runtime::Native { "No space left on device" } else { "nested\n" };
    assert!(open.report.contains(nested), "{open:#?}");
    assert!(open.report.contains("Network is unreachable"), "{open:#?}");
    for which in [Builtin::Strict, Builtin::Hermetic] {
        let shut = rig.shell(&rig.jail(Policy::builtin(which), rig.overrides()), script);
        assert!(!shut.report.contains("nested"), "{shut:#?}");
        assert!(shut.report.contains("Operation not permitted"), "{shut:#?}");
        assert!(shut.report.contains("Address family not supported"), "{shut:#?}");
        assert!(shut.report.ends_with("end\n"), "{shut:#?}");
    }
}

fn article(rig: &Rig) {
    let context = rig.path("ws");
    fs::create_dir(&context).unwrap();
    let mut overrides = rig.overrides();
    overrides.binds.push(bind(&context, "/workspace"));
    overrides.cwd = "/workspace".into();
    let policy = Policy::parse("article", include_bytes!("../policies/article-linux-ci.cfg")).unwrap();
    let run = rig.guest(&rig.jail(policy, overrides));
    assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
    assert!(run.report.contains("/etc/shadow hidden"), "{}", run.report);
}

fn exit_codes(rig: &Rig) {
    // In nsjail the program is the init of its namespace: signals that it raises against itself do nothing there, so
    // the killed one is a child whose end the shell passes on.
    for (script, want) in [
        ("exit 0", Outcome::Exited(0)),
        ("exit 7", Outcome::Exited(7)),
        ("exit 255", Outcome::Exited(255)),
        ("sh -c 'kill -TERM $$'; exit $?", Outcome::Exited(143)),
        ("ulimit -t 1; while :; do :; done", Outcome::Signaled(libc::SIGKILL)),
    ] {
        let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
        let script = script.replace("sh -c", "/ktl-bin/busybox sh -c");
        let run = rig.shell(&jail, &script);
        assert_eq!(run.outcome, want, "{script}: {run:#?}");
    }
    if rig.runtime != Runtime::Native {
        return;
    }
    // With an init of its own, each end is what it looks like.
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT, libc::SIGHUP] {
        let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
        let run = rig.shell(&jail, &format!("kill -{signal} $$"));
        assert_eq!(run.outcome, Outcome::Signaled(signal), "{run:#?}");
    }
}

fn odd_names(rig: &Rig) {
    use std::os::unix::ffi::OsStrExt as _;
    let context = rig.path("odd").join(std::ffi::OsStr::from_bytes(b"a:b c\nd\"\\\xff"));
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("f"), "found").unwrap();
    let mut overrides = rig.overrides();
    overrides.binds.push(bind(&context, "/work space:x"));
    overrides.env.push(("ODD".to_owned(), "two\nlines \"quoted\"".to_owned()));
    overrides.cwd = "/work space:x".into();
    let jail = rig.jail(Policy::builtin(Builtin::Ci), overrides);
    let run = rig.shell(&jail, "/ktl-bin/busybox cat f >&10; echo \"$ODD\" >&10; pwd >&10");
    assert_eq!(run.report, "foundtwo\nlines \"quoted\"\n/work space:x\n", "{run:#?}");
}

fn failures(rig: &Rig) {
    let parse = |text: &str| Policy::parse("p", text.as_bytes()).unwrap();
    for (text, program, cwd, stage) in [
        ("#", "/ktl-bin/busybox", "/nowhere", "working directory"),
        ("#", "/ktl-bin/none", "/", "start of the program"),
        (
            "mount { dst: \"/t\" fstype: \"tmpfs\" options: \"nonsense=1\" }",
            "/ktl-bin/busybox",
            "/",
            "mount tree",
        ),
        (
            "seccomp_string: \"ALLOW { no_such_call } DEFAULT KILL\"",
            "/ktl-bin/busybox",
            "/",
            "system call filter",
        ),
    ] {
        let mut overrides = rig.overrides();
        overrides.cwd = cwd.into();
        let jail = rig.jail(parse(text), overrides);
        let run = match run_with(&rig.runtime, &jail, program, &["true"]) {
            Ok(run) => run,
            Err(RuntimeError::Native(NativeError::Filter(_))) if *stage == *"system call filter" => continue,
            Err(error) => panic!("{text}: {error}"),
        };
        match &run.outcome {
            Outcome::JailFailed { stage: got, log, .. } => {
                assert_eq!(got, stage, "{text}: {run:#?}");
                assert!(!log.is_empty());
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

fn shim(rig: &Rig) {
    let shim = rig.path("nsjail");
    fs::write(&shim, "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let shim = Runtime::Nsjail(Nsjail::find(Some(Path::new(&shim)), None).unwrap());
    let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
    let guest = rig.path("guest");
    let mut args = vec!["KTL_TEST_ROLE=guest", guest.to_str().unwrap()];
    args.extend(GUEST_ARGS);
    let run = run_with(&shim, &jail, "/usr/bin/env", &args).unwrap();
    assert!(run.report.contains("the user namespace is the host's"), "{run:#?}");
    assert!(matches!(run.outcome, Outcome::JailFailed { .. }), "{run:#?}");
}
