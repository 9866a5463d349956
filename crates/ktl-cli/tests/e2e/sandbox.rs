//! `ktl sandbox`: looking at the jail, at this host, and at policies.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::Value;

use crate::ktl::{PARTS, Ran, World};

fn sandbox(world: &World, args: &[&str]) -> Ran {
    world.run(world.command().arg("sandbox").args(args))
}

fn json(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\nstderr: {}", ran.stdout, ran.stderr))
}

/// Target to verdict.
fn verdicts(ran: &Ran) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let targets = json(ran)["targets"].as_array().unwrap().clone();
    targets.iter().map(|target| (text(&target["target"]), text(&target["verdict"]))).collect()
}

/// The shape of a policy that many people copied.
pub const COPIED: &str = "name: \"ci\"\nmode: EXECVE\ncwd: \"/workspace\"\nclone_newuser: true\nclone_newnet: false\nkeep_caps: false\n\
                      seccomp_string: \"DEFAULT ALLOW\"\nmount { dst: \"/\" fstype: \"tmpfs\" rw: true }\n\
                      mount { dst: \"/proc\" fstype: \"proc\" }\nmount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true options: \"size=2G\" }\n\
                      mount { src: \"/etc/resolv.conf\" dst: \"/etc/resolv.conf\" is_bind: true }\n\
                      mount { src: \"/dev\" dst: \"/dev\" is_bind: true rw: true }\n";

#[test]
fn the_usual_things_are_hidden() {
    let world = World::new();
    let ran = sandbox(&world, &["probe", "--expect", "hidden"]).ok();
    assert!(ran.stdout.matches("hidden").count() >= 20, "{}", ran.stdout);
    assert!(ran.stdout.contains("proof: own namespaces: "), "{}", ran.stdout);
    assert!(!ran.stdout.contains("VISIBLE"), "{}", ran.stdout);
    assert!(
        ran.stdout.lines().any(|line| line.starts_with("/etc/passwd") && line.ends_with("file")),
        "{}",
        ran.stdout
    );
}

#[test]
fn probe_tells_hidden_from_visible() {
    let world = World::new();
    world.write("ctx/f", "x");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().to_string();
    let listener = UnixListener::bind(world.path("home/s.sock")).unwrap();
    let socket = format!("unix:{}", world.path("home/s.sock").display());
    let builder = format!("unix:{}", PARTS.daemon.socket().display());
    let hidden = [
        "/etc/shadow",
        &port,
        "localhost:22",
        "[::1]:22",
        &socket,
        &builder,
        "unix:@no-such-name",
        "cap:CAP_SYS_ADMIN",
        "cap:chown",
        "env:HOME",
        "env:KTL_BUILDER",
    ];
    let visible =
        ["/workspace/f", "/ktl-bin/ktl", "/proc/self/status", "/dev/null", "env:KTL_SANDBOX_ACTIVE"];
    let mut args = vec!["probe", "--json", "--context", "ctx"];
    args.extend(hidden);
    args.extend(visible);
    args.push("builder.example:80");
    let ran = sandbox(&world, &args).ok();
    let found = verdicts(&ran);
    for (index, target) in hidden.iter().enumerate() {
        assert_eq!(found[index].1, "hidden", "{target}: {}", ran.stdout);
    }
    for (index, target) in visible.iter().enumerate() {
        assert_eq!(found[hidden.len() + index].1, "visible", "{target}: {}", ran.stdout);
    }
    let named = &json(&ran)["targets"][hidden.len() + visible.len()];
    assert_eq!(named["verdict"], "unknown");
    assert!(named["answer"].as_str().unwrap().contains("names are not resolved"), "{named}");
    let all = json(&ran);
    assert_eq!(all["targets"][0]["on_host"], true);
    assert!(all["proof"]["namespaces"].as_array().unwrap().len() >= 6);
    // The listeners were there all the time.
    drop((tcp, listener));
}

#[test]
fn expectations_decide_the_exit() {
    let world = World::new();
    world.write("ctx/f", "x");
    let bind = format!("{}:/shown", world.path("ctx").display());
    for (args, code) in [
        (&["/etc/shadow", "--expect", "hidden"][..], 0),
        (&["/etc/shadow", "--expect", "visible"], 1),
        (&["/workspace/f", "--context", "ctx", "--expect", "visible"], 0),
        (&["/workspace/f", "--context", "ctx", "--expect", "hidden"], 1),
        (&["/etc/shadow", "/workspace", "--expect", "hidden"], 1),
        (&["/shown/f", "--sandbox-bind", &bind, "--expect", "visible"], 0),
        // What nobody can tell is neither.
        (&["builder.example:80", "--expect", "hidden"], 1),
        (&["builder.example:80", "--expect", "visible"], 1),
        (&["/etc/shadow", "--hermetic", "--expect", "hidden"], 0),
        (&["relative/path"], 2),
        (&["cap:EVERYTHING"], 2),
        (&["/x", "--context", "no-such-dir"], 2),
        (&["/x", "--sandbox-bin", "no-such-nsjail"], 4),
        (&["/x", "--sandbox-config", "no-such.cfg"], 4),
    ] {
        let ran = sandbox(&world, &[&["probe"], args].concat());
        assert_eq!(ran.code, Some(code), "{args:?}\n{}\n{}", ran.stdout, ran.stderr);
    }
    let ran = sandbox(&world, &["probe", "/workspace", "--expect", "hidden"]);
    assert!(ran.stdout.contains("<- not as expected"), "{}", ran.stdout);
    let ran = sandbox(&world, &["probe", "/workspace", "/etc/shadow", "--expect", "hidden", "--json"]);
    assert_eq!(json(&ran)["as_expected"], false);
    assert_eq!(json(&ran)["targets"][1]["as_expected"], true);
}

#[test]
fn a_copied_policy_still_hides_in_ktls_hands() {
    let world = World::new();
    world.write("ci.cfg", COPIED);
    let ran = sandbox(
        &world,
        &[
            "probe",
            "--sandbox-config",
            "ci.cfg",
            "--expect",
            "hidden",
            "/etc/shadow",
            "/dev/kmsg",
            "127.0.0.1:1",
        ],
    );
    ran.ok().says("EXECVE -> ONCE");
}

#[test]
fn a_shim_cannot_answer_for_the_jail() {
    let world = World::new();
    let shim = world.write(
        "shim/nsjail",
        "#!/bin/sh\nwhile [ $# -gt 0 ] && [ \"$1\" != -- ]; do shift; done\nshift\nshift\nexec KTL sandbox probe\n"
            .replace("KTL", env!("CARGO_BIN_EXE_ktl")),
    );
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let ran =
        sandbox(&world, &["probe", "/etc/shadow", "--sandbox-bin", shim.to_str().unwrap()]).ends_with(4);
    assert!(!ran.stdout.contains("hidden"), "{}", ran.stdout);
}

#[test]
fn doctor_finds_a_host_that_can_build() {
    let world = World::new();
    let ran = sandbox(&world, &["doctor", "--json"]);
    let report = json(&ran);
    assert_eq!(ran.code, Some(0), "{}", ran.stdout);
    let status = |name: &str| {
        let checks = report["checks"].as_array().unwrap();
        let check = checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no {name}: {report:#}"));
        check["status"].as_str().unwrap().to_owned()
    };
    for name in [
        "user namespace",
        "mnt namespace",
        "pid namespace",
        "ipc namespace",
        "uts namespace",
        "cgroup namespace",
        "net namespace",
        "id maps",
        "nsjail",
        "jail",
        "builder",
        "builder's version",
        "RUN without network",
        "registry logins",
    ] {
        assert_eq!(status(name), "ok", "{name}: {report:#}");
    }
    for name in ["builder's trust", "cache", "staged ktl", "room for the cache", "room in /tmp"] {
        assert_ne!(status(name), "fail", "{name}: {report:#}");
    }
    let text = sandbox(&world, &["doctor"]).ok().stdout;
    assert!(text.contains("proof") || text.contains("own namespaces"), "{text}");
    assert!(text.contains("BuildKit v"), "{text}");
}

#[test]
fn doctor_calls_nothing_ok_that_was_not_done() {
    let world = World::new();
    let checks = |ran: &Ran| json(ran)["checks"].as_array().unwrap().clone();
    let gone = format!("unix://{}", world.path("gone.sock").display());
    let ran = sandbox(&world, &["doctor", "--json", "--builder", &gone]).ends_with(3);
    for check in checks(&ran) {
        let name = check["name"].as_str().unwrap();
        if name.starts_with("builder") || name == "RUN without network" {
            assert_ne!(check["status"], "ok", "{check}");
            assert!(!check["mend"].as_array().unwrap().is_empty(), "{check}");
        }
    }
    // Something that listens and is no BuildKit.
    let listener = UnixListener::bind(world.path("other.sock")).unwrap();
    let other = format!("unix://{}", world.path("other.sock").display());
    let answering = std::thread::spawn(move || drop(listener.accept()));
    let ran = sandbox(&world, &["doctor", "--json", "--builder", &other]).ends_with(3);
    answering.join().unwrap();
    let found = checks(&ran);
    let version = found.iter().find(|check| check["name"] == "builder's version").unwrap();
    assert_eq!(version["status"], "fail", "{version}");
    assert!(!found.iter().any(|check| check["name"] == "RUN without network"), "{found:?}");

    // No nsjail, no jail, and a builder that therefore was not asked.
    let missing = world.path("none").display().to_string();
    let ran = sandbox(&world, &["doctor", "--json", "--sandbox-bin", &missing]).ends_with(4);
    let found = checks(&ran);
    for (name, status) in
        [("nsjail", "fail"), ("jail", "fail"), ("builder", "ok"), ("builder's version", "warn")]
    {
        let check = found.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(check["status"], status, "{check}");
    }
    // A program that is called nsjail is not yet one.
    let shim = world.write("shim/nsjail", "#!/bin/sh\nexit 0\n");
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = sandbox(&world, &["doctor", "--json", "--sandbox-bin", shim.to_str().unwrap()]).ends_with(4);
    assert!(checks(&ran).iter().all(|check| check["name"] != "nsjail" || check["status"] == "fail"));
}

#[test]
fn doctor_sees_a_cache_that_others_may_write() {
    let world = World::new();
    let cache = world.path("home/.cache/ktl");
    fs::create_dir_all(&cache).unwrap();
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).unwrap();
    let ran = sandbox(&world, &["doctor"]).ends_with(1);
    assert!(ran.stdout.contains("chmod go-w"), "{}", ran.stdout);
}

#[test]
fn show_prints_a_policy_that_can_be_used_again() {
    let world = World::new();
    world.write("ci.cfg", COPIED);
    let ran = sandbox(&world, &["policy", "show", "--sandbox-config", "ci.cfg"]).ok();
    for part in [
        "# corrected: mode: EXECVE -> ONCE",
        "# corrected: clone_newnet",
        "/workspace",
        "/ktl-bin/ktl",
        "KTL_SANDBOX_ACTIVE=1",
    ] {
        assert!(ran.stdout.contains(part), "no {part:?} in\n{}", ran.stdout);
    }
    // Where the jail's context really comes from, not where root stages it.
    assert!(
        ran.stdout.contains(&world.path(".").canonicalize().unwrap().display().to_string()),
        "{}",
        ran.stdout
    );
    // nsjail's own parser takes it: with -h it reads the policy and stops.
    let shown = world.write("shown.cfg", &ran.stdout);
    let nsjail = std::process::Command::new(xtask::tools::nsjail().unwrap())
        .arg("--config")
        .arg(&shown)
        .arg("-h")
        .output()
        .unwrap();
    assert!(nsjail.status.success(), "{}", String::from_utf8_lossy(&nsjail.stderr));
    // And ktl's.
    sandbox(&world, &["policy", "diff", "shown.cfg", "shown.cfg"]).ok();
    let lint = sandbox(&world, &["policy", "lint", "shown.cfg", "--json"]);
    assert!(json(&lint).is_array(), "{}", lint.stdout);

    let ran = sandbox(&world, &["policy", "show", "--json"]).ok();
    let shown = json(&ran);
    assert_eq!(shown["from"], "linux-strict.cfg");
    assert_eq!(shown["corrections"], Value::Array(Vec::new()));
    world.write("shown.json", shown["policy"].to_string());
    let text = sandbox(&world, &["policy", "show"]).ok();
    world.write("shown2.cfg", &text.stdout);
    // The two forms differ in what each run has of its own, and in nothing else.
    let ran = sandbox(&world, &["policy", "diff", "shown.json", "shown2.cfg"]);
    for line in ran.stdout.lines().skip(2) {
        assert!(
            line.contains("uidmap") || line.contains("gidmap") || line.contains("KTL_SANDBOX_NONCE"),
            "{line}"
        );
    }
    sandbox(&world, &["policy", "show", "--sandbox-config", "none.cfg"]).ends_with(4).says("none.cfg");
}

#[test]
fn lint_is_a_gate() {
    let world = World::new();
    world.write("ci.cfg", COPIED);
    sandbox(&world, &["policy", "lint"]).ok();
    for name in ["linux-ci", "linux-strict.cfg", "ktl-hermetic"] {
        sandbox(&world, &["policy", "lint", name]).ok();
    }
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sandbox/linux-ci.cfg");
    sandbox(&world, &["policy", "lint", tree.to_str().unwrap()]).ok();
    let ran = sandbox(&world, &["policy", "lint", "ci.cfg"]).ends_with(1);
    for part in [
        "ci.cfg:2: open mode: EXECVE",
        "ci.cfg:5: open clone_newnet",
        "ci.cfg:12: open mount[4]: the host's /dev",
        "mend: ",
    ] {
        assert!(ran.stdout.contains(part), "no {part:?} in\n{}", ran.stdout);
    }
    let ran = sandbox(&world, &["policy", "lint", "linux-ci", "ci.cfg", "--json"]).ends_with(1);
    let found = json(&ran);
    assert_eq!(found[1]["policy"], "ci.cfg");
    assert_eq!(found[1]["findings"][0]["severity"], "open");
    world.write("broken.cfg", "mode: ONCE\nmuont {}\n");
    sandbox(&world, &["policy", "lint", "broken.cfg"]).ends_with(4).says("broken.cfg:2");
    sandbox(&world, &["policy", "lint", "nothing.cfg"]).ends_with(4).says("linux-strict");
}

#[test]
fn explain_tells_what_becomes_of_a_field() {
    let world = World::new();
    world.write("ci.cfg", COPIED);
    let ran = sandbox(&world, &["policy", "explain", "ci.cfg"]).ok();
    for part in [
        "2: mode: EXECVE",
        "ktl changes it to ONCE",
        "12: mount[4]",
        "ktl changes it to a minimal /dev",
        "10: mount[2]",
    ] {
        assert!(ran.stdout.contains(part), "no {part:?} in\n{}", ran.stdout);
    }
    let ran = sandbox(&world, &["policy", "explain", "--json"]).ok();
    let fields = json(&ran)["fields"].as_array().unwrap().clone();
    assert!(fields.len() > 20 && fields.iter().all(|field| field["ktl"].is_string()), "{fields:?}");
    // A policy that gives no jail is explained all the same.
    world.write("listen.cfg", "mode: LISTEN\nport: 1\n");
    let ran = sandbox(&world, &["policy", "explain", "listen.cfg"]).ok();
    assert!(
        ran.stdout.contains("ktl makes no jail of it") && ran.stdout.contains("mode: LISTEN"),
        "{}",
        ran.stdout
    );
    sandbox(&world, &["policy", "explain", "none.cfg"]).ends_with(4);
}

#[test]
fn diff_names_fields() {
    let world = World::new();
    world.write("a.cfg", "mode: ONCE\nmount { dst: \"/tmp\" fstype: \"tmpfs\" }\n");
    world.write("b.cfg", "# other words\nmount: [{ fstype: 'tmpfs', dst: '/tmp' }]\n");
    world.write("c.cfg", "mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true }\n");
    assert_eq!(sandbox(&world, &["policy", "diff", "a.cfg", "b.cfg"]).ok().stdout, "");
    let ran = sandbox(&world, &["policy", "diff", "a.cfg", "c.cfg"]).ends_with(1);
    assert_eq!(
        ran.stdout,
        "--- a.cfg\n+++ c.cfg\n- mount[/tmp].rw: false (default)\n+ mount[/tmp].rw: true\n"
    );
    let ran = sandbox(&world, &["policy", "diff", "linux-ci", "linux-strict", "--json"]).ends_with(1);
    assert!(json(&ran)["differences"].as_array().unwrap().len() > 3);
    sandbox(&world, &["policy", "diff", "a.cfg", "none.cfg"]).ends_with(4);
}
