//! Whatever arrives: damaged messages for all that reads what a daemon, a registry or a repository wrote.

mod session;
mod texts;
mod transfer;

use xtask::fuzz::{self, Target};

const TARGETS: &[Target] = &[
    ("results", transfer::results),
    ("requests", transfer::requests),
    ("patterns", transfer::patterns),
    ("archives", transfer::archives),
    ("progress", transfer::progress),
    ("failures", transfer::failures),
    ("session", session::calls),
    ("docker config", texts::docker_config),
    ("references", texts::references),
    ("addresses", texts::addresses),
    ("egress", texts::egress),
    ("flags", texts::flags),
    ("locks", texts::locks),
    ("dockerfiles", texts::dockerfiles),
    ("manifests", texts::manifests),
    ("source policies", texts::source_policies),
    ("guarded files", texts::guarded_files),
];

#[test]
fn damaged_messages_are_survived() {
    fuzz::run("fuzz_tests::damaged_messages_are_survived", TARGETS);
}
