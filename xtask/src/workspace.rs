//! Where things lie in this checkout: the one place that knows the layout of the repository and of cargo's target
//! directory, so that nothing else joins paths by hand.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// A variable of the environment. xtask is a tool of developers and reads what cargo and the shell set; an empty value counts
/// as unset.
#[allow(clippy::disallowed_methods, reason = "the rule is for ktl, whose environment is read in one place")]
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The root of the checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where setup puts what is not installed system-wide; ignored by git.
pub fn tools_dir() -> PathBuf {
    root().join(".tools")
}

/// The root file systems that base images are made from.
pub fn images_dir() -> PathBuf {
    tools_dir().join("images")
}

/// cargo's target directory: `CARGO_TARGET_DIR`, else `target` in the checkout.
pub fn target_dir() -> PathBuf {
    root().join(variable("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Which of the two builds of ktl is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quick to build; what tests and the demo run.
    Dev,
    /// What ships, and the only one worth measuring.
    Dist,
}

/// Builds ktl and returns the path of the program, as cargo reports it.
pub fn build_ktl(profile: Profile) -> Result<PathBuf> {
    build("ktl-cli", &[], "ktl", profile)
}

/// Builds the program that starts one jail, an example of the sandbox library.
pub fn build_starter(profile: Profile) -> Result<PathBuf> {
    build("sandbox-linux", &["--example", "start"], "start", profile)
}

fn build(package: &str, target: &[&str], name: &str, profile: Profile) -> Result<PathBuf> {
    let cargo = variable("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root()).args(["build", "--package", package]).args(target);
    build.args(["--message-format", "json-render-diagnostics"]);
    if profile == Profile::Dist {
        build.args(["--profile", "dist"]);
    }
    let messages = command::stdout_of(&mut build).with_context(|| format!("build {name}"))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact" && message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo built package {package} but reported no program named {name}"))
}
