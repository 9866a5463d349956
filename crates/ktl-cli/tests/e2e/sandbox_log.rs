//! The log of the sandbox: what it tells of a run, where it lies, and what is never in it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xtask::parts::{AstrayRegistry, Buildkitd, Options, ScratchDir};

use crate::ktl::{NATIVE, Ran, World};
use crate::sandbox::COPIED;

fn small() -> World {
    let world = World::with_dockerfile("FROM scratch\nARG PASSWORD\nCOPY x /\n");
    world.write("ctx/x", "x");
    world
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn events<'a>(log: &'a [Value], name: &str) -> Vec<&'a Value> {
    log.iter().filter(|line| line["event"] == name).collect()
}

#[track_caller]
fn only<'a>(log: &'a [Value], name: &str) -> &'a Value {
    let found = events(log, name);
    assert_eq!(found.len(), 1, "{name} in {log:#?}");
    found[0]
}

/// The log that the run says it has kept.
#[track_caller]
fn kept(ran: &Ran) -> (PathBuf, Vec<Value>) {
    let (_, rest) =
        ran.stderr.split_once("log of the sandbox was kept: ").unwrap_or_else(|| panic!("{ran:?}"));
    let path = PathBuf::from(rest.lines().next().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    (path, lines(&text))
}

fn copied_policy(seccomp: &str) -> String {
    COPIED.replace("DEFAULT ALLOW", seccomp)
}

#[test]
fn a_build_is_told_from_beginning_to_end() {
    for runtime in [&[][..], NATIVE] {
        let world = small();
        world.write("ci.cfg", format!("{COPIED}envar: \"POLICY_TOKEN=value-in-the-policy\"\n"));
        world.write("shown", "");
        let bind = format!("{}:/shown", world.path("shown").display());
        let mut command = world.command();
        command.env("TOKEN", "value-of-the-secret").env("PASSWORD", "value-from-the-environment").args([
            "build",
            "ctx",
            "--sandbox-config",
            "ci.cfg",
            "--sandbox-bind",
            &bind,
            "--build-arg",
            "PASSWORD",
            "--build-arg",
            "OTHER=value-of-the-argument",
            "--secret",
            "id=t,env=TOKEN",
            "--sandbox-log-file",
            "sandbox.log",
            "--json",
            "-o",
            "out",
        ]);
        world.run(command.args(runtime)).ok();
        let text = world.read("sandbox.log");
        assert!(!text.contains("value-"), "{text}");
        let log = lines(&text);
        let times: Vec<&str> = log.iter().map(|line| line["time"].as_str().unwrap()).collect();
        assert!(times.is_sorted() && times.iter().all(|time| time.len() == "2026-11-24T09:31:52.007Z".len()));
        assert_eq!(log[0]["event"], "begin");
        assert_eq!(log[0]["command"], "build");
        let name = if runtime.is_empty() { "nsjail" } else { "native" };
        assert_eq!(only(&log, "runtime")["name"], name);
        assert!(only(&log, "policy")["name"].as_str().unwrap().ends_with("ci.cfg"));
        let corrected: Vec<&Value> = events(&log, "correction").iter().map(|line| &line["field"]).collect();
        assert!(
            corrected.contains(&&"mode".into()) && corrected.contains(&&"clone_newnet".into()),
            "{corrected:?}"
        );
        let binds = events(&log, "bind");
        let context = binds.iter().find(|bind| bind["guest"] == "/workspace").unwrap();
        assert_eq!(context["host"], world.path("ctx").canonicalize().unwrap().display().to_string());
        assert_eq!(context["rw"], false);
        assert!(binds.iter().any(|bind| bind["guest"] == "/shown" && bind["rw"] == false));
        assert!(binds.iter().any(|bind| bind["guest"] == "/ktl-out/0" && bind["rw"] == true));
        assert_eq!(only(&log, "promises")["no_network"], true);
        assert!(only(&log, "start")["pid"].as_u64().unwrap() > 1);
        assert!(events(&log, "jail").iter().any(|line| line["text"].as_str().unwrap().contains("Executing")));
        assert!(only(&log, "proof")["namespaces"].as_array().unwrap().len() >= 6);
        assert_eq!(only(&log, "exited")["code"], 0);
        assert!(only(&log, "broker")["record"]["asked"].is_object());
        assert_eq!(log.last().unwrap()["event"], "outcome");
        assert_eq!(log.last().unwrap()["exit"], 0);
        // A run that went well leaves nothing that was not asked for.
        assert!(!world.path("home/.cache/ktl/logs").exists());
    }
}

#[test]
fn the_stream_is_for_people_or_for_programs() {
    let world = small();
    let ran = world.build(&["--sandbox-logs", "--sandbox-log-file", "text.log"]).ok();
    let ran = ran.says("[sandbox] proven: own namespaces").says("[sandbox] exit 0").says("[sandbox] bind ");
    assert_eq!(ran.stderr.matches("jailed by").count(), 1, "{}", ran.stderr);
    let text = world.read("text.log");
    let first = text.lines().next().unwrap();
    assert!(first.contains("Z ktl ") && first.contains(", build, process "), "{first}");
    assert!(text.contains(" -> /workspace ro\n"), "{text}");

    let ran =
        world.run(world.command().args(["sandbox", "probe", "/etc/shadow", "--sandbox-logs", "--json"]));
    let log: Vec<Value> = lines(&ran.stderr).into_iter().collect();
    assert_eq!(only(&log, "outcome")["exit"], 0);
    assert!(serde_json::from_str::<Value>(&ran.stdout).unwrap()["targets"].is_array(), "{}", ran.stdout);
    // The doctor starts a jail of each kind.
    let doctor = ["sandbox", "doctor", "--sandbox-log-file", "doctor.log", "--json"];
    world.run(world.command().args(doctor)).ok();
    let log = lines(&world.read("doctor.log"));
    let names: BTreeSet<&str> =
        events(&log, "runtime").iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, BTreeSet::from(["native", "nsjail"]));
    assert_eq!(events(&log, "proof").len(), 2);
}

#[test]
fn flags_that_say_nothing_are_refused() {
    let world = small();
    for args in [
        &["--json"][..],
        &["--sandbox-log-file", "ctx"],
        &["--sandbox-log-file", "no/such/dir/log"],
        &["--sandbox=off", "--sandbox-log-file", "log"],
        &["--sandbox=off", "--sandbox-logs", "--json"],
    ] {
        let ran = world.build(args).ends_with(2);
        assert!(!ran.stderr.contains("jailed by"), "{args:?}: {}", ran.stderr);
    }
    assert!(!world.path("log").exists());
}

#[test]
fn a_guest_that_is_killed_leaves_its_log() {
    for runtime in [&[][..], NATIVE] {
        let world = small();
        world.write("kill.cfg", copied_policy("KILL_PROCESS { epoll_create1 } DEFAULT ALLOW"));
        let mut args = vec!["--sandbox-config", "kill.cfg", "--build-arg", "PASSWORD=value-of-the-argument"];
        args.extend(runtime);
        let ran = world.build(&args).ends_with(4).says("signal 31");
        let (path, log) = kept(&ran);
        assert!(path.starts_with(world.path("home/.cache/ktl/logs")), "{}", path.display());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // It had come as far as its proof.
        only(&log, "proof");
        assert_eq!(only(&log, "killed")["signal"], 31);
        let end = only(&log, "outcome");
        assert_eq!(end["exit"], 4);
        assert!(end["error"].as_str().unwrap().contains("signal 31"), "{end}");
        assert!(!fs::read_to_string(&path).unwrap().contains("value-of"));
        // With a file of one's own there is one log, and it has the same.
        args.extend(["--sandbox-log-file", "own.log", "--json"]);
        world.build(&args).ends_with(4).says("own.log").says_not("was kept");
        assert_eq!(only(&lines(&world.read("own.log")), "killed")["signal"], 31);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}

#[test]
fn a_time_limit_is_named() {
    for runtime in [&[][..], NATIVE] {
        let world = World::with_dockerfile("FROM BUSYBOX\nRUN sleep 120\n");
        world.write("limit.cfg", format!("{COPIED}time_limit: 2\n"));
        let ran = world.build(&[&["--no-cache", "--sandbox-config", "limit.cfg"], runtime].concat());
        let (_, log) = kept(&ran.ends_with(4));
        assert_eq!(only(&log, "limit")["limit"], "time");
        only(&log, "killed");
    }
}

#[test]
fn a_jail_that_is_none_says_why() {
    let world = small();
    // A shim that forges all that can be forged: the guest runs, with the right label, and finds no jail around it.
    let shim = world.write(
        "shim/nsjail",
        r#"#!/bin/sh
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in --config) config=$2 ;; esac
    shift
done
nonce=$(sed -n 's/.*KTL_SANDBOX_NONCE=\([0-9a-f]*\).*/\1/p' "$config")
shift 2
exec env -i KTL_SANDBOX_ACTIVE=1 KTL_SANDBOX_NONCE="$nonce" KTL "$@"
"#
        .replace("KTL \"", concat!(env!("CARGO_BIN_EXE_ktl"), " \"")),
    );
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = world.build(&["--sandbox-bin", shim.to_str().unwrap()]).ends_with(4);
    let (_, log) = kept(&ran);
    assert!(events(&log, "proof").is_empty(), "{log:#?}");
    let why = only(&log, "unproven")["why"].as_str().unwrap();
    assert!(!why.is_empty(), "{log:#?}");

    // One that does not start has its stage, and the jail's own words.
    world.write("bad.cfg", format!("{COPIED}cwd: \"/not/there\"\n").replacen("cwd: \"/workspace\"\n", "", 1));
    for runtime in [&[][..], NATIVE] {
        let args = ["--sandbox-config", "bad.cfg", "--sandbox-workdir", "/not/there"];
        let (_, log) = kept(&world.build(&[&args, runtime].concat()).ends_with(4));
        let failed = only(&log, "jail_failed");
        assert!(
            !failed["stage"].as_str().unwrap().is_empty() && !failed["detail"].as_str().unwrap().is_empty()
        );
        let level =
            events(&log, "jail").iter().any(|line| line["level"] == "error" || line["level"] == "fatal");
        assert!(level, "{log:#?}");
    }
}

#[test]
fn a_refusal_of_a_failed_build_is_kept() {
    let astray = AstrayRegistry::start().unwrap();
    let registry = astray.address();
    let scratch = ScratchDir::new("refusal").unwrap();
    let options = Options { plain_http: vec![registry.to_owned()], ..Options::default() };
    let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
    let world = World::with_dockerfile(&format!("FROM {registry}/private:1\n"));
    let config = format!("{{\"auths\":{{\"{registry}\":{{\"auth\":\"dXNlcjpodW50ZXIy\"}}}}}}");
    world.write("home/.docker/config.json", config);
    for runtime in [&[][..], NATIVE] {
        let mut command = world.command();
        command.env("KTL_BUILDER", daemon.address()).args(["build", "ctx"]).args(runtime);
        let ran = world.run(&mut command).ends_with(1).says("[broker] refused");
        let (path, log) = kept(&ran);
        let record = &only(&log, "broker")["record"];
        assert!(record["refused"].as_u64().unwrap() > 0, "{record}");
        assert!(record["refusals"][0]["reason"].as_str().unwrap().contains("elsewhere.example"), "{record}");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("hunter2") && !text.contains("dXNlcjpodW50ZXIy"), "{text}");
    }
}

#[test]
fn a_cache_that_takes_no_log_changes_nothing_else() {
    let world = small();
    // Not even where the policy is shown at the place of its mistake.
    world.write("typo.cfg", "envar: \"POLICY_TOKEN=value-in-the-policy\" x y\n");
    let (path, _) = kept(&world.build(&["--sandbox-config", "typo.cfg"]).ends_with(4));
    assert!(!fs::read_to_string(&path).unwrap().contains("value-in"));
    fs::remove_dir_all(world.path("home/.cache/ktl/logs")).unwrap();
    world.write("home/.cache/ktl/logs", "in the way");
    let missing = world.path("no-nsjail").display().to_string();
    world.build(&["--sandbox-bin", &missing]).ends_with(4).says("no jail").says("could not be kept");
    assert!(Path::new(&world.path("home/.cache/ktl/logs")).is_file());
}
