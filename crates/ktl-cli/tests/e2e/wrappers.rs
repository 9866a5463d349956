//! The scripts of demos/wrappers, with the clients that they are made for.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use xtask::parts::{DockerEngine, ScratchDir};

use crate::clients::{OCI, digest, theirs};
use crate::ktl::{PARTS, Ran, World, is_root};

const RUNTIMES: [&str; 2] = ["nsjail", "native"];

/// A wrapper in this world, in the directory of its context.
fn wrapper(world: &World, name: &str, runtime: &str) -> Command {
    let ktl = Path::new(env!("CARGO_BIN_EXE_ktl")).parent().unwrap();
    let mut command =
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demos/wrappers").join(name));
    let own = world.command();
    command.env_clear().envs(own.get_envs().filter_map(|(key, value)| Some((key, value?))));
    command
        .env("PATH", format!("{}:{}", ktl.display(), world.with_clients()))
        .env("KTL_SANDBOX_RUNTIME", runtime)
        .env("CACHE_DIR", world.path("bk"))
        .env_remove("KTL_BUILDER")
        .current_dir(world.path("ctx"));
    if runtime == "native" {
        command.env_remove("KTL_SANDBOX_BIN");
    }
    command
}

fn run(command: &mut Command) -> Ran {
    Ran::of(command.output().unwrap())
}

/// The policy of the recipe that the wrappers are drop-ins for.
const COPIED: &str = "name: \"buildkit-ci\"\nhostname: \"build\"\nmode: EXECVE\ncwd: \"/workspace\"\nclone_newuts: true\nclone_newipc: true\n\
    clone_newpid: true\nclone_newuser: true\nclone_newcgroup: true\nclone_newnet: false\nkeep_caps: false\nseccomp_string: \"DEFAULT ALLOW\"\n\
    mount { dst: \"/\" fstype: \"tmpfs\" rw: true }\nmount { dst: \"/proc\" fstype: \"proc\" }\n\
    mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true options: \"size=2G\" }\n\
    mount { dst: \"/run\" fstype: \"tmpfs\" rw: true options: \"size=128M\" }\n\
    mount { src: \"/etc/resolv.conf\" dst: \"/etc/resolv.conf\" is_bind: true }\n\
    mount { src: \"/etc/hosts\" dst: \"/etc/hosts\" is_bind: true }\n\
    mount { src: \"/etc/ssl/certs\" dst: \"/etc/ssl/certs\" is_bind: true }\n\
    mount { src: \"/dev\" dst: \"/dev\" is_bind: true rw: true }\n";

#[test]
fn both_buildkit_clients_build_the_same_image() {
    let world = World::with_dockerfile("FROM scratch\nCOPY f /f\n");
    world.write("ctx/f", "f");
    world.write("ci.cfg", COPIED);
    let expected = theirs(&world);
    let output = format!("{OCI},dest=/bk-cache/out.oci");
    let epoch = "SOURCE_DATE_EPOCH=1700000000";
    for runtime in RUNTIMES {
        for policy in [None, Some(world.path("ci.cfg"))] {
            let mut buildctl = wrapper(&world, "buildctl-jailed", runtime);
            buildctl.env("ENDPOINT", PARTS.daemon.address()).args([
                ".",
                "--opt",
                &format!("build-arg:{epoch}"),
            ]);
            let mut buildx = wrapper(&world, "build-with-nsjail", runtime);
            buildx.env("BUILDER_SOCKET", PARTS.daemon.socket()).args([
                ".",
                "--build-arg",
                epoch,
                "--provenance=false",
            ]);
            for command in [&mut buildctl, &mut buildx] {
                policy.iter().for_each(|policy| {
                    command.env("POLICY_PATH", policy);
                });
                run(command.args(["--output", &output])).ok();
                assert_eq!(digest(&world, "bk/out.oci"), expected, "{runtime} {command:?}");
                fs::remove_file(world.path("bk/out.oci")).unwrap();
            }
        }
    }
}

#[test]
fn docker_builds_on_both_engines() {
    if !is_root("a Docker Engine") {
        return;
    }
    let scratch = ScratchDir::new("wrap").unwrap();
    let world = World::new();
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    world.write("ctx/f", "f");
    for (name, engine) in [
        ("old", DockerEngine::start(&scratch.join("old")).unwrap()),
        ("new", DockerEngine::start_new(&scratch.join("new")).unwrap()),
    ] {
        for runtime in RUNTIMES {
            let mut command = wrapper(&world, "build-with-nsjail", runtime);
            command.env("BUILDER_SOCKET", engine.socket()).args([".", "-t", runtime, "-f", "Dockerfile"]);
            run(&mut command).ok();
            let found = engine.docker().unwrap().args(["image", "inspect", runtime]).output().unwrap();
            assert!(found.status.success(), "{name} {runtime}");
        }
    }
}

/// Looks for what a hostile client would look for, whatever it is called with.
const EVIL: &str = "#!/usr/bin/env bash\nfor f in /etc/shadow HOME/.ssh/id /workspace/shadow /workspace/key /workspace/sock SOCKETS/docker.sock \
    SOCKETS/containerd.sock /run/containerd/containerd.sock /proc/1/root/etc/shadow; do\n  [ -e $f ] && echo seen $f\ndone\necho looked\n";

#[test]
fn a_hostile_context_reaches_nothing_by_any_of_the_three() {
    let world = World::new();
    world.write("home/.ssh/id", "the-private-key");
    fs::create_dir(world.path("sockets")).unwrap();
    let _docker = UnixListener::bind(world.path("sockets/docker.sock")).unwrap();
    let _containerd = UnixListener::bind(world.path("sockets/containerd.sock")).unwrap();
    symlink("/etc/shadow", world.path("ctx/shadow")).unwrap();
    symlink(world.path("home/.ssh/id"), world.path("ctx/key")).unwrap();
    symlink(world.path("sockets/docker.sock"), world.path("ctx/sock")).unwrap();
    world.write("ctx/Dockerfile", "FROM scratch\nADD . /all/\n");
    let text = |path: &str| world.path(path).display().to_string();
    let evil =
        world.write("bin/evil", EVIL.replace("HOME", &text("home")).replace("SOCKETS", &text("sockets")));
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    for runtime in RUNTIMES {
        for name in ["build-with-nsjail", "buildctl-jailed", "nerdctl-jailed"] {
            let mut command = wrapper(&world, name, runtime);
            command
                .env("BIN", &evil)
                .env("BUILDER_SOCKET", PARTS.daemon.socket())
                .env("ENDPOINT", PARTS.daemon.address())
                .env("DAEMON_SOCKET", "none");
            assert_eq!(run(&mut command).ok().stdout, "looked\n", "{name} {runtime}");
        }
        // What the client sends of such a context is the links, not what they lead to; followed, they lead nowhere.
        let mut command = wrapper(&world, "buildctl-jailed", runtime);
        command.env("ENDPOINT", PARTS.daemon.address()).args([
            ".",
            "--output",
            "type=tar,dest=/bk-cache/all.tar",
        ]);
        run(&mut command).ok();
        let tar = fs::read(world.path("bk/all.tar")).unwrap();
        assert!(tar.windows(10).any(|part| part == b"Dockerfile"));
        assert!(!tar.windows(15).any(|part| part == b"the-private-key"));
        for target in ["shadow", "key", "sock"] {
            world.write("ctx/Dockerfile.evil", format!("FROM scratch\nADD {target} /f\n"));
            let mut command = wrapper(&world, "build-with-nsjail", runtime);
            command.env("BUILDER_SOCKET", PARTS.daemon.socket()).args([
                ".",
                "-f",
                "Dockerfile.evil",
                "--output",
                "type=tar,dest=/bk-cache/one.tar",
            ]);
            let ran = run(&mut command);
            let tar = fs::read(world.path("bk/one.tar")).unwrap_or_default();
            assert!(!tar.windows(15).any(|part| part == b"the-private-key"), "{target}");
            assert!(
                !tar.windows(6).any(|part| part == b"root:$" || part == b"root:*"),
                "{target}: {}",
                ran.stderr
            );
        }
    }
}

#[test]
fn the_scripts_are_as_shellcheck_wants_them() {
    let Some(shellcheck) = xtask::tools::on_path("shellcheck") else {
        eprintln!("skipped: no shellcheck on PATH");
        return;
    };
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demos/wrappers");
    for name in ["build-with-nsjail", "buildctl-jailed", "nerdctl-jailed"] {
        run(Command::new(&shellcheck).arg(dir.join(name))).ok();
    }
}

#[test]
fn nerdctl_builds_where_it_is_installed() {
    if xtask::tools::on_path("nerdctl").is_none() {
        eprintln!("skipped: no nerdctl on PATH");
        return;
    }
    let world = World::new();
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY Dockerfile /f\n");
    let mut command = wrapper(&world, "nerdctl-jailed", "native");
    let path =
        command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value).unwrap().to_owned();
    let nerdctl = xtask::tools::on_path("nerdctl").unwrap();
    command
        .env("PATH", format!("{}:{}", path.display(), nerdctl.parent().unwrap().display()))
        .env("BUILDER_SOCKET", PARTS.daemon.socket())
        .env("DAEMON_SOCKET", "none")
        .args([".", "--output", "type=tar,dest=/bk-cache/out.tar"]);
    run(&mut command).ok();
    assert!(world.path("bk/out.tar").exists());
}
