//! `ktl login` and `ktl logout` with registries that ask for a password and for tokens; docker's own clients find what is
//! kept.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use xtask::parts::{Auth, Registry};

use crate::ktl::{PARTS, Ran, World};

fn login(world: &World, registry: &Registry, password: &str, args: &[&str]) -> Ran {
    let mut command = world.command();
    command.args(["login", registry.address(), "-u", "user", "--password-stdin"]).args(args);
    piped(&mut command, password)
}

fn piped(command: &mut Command, input: &str) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Ran::of(child.wait_with_output().unwrap())
}

/// What buildx hears of an image that is not there: a registry says so to its users alone.
fn buildx_is_let_in(world: &World, registry: &Registry) -> bool {
    let image = format!("{}/nothing:here", registry.address());
    let ran = world.run(world.buildx().args(["imagetools", "inspect", &image])).ends_with(1);
    let known = ran.stderr.contains("not found");
    assert!(
        known
            || ["authorization failed", "no basic auth", "401", "denied", "insufficient"]
                .iter()
                .any(|word| ran.stderr.contains(word)),
        "{}",
        ran.stderr
    );
    known
}

fn registry(name: &str, auth: fn(String, String) -> Auth) -> Registry {
    let dir = PARTS.scratch.dir("login").unwrap().join(name);
    Registry::start(&dir, auth("user".into(), "pass:word".into())).unwrap()
}

#[test]
fn logins_are_checked_kept_and_forgotten() {
    for (name, auth) in [
        ("basic", (|user, password| Auth::Htpasswd { user, password }) as fn(String, String) -> Auth),
        ("token", |user, password| Auth::Token { user, password }),
    ] {
        let registry = registry(name, auth);
        let world = World::new();
        let config = "home/.docker/config.json";
        login(&world, &registry, "wrong", &[]).ends_with(1).says("does not take this login");
        assert!(!world.path(config).exists(), "{name}: a refused login was kept");
        assert!(!buildx_is_let_in(&world, &registry), "{name}");

        world.write(config, r#"{"psFormat":"x","auths":{"other.example":{"auth":"eDp5"}}}"#);
        let ran = login(&world, &registry, "pass:word\n", &[]).ok().says("readable in");
        assert_eq!(ran.stdout, "Login Succeeded\n");
        assert!(!ran.stderr.contains("pass:word"));
        assert!(buildx_is_let_in(&world, &registry), "{name}");
        let mode = world.path(config).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        let text = world.read(config);
        assert!(text.find("psFormat") < text.find("auths") && text.contains("other.example"), "{text}");

        // A login that is kept needs nobody to ask.
        let again = world.run(world.command().args(["login", registry.address()])).ok();
        assert_eq!(again.stdout, "Login Succeeded\n");

        let address = format!("http://{}/v2/", registry.address());
        let out = world.run(world.command().args(["logout", &address])).ok().stdout;
        assert_eq!(out, format!("Removing login credentials for {}\n", registry.address()));
        assert!(!buildx_is_let_in(&world, &registry), "{name}");
        assert!(world.read(config).contains("other.example"));
        world.run(world.command().args(["logout", &address])).ok();
        world.run(world.command().args(["login", registry.address()])).ends_with(2).says("--password-stdin");
    }
}

#[test]
fn credential_helpers_keep_logins() {
    let registry = registry("helper", |user, password| Auth::Htpasswd { user, password });
    let world = World::new();
    let script = "#!/bin/sh\ncase $1 in
        store) cat >\"$HOME/kept\";;
        get) cat \"$HOME/kept\" 2>/dev/null || { echo 'credentials not found in native keychain'; exit 1; };;
        erase) rm \"$HOME/kept\";;
        esac\n";
    let helper = world.write("bin/docker-credential-test", script);
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!(r#"{{"credHelpers":{{"{}":"test"}}}}"#, registry.address());
    world.write("home/.docker/config.json", config);
    let path = format!("{}:/usr/bin:/bin", world.path("bin").display());

    let mut command = world.command();
    command.env("PATH", &path).args(["login", registry.address(), "-u", "user", "-p", "pass:word"]);
    world.run(&mut command).ok().says("WARNING: --password shows").says_not("readable in");
    assert!(world.read("home/kept").contains("pass:word"));
    let config = world.read("home/.docker/config.json");
    assert!(config.contains(registry.address()) && !config.contains("\"auth\""), "{config}");
    let again = world.run(world.command().env("PATH", &path).args(["login", registry.address()])).ok();
    assert_eq!(again.stdout, "Login Succeeded\n");

    world.run(world.command().env("PATH", &path).args(["logout", registry.address()])).ok();
    assert!(!world.path("home/kept").exists());
    let config: serde_json::Value = serde_json::from_str(&world.read("home/.docker/config.json")).unwrap();
    assert_eq!(config["auths"], serde_json::json!({}));

    // Without its helper a login is not put anywhere else.
    login(&world, &registry, "pass:word", &[]).ends_with(1).says("docker-credential-test is not on");
    assert!(!world.read("home/.docker/config.json").contains("\"auth\""));
}

#[test]
fn what_cannot_be_checked_is_told() {
    let world = World::new();
    login(&world, &PARTS.registry, "any", &[]).ok().says("asks nobody for a login");
    let mut nobody = world.command();
    nobody.args(["login", "127.0.0.1:1", "-u", "user", "--password-stdin"]);
    piped(&mut nobody, "x").ends_with(1).says("cannot reach 127.0.0.1:1").says("Nothing was kept");
    assert!(!world.read("home/.docker/config.json").contains("127.0.0.1:1\""));
    let mut empty = world.command();
    empty.args(["login", PARTS.registry.address(), "-u", "user", "--password-stdin"]);
    piped(&mut empty, "\n").ends_with(2).says("password is empty");
}
