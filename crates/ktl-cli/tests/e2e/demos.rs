//! The scripts below demos/ hold what they claim.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use xtask::demo::{Script, Stage};

use crate::ktl::{Ran, World};

#[test]
fn every_claim_of_the_scripts_holds() {
    let stage = Stage::start(PathBuf::from(env!("CARGO_BIN_EXE_ktl"))).unwrap();
    for script in Script::ALL {
        let ran = Ran::of(stage.command(script).unwrap().output().unwrap());
        assert_eq!(ran.code, Some(0), "{}:\n{}\n{}", script.name(), ran.stdout, ran.stderr);
        assert!(!ran.stdout.contains("FAIL") && ran.stdout.matches("PASS").count() > 20, "{}", ran.stdout);
    }

    // And they can fail: a ktl that makes no jail is found out.
    let world = World::new();
    let unjailed =
        world.write("ktl", format!("#!/bin/sh\nexec {} \"$@\" --sandbox=off\n", env!("CARGO_BIN_EXE_ktl")));
    fs::set_permissions(&unjailed, fs::Permissions::from_mode(0o755)).unwrap();
    let ran = Ran::of(stage.command(Script::DockerVsKtl).unwrap().env("KTL", unjailed).output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stdout.contains("FAIL  ktl, taken over, has not: key"), "{}", ran.stdout);
}
