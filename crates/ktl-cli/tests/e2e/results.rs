//! Where results go: cache, directory, tar, image archive, registry, stdout, and the files that tell of them.

use std::process::Stdio;

use xtask::parts::{DockerEngine, ScratchDir};

use crate::ktl::{PARTS, World, is_root, names};

const HELLO: &str = "FROM BUSYBOX AS base\nRUN echo built > /made\nFROM scratch\nCOPY --from=base /made /made\nCOPY file /copied\n";

fn hello() -> World {
    let world = World::with_dockerfile(HELLO);
    world.write("ctx/file", "from the context");
    world
}

fn is_digest(line: &str) -> bool {
    line.trim_end().strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64)
}

#[test]
fn a_tag_alone_stays_in_the_cache_and_prints_the_digest() {
    let ran = hello().build(&["-t", "app:dev"]).ok().says("stays in the builder's cache");
    assert!(is_digest(&ran.stdout), "{:?}", ran.stdout);
    assert_eq!(ran.stdout.lines().count(), 1);
}

#[test]
fn nothing_asked_for_prints_nothing_on_stdout() {
    let ran = hello().build(&[]).ok().says("stays in the builder's cache");
    assert_eq!(ran.stdout, "");
}

#[test]
fn a_directory() {
    let world = hello();
    world.build(&["-o", "out"]).ok();
    assert_eq!(world.read("out/made"), "built\n");
    assert_eq!(world.read("out/copied"), "from the context");
    assert_eq!(names(&world.path("out")), ["copied", "made"]);
    assert_eq!(world.names(), ["ctx", "home", "out"], "nothing is left beside the output");
}

#[test]
fn a_directory_that_exists_is_merged() {
    let world = hello();
    world.write("out/stays", "mine");
    world.write("out/made", "old");
    world.build(&["--output", "type=local,dest=out"]).ok();
    assert_eq!([world.read("out/stays"), world.read("out/made")], ["mine", "built\n"]);
}

#[test]
fn outputs_belong_to_the_caller() {
    use std::os::unix::fs::MetadataExt;
    let world = hello();
    world.build(&["-o", "out", "-o", "type=tar,dest=out.tar"]).ok();
    for name in ["out", "out/made", "out.tar"] {
        let meta = std::fs::symlink_metadata(world.path(name)).unwrap();
        assert_eq!(meta.uid(), nix::unistd::geteuid().as_raw(), "{name}");
    }
}

#[test]
fn tar_oci_and_docker_files() {
    let world = hello();
    world.build(&["-o", "type=tar,dest=sub/out.tar", "-o", "type=oci,dest=out.oci"]).ok();
    world.build(&["-t", "app:dev", "-o", "type=docker,dest=out.docker"]).ok();
    let list = |name: &str| {
        let tar = std::process::Command::new("tar").arg("-tf").arg(world.path(name)).output().unwrap();
        String::from_utf8_lossy(&tar.stdout).into_owned()
    };
    assert!(list("sub/out.tar").contains("made"), "{}", list("sub/out.tar"));
    assert!(list("out.oci").contains("index.json"), "{}", list("out.oci"));
    assert!(list("out.docker").contains("manifest.json"), "{}", list("out.docker"));
}

#[test]
fn a_tar_on_stdout_and_nothing_else_there() {
    let world = hello();
    let out = world.command().args(["build", "ctx", "-o", "-"]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::write(world.path("got.tar"), &out.stdout).unwrap();
    let list = std::process::Command::new("tar").arg("-tf").arg(world.path("got.tar")).output().unwrap();
    assert!(list.status.success());
    assert!(String::from_utf8_lossy(&list.stdout).contains("copied"));
}

#[test]
fn metadata_and_image_id() {
    let world = hello();
    let args = ["-t", "app:dev", "--metadata-file", "meta.json", "--iidfile", "iid"];
    world.build(&args).ok();
    let meta: serde_json::Value = serde_json::from_str(&world.read("meta.json")).unwrap();
    assert_eq!(
        meta["containerimage.digest"],
        world.read("iid").as_str(),
        "an index with provenance has no one config"
    );
    let ran = world.build(&[&args[..], &["--provenance=false"]].concat()).ok();
    let meta: serde_json::Value = serde_json::from_str(&world.read("meta.json")).unwrap();
    assert_eq!(meta["containerimage.digest"], ran.stdout.trim_end());
    assert_eq!(meta["image.name"], "docker.io/library/app:dev");
    assert!(meta["containerimage.descriptor"]["size"].is_number(), "{meta}");
    assert_eq!(meta["containerimage.config.digest"], world.read("iid").as_str());
    assert!(is_digest(&world.read("iid")) && !world.read("iid").ends_with('\n'));
}

#[test]
fn quiet_prints_the_image_id_alone() {
    let world = hello();
    let ran = world.build(&["-q", "-t", "app:dev", "--iidfile", "iid"]).ok();
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.stdout.trim_end(), world.read("iid"));
}

#[test]
fn pushed_and_pulled_back() {
    let world = hello();
    let name = format!("{}/pushed:1", PARTS.registry.address());
    world.build(&["-t", &name, "--push"]).ok();
    let again = World::with_dockerfile(&format!("FROM {name}\nCOPY extra /\n"));
    again.write("ctx/extra", "x");
    again.build(&["--pull", "-o", "out"]).ok();
    assert_eq!(again.read("out/made"), "built\n");
}

#[test]
fn loaded_into_a_docker_engine() {
    if !is_root("a Docker Engine of the test's own") {
        return;
    }
    let scratch = ScratchDir::new("engine").unwrap();
    let engine = DockerEngine::start(&scratch.join("e")).unwrap();
    let world = hello();
    let mut command = world.command();
    let path = format!("{}:/usr/bin:/bin", DockerEngine::client_dir().unwrap().display());
    command.env("PATH", path).env("DOCKER_HOST", engine.host());
    let ran =
        world.run(command.args(["build", "ctx", "-t", "app:loaded", "--load", "--iidfile", "iid"])).ok();
    assert!(is_digest(&ran.stdout), "{:?}", ran.stdout);
    let images =
        engine.docker().unwrap().args(["images", "--no-trunc", "-q", "app:loaded"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&images.stdout).trim_end(), world.read("iid"));

    let mut nowhere = world.command();
    nowhere.env("PATH", DockerEngine::client_dir().unwrap()).env("DOCKER_HOST", "unix:///nowhere.sock");
    let ran = world.run(nowhere.args(["build", "ctx", "-t", "app:loaded", "--load"]));
    ran.ends_with(1).says("failed to write `docker load`").says("nowhere.sock");
    world
        .run(world.command().env("PATH", "").args(["build", "ctx", "-t", "a", "--load"]))
        .ends_with(2)
        .says("docker program");
}

#[test]
fn words_that_name_progress_styles() {
    let world = hello();
    world.build(&["--output", "logs"]).ok().says("#1 ");
    assert!(!world.path("logs").exists());
    world.build(&["--output", "./logs"]).ok();
    assert_eq!(world.read("logs/made"), "built\n");
}

#[test]
fn raw_json_is_one_object_a_line() {
    let ran = hello().build(&["--progress", "rawjson", "--no-cache"]).ok();
    let objects: Vec<serde_json::Value> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(objects.iter().any(|object| object["vertexes"].is_array()), "{}", ran.stderr);
}

#[test]
fn build_flags_reach_the_frontend() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS one\nARG A\nARG B\nRUN echo \"$A-$B\" > /one\nFROM scratch AS picked\nCOPY --from=one /one /\nFROM scratch\n",
    );
    let ran = world.run(
        world
            .command()
            .env("B", "of-the-environment")
            .args([
                "build",
                "ctx",
                "--target",
                "picked",
                "--build-arg",
                "A=given",
                "--build-arg",
                "B",
                "-o",
                "out",
            ])
            .args(["--label", "l=v", "--platform", "linux/amd64", "--no-cache", "--pull"]),
    );
    ran.ok();
    assert_eq!(world.read("out/one"), "given-of-the-environment\n");
}

#[test]
fn a_dockerfile_outside_of_the_context() {
    let world = World::new();
    world.write("ctx/kept", "kept");
    world.write("ctx/left-out", "left out");
    world.write("elsewhere/My.Dockerfile", "FROM scratch\nCOPY . /\n");
    world.write("elsewhere/My.Dockerfile.dockerignore", "left-out\n");
    world.build(&["-f", "elsewhere/My.Dockerfile", "-o", "out"]).ok();
    assert_eq!(names(&world.path("out")), ["kept"]);
}

#[test]
fn an_ignore_file_and_a_lower_case_dockerfile() {
    let world = World::new();
    world.write("ctx/dockerfile", "FROM scratch\nCOPY . /\n");
    world.write("ctx/.dockerignore", "*.log\n!kept.log\ndockerfile\n.dockerignore\n");
    for name in ["a.log", "kept.log", "sub/b.log", "sub/c"] {
        world.write(&format!("ctx/{name}"), name);
    }
    world.build(&["-o", "out"]).ok();
    assert_eq!(names(&world.path("out")), ["kept.log", "sub"]);
    assert_eq!(names(&world.path("out/sub")), ["b.log", "c"]);
}

#[test]
fn outputs_within_the_context_are_not_part_of_it() {
    let world = World::with_dockerfile("FROM scratch\nCOPY . /\n");
    world.write("ctx/x", "x");
    for extra in [None, Some("--sandbox=off")] {
        let args = [
            "build",
            "ctx",
            "-o",
            "ctx/out",
            "-o",
            "type=tar,dest=ctx/out.tar",
            "--iidfile",
            "ctx/iid",
            "-t",
            "a",
        ];
        let run = || world.run(world.command().args(args).args(["-o", "type=image"]).args(extra)).ok();
        run();
        assert_eq!(names(&world.path("ctx/out")), ["Dockerfile", "x"]);
        std::fs::remove_dir_all(world.path("ctx/out")).unwrap();
        std::fs::create_dir(world.path("ctx/out")).unwrap();
        std::fs::remove_file(world.path("ctx/out.tar")).unwrap();
        std::fs::remove_file(world.path("ctx/iid")).unwrap();
        run();
        assert_eq!(names(&world.path("ctx/out")), ["Dockerfile", "out", "x"]);
        assert_eq!(names(&world.path("ctx/out/out")), [""; 0]);
        std::fs::remove_dir_all(world.path("ctx/out")).unwrap();
        std::fs::remove_file(world.path("ctx/out.tar")).unwrap();
        std::fs::remove_file(world.path("ctx/iid")).unwrap();
    }
}

#[test]
fn a_failed_build_leaves_the_old_output() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN false\n");
    world.write("out.tar", "old");
    world.write("dir/old", "old");
    world
        .build(&["-o", "type=tar,dest=out.tar", "-o", "dir", "--metadata-file", "m", "--iidfile", "i"])
        .ends_with(1);
    assert_eq!(world.read("out.tar"), "old");
    assert_eq!(world.names(), ["ctx", "dir", "home", "out.tar"]);
    assert_eq!(names(&world.path("dir")), ["old"]);
}

#[test]
fn a_closed_stdout_is_no_panic() {
    let world = hello();
    let mut child = world.command().args(["build", "ctx", "-o", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let code = child.wait().unwrap().code();
    assert!(code == Some(1) || code == Some(128 + 13), "{code:?}");
}
