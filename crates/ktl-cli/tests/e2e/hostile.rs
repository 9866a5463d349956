//! ktl before a daemon that means harm: every case of `xtask::hostile`, unjailed and in a jail of ktl's own, a third of them in
//! one of nsjail's too.
//!
//! A case holds when ktl was safe, ended as it should, said what it should, and the honest part of the same visit came
//! about. Where what the daemon wants can be granted, the judge must find a leak once it is: so the check can fail.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use xtask::hostile::case::Case;
use xtask::hostile::client::Client;
use xtask::hostile::judge::Verdict;
use xtask::hostile::run;
use xtask::parts::ScratchDir;

/// Clients at once.
const WORKERS: usize = 4;

fn ktl() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ktl"))
}

/// Plays all cases of some groups, several at a time.
fn play(groups: &[&str]) {
    let scratch = ScratchDir::new("hostile").unwrap();
    let cases: Vec<Case> =
        xtask::hostile::all().into_iter().filter(|case| groups.contains(&case.group())).collect();
    assert!(!cases.is_empty());
    let jobs: Vec<(Case, Client)> = cases
        .iter()
        .enumerate()
        .flat_map(|(number, case)| {
            // The guest is the same in both jails; `cargo xtask attack` plays all in all.
            let nsjail = (number % 3 == 0).then_some(Client::KtlNsjail);
            [Client::Ktl, Client::KtlUnjailed].into_iter().chain(nsjail).map(|client| (*case, client))
        })
        .collect();
    let failures = Mutex::new(Vec::new());
    run::play_all(&jobs, WORKERS, ktl(), scratch.path(), |case, client, played| {
        let fault = match played {
            Ok(played) => played.fault(case),
            Err(error) => Some(format!("{error:#}")),
        };
        let fault = fault.map(|fault| format!("{} {}: {fault}", case.name, client.name()));
        failures.lock().unwrap_or_else(PoisonError::into_inner).extend(fault);
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn files() {
    play(&["files"]);
}

#[test]
fn agents() {
    play(&["agent"]);
}

#[test]
fn outputs() {
    play(&["outputs"]);
}

#[test]
fn credentials_and_secrets() {
    play(&["credentials", "secrets"]);
}

#[test]
fn screens() {
    play(&["screen"]);
}

#[test]
fn floods() {
    play(&["flood"]);
}

#[test]
fn times() {
    play(&["time"]);
}

#[test]
fn wires() {
    play(&["wire"]);
}

/// The judge sees what the daemon gets when the user gives it.
#[test]
fn what_is_granted_is_got() {
    let scratch = ScratchDir::new("granted").unwrap();
    let cases = xtask::hostile::all().into_iter().filter(|case| case.granted.is_some());
    let mut count = 0;
    for case in cases {
        let played = run::play_granted(&case, Client::KtlUnjailed, ktl(), scratch.path()).unwrap();
        assert!(matches!(played.verdict, Verdict::Leaked(_)), "{}: {:?}", case.name, played.verdict);
        count += 1;
    }
    assert!(count > 0);
}
