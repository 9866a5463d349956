//! The schemas of CI systems' files, which the recipes in docs/ci are checked against: a Python wheel carries those that the
//! systems publish.

use anyhow::Result;

use super::pypi::{self, Wheel};
use super::{report, shown, stage};
use crate::tools;

const WHEEL: Wheel = Wheel {
    name: "check-jsonschema",
    version: tools::SCHEMAS_VERSION,
    sha256: &["14ce5c94871c551268ea948ffe21e9f1464dc48fb20bf9a4c13deeaaf756cf9b"],
};

pub fn install() -> Result<()> {
    let dir = tools::schemas_dir();
    if !dir.is_dir() {
        stage::install(&dir, |dir| pypi::install(&WHEEL, dir))?;
    }
    report("ci schemas", &shown(&dir));
    Ok(())
}
