//! The clients of the scoreboard, and how each is told to do a case's build.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::case::{Output, Told};
use super::ground::Ground;
use crate::{command, tools};

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// In a jail that ktl makes itself.
    Ktl,
    KtlUnjailed,
    /// In a jail that nsjail makes.
    KtlNsjail,
    Buildctl,
    Buildx,
}

impl Client {
    pub const ALL: [Client; 5] =
        [Client::Ktl, Client::KtlUnjailed, Client::KtlNsjail, Client::Buildctl, Client::Buildx];

    pub fn name(self) -> &'static str {
        match self {
            Client::Ktl => "ktl",
            Client::KtlUnjailed => "ktl-unjailed",
            Client::KtlNsjail => "ktl-nsjail",
            Client::Buildctl => "buildctl",
            Client::Buildx => "buildx",
        }
    }

    pub fn is_ktl(self) -> bool {
        matches!(self, Client::Ktl | Client::KtlUnjailed | Client::KtlNsjail)
    }
}

/// The command that builds the ground's context at `socket`.
pub fn command(client: Client, ktl: &Path, ground: &Ground, socket: &Path, told: Told) -> Result<Command> {
    let address = format!("unix://{}", socket.display());
    let program = match client {
        Client::Ktl | Client::KtlUnjailed | Client::KtlNsjail => ktl.to_owned(),
        Client::Buildctl => tools::buildctl()?,
        Client::Buildx => tools::buildx()?,
    };
    let mut command = clean(program, ground);
    let context = ground.path("ctx");
    match client {
        Client::Buildctl => {
            command.args(["--addr", &address, "build", "--frontend", "dockerfile.v0"]);
            for local in ["context", "dockerfile"] {
                command.arg("--local").arg(format!("{local}={}", context.display()));
            }
        }
        Client::Buildx => {
            let mut create = clean(tools::buildx()?, ground);
            create.args(["create", "--name", "hostile", "--driver", "remote", &address]);
            command::run(&mut create).context("make a builder of buildx")?;
            command.args(["build", "--builder", "hostile"]).arg(&context);
        }
        Client::Ktl | Client::KtlUnjailed | Client::KtlNsjail => {
            command.arg("build").arg(&context).args(["--builder", &address]);
            match client {
                Client::Ktl => command.args(["--sandbox", "--sandbox-runtime", "native"]),
                Client::KtlNsjail => command
                    .args(["--sandbox", "--sandbox-runtime", "nsjail", "--sandbox-bin"])
                    .arg(tools::nsjail()?),
                _ => command.arg("--sandbox=off"),
            };
            command.args(told.ktl).envs(told.env.iter().copied());
        }
    }
    command.args(["--progress", told.progress]);
    command.arg("--secret").arg(format!("id=given,src={}", ground.path("given.txt").display()));
    command.arg("--ssh").arg(format!("default={}", ground.path("agent.sock").display()));
    match told.output {
        Output::Local => {
            command.arg("--output").arg(format!("type=local,dest={}", ground.path("out").display()))
        }
        Output::Tar => {
            command.arg("--output").arg(format!("type=tar,dest={}", ground.path("out.tar").display()))
        }
        Output::None => &mut command,
    };
    Ok(command)
}

/// A program with the ground's home and nothing of anybody else's.
fn clean(program: PathBuf, ground: &Ground) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", ground.path("home"))
        .env("BUILDX_CONFIG", ground.path("home/buildx"))
        .env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir(ground.path(""))
        .stdin(Stdio::null());
    command
}
