//! Private builders kept apart by whom their builds come from: `--trust NAME`.
//!
//! A cache is a channel: whoever may write to a builder can leave there what a later build takes for its own. So builds of
//! another trust (a fork's pull request, a vendor's sources) get a daemon, a cache, ids and a jail of their own, which is a
//! matter of its name: `NAME@TRUST`. No other kind of builder can be kept apart like that, and none is used in its place.

use super::only;
use crate::builder::Candidate;
use crate::cli::PrivateFlags;
use crate::env::{self, Env};
use crate::failure::Failure;

/// Between a builder's name and its trust.
pub const MARK: char = '@';
/// What [`is_name`] takes, for people.
pub const NAMES: &str = "Use 1 to 32 of a-z, 0-9, - and _.";

pub fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    (1..=32).contains(&text.len()) && text.chars().all(good)
}

/// The trust that was asked for, and by what.
fn asked(flags: &PrivateFlags, env: &Env) -> Result<Option<(String, &'static str)>, Failure> {
    let given = flags.trust.clone().map(|trust| (trust, "--trust"));
    let given = given.or_else(|| Some((env.text(env::KTL_TRUST)?, env::KTL_TRUST)));
    match given {
        Some((trust, by)) if !is_name(&trust) => {
            Err(Failure::usage(format!("{by}: `{trust}` is no name for a trust")).hint(NAMES))
        }
        given => Ok(given),
    }
}

/// The name of the private builder `name` for this trust.
pub fn name(name: &str, flags: &PrivateFlags, env: &Env) -> Result<String, Failure> {
    match (asked(flags, env)?, name.split_once(MARK)) {
        (None, _) => Ok(name.to_owned()),
        (Some((trust, _)), None) => Ok(format!("{name}{MARK}{trust}")),
        (Some((trust, _)), Some((_, same))) if trust == same => Ok(name.to_owned()),
        (Some((trust, by)), Some((_, other))) => Err(Failure::usage(format!(
            "the builder {name} is of the trust `{other}`, and {by} says `{trust}`"
        ))),
    }
}

/// The candidates that may be used for this trust: where one is asked for, private ones alone.
pub fn keep(candidates: Vec<Candidate>, flags: &PrivateFlags, env: &Env) -> Result<Vec<Candidate>, Failure> {
    match asked(flags, env)? {
        None => Ok(candidates),
        Some((_, by)) => {
            only(candidates, by, "cannot be kept for one trust: whatever is built there shares its cache")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn flags(trust: Option<&str>) -> PrivateFlags {
        PrivateFlags { trust: trust.map(str::to_owned), ..PrivateFlags::default() }
    }

    #[test]
    fn a_trust_becomes_part_of_the_name() {
        let none = Env::of(&[]);
        let fork = Env::of(&[("KTL_TRUST", "fork")]);
        for (given, flag, env, want) in [
            ("a", None, &none, Ok("a")),
            ("a", Some("t"), &none, Ok("a@t")),
            ("a", None, &fork, Ok("a@fork")),
            ("a", Some("t"), &fork, Ok("a@t")),
            ("a@t", None, &none, Ok("a@t")),
            ("a@t", Some("t"), &none, Ok("a@t")),
            ("a@t", None, &fork, Err("KTL_TRUST says `fork`")),
            ("a", Some("T"), &none, Err("no name for a trust")),
            ("a", Some("t@u"), &none, Err("no name for a trust")),
        ] {
            match (name(given, &flags(flag), env), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(failure), Err(part)) => {
                    assert!(failure.title.contains(part), "{}", failure.title);
                    assert_eq!(failure.exit, Exit::Usage);
                }
                (got, want) => panic!("{given} {flag:?}: {got:?}, not {want:?}"),
            }
        }
    }
}
