//! How a private daemon is to be run. Settled by the command that needs it; crosses to the supervisor as JSON.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Place;
use crate::broker::find_program;
use crate::cli::{PrivateFlags, RuntimeChoice};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan;

/// How long nobody may use a daemon before it stops, in seconds.
const IDLE: u64 = 600;
/// In the order of preference.
const OCI_RUNTIMES: [&str; 2] = ["runc", "crun"];

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
    /// Seconds; no reason to replace a daemon.
    pub idle: u64,
    /// All that it kept goes with it.
    pub ephemeral: bool,
}

impl Settings {
    pub fn resolve(place: Place, flags: &PrivateFlags, env: &Env) -> Result<Settings, Failure> {
        let search = env.text("PATH").unwrap_or_default();
        let facts = crate::commands::build::facts(env)?;
        let on_path = |name: &str| find_program(OsStr::new(&search), name);
        let buildkitd = match &flags.buildkitd_bin {
            Some(path) => facts.cwd.join(path),
            None => on_path("buildkitd").ok_or_else(|| missing("buildkitd"))?,
        };
        let oci_runtime =
            OCI_RUNTIMES.iter().find_map(|name| on_path(name)).ok_or_else(|| missing("runc"))?;
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
            idle: flags.idle_timeout.map_or(IDLE, |time| time.as_secs().max(1)),
            ephemeral: false,
        })
    }

    /// The same for a daemon that serves one command.
    pub fn ephemeral(self) -> Settings {
        Settings { idle: 1, ephemeral: true, ..self }
    }

    /// Whether a daemon with these settings serves who asks for `other`.
    pub fn serves(&self, other: &Settings) -> bool {
        Settings { idle: other.idle, search: other.search.clone(), ..self.clone() } == *other
    }

    pub fn buildkitd(&self) -> &OsStr {
        self.buildkitd.as_os_str()
    }

    pub fn oci_runtime(&self) -> &Path {
        &self.oci_runtime
    }
}

fn missing(program: &str) -> Failure {
    Failure::new(Exit::Builder, format!("a private builder needs {program}, which is not on PATH"))
        .hint("buildkitd: apk add buildkit, pacman -S buildkit, nix profile install nixpkgs#buildkit; or --buildkitd-bin PATH")
        .hint("runc or crun: apt-get install runc, dnf install runc, apk add runc")
}
