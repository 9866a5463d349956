//! A plain user: no rights but his own, and a builder that lets his group in.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use crate::ktl::{PARTS, World, is_root};

/// An id that no account of the machine has.
const UID: u32 = 64_321;

#[test]
fn builds_jailed_and_owns_what_he_gets() {
    use std::os::unix::fs::MetadataExt;
    if !is_root("a test that becomes a plain user") {
        return;
    }
    let scratch = xtask::parts::ScratchDir::new("user").unwrap();
    let options = xtask::parts::Options {
        plain_http: vec![PARTS.registry.address().to_owned()],
        socket_group: Some(UID),
        ..Default::default()
    };
    let daemon = xtask::parts::Buildkitd::start(&scratch.join("d"), &options).unwrap();

    // Everything of his lies where he may go: the checkout that the tests run from need not be such a place.
    let base = tempfile::Builder::new().prefix("ktl-user-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let world = base.path().join("w");
    for dir in ["w", "w/home", "w/ctx"] {
        fs::create_dir(base.path().join(dir)).unwrap();
    }
    fs::write(
        world.join("ctx/Dockerfile"),
        format!("FROM {}\nRUN echo x > /made\nCOPY mine /\n", PARTS.busybox),
    )
    .unwrap();
    fs::write(world.join("ctx/mine"), "mine").unwrap();
    fs::set_permissions(world.join("ctx/mine"), fs::Permissions::from_mode(0o600)).unwrap();
    for name in ["", "home", "ctx", "ctx/Dockerfile", "ctx/mine"] {
        chown(world.join(name), Some(UID), Some(UID)).unwrap();
    }
    let ktl = base.path().join("ktl");
    fs::copy(env!("CARGO_BIN_EXE_ktl"), &ktl).unwrap();

    let run = |runtime: &str, args: &[&str]| {
        let command = World::new().command();
        let mut own = std::process::Command::new(&ktl);
        own.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        own.env("HOME", world.join("home"))
            .env("KTL_BUILDER", daemon.address())
            .env("KTL_SANDBOX_RUNTIME", runtime)
            .env_remove("KTL_SANDBOX_BIN");
        if runtime == "nsjail" {
            own.env("KTL_SANDBOX_BIN", xtask::tools::nsjail_for_all(base.path()).unwrap());
        }
        own.args(["build", "ctx", "-v", "-o", "out"]).args(args).current_dir(&world).uid(UID).gid(UID);
        crate::ktl::Ran::of(own.output().unwrap())
    };
    // A file of his context that is not his is built as with buildctl.
    fs::write(world.join("ctx/not-his"), "root's").unwrap();
    fs::set_permissions(world.join("ctx/not-his"), fs::Permissions::from_mode(0o600)).unwrap();
    for runtime in ["nsjail", "native"] {
        run(runtime, &["--sandbox-probe-path", "/etc/shadow", "--sandbox-probe-path", "/workspace/mine"])
            .ok()
            .says(&format!("[sandbox] jailed by {runtime}"))
            .says("[probe] /etc/shadow: hidden")
            .says("[probe] /workspace/mine: VISIBLE (file, readable)")
            .says("[sandbox] proof: ");
        assert_eq!(fs::read_to_string(world.join("out/made")).unwrap(), "x\n");
        assert_eq!(fs::symlink_metadata(world.join("out/made")).unwrap().uid(), UID);
        fs::remove_dir_all(world.join("out")).unwrap();
    }
}
