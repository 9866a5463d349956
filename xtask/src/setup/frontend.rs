//! The hostile frontend of the demos, `xtask/tools/reaching`, compiled against the BuildKit that the daemon is of, and packed
//! for an image.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{go, images, report, stage};
use crate::{command, tools, workspace};

const SOURCE: &str = include_str!("../../tools/reaching/main.go");

pub fn install() -> Result<()> {
    let recipe = format!("BuildKit {}\n{SOURCE}", tools::buildkit_version());
    if images::is_current("reaching", &recipe) {
        return Ok(());
    }
    let go = go::toolchain()?;
    report("image reaching", "compile");
    let place = workspace::images_dir().join("reaching.tar");
    stage::install(&place, |tar| {
        let dir = tar.parent().context("a staged file lies in a directory")?;
        command::run(&mut compile(&go, &dir.join("reaching")))?;
        command::run(
            Command::new("tar")
                .args(["--create", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "--file"])
                .arg(tar)
                .arg("--directory")
                .arg(dir)
                .arg("reaching"),
        )
    })?;
    images::record("reaching", &recipe)
}

fn compile(go: &Path, program: &Path) -> Command {
    let mut build = Command::new(go);
    build
        .current_dir(workspace::root().join("xtask/tools"))
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags", "-s -w", "-o"])
        .arg(program)
        .arg("./reaching");
    build
}
