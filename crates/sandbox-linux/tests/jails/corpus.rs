//! One policy, two runtimes, one view: every policy of the corpus is started as it is written in nsjail and in ktl's own
//! runtime, the same program makes the [probes](crate::view) inside, and the answers are compared line by line. Where they
//! may differ, native is the stricter one, and [`STRICTER`] says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use sandbox_linux::{Builtin, Runtime, Tenant};

use crate::rig::{is_root, nsjail};

mod bench;
mod stricter;

pub use bench::Bench;
use stricter::{OF_A_USER, STRICTER, Stricter, WITH_A_SESSION};

macro_rules! written {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../policies/", $name)))),*] };
}

/// `tests/policies`, each about one thing; embedded, because a plain user may not read the directory.
const WRITTEN: &[(&str, &str)] = written![
    "article-linux-ci.cfg",
    "bind-flags.cfg",
    "bind-link.cfg",
    "bind-nested.cfg",
    "bind-optional.cfg",
    "bind-options.cfg",
    "bind-writable.cfg",
    "capabilities-admin.cfg",
    "capabilities-kept.cfg",
    "capabilities.cfg",
    "content.cfg",
    "course.cfg",
    "description.cfg",
    "devices.cfg",
    "environment-kept.cfg",
    "environment.cfg",
    "file-systems.cfg",
    "filter-allow-list.cfg",
    "filter-arguments.cfg",
    "filter-errno.cfg",
    "filter-kill.cfg",
    "filter-log.cfg",
    "ids-newidmap.cfg",
    "ids-ranges.cfg",
    "ids.cfg",
    "limits-hard.cfg",
    "limits-off.cfg",
    "limits-soft.cfg",
    "limits.cfg",
    "mute-errors.cfg",
    "mute.cfg",
    "namespaces-shared.cfg",
    "network-shared.cfg",
    "network-without-loopback.cfg",
    "new-privileges.cfg",
    "notation.json",
    "personality-compat.cfg",
    "personality.cfg",
    "place.cfg",
    "prefixes.cfg",
    "proc-masked.cfg",
    "proc-twice.cfg",
    "proc-writable.cfg",
    "processes-shared.cfg",
    "root-of-its-own.cfg",
    "root-writable.cfg",
    "session.cfg",
    "silent.cfg",
    "symlink-optional.cfg",
    "symlinks.cfg",
    "time.cfg",
    "tmpfs-nested.cfg",
    "tmpfs-read-only.cfg",
    "tmpfs-stacked.cfg",
    "user-shared.cfg",
];

/// Those that are started as a build's jail, too.
const FOR_BUILDS: &[&str] = &[
    "linux-ci.cfg",
    "linux-strict.cfg",
    "ktl-hermetic.cfg",
    "article-linux-ci.cfg",
    "capabilities-kept.cfg",
    "environment-kept.cfg",
    "limits.cfg",
    "session.cfg",
    "silent.cfg",
];

/// Those that a plain user starts as well: what depends on who one is.
const PLAIN: &[&str] = &[
    "silent.cfg",
    "ids.cfg",
    "bind-writable.cfg",
    "bind-flags.cfg",
    "capabilities-kept.cfg",
    "limits-hard.cfg",
    "network-shared.cfg",
    "filter-kill.cfg",
    "linux-ci.cfg",
    "linux-strict.cfg",
];

/// The probes that a program makes; the module `view` names them.
const PROBES: &[u8] = &[1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 27, 28];

/// What a probe's program ends with when its call returned a positive number.
pub const POSITIVE: i32 = 200;

/// Name and text of every policy: those that the program carries, the article's, and those written for this.
pub fn policies() -> Vec<(String, String)> {
    let builtin = Builtin::ALL.map(|which| (which.file_name(), which.text()));
    builtin.iter().chain(WRITTEN).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn the_corpus_is_whole() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies");
    let files: BTreeSet<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let listed: BTreeSet<String> = WRITTEN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, listed);
    let own: Vec<_> = WRITTEN.iter().filter(|(name, _)| !name.starts_with("article")).collect();
    assert!(own.len() >= 25);
    for (name, text) in own {
        assert!(text.starts_with("# ") || name.ends_with(".json"), "{name} does not say what it is about");
    }
    for name in PLAIN.iter().chain(FOR_BUILDS) {
        assert!(policies().iter().any(|(other, _)| other == name), "{name}");
    }
}

#[test]
fn both_runtimes_show_the_same() {
    compare();
}

/// As root all of the corpus, as a plain user what depends on that. Called by the plain user's suite as well.
pub fn compare() {
    let Some(nsjail) = nsjail() else { return };
    let Some(bench) = Bench::new(Runtime::Nsjail(nsjail)) else { return };
    let mut differences = String::new();
    let mut used = BTreeSet::new();
    let meant: Vec<&Stricter> =
        STRICTER.iter().chain(if is_root() { &[][..] } else { OF_A_USER }).chain(WITH_A_SESSION).collect();
    let asked = policies().into_iter().map(|(name, text)| (Tenant::Program, name, text));
    // What builds run in is settled in another way.
    let for_builds = policies().into_iter().map(|(name, text)| (Tenant::Client, name, text));
    let for_builds = for_builds.filter(|(_, name, _)| FOR_BUILDS.contains(&name.as_str()));
    for (tenant, name, text) in asked.chain(for_builds) {
        if !is_root() && !PLAIN.contains(&name.as_str()) {
            continue;
        }
        let theirs = keyed(&bench.view(&bench.rig.runtime, tenant, &name, &text));
        let ours = keyed(&bench.view(&Runtime::Native, tenant, &name, &text));
        if ours.len() < 150 || theirs.len() < 150 {
            writeln!(differences, "{name}:\n  nsjail {theirs:?}\n  native {ours:?}").unwrap();
            continue;
        }
        for probe in PROBES {
            let made = |view: &BTreeMap<String, String>| {
                view.keys().any(|key| key.split(' ').next() == Some(probe.to_string().as_str()))
            };
            assert!(made(&theirs) && made(&ours), "{name}: no answer to probe {probe}");
        }
        let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for key in keys {
            let none = "nothing".to_owned();
            let (a, b) = (theirs.get(key).unwrap_or(&none), ours.get(key).unwrap_or(&none));
            if a == b {
                continue;
            }
            let meant = meant.iter().position(|entry| entry.fits(&name, key, a, b) && on_a_bind(key, &ours));
            match meant {
                Some(index) => drop(used.insert(index)),
                None => writeln!(differences, "{name}: {key}\n  nsjail {a}\n  native {b}").unwrap(),
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    for (index, entry) in meant.iter().enumerate() {
        assert!(!entry.why.is_empty());
        let tried = is_root() || entry.policy == "*" || PLAIN.contains(&entry.policy);
        let certain = tried && entry.probe != WITH_A_SESSION[0].probe;
        assert!(
            used.contains(&index) || !certain,
            "no such difference any more: {} {}",
            entry.policy,
            entry.key
        );
    }
}

/// A mount's flags may differ on what comes from the host only.
fn on_a_bind(key: &str, view: &BTreeMap<String, String>) -> bool {
    let Some((point, _)) = key.strip_prefix("2 ").and_then(|rest| rest.rsplit_once(' ')) else { return true };
    view.get(&format!("1 {point}")).is_some_and(|mount| mount.contains(" part of a tree"))
}

fn keyed(view: &str) -> BTreeMap<String, String> {
    view.lines()
        .map(|line| line.split_once('\t').unwrap_or((line, "")))
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}
