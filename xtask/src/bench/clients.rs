//! The clients, and how each of them is told to do the same build.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::parts::Buildkitd;
use crate::{command, tools};

/// A client of the daemon, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    Buildctl,
    Ktl,
    KtlUnjailed,
    Buildx,
}

impl Client {
    pub const ALL: [Client; 4] = [Client::Buildctl, Client::Ktl, Client::KtlUnjailed, Client::Buildx];

    pub fn name(self) -> &'static str {
        match self {
            Client::Buildctl => "buildctl",
            Client::Ktl => "ktl",
            Client::KtlUnjailed => "ktl-unjailed",
            Client::Buildx => "buildx",
        }
    }

    pub fn is_ktl(self) -> bool {
        matches!(self, Client::Ktl | Client::KtlUnjailed)
    }
}

/// One build as all clients understand it. The Dockerfile is the context's own.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    pub context: &'a Path,
    pub build_args: &'a [(&'static str, String)],
    /// Write the result's files into this directory; else it stays in the builder's cache.
    pub output: Option<&'a Path>,
}

/// The programs with their addresses and private configurations.
#[derive(Debug)]
pub struct Clients {
    ktl: Option<PathBuf>,
    address: String,
    home: PathBuf,
}

const BUILDER: &str = "bench";

impl Clients {
    /// `home` becomes the clients' home directory, so that nobody's own configuration takes part.
    pub fn new(ktl: Option<PathBuf>, daemon: &Buildkitd, home: PathBuf) -> Result<Clients> {
        let clients = Clients { ktl, address: daemon.address(), home };
        let mut create = clients.with_environment(tools::buildx()?);
        create.args(["create", "--name", BUILDER, "--driver", "remote"]).arg(&clients.address);
        command::run(&mut create)?;
        Ok(clients)
    }

    fn program(&self, client: Client) -> Result<PathBuf> {
        match client {
            Client::Buildctl => tools::buildctl(),
            Client::Buildx => tools::buildx(),
            Client::Ktl | Client::KtlUnjailed => self.ktl.clone().context("ktl was not built for this bench"),
        }
    }

    fn with_environment(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.env("HOME", &self.home).env("BUILDX_CONFIG", self.home.join("buildx"));
        // The other two add no provenance on their own.
        command.env("BUILDX_NO_DEFAULT_ATTESTATIONS", "1");
        for name in [
            "XDG_CACHE_HOME",
            "KTL_CACHE_DIR",
            "KTL_BUILDER",
            "BUILDKIT_HOST",
            "DOCKER_CONFIG",
            "SOURCE_DATE_EPOCH",
        ] {
            command.env_remove(name);
        }
        command
    }

    /// The command that prints the client's version and does nothing else.
    pub fn version(&self, client: Client) -> Result<Command> {
        let mut command = self.with_environment(self.program(client)?);
        command.arg(if client == Client::Buildx { "version" } else { "--version" });
        Ok(command)
    }

    /// The command that does this build, with plain progress.
    pub fn build(&self, client: Client, build: Build<'_>) -> Result<Command> {
        let mut command = self.with_environment(self.program(client)?);
        if client == Client::Buildctl {
            command.args([
                "--addr",
                &self.address,
                "build",
                "--progress",
                "plain",
                "--frontend",
                "dockerfile.v0",
            ]);
            for local in ["context", "dockerfile"] {
                command.arg("--local").arg(format!("{local}={}", build.context.display()));
            }
            for (name, value) in build.build_args {
                command.arg("--opt").arg(format!("build-arg:{name}={value}"));
            }
            if let Some(dir) = build.output {
                command.arg("--output").arg(format!("type=local,dest={}", dir.display()));
            }
            return Ok(command);
        }
        command.args(["build", "--progress", "plain"]);
        match client {
            Client::Buildx => command.args(["--builder", BUILDER]),
            _ => command.args(["--builder", &self.address]),
        };
        match client {
            Client::KtlUnjailed => command.arg("--sandbox=off"),
            Client::Ktl => command.arg("--sandbox").arg("--sandbox-bin").arg(tools::nsjail()?),
            _ => &mut command,
        };
        for (name, value) in build.build_args {
            command.arg("--build-arg").arg(format!("{name}={value}"));
        }
        if let Some(dir) = build.output {
            command.arg("--output").arg(format!("type=local,dest={}", dir.display()));
        }
        command.arg(build.context);
        Ok(command)
    }
}
