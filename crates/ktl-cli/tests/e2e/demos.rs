//! The scripts below demos/ hold what they claim.

use std::path::PathBuf;

use xtask::demo::{Script, Stage};

use crate::ktl::Ran;

#[test]
fn every_claim_of_the_scripts_holds() {
    let stage = Stage::start(PathBuf::from(env!("CARGO_BIN_EXE_ktl"))).unwrap();
    for script in Script::ALL {
        let ran = Ran::of(stage.command(script).unwrap().output().unwrap());
        assert_eq!(ran.code, Some(0), "{}:\n{}\n{}", script.name(), ran.stdout, ran.stderr);
        assert!(!ran.stdout.contains("FAIL") && ran.stdout.matches("PASS").count() > 20, "{}", ran.stdout);
    }
}
