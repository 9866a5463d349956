//! How a private daemon is to be run. Settled by the command that needs it; crosses to the supervisor as JSON.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use buildsvc::egress::Egress;
use serde::{Deserialize, Serialize};

use super::Place;
use super::limits::Limits;
use super::terms::Terms;
use crate::broker::find_program;
use crate::cli::{PrivateFlags, RuntimeChoice};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan;

/// How long nobody may use a daemon before it stops, in seconds.
const IDLE: u64 = 600;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Of ktl: another one replaces the daemon.
    pub version: String,
    pub place: Place,
    pub buildkitd: PathBuf,
    pub oci_runtime: PathBuf,
    /// In the form of PATH, for nsjail and for interpreters.
    pub search: String,
    pub runtime: RuntimeChoice,
    pub nsjail: Option<PathBuf>,
    pub cache: PathBuf,
    /// Those that somebody asks for; what nobody does is as the daemon was started.
    pub limits: Limits,
    /// Seconds; no reason to replace a daemon.
    pub idle: u64,
    /// All that it kept goes with it.
    pub ephemeral: bool,
    /// The servers that its way out leads to, where it has one.
    pub egress: Option<Egress>,
}

impl Settings {
    pub fn resolve(place: Place, flags: &PrivateFlags, env: &Env) -> Result<Settings, Failure> {
        let search = env.text("PATH").unwrap_or_default();
        let facts = crate::commands::build::facts(env)?;
        let limits = Limits::asked(flags, env)?.and(Terms::of(&place.name, env)?.limits);
        let on_path = |name: &str| find_program(OsStr::new(&search), name);
        let buildkitd = match &flags.buildkitd_bin {
            Some(path) => facts.cwd.join(path),
            None => on_path("buildkitd").ok_or_else(|| missing("buildkitd"))?,
        };
        let oci_runtime = match (on_path("runc"), on_path("crun")) {
            (Some(runc), _) => runc,
            (None, Some(crun)) => able(crun)?,
            (None, None) => return Err(missing("runc")),
        };
        // The same choice as for a client's jail, from the environment alone: a daemon serves many commands.
        let jail = plan::sandbox_plan(&Default::default(), false, env, &facts)?;
        Ok(Settings {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            place,
            buildkitd,
            oci_runtime,
            runtime: jail.runtime,
            nsjail: jail.bin,
            cache: plan::cache_dir(env, &facts)?,
            search,
            limits,
            idle: flags.idle_timeout.map_or(IDLE, |time| time.as_secs().max(1)),
            ephemeral: false,
            egress: None,
        })
    }

    /// The same for a daemon that serves one command.
    pub fn ephemeral(self) -> Settings {
        Settings { idle: 1, ephemeral: true, ..self }
    }

    /// Whether a daemon with these settings serves who asks for `other`.
    pub fn serves(&self, other: &Settings) -> bool {
        let alike =
            Settings { idle: other.idle, search: other.search.clone(), limits: other.limits, ..self.clone() };
        alike == *other && self.limits.serve(other.limits)
    }

    pub fn buildkitd(&self) -> &OsStr {
        self.buildkitd.as_os_str()
    }

    pub fn oci_runtime(&self) -> &Path {
        &self.oci_runtime
    }
}

/// A crun that can do what BuildKit asks of it. Every step would fail with an older one, and not say that it is the cause.
fn able(crun: PathBuf) -> Result<PathBuf, Failure> {
    let help = Command::new(&crun).args(["run", "--help"]).stdin(Stdio::null()).output();
    match help {
        Ok(help) if String::from_utf8_lossy(&help.stdout).contains("--keep") => Ok(crun),
        _ => Err(Failure::new(
            Exit::Builder,
            format!(
                "{} is too old for BuildKit: it has no `crun run --keep`, which came with 1.15",
                crun.display()
            ),
        )
        .hint(
            "runc, or a newer crun, must be on PATH: apt-get install runc, dnf install runc, apk add runc",
        )),
    }
}

fn missing(program: &str) -> Failure {
    Failure::new(Exit::Builder, format!("a private builder needs {program}, which is not on PATH"))
        .hint("buildkitd: apk add buildkit, pacman -S buildkit, nix profile install nixpkgs#buildkit; or --buildkitd-bin PATH")
        .hint("runc or crun: apt-get install runc, dnf install runc, apk add runc")
}
