//! The user's things that a build may use: secrets, agents, registry logins. They stay outside the jail.

use std::fs;
use std::process::{Command, Stdio};

use xtask::parts::{Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir, push_base_images};

use crate::ktl::World;

#[test]
fn secrets_from_files_and_variables() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS b\nRUN --mount=type=secret,id=f --mount=type=secret,id=e --mount=type=secret,id=none \
         test -e /run/secrets/none || cat /run/secrets/f /run/secrets/e | md5sum > /sum\nFROM scratch\nCOPY --from=b /sum /\n",
    );
    let file = world.write("secret.txt", "of-a-file ");
    let spec = format!("id=f,src={}", file.display());
    for extra in [None, Some("--sandbox=off")] {
        let mut command = world.command();
        command.env("TOKEN", "of-the-environment").args([
            "build",
            "ctx",
            "--no-cache",
            "--secret",
            &spec,
            "--secret",
            "id=e,env=TOKEN",
        ]);
        let ran = world.run(command.args(["-o", "out", "-v"]).args(extra)).ok();
        let ran = ran.says_not("of-a-file").says_not("of-the-environment");
        assert!(
            world.read("out/sum").starts_with("e58620ebbb7d393f6e9cdba54ac8fb6f"),
            "{} {}",
            world.read("out/sum"),
            ran.stderr
        );
    }
}

#[test]
fn a_required_secret_that_was_not_given() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX\nRUN --mount=type=secret,id=missing,required=true cat /run/secrets/missing\n",
    );
    world.build(&[]).ends_with(1).says("missing");
}

#[test]
fn an_agent_signs_for_a_step_and_shows_no_key() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS b\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo \"$SSH_AUTH_SOCK\" > /got\nFROM scratch\nCOPY --from=b /got /\n",
    );
    let key = world.path("id");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output().unwrap();
    assert!(made.status.success());
    let spec = format!("default={}", key.display());
    world.build(&["--ssh", &spec, "-o", "out"]).ok();
    assert!(world.read("out/got").contains("/run/buildkit/ssh_agent"), "{}", world.read("out/got"));
    World::with_dockerfile("FROM BUSYBOX\nRUN --mount=type=ssh,required=true true\n")
        .build(&[])
        .ends_with(1)
        .says("ssh");
}

/// A login in docker's config, with a password or by the token of an authority, works jailed; without one the message says
/// where logins are looked for.
#[test]
fn registry_logins() {
    for auth in [
        Auth::Htpasswd { user: "u".into(), password: "p w".into() },
        Auth::Token { user: "u".into(), password: "p w".into() },
    ] {
        let by_token = matches!(auth, Auth::Token { .. });
        let scratch = ScratchDir::new("auth").unwrap();
        let registry = Registry::start(&scratch.join("registry"), auth).unwrap();
        let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
        let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
        push_base_images(&daemon, &registry, &[BaseImage::Busybox]).unwrap();
        let world = World::new();
        world
            .write("ctx/Dockerfile", format!("FROM {}\nRUN true\n", BaseImage::Busybox.reference(&registry)));
        let name = format!("{}/private:1", registry.address());
        let run = |config: Option<&std::path::Path>, extra: &[&str]| {
            let mut command = world.command();
            command
                .env("KTL_BUILDER", daemon.address())
                .args(["build", "ctx", "-t", &name, "--push"])
                .args(extra);
            if let Some(dir) = config {
                command.env("DOCKER_CONFIG", dir);
            }
            world.run(&mut command)
        };
        run(None, &[]).ends_with(1).says("config.json");
        let config = registry.docker_config();
        let dir = if config.is_dir() { config } else { config.parent().unwrap() };
        let ran = run(Some(dir), &["-v"]).ok().says_not("p w");
        // With a token authority the builder gets tokens and never the password.
        let broker = ran.stderr.lines().find(|line| line.starts_with("[broker] asked:")).unwrap_or_default();
        assert_eq!(broker.contains("token "), by_token, "{broker}");
        assert_eq!(broker.contains("credentials "), !by_token, "{broker}");
        run(Some(dir), &["--sandbox=off", "--no-cache"]).ok();
    }
}

#[test]
fn a_credential_helper_is_asked() {
    let scratch = ScratchDir::new("helper").unwrap();
    let auth = Auth::Htpasswd { user: "u".into(), password: "secret".into() };
    let registry = Registry::start(&scratch.join("registry"), auth).unwrap();
    let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
    let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
    let world = World::with_dockerfile("FROM scratch\nCOPY x /\n");
    world.write("ctx/x", "x");
    let helper = world.write("bin/docker-credential-test", "#!/bin/sh\nread host\necho \"$host\" >> \"$HOME/asked\"\necho '{\"Username\":\"u\",\"Secret\":\"secret\"}'\n");
    fs::set_permissions(helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.write(
        "home/.docker/config.json",
        format!("{{\"credHelpers\":{{\"{}\":\"test\"}}}}", registry.address()),
    );
    let name = format!("{}/private:1", registry.address());
    let mut command = world.command();
    let path = format!("{}:/usr/bin:/bin", world.path("bin").display());
    command
        .env("PATH", path)
        .env("KTL_BUILDER", daemon.address())
        .args(["build", "ctx", "-t", &name, "--push"]);
    world.run(command.stdout(Stdio::null())).ok();
    assert!(world.read("home/asked").contains(registry.address()));
}
