//! A builder on a server, reached by OpenSSH: a real sshd, with a user of its own, and a real buildkitd behind it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;
use xtask::parts::{Buildkitd, Options, ScratchDir, Sshd, User, keygen};

use crate::ktl::{PARTS, Ran, World, is_root};

/// A server that `there` names.
pub struct Server {
    pub sshd: Sshd,
    daemon: Buildkitd,
    pub user: User,
    /// Where the server's user may go, which need not be so in the checkout.
    pub base: TempDir,
    _scratch: ScratchDir,
}

impl Server {
    /// With further lines for sshd's configuration, in which `BASE` is the server's directory.
    pub fn start(lines: &[&str]) -> Option<Server> {
        if !is_root("a server with a user of its own") {
            return None;
        }
        let scratch = ScratchDir::new("ssh").unwrap();
        let user = User::create(&scratch).unwrap();
        let base = tempfile::Builder::new().prefix("ktl-ssh-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options {
            plain_http: vec![PARTS.registry.address().to_owned()],
            socket_group: Some(user.gid()),
            ..Default::default()
        };
        let daemon = Buildkitd::start(&base.path().join("d"), &options).unwrap();
        let lines: Vec<String> =
            lines.iter().map(|line| line.replace("BASE", &base.path().display().to_string())).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let sshd = Sshd::start(&base.path().join("s"), &user, &lines).unwrap();
        Some(Server { sshd, daemon, user, base, _scratch: scratch })
    }

    fn socket(&self) -> PathBuf {
        self.daemon.address().strip_prefix("unix://").unwrap().into()
    }

    pub fn address(&self) -> String {
        format!("ssh://there{}", self.socket().display())
    }

    /// `ktl` that knows this server, with a cache of its own.
    pub fn command(&self, world: &World) -> Command {
        let mut command = world.command();
        command.env("PATH", format!("{}:/usr/bin:/bin", self.sshd.bin().display()));
        // Sockets have short paths.
        command.env("KTL_CACHE_DIR", self.base.path().join("c")).env_remove("KTL_BUILDER");
        command
    }

    fn build(&self, world: &World, args: &[&str]) -> Ran {
        let mut command = self.command(world);
        command.args(["build", "ctx", "-v", "-o", "out", "--builder"]).args(args);
        world.run(&mut command)
    }

    /// Puts a program on the PATH of the server's user.
    pub fn give(&self, program: &std::path::Path) {
        let bin = self.base.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::copy(program, bin.join(program.file_name().unwrap())).unwrap();
    }
}

impl Drop for Server {
    /// Connections that are kept end with the server; nothing of ssh's may stay.
    fn drop(&mut self) {
        self.sshd.stop();
    }
}

fn world() -> World {
    World::with_dockerfile("FROM BUSYBOX\nRUN echo far > /made\n")
}

#[test]
fn a_build_over_a_forwarded_socket() {
    let Some(server) = Server::start(&[]) else { return };
    let world = world();
    server.build(&world, &[&server.address()]).ok().says("[sandbox] jailed by");
    assert_eq!(world.read("out/made"), "far\n");
    // The second finds the connection of the first, and needs no ssh for it.
    let mut second = server.command(&world);
    second.env("PATH", "/bin:/nowhere").args(["build", "ctx", "-v", "--builder", &server.address()]);
    world.run(&mut second).ok().says("the connection to there is there already");
    // What the server's end leaves behind is replaced.
    let with_port =
        format!("ssh://{}@there:{}{}", server.user.name(), server.sshd.port(), server.socket().display());
    server.build(&world, &[&with_port]).ok();
}

#[test]
fn a_server_that_forwards_nothing_carries_by_a_program() {
    let lines = ["AllowStreamLocalForwarding no", "SetEnv PATH=BASE/bin:/usr/bin:/bin"];
    let Some(server) = Server::start(&lines) else { return };
    let world = world();
    server
        .build(&world, &[&server.address()])
        .ends_with(3)
        .says("neither ktl nor buildctl")
        .says("AllowStreamLocalForwarding");
    for program in [xtask::tools::buildctl().unwrap(), env!("CARGO_BIN_EXE_ktl").into()] {
        server.give(&program);
        server.build(&world, &[&server.address(), "--no-cache"]).ok().says("forwards no sockets");
    }
    assert_eq!(world.read("out/made"), "far\n");
}

#[test]
fn what_the_server_lacks_is_told() {
    let Some(server) = Server::start(&[]) else { return };
    let world = world();
    server
        .build(&world, &["ssh://there/nowhere/buildkitd.sock"])
        .ends_with(3)
        .says("has no buildkitd that listens")
        .says("/nowhere/buildkitd.sock");
    fs::set_permissions(server.socket(), fs::Permissions::from_mode(0o600)).unwrap();
    server
        .build(&world, &[&server.address()])
        .ends_with(3)
        .says(&format!("lets {} not open", server.user.name()))
        .says("--group");
}

#[test]
fn who_is_not_known_is_told() {
    let Some(mut server) = Server::start(&[]) else { return };
    let world = world();
    let base = server.base.path();
    keygen(&base.join("other")).unwrap();
    server.sshd.know(&fs::read_to_string(base.join("other.pub")).unwrap()).unwrap();
    server
        .build(&world, &[&server.address()])
        .ends_with(3)
        .says("has another host key than before")
        .says("ssh-keygen -R there");
    server.sshd.know(&server.sshd.host_key().unwrap()).unwrap();
    let stranger = format!("ssh://nobody@there{}", server.socket().display());
    server.build(&world, &[&stranger]).ends_with(3).says("does not let you in");
    server.sshd.stop();
    server.build(&world, &[&server.address()]).ends_with(3).says("no sshd that listens");
}

#[test]
fn a_line_that_is_cut_ends_the_build() {
    let Some(mut server) = Server::start(&[]) else { return };
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN echo the-step-runs; sleep 600\n");
    let mut command = server.command(&world);
    command.args(["build", "ctx", "--progress", "plain", "--builder", &server.address()]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let seen = lines.by_ref().find(|line| line.contains("the-step-runs") && !line.contains("RUN"));
    assert!(seen.is_some(), "{:?}", child.wait());
    server.sshd.stop();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{}", rest.join("\n"));
}
