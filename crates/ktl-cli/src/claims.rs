//! What a build says of its own isolation, link by link, and what becomes of one that cannot say it.
//!
//! "Hermetic" is a word; a claim is something that was looked at in this very run. Whoever looks adds one: the guest in its
//! jail, the host side beside it. [`verdict`] is the one place where claims turn into an end, so that a link which nobody could
//! look at is never taken for one that holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::Hermetic;

/// Of a detail that is shown or written: it may hold what a builder said.
const MAX_DETAIL: usize = 2 << 10;

/// One link of the chain from "nothing but pinned inputs" to the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The link, such as `network mode of RUN`; the same words in every run.
    pub about: String,
    pub state: State,
    /// What was found, and how.
    pub detail: String,
    /// The client makes it so itself, whatever the builder is: where this is broken, even a best effort has failed.
    pub forced: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Held,
    /// The opposite was seen.
    Broken,
    /// Nobody could look.
    Unproven,
}

impl Claim {
    pub fn held(about: impl Into<String>, detail: impl Into<String>) -> Claim {
        Claim::new(about, State::Held, detail)
    }

    pub fn new(about: impl Into<String>, state: State, detail: impl Into<String>) -> Claim {
        let detail = inert::bounded(&detail.into(), MAX_DETAIL);
        Claim { about: about.into(), state, detail, forced: false }
    }

    pub fn forced(self) -> Claim {
        Claim { forced: true, ..self }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Held => "held",
            State::Broken => "BROKEN",
            State::Unproven => "unproven",
        })
    }
}

impl fmt::Display for Claim {
    /// `held: network of RUN: …`, on one line whatever the builder said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Claim { about, state, detail, .. } = self;
        write!(f, "{state}: {}: {}", inert::text(about), inert::text(detail))
    }
}

/// The end of a hermetic build whose claims are not enough: exit 5, with the links that are missing. Where it is required every
/// link must hold, and there must be some; for a best effort, what the client forces must not be broken.
pub fn verdict(claims: &[Claim], hermetic: Hermetic) -> Result<(), Failure> {
    if hermetic == Hermetic::Required && claims.is_empty() {
        return Err(Failure::new(
            Exit::Policy,
            "--hermetic: nothing was proven of this build, so no output is written",
        ));
    }
    ends_without(
        "--hermetic",
        claims.iter().filter(|claim| match hermetic {
            Hermetic::Off => false,
            Hermetic::BestEffort => claim.forced && claim.state == State::Broken,
            Hermetic::Required => claim.state != State::Held,
        }),
    )
}

/// Exit 5 where a link is missing that `flag` promises.
pub fn ends_without<'a>(flag: &str, missing: impl Iterator<Item = &'a Claim>) -> Result<(), Failure> {
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    let links = match missing.len() {
        0 => return Ok(()),
        1 => "a link is".to_owned(),
        many => format!("{many} links are"),
    };
    let title = format!("{flag}: {links} missing, so no output is written");
    Err(Failure::new(Exit::Policy, title).hints(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_one_line() {
        let claim = Claim::new("network of RUN", State::Broken, "it said \u{1b}[2J\nheld: all");
        let line = claim.to_string();
        assert!(line.starts_with("BROKEN: network of RUN: it said "), "{line}");
        assert!(!line.contains(['\n', '\u{1b}']), "{line:?}");
        let long = Claim::held("x", "y".repeat(MAX_DETAIL * 2));
        assert!(long.detail.len() <= MAX_DETAIL);
        let json = serde_json::to_value(&claim).unwrap();
        assert_eq!((&json["state"], &json["forced"]), (&"broken".into(), &false.into()));
    }

    #[test]
    fn what_is_not_held_ends_the_build() {
        let (held, broken, unproven) = (State::Held, State::Broken, State::Unproven);
        for (states, forced, best, all) in [
            (&[][..], false, true, false),
            (&[held], false, true, true),
            (&[held, unproven], false, true, false),
            (&[held, broken], false, true, false),
            (&[held, broken], true, false, false),
            (&[held, unproven], true, true, false),
        ] {
            let claims: Vec<Claim> =
                states.iter().map(|state| Claim { forced, ..Claim::new("link", *state, "") }).collect();
            for (hermetic, ok) in
                [(Hermetic::Off, true), (Hermetic::BestEffort, best), (Hermetic::Required, all)]
            {
                let ended = verdict(&claims, hermetic).map_err(|failure| failure.exit);
                let want = if ok { Ok(()) } else { Err(Exit::Policy) };
                assert_eq!(ended, want, "{states:?}, forced {forced}, {hermetic:?}");
            }
        }
    }
}
