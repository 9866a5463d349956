//! A builder that is reached through `ktl dial-stdio`, and the texts that ktl writes for shells and man(1).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use crate::ktl::{PARTS, Ran, World, names};

/// A socket behind which each connection is a `ktl dial-stdio`, as sshd would start it.
fn bridge(world: &World) -> (String, Arc<Mutex<Vec<std::process::Child>>>) {
    let path = world.path("bridge.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let children = Arc::new(Mutex::new(Vec::new()));
    let started = children.clone();
    let mut command = world.command();
    command.arg("dial-stdio").stderr(Stdio::piped());
    std::thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            let stdin: OwnedFd = connection.try_clone().unwrap().into();
            let stdout: OwnedFd = connection.into();
            let child = command.stdin(stdin).stdout(stdout);
            started.lock().unwrap().push(child.spawn().unwrap());
            // The command keeps the streams of the last one, which would never see their end.
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
    });
    (format!("unix://{}", path.display()), children)
}

#[test]
fn a_builder_behind_a_program() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN echo through > /made\n");
    let (address, children) = bridge(&world);
    let mut buildctl = PARTS.daemon.buildctl().unwrap();
    // The last one counts.
    buildctl.env("BUILDKIT_HOST", &address).args(["--addr", &address, "debug", "workers"]);
    let workers = Ran::of(buildctl.output().unwrap()).ok();
    assert!(workers.stdout.contains("PLATFORMS"), "{}", workers.stdout);
    world.build(&["--builder", &address, "-o", "out"]).ok();
    assert_eq!(world.read("out/made"), "through\n");

    let mut children = std::mem::take(&mut *children.lock().unwrap());
    assert!(children.len() >= 2, "both came through the bridge");
    for child in children.drain(..) {
        Ran::of(child.wait_with_output().unwrap()).ok();
    }
}

#[test]
fn without_a_builder_there_is_no_stream() {
    let world = World::new();
    let mut command = world.command();
    command.args(["dial-stdio", "--builder", "unix:///nowhere/buildkitd.sock"]);
    let ran = world.run(&mut command).ends_with(3).says("/nowhere/buildkitd.sock");
    assert_eq!(ran.stdout, "");
}

#[test]
fn shells_and_man_know_every_command() {
    let world = World::new();
    for (shell, mark) in [("bash", "complete -F"), ("zsh", "#compdef ktl"), ("fish", "complete -c ktl")] {
        let ran = world.run(world.command().args(["completion", shell])).ok();
        assert!(ran.stdout.contains(mark) && ran.stdout.contains("sandbox-probe-path"), "{shell}");
        assert!(!ran.stdout.contains("__tidy"), "{shell} offers what is ktl's own");
    }
    world.run(world.command().args(["man", "pages"])).ok();
    let pages = names(&world.path("pages"));
    for page in ["ktl.1", "ktl-build.1", "ktl-dial-stdio.1", "ktl-sandbox-policy-lint.1"] {
        assert!(pages.iter().any(|name| name == page), "{page} of {pages:?}");
    }
    assert!(!pages.iter().any(|name| name.contains("__tidy")), "{pages:?}");
    assert!(world.read("pages/ktl-build.1").contains("sandbox\\-probe\\-path"));
}
