//! ktl inside a container of Docker's, where new namespaces are a matter of the container's options.

use std::fs;

use xtask::parts::{DockerEngine, ScratchDir};

use crate::ktl::{Ran, World, is_root};

const SECCOMP: &str = "seccomp=unconfined";
const PROC: &str = "systempaths=unconfined";

#[test]
fn a_container_has_a_jail_or_a_reason_why_not() {
    if !is_root("a_container_has_a_jail_or_a_reason_why_not") {
        return;
    }
    let scratch = ScratchDir::new("inside").unwrap();
    let engine = DockerEngine::start(&scratch.join("e")).unwrap();
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY ktl /bin/ktl\nRUN echo x > /etc/shadow\n");
    fs::copy(env!("CARGO_BIN_EXE_ktl"), world.path("ctx/ktl")).unwrap();
    let mut load = world.command();
    let path = format!("{}:/usr/bin:/bin", DockerEngine::client_dir().unwrap().display());
    load.env("PATH", path).env("DOCKER_HOST", engine.host());
    world.run(load.args(["build", "ctx", "-t", "inside:1", "--load"])).ok();

    let probe = |user: &str, options: &[&str]| {
        let mut docker = engine.docker().unwrap();
        docker.args([
            "run",
            "--rm",
            "--network",
            "none",
            "--workdir",
            "/tmp",
            "--user",
            user,
            "--env",
            "HOME=/tmp",
        ]);
        for option in options {
            docker.args(["--security-opt", option]);
        }
        let probe = ["inside:1", "/bin/ktl", "sandbox", "probe", "/etc/shadow", "--expect", "hidden"];
        Ran::of(docker.args(probe).output().unwrap())
    };
    for user in ["0:0", "1000:1000"] {
        probe(user, &[]).ends_with(4).says("namespaces").says(SECCOMP);
        probe(user, &[SECCOMP]).ends_with(4).says(PROC);
        let ran = probe(user, &[SECCOMP, PROC]).ok();
        assert!(ran.stdout.contains("hidden") && ran.stdout.contains("file"), "{}", ran.stdout);
    }
}
