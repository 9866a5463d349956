//! System call filters are counted: the caller's, and the jail's on top.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use sandbox_linux::{Caller, Nsjail, Outcome, Overrides, Policy, Runtime, Tenant, install_filter, seccomp};

use super::{facts, jail};
use crate::rig::{GUEST_ARGS, Rig, nsjail, run_with};

/// A program called nsjail that leaves the filter out makes a jail that is found wanting.
#[test]
fn a_missing_filter_is_found() {
    let Some(nsjail) = nsjail() else { return };
    let Some(rig) = Rig::with(Runtime::Native) else { return };
    let shim = rig.path("nsjail");
    let config = rig.path("config");
    let script = format!(
        "#!/bin/sh\nsed '/^seccomp_string/d' \"$2\" > {0}\nshift 2\nexec {1} --config {0} \"$@\"\n",
        config.display(),
        nsjail.path().display()
    );
    fs::write(&shim, script).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let shim = Runtime::Nsjail(Nsjail::find(Some(&shim), None).unwrap());
    for tenant in [Tenant::Client, Tenant::Program] {
        let policy = Policy::parse("p", b"seccomp_string: \"DEFAULT ALLOW\"").unwrap();
        let jail = rig.jail(policy, Overrides { tenant, ..rig.overrides() });
        let run = run_with(&shim, &jail, "/ktl-bin/guest", GUEST_ARGS).unwrap();
        assert_eq!(run.outcome, Outcome::Exited(4), "{run:#?}");
        assert!(run.report.contains("system call filter"), "{run:#?}");
    }
}

/// The caller's own filters are counted in, so that they cannot stand for the jail's.
#[test]
fn filters_count_on_top_of_the_callers() {
    let policy = "seccomp_string: \"DEFAULT ALLOW\"";
    std::thread::spawn(move || {
        let allow = seccomp::compile("DEFAULT ALLOW", seccomp::Arch::native()).unwrap();
        install_filter(&allow, false).unwrap();
        let before = Caller::current().unwrap().filters.unwrap();
        for rig in Rig::each() {
            assert_eq!(jail(&rig, policy).promises().host_filters, Some(before));
            let run = rig.guest(&jail(&rig, policy));
            assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
            assert_eq!(facts(&rig, policy)["Seccomp_filters"], (before + 1).to_string());
        }
    })
    .join()
    .unwrap();
}
