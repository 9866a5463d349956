//! What a person reads when a build goes wrong, and the exit code that a script gets.

use crate::ktl::{PARTS, World};

#[test]
fn a_failed_step_shows_its_words_and_its_place() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN echo one; echo two words >&2; exit 7\n");
    world
        .build(&[])
        .ends_with(1)
        .says("two words")
        .says("Dockerfile:2")
        .says("2 | >>> RUN echo one")
        .says("exit code: 7");
}

#[test]
fn an_unknown_stage() {
    let world = World::with_dockerfile("FROM scratch AS one\nCOPY x /\n");
    world.write("ctx/x", "");
    world.build(&["--target", "nope"]).ends_with(1).says("nope");
}

#[test]
fn a_missing_file_in_copy() {
    World::with_dockerfile("FROM scratch\nCOPY not-there /\n")
        .build(&[])
        .ends_with(1)
        .says("not-there")
        .says("Dockerfile:2")
        .says(".dockerignore");
}

#[test]
fn a_base_image_that_is_not_there() {
    let text = format!("FROM {}/nothing:here\n", PARTS.registry.address());
    World::with_dockerfile(&text).build(&[]).ends_with(1).says("nothing:here").says("not found");
}

#[test]
fn a_dockerfile_that_makes_no_sense() {
    World::with_dockerfile("FROM scratch\nRUNN x\n")
        .build(&[])
        .ends_with(1)
        .says("RUNN")
        .says("Dockerfile:2");
}

#[test]
fn usage_errors_tell_what_and_why() {
    let world = World::with_dockerfile("FROM scratch\n");
    for (args, part) in [
        (&["build", "nowhere"][..], "does not exist"),
        (&["build", "ctx/Dockerfile"], "not a directory"),
        (&["build", "ctx", "-f", "ctx/none"], "no Dockerfile at"),
        (&["build", "ctx", "-f", "ctx"], "is a directory"),
        (&["build", "ctx", "-t", "UPPER"], "--tag"),
        (&["build", "ctx", "-o", "type=nope"], "type=nope"),
        (&["build", "ctx", "-o", "type=local"], "dest"),
        (&["build", "ctx", "--push"], "-t REGISTRY/NAME:TAG"),
        (&["build", "ctx", "--push", "--load", "-t", "x"], "--push and --load"),
        (&["build", "ctx", "--platform", "nonsense"], "--platform"),
        (&["build", "ctx", "--secret", "src=x"], "--secret"),
        (&["build", "ctx", "--secret", "id=x,src=none"], "none"),
        (&["build", "ctx", "--secret", "id=x,env=NOT_SET"], "NOT_SET"),
        (&["build", "ctx", "--ssh", "default"], "SSH_AUTH_SOCK"),
        (&["build", "ctx", "--builder", "ftp://x"], "ftp://"),
        (&["build", "ctx", "--progress", "nope"], "nope"),
        (&["build", "ctx", "--sandbox=off", "--sandbox-logs"], "--sandbox-logs means nothing"),
        (&["build", "ctx", "--sandbox=off", "--hermetic"], "--hermetic means nothing"),
        (&["build", "ctx", "--sandbox-bind", "x"], "HOST:GUEST"),
        (&["build", "ctx", "--sandbox-bind", "/etc:relative"], "absolute"),
        (&["build", "ctx", "--sandbox-bind", "/nowhere:/x"], "nothing at"),
        (&["build", "ctx", "--sandbox-workdir", "x"], "absolute"),
        (&["build", "ctx", "-o", "type=tar,dest=ctx"], "is a directory"),
        (&["build", "ctx", "--iidfile", "/proc/none/iid"], "/proc/none"),
        (&["build"], "PATH"),
        (&["nonsense"], "nonsense"),
    ] {
        let ran = world.run(world.command().args(args));
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(part), "{args:?} does not say {part:?}:\n{}", ran.stderr);
        assert_eq!(ran.stdout, "", "{args:?}");
    }
}

#[test]
fn builders_that_do_not_answer() {
    let world = World::with_dockerfile("FROM scratch\n");
    let missing = world.path("none.sock");
    world
        .build(&["--builder", &format!("unix://{}", missing.display())])
        .ends_with(3)
        .says("none.sock")
        .says("buildkitd");
    let dead = world.path("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    world.build(&["--builder", &format!("unix://{}", dead.display())]).ends_with(3).says("nothing listens");
    world.build(&["--builder", "tcp://127.0.0.1:1"]).ends_with(3).says("tcp://127.0.0.1:1");
}

#[test]
fn a_peer_that_is_no_builder() {
    use std::io::{Read, Write};
    let world = World::with_dockerfile("FROM scratch\n");
    let socket = world.path("rubbish.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            let _ = stream.read(&mut [0; 64]);
        }
    });
    world.build(&["--builder", &format!("unix://{}", socket.display())]).ends_with(3).says("builder");
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let world = World::with_dockerfile("FROM scratch\n");
    let socket = world.path("silent.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    world.build(&["--builder", &format!("unix://{}", socket.display())]).ends_with(3).says("builder");
}

#[test]
fn the_search_says_what_to_start() {
    let world = World::with_dockerfile("FROM scratch\n");
    if std::path::Path::new("/run/buildkit/buildkitd.sock").exists() {
        eprintln!("skipped: this machine has a builder of its own");
        return;
    }
    let ran = world.run(
        world
            .command()
            .env_remove("KTL_BUILDER")
            .env("XDG_RUNTIME_DIR", world.path("home"))
            .args(["build", "ctx", "-v"]),
    );
    ran.ends_with(3)
        .says("found no builder")
        .says("/run/buildkit/buildkitd.sock")
        .says("home/buildkit/buildkitd.sock")
        .says("--builder");
}

#[test]
fn tls_with_client_certificates() {
    let tls = xtask::parts::Options { tls: true, ..Default::default() };
    let scratch = xtask::parts::ScratchDir::new("tls").unwrap();
    let daemon = xtask::parts::Buildkitd::start(&scratch.join("d"), &tls).unwrap();
    let tls = daemon.tls().unwrap();
    let world = World::with_dockerfile("FROM scratch\nCOPY x /\n");
    world.write("ctx/x", vec![b'x'; 3 << 20]);
    let dir = tls.client_dir.to_str().unwrap();
    world.build(&["--builder", &tls.address, "--tlsdir", dir, "-o", "out"]).ok();
    assert_eq!(std::fs::metadata(world.path("out/x")).unwrap().len(), 3 << 20);
    world.build(&["--builder", &tls.address]).ends_with(3);
    let ran = world.build(&["--builder", &tls.address, "--tlsdir", dir, "--tlsservername", "other.example"]);
    ran.ends_with(3).says("no TLS with the builder");
}

#[test]
fn a_build_that_takes_too_long_is_given_up() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN echo ready; sleep 1000\n");
    for runtime in ["nsjail", "native"] {
        let ran = world.build(&["--no-cache", "--timeout", "3s", "--sandbox-runtime", runtime]).ends_with(3);
        ran.says("ready").says("given up after 3 s").says("--timeout");
    }
    world.build(&["--timeout", "soon"]).ends_with(2).says("--timeout");
}
