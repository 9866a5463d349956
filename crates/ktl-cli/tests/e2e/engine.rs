//! Docker Engines as builders, an old one (20.10, upgrade to h2c, graph drivers) and a new one (gRPC as it is, images in
//! containerd): the image lands in the Engine's own store, and the jail holds no socket of the Engine.

use std::fs;
use std::process::Command;

use xtask::parts::{DockerEngine, ScratchDir};

use crate::ktl::{NATIVE, PARTS, Ran, World, is_root};

fn build(world: &World, engine: &DockerEngine, args: &[&str]) -> Ran {
    let mut command: Command = world.command();
    command.env_remove("KTL_BUILDER").env("DOCKER_HOST", engine.host());
    // The Engines of the tests have no bridge.
    world.run(command.args(["build", "ctx", "--network", "none"]).args(args))
}

fn docker(engine: &DockerEngine, args: &[&str]) -> Ran {
    Ran::of(engine.docker().unwrap().args(args).output().unwrap())
}

#[test]
fn images_land_in_the_engines_store() {
    if !is_root("a Docker Engine") {
        return;
    }
    let scratch = ScratchDir::new("engine").unwrap();
    let world = World::with_dockerfile("FROM BUSYBOX\nLABEL by=ktl\nRUN echo made > /made\nCOPY f /f\n");
    world.write("ctx/f", "f");
    for (name, engine) in [
        ("old", DockerEngine::start(&scratch.join("old")).unwrap()),
        ("new", DockerEngine::start_new(&scratch.join("new")).unwrap()),
    ] {
        let socket = engine.socket().display().to_string();
        let address = format!("docker://{socket}");
        let secret = world.write("secret", "s");
        let with_secret = format!("id=s,src={}", secret.display());
        let probe = ["-v", "--sandbox-probe-path", socket.as_str()];
        for (number, way) in [&[][..], NATIVE].into_iter().enumerate() {
            let tag = format!("made:{number}");
            let args =
                [&["--builder", &address, "-t", &tag, "--load", "--secret", &with_secret][..], &probe, way];
            build(&world, &engine, &args.concat())
                .ok()
                .says(&format!("[probe] {socket}: hidden"))
                .says("[sandbox] proof: ");
            let label =
                docker(&engine, &["image", "inspect", "--format", "{{.Config.Labels.by}}", &tag]).ok();
            assert_eq!(label.stdout.trim(), "ktl", "{name}");
        }
        // As docker would find it, and last of all; what is named by nothing is loaded too.
        build(&world, &engine, &["-v", "-t", "found", "--iidfile", "iid"]).ok().says("named by docker's own");
        let id = docker(&engine, &["image", "inspect", "--format", "{{.Id}}", "found"]).ok();
        assert_eq!(id.stdout.trim(), world.read("iid"), "{name}");
        let listed = docker(&engine, &["image", "ls", "--format", "{{.Repository}}"]).ok();
        assert!(listed.stdout.lines().any(|line| line == "found"), "{name}: {}", listed.stdout);
        build(&world, &engine, &["--builder", &address, "-o", "out"]).ok();
        assert_eq!(world.read("out/made"), "made\n", "{name}");
        fs::remove_dir_all(world.path("out")).unwrap();

        let pushed = format!("{}/by-{name}:1", PARTS.registry.address());
        let push = build(&world, &engine, &["--builder", &address, "-t", &pushed, "--push"]);
        match name {
            "old" => push.ends_with(2).says("cannot push an image").says("docker push"),
            _ => push.ok(),
        };
    }
}

#[test]
fn an_engine_that_is_not_there() {
    let world = World::with_dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let socket = world.path("docker.sock");
    let mut command = world.command();
    command.args(["build", "ctx", "--builder", &socket.display().to_string()]);
    world.run(&mut command).ends_with(3).says("cannot reach the builder at docker://").says("DOCKER_HOST");
    // One that is no Engine.
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            use std::io::{Read, Write};
            let mut stream = stream;
            let _asked = stream.read(&mut [0; 512]);
            stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n\x1b[2J").unwrap();
        }
    });
    world.run(&mut command).ends_with(3).says("its ping was answered with 404").says("20.10");
}
