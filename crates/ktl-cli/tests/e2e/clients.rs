//! Real clients in ktl's jail: they build what they build without it.

use std::fs;
use std::process::Command;

use xtask::parts::{DockerEngine, ScratchDir};

use crate::exec::{WAYS, exec};
use crate::ktl::{PARTS, World, is_root};

pub const OCI: &str = "type=oci,rewrite-timestamp=true";

/// The digest of the image in an OCI tar.
pub fn digest(world: &World, name: &str) -> String {
    let tar = Command::new("tar").arg("-xOf").arg(world.path(name)).arg("index.json").output().unwrap();
    let index: serde_json::Value = serde_json::from_slice(&tar.stdout)
        .unwrap_or_else(|error| panic!("{name}: {error}: {}", String::from_utf8_lossy(&tar.stderr)));
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

/// The unjailed build that the jailed ones are compared with.
pub fn theirs(world: &World) -> String {
    let output = PARTS
        .daemon
        .buildctl()
        .unwrap()
        .args(["build", "--frontend", "dockerfile.v0", "--local", "context=ctx", "--local", "dockerfile=ctx"])
        .args([
            "--opt",
            "build-arg:SOURCE_DATE_EPOCH=1700000000",
            "--output",
            &format!("{OCI},dest=theirs.oci"),
        ])
        .current_dir(world.path("."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    digest(world, "theirs.oci")
}

#[test]
fn real_clients_build_the_same_image() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN echo made > /made\nCOPY f /f\n");
    world.write("ctx/f", "f");
    let expected = theirs(&world);
    let path = world.with_clients();
    let output = format!("{OCI},dest=/bk-cache/out.oci");
    let buildctl =
        ["build", "--frontend", "dockerfile.v0", "--local", "context=.", "--local", "dockerfile=."];
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000", "--provenance=false", "."];
    for way in WAYS {
        for (tool, args) in [
            ("buildctl", [&buildctl[..], &["--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000"]].concat()),
            ("docker", [&["buildx", "build"], &epoch[..]].concat()),
            ("buildx", [&["build"], &epoch[..]].concat()),
        ] {
            let mut command = exec(&world, way, &["--docker-socket", "none", "--", tool]);
            command.args(args).args(["--output", &output]).env("PATH", &path);
            world.run(&mut command).ok();
            let made = "home/.cache/ktl/exec/out.oci";
            assert_eq!(digest(&world, made), expected, "{way:?} {tool}");
            fs::remove_file(world.path(made)).unwrap();
        }
    }
}

#[test]
fn engines_build_through_the_gate_and_do_nothing_else() {
    if !is_root("a Docker Engine") {
        return;
    }
    let scratch = ScratchDir::new("exec").unwrap();
    let world = World::new();
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    world.write("ctx/f", "f");
    let path = world.with_clients();
    for (name, engine) in [
        ("old", DockerEngine::start(&scratch.join("old")).unwrap()),
        ("new", DockerEngine::start_new(&scratch.join("new")).unwrap()),
    ] {
        let socket = engine.socket().display().to_string();
        for (number, way) in WAYS.into_iter().enumerate() {
            let docker = |args: &[&str]| {
                let jail = [
                    "--builder",
                    "none",
                    "--docker-socket",
                    &socket,
                    "--env",
                    "DOCKER_BUILDKIT=1",
                    "--",
                    "docker",
                ];
                world.run(exec(&world, way, &[&jail[..], args].concat()).env("PATH", &path))
            };
            let tag = format!("made:{number}");
            docker(&["buildx", "build", ".", "-t", &tag, "--load"]).ok();
            docker(&["build", ".", "-t", &format!("plain:{number}")]).ok();
            for image in [tag, format!("plain:{number}")] {
                let found = engine.docker().unwrap().args(["image", "inspect", &image]).output().unwrap();
                assert!(
                    found.status.success(),
                    "{name} {way:?} {image}: {}",
                    String::from_utf8_lossy(&found.stderr)
                );
            }
            for args in
                [&["ps"][..], &["run", "-v", "/:/host", "plain:0"], &["volume", "ls"], &["network", "ls"]]
            {
                let ran = docker(args);
                assert_ne!(ran.code, Some(0), "{name} {args:?}: {}", ran.stdout);
                ran.says("[gate] refused ");
            }
        }
    }
}

#[test]
fn results_land_in_a_directory_that_was_bound_for_them() {
    let world = World::with_dockerfile("FROM scratch\nCOPY f /made\n");
    world.write("ctx/f", "f");
    let path = world.with_clients();
    for way in WAYS {
        fs::create_dir(world.path("ctx/out")).unwrap();
        let jail = ["--sandbox-bind", "ctx/out:/workspace/out:rw", "--docker-socket", "none", "--", "docker"];
        let mut command = exec(&world, way, &jail);
        command.args(["buildx", "build", ".", "-o", "out", "--metadata-file", "out/meta"]).env("PATH", &path);
        world.run(&mut command).ok();
        assert_eq!(world.read("ctx/out/made"), "f");
        assert!(world.path("ctx/out/meta").exists());
        fs::remove_dir_all(world.path("ctx/out")).unwrap();
    }
}

#[test]
fn tls_ends_outside() {
    let scratch = ScratchDir::new("exec-tls").unwrap();
    let options = xtask::parts::Options { tls: true, ..Default::default() };
    let daemon = xtask::parts::Buildkitd::start(&scratch.join("d"), &options).unwrap();
    let tls = daemon.tls().unwrap();
    let world = World::new();
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY Dockerfile /f\n");
    let certificates = tls.client_dir.display().to_string();
    for way in WAYS {
        let jail = ["--builder", &tls.address, "--tlsdir", &certificates, "--", "buildctl"];
        let mut command = exec(&world, way, &jail);
        command
            .args(["build", "--frontend", "dockerfile.v0", "--local", "context=.", "--local", "dockerfile=."])
            .args(["--output", "type=tar,dest=/bk-cache/out.tar"])
            .env("PATH", world.with_clients());
        world.run(&mut command).ok();
        fs::remove_file(world.path("home/.cache/ktl/exec/out.tar")).unwrap();
    }
}
