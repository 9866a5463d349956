//! `ktl sandbox doctor`: both runtimes, and registries.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use xtask::parts::{Auth, Registry, ScratchDir};

use crate::ktl::{NATIVE, PARTS, Ran, World};

/// With nothing about nsjail in the environment but what `args` and `path` say.
fn doctor(world: &World, path: &str, args: &[&str]) -> Ran {
    let mut command = world.command();
    command.env_remove("KTL_SANDBOX_BIN").env("PATH", path).args(["sandbox", "doctor", "--json"]).args(args);
    world.run(&mut command)
}

fn found(ran: &Ran, name: &str) -> Option<(String, String)> {
    let report: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name)?.clone();
    Some((check["status"].as_str().unwrap().to_owned(), check["found"].as_str().unwrap().to_owned()))
}

#[track_caller]
fn is(ran: &Ran, name: &str, status: &str, part: &str) {
    let check = found(ran, name).unwrap_or_else(|| panic!("no {name}: {}", ran.stdout));
    assert!(check.0 == status && check.1.contains(part), "{name}: {check:?}");
}

#[test]
fn each_runtime_is_tried_by_starting_its_jail() {
    let world = World::new();
    let nsjail = xtask::tools::nsjail().unwrap().canonicalize().unwrap();
    let dir = nsjail.parent().unwrap().display().to_string();

    let ran = doctor(&world, &dir, &[]).ok();
    is(&ran, "runtime", "ok", "builds take nsjail (found on PATH), as auto does");
    is(&ran, "jail", "ok", "started one");
    is(&ran, "jail by native", "ok", "started one");
    for name in ["kernel settings", "landlock", "control groups"] {
        assert_ne!(found(&ran, name).unwrap().0, "fail", "{name}");
    }

    let ran = doctor(&world, &dir, NATIVE).ok();
    is(&ran, "runtime", "ok", "builds take native (asked for); auto would take nsjail");
    is(&ran, "jail by nsjail", "ok", "started one");

    // Where there is no nsjail, ktl's own runtime is enough.
    let ran = doctor(&world, "/usr/bin:/bin", &[]).ok();
    is(&ran, "nsjail", "warn", "not installed");
    is(&ran, "runtime", "ok", "builds take native (no nsjail is installed), as auto does");
    is(&ran, "jail", "ok", "started one");
    assert_eq!(found(&ran, "jail by nsjail"), None);

    // One that is broken matters where builds would take it, and there is a way around it.
    let broken = world.write("bin/nsjail", "#!/bin/sh\nexit 1\n");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    let dir = broken.parent().unwrap().display().to_string();
    let ran = doctor(&world, &dir, &[]).ends_with(4);
    is(&ran, "nsjail", "fail", "");
    is(&ran, "jail", "fail", "");
    is(&ran, "jail by native", "ok", "started one");
    assert!(ran.stdout.contains("--sandbox-runtime takes it"), "{}", ran.stdout);
    let ran = doctor(&world, &dir, NATIVE).ok();
    is(&ran, "nsjail", "warn", "");
    is(&ran, "jail by nsjail", "warn", "");
}

#[test]
fn limits_of_control_groups_are_told() {
    let world = World::new();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sandbox/linux-strict.cfg");
    let text = fs::read_to_string(policy).unwrap();
    world.write("limits.cfg", format!("{text}\ncgroup_pids_max: 500\n"));
    let ran = doctor(&world, "/usr/bin:/bin", &["--sandbox-config", "limits.cfg"]);
    let (_, control_groups) = found(&ran, "control groups").unwrap();
    assert!(control_groups.contains("cgroup_pids_max"), "{control_groups}");
    // Whether they can be had is the jail's to say.
    let jail = found(&ran, "jail").unwrap();
    assert_eq!(ran.code, Some(if jail.0 == "ok" { 0 } else { 4 }), "{jail:?}");
}

#[test]
fn registries_answer_and_are_sent_no_login() {
    let world = World::new();
    let scratch = ScratchDir::new("doctor").unwrap();
    let auth = Auth::Htpasswd { user: "ada".into(), password: "hunter2".into() };
    let closed = Registry::start(&scratch.join("registry"), auth).unwrap();
    let open = PARTS.registry.address();
    let name = |host: &str| format!("registry {host}");
    let path = "/usr/bin:/bin";

    let ran = doctor(&world, path, &[]).ok();
    is(&ran, "registry", "warn", "none was looked at");

    let ran = doctor(&world, path, &["--registry", open, "--registry", closed.address()]).ok();
    is(&ran, &name(open), "ok", "asks for no login");
    is(&ran, &name(closed.address()), "warn", "there is no login for it");

    // What docker's config names is looked at without being asked for.
    let config = fs::read(closed.docker_config().join("config.json")).unwrap();
    world.write("home/.docker/config.json", config);
    let ran = doctor(&world, path, &[]).ok();
    is(&ran, &name(closed.address()), "ok", "config.json has a login for it, which was not sent");
    assert!(!ran.stdout.contains("hunter2"), "{}", ran.stdout);

    let nobody = format!("127.0.0.1:{}", xtask::parts::free_port().unwrap());
    let ran = doctor(&world, path, &["--registry", &nobody]).ends_with(1);
    is(&ran, &name(&nobody), "fail", "does not answer");
    doctor(&world, path, &["--registry", "https://r.example"]).ends_with(2);
}

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What answers with a certificate is believed when this host trusts that certificate, and else not at all.
#[test]
fn certificates_of_registries_are_verified() {
    let world = World::new();
    let openssl = xtask::tools::openssl().unwrap();
    let (key, cert) = (world.path("key.pem"), world.path("cert.pem"));
    let made = Command::new(&openssl)
        .args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-days", "2", "-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let address = format!("127.0.0.1:{}", xtask::parts::free_port().unwrap());
    let mut server = Server(
        Command::new(&openssl)
            .args(["s_server", "-www", "-accept", &address, "-key"])
            .arg(&key)
            .arg("-cert")
            .arg(&cert)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut said = BufReader::new(server.0.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.is_ok_and(|line| line.contains("ACCEPT"))));

    let ask = |trusted: &Path| {
        let mut command = world.command();
        command.env("SSL_CERT_FILE", trusted).args(["sandbox", "doctor", "--json", "--registry", &address]);
        world.run(&mut command)
    };
    let name = format!("registry {address}");
    is(&ask(&cert).ok(), &name, "ok", "answers by TLS");
    is(&ask(&world.write("nothing.pem", "")).ends_with(1), &name, "fail", "does not answer");
}
