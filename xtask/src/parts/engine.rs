//! A Docker Engine of our own: state, socket and log in one directory, no network of its own making.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::supervised::{Isolation, Supervised};
use crate::{command, tools, workspace};

/// A running dockerd with the containerd that it starts; stopped, with containers and mounts, when dropped.
#[derive(Debug)]
pub struct DockerEngine {
    daemon: Supervised,
    socket: PathBuf,
}

impl DockerEngine {
    /// Starts the distribution's engine (Debian 12: 20.10, BuildKit 0.8, images in graph drivers) with its state below
    /// `dir` (made when missing) and waits until it answers.
    pub fn start(dir: &Path) -> Result<DockerEngine> {
        let dockerd = tools::dockerd()?.canonicalize().context("find dockerd")?;
        let containerd = tools::containerd()?.canonicalize().context("find containerd")?;
        DockerEngine::start_programs(&dockerd, &containerd, dir)
    }

    /// Starts the newest engine (API 1.55, BuildKit 0.31, images in containerd) the same way.
    pub fn start_new(dir: &Path) -> Result<DockerEngine> {
        let programs = tools::engine()?;
        DockerEngine::start_programs(&programs.join("dockerd"), &programs.join("containerd"), dir)
    }

    fn start_programs(dockerd: &Path, containerd: &Path, dir: &Path) -> Result<DockerEngine> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let socket = dir.join("docker.sock");
        let mut start = Command::new(dockerd);
        start.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        start.arg("--data-root").arg(dir.join("data")).arg("--exec-root").arg(dir.join("exec"));
        start
            .arg("--pidfile")
            .arg(dir.join("docker.pid"))
            .arg("-H")
            .arg(format!("unix://{}", socket.display()));
        // Without `--containerd` it starts one of its own, with state and root below the directories above; it looks for
        // that and the shims on PATH.
        let beside = [containerd.parent(), dockerd.parent(), tools::runc()?.parent()]
            .map(|dir| dir.map(Path::to_owned));
        let rest =
            std::env::split_paths(&workspace::variable("PATH").unwrap_or_default()).collect::<Vec<_>>();
        start.env("PATH", std::env::join_paths(beside.into_iter().flatten().chain(rest))?);
        let mut daemon = Supervised::start(&start, Isolation::Namespaces, &dir.join("dockerd.log"))?;
        let answers = || {
            UnixStream::connect(&socket).is_ok()
                && client(&socket).is_ok_and(|mut client| command::run(client.arg("version")).is_ok())
        };
        daemon.wait_until(answers)?;
        Ok(DockerEngine { daemon, socket })
    }

    /// The engine's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The daemon's process id as the host sees it; `None` when it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Value of `DOCKER_HOST` for this engine.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The engine's own client, pointed at it.
    pub fn docker(&self) -> Result<Command> {
        client(&self.socket)
    }

    /// Directory of that client, for a PATH.
    pub fn client_dir() -> Result<PathBuf> {
        let program = client_program()?;
        Ok(program.parent().context("a program lies in a directory")?.to_owned())
    }

    pub fn log_text(&self) -> String {
        self.daemon.log_text()
    }
}

/// The client of the distribution's package, or the machine's; it speaks to both engines.
fn client_program() -> Result<PathBuf> {
    let dockerd = tools::dockerd()?.canonicalize().context("find dockerd")?;
    let packaged = dockerd.parent().and_then(Path::parent).map(|usr| usr.join("bin/docker"));
    packaged.filter(|path| path.exists()).or_else(|| tools::on_path("docker")).context("no docker client")
}

fn client(socket: &Path) -> Result<Command> {
    let mut client = Command::new(client_program()?);
    client.arg("-H").arg(format!("unix://{}", socket.display()));
    Ok(client)
}
