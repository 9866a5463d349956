//! The demos that are shell scripts below `demos/`, and the stage that they play on.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::parts::{self, AstrayRegistry, Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir};
use crate::{tools, workspace};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// A build that reaches for the user's things, without a jail and in it.
    Sandbox,
    /// The same build through three clients.
    DockerVsKtl,
}

impl Script {
    pub const ALL: [Script; 2] = [Script::Sandbox, Script::DockerVsKtl];

    pub fn name(self) -> &'static str {
        match self {
            Script::Sandbox => "sandbox",
            Script::DockerVsKtl => "docker-vs-ktl",
        }
    }

    fn path(self) -> PathBuf {
        workspace::root().join("demos").join(match self {
            Script::Sandbox => "sandbox-demo.sh",
            Script::DockerVsKtl => "docker-vs-ktl-sandbox-demo.sh",
        })
    }
}

/// A buildkitd, a registry with the images, and a registry that leads astray, for any number of scripts.
#[derive(Debug)]
pub struct Stage {
    ktl: PathBuf,
    daemon: Buildkitd,
    registry: Registry,
    astray: AstrayRegistry,
    runs: AtomicU32,
    // Goes last.
    scratch: ScratchDir,
}

impl Stage {
    pub fn start(ktl: PathBuf) -> Result<Stage> {
        let scratch = ScratchDir::new("stage")?;
        let registry = Registry::start(&scratch.join("registry"), Auth::None)?;
        let astray = AstrayRegistry::start()?;
        let plain_http = vec![registry.address().to_owned(), astray.address().to_owned()];
        let daemon =
            Buildkitd::start(&scratch.join("daemon"), &Options { plain_http, ..Options::default() })?;
        parts::push_base_images(&daemon, &registry, &[BaseImage::Busybox, BaseImage::Reaching])?;
        Ok(Stage { ktl, daemon, registry, astray, runs: AtomicU32::new(0), scratch })
    }

    /// Runs the script in a directory of its own; `false` when a claim does not hold. What it prints goes where ours goes.
    pub fn run(&self, script: Script) -> Result<bool> {
        let mut command = self.command(script)?;
        let status = command.status().with_context(|| format!("start {}", script.path().display()))?;
        Ok(status.success())
    }

    /// The command that [`Stage::run`] runs.
    pub fn command(&self, script: Script) -> Result<Command> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new("bash");
        command
            .arg(script.path())
            .current_dir(workspace::root())
            .env("KTL", &self.ktl)
            .env("BUILDCTL", tools::buildctl()?)
            .env("BUILDX", tools::buildx()?)
            .env("KTL_BUILDER", self.daemon.address())
            .env("KTL_SANDBOX_BIN", tools::nsjail()?)
            .env("BASE", BaseImage::Busybox.by_digest(&self.registry)?)
            .env("FRONTEND", BaseImage::Reaching.reference(&self.registry))
            .env("SERVICE", self.registry.address())
            .env("ASTRAY", self.astray.address())
            .env("DEMO_DIR", self.scratch.dir(format!("run-{number}"))?)
            .stdin(Stdio::null());
        Ok(command)
    }
}
