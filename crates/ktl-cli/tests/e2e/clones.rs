//! A repository behind ssh, fetched by the builder itself and cloned by a step, with the keys of the user's own agent and
//! default flags.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use xtask::parts::{ScratchDir, Sshd, User};

use crate::host_tools::bring;
use crate::inputs::git;
use crate::ktl::{World, is_root};
use crate::ordinary::alarms_nobody;
use crate::private::wait_until;

/// OpenSSH's own, with one key; ended when dropped.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(dir: &Path, key: &Path) -> Agent {
        let socket = dir.join("agent");
        let child = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn();
        let agent = Agent { child: child.unwrap(), socket };
        wait_until("the agent listens", || agent.socket.exists());
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &agent.socket);
        assert!(add.status().unwrap().success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_repository_behind_ssh() {
    if !is_root("a server with a user of its own") {
        return;
    }
    let scratch = ScratchDir::new("clones").unwrap();
    let user = User::create(&scratch).unwrap();
    // The server's user may not go into every checkout.
    let base = tempfile::Builder::new().prefix("ktl-clones-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let repository = base.path().join("r.git");
    fs::create_dir(&repository).unwrap();
    fs::write(repository.join("file"), "from afar").unwrap();
    for args in [&["init", "-q"][..], &["add", "."], &["commit", "-q", "-m", "one"]] {
        git(&repository, args);
    }
    let mut give_away = Command::new("chown");
    give_away.arg("-R").arg(format!("{}:{}", user.uid(), user.gid())).arg(&repository);
    assert!(give_away.status().unwrap().success());
    let mut sshd = Sshd::start(&base.path().join("s"), &user, &[]).unwrap();
    let agent = Agent::start(base.path(), &sshd.key());

    let url = format!("ssh://{}@127.0.0.1:{}{}", user.name(), sshd.port(), repository.display());
    let world = World::with_dockerfile(&format!(
        "FROM BUSYBOX AS fetched\nADD {url}#main /added\n\
         FROM BUSYBOX AS cloned\nCOPY root /\nRUN --mount=type=ssh git clone -q {url} /clone\n\
         FROM scratch\nCOPY --from=fetched /added /added\nCOPY --from=cloned /clone/file /cloned/\n"
    ));
    let tools: Vec<PathBuf> = ["git", "ssh"].into_iter().filter_map(xtask::tools::on_path).collect();
    bring(&world.path("ctx/root"), &tools);
    world.write("ctx/root/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    let known = format!("[127.0.0.1]:{} {}", sshd.port(), sshd.host_key().unwrap());
    world.write("ctx/root/etc/ssh/ssh_known_hosts", known);
    let build = |args: &[&str]| {
        let mut command = world.command();
        command.env("SSH_AUTH_SOCK", &agent.socket).args(["build", "ctx", "--ssh", "default", "-o", "out"]);
        world.run(command.args(args))
    };
    alarms_nobody("a clone over ssh", &build(&[]));
    assert_eq!(world.read("out/added/file"), "from afar");
    assert_eq!(world.read("out/cloned/file"), "from afar");
    alarms_nobody("the same unjailed", &build(&["--sandbox=off", "--no-cache"]));

    // Without the server there is nothing: it was the server that answered.
    sshd.stop();
    build(&["--no-cache"]).ends_with(1);
}
