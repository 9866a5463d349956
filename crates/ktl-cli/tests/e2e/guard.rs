//! Keys and logins in a context: told, kept back, or none of ktl's business.

use std::fs;

use crate::ktl::World;

const COPY_ALL: &str = "FROM scratch\nCOPY . /\n";

/// The form of a key, and not a key.
fn key() -> String {
    let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";
    format!("-----BEGIN PRIVATE KEY-----\n{line}\n{line}\n-----END PRIVATE KEY-----\n")
}

#[test]
fn a_key_is_told_and_sent_or_kept_back() {
    let world = World::with_dockerfile(COPY_ALL);
    world.write("ctx/tls/server.key", key());
    let said = "tls/server.key holds a private key (rule private-key)";
    world.build(&["-o", "warned"]).ok().says("[guard] WARNING: ").says(said).says("--context-guard=deny");
    assert_eq!(world.read("warned/tls/server.key"), key());
    world.build(&["-o", "off", "--context-guard", "off"]).ok().says_not("[guard]");
    let json = world.build(&["-o", "json", "--no-cache", "--progress=rawjson"]).ok().says(said);
    let lines = json.stderr.lines().filter(|line| line.contains("[guard]"));
    assert!(
        lines.clone().count() > 0 && lines.into_iter().all(|line| line.starts_with('{')),
        "{}",
        json.stderr
    );

    for sandbox in [&["--sandbox"][..], &["--sandbox=off"]] {
        let denied = [&["-o", "denied", "--context-guard=deny"], sandbox].concat();
        world.build(&denied).ends_with(5).says(said).says("Nothing of it was sent").says_not("panicked");
    }
    let of_env = |value| {
        let mut command = world.command();
        world.run(command.args(["build", "ctx", "-o", "denied"]).env("KTL_CONTEXT_GUARD", value))
    };
    of_env("deny").ends_with(5).says(said);
    of_env("maybe").ends_with(2).says("KTL_CONTEXT_GUARD: \"maybe\" is none of warn, deny");
    of_env("off").ends_with(2).says("--context-guard has to be typed");
    assert!(!world.path("denied").exists());

    // What is not sent is nobody's concern.
    world.write("ctx/.dockerignore", "**/*.key\n");
    world.build(&["-o", "ignored", "--context-guard=deny"]).ok().says_not("[guard]");
    assert!(!world.path("ignored/tls/server.key").exists());
}

#[test]
fn hermetic_keeps_back_by_itself() {
    let world = World::with_dockerfile("FROM scratch\nCOPY --from=certs . /\n");
    world.write("certs/ca.pem", key());
    let args = ["--build-context", "certs=certs", "-o", "out", "--hermetic=best-effort"];
    world.build(&args).ends_with(5).says("ca.pem of the context certs holds a private key");
    world.build(&[&args[..], &["--context-guard", "warn"]].concat()).ok().says("[guard] WARNING: ca.pem");
}

#[test]
fn a_file_that_has_another_name_outside_is_told() {
    let world = World::with_dockerfile(COPY_ALL);
    world.write("precious", "precious");
    fs::hard_link(world.path("precious"), world.path("ctx/harmless")).unwrap();
    fs::hard_link(world.path("ctx/Dockerfile"), world.path("ctx/Containerfile")).unwrap();
    let said = "harmless is a hard link, and another name of the same file lies outside";
    world.build(&["-o", "out"]).ok().says(said).says_not("Containerfile is");
    world.build(&["-o", "denied", "--context-guard=deny"]).ends_with(5).says(said);
}
