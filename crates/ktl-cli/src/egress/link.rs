//! What a build says of its list: that RUN reaches what is on it, and nothing else.
//!
//! One link is made of several looks: the daemon has the proxy and is told to use it, a step that went past it or made a request
//! that nobody allows was stopped ([`crate::inside`]), and where the builder is ktl's own, its namespace leads nowhere else.

use buildsvc::build::PROXY_NETWORK;
use buildsvc::egress::Egress;

use crate::claims::{self, Claim, State};
use crate::failure::Failure;
use crate::inside;
use crate::private::{Network, peer};

/// The sum of all looks.
const REACHES: &str = "RUN reaches only the list";
const PROXY: &str = "the builder's proxy";

/// What the list does not hold on a builder that has a network of its own.
const BEYOND: [(&str, &str); 3] = [
    (
        "where a listed name leads",
        "the builder resolves it, and it may lead to any address, loopback included",
    ),
    ("what the builder fetches unasked", "what registries and ADD are redirected to, git submodules"),
    (
        "steps that another build has made under another list",
        "the builder's cache has them (--no-cache makes them anew)",
    ),
];

pub fn unproven() -> Vec<Claim> {
    BEYOND.iter().map(|(about, why)| Claim::new(*about, State::Unproven, *why)).collect()
}

/// Of a daemon that was asked, and says that it has a proxy.
pub fn proxy(version: &str) -> Claim {
    let how =
        format!("asked for in the solve; the builder says it is BuildKit {version} and has {PROXY_NETWORK}");
    Claim::held(PROXY, how).forced()
}

/// As strong as the weakest look among `claims`; one that is missing proves nothing. `private` is the network of a builder of
/// ktl's own.
pub fn reaches(claims: &[Claim], list: &Egress, private: Option<Network>) -> Claim {
    let needed = [Some(PROXY), Some(inside::PROXIED), private.map(|_| peer::NETWORK)];
    let unseen = needed.into_iter().flatten().find(|about| !claims.iter().any(|claim| claim.about == *about));
    let is_part = |claim: &&Claim| {
        claim.about == PROXY
            || claim.about.starts_with("RUN")
            || private.is_some() && claim.about == peer::NETWORK
    };
    let mut worst = State::Held;
    let mut why = Vec::new();
    for claim in claims.iter().filter(is_part).filter(|claim| claim.state != State::Held) {
        why.push(format!("{}: {}", claim.about, claim.detail));
        worst = if worst == State::Broken { worst } else { claim.state };
    }
    if let (Some(unseen), State::Held) = (unseen, worst) {
        return Claim::new(REACHES, State::Unproven, format!("nobody has looked at: {unseen}"));
    }
    if worst != State::Held {
        return Claim::new(REACHES, worst, why.join("; ")).forced();
    }
    let list = match list.learns() {
        true => {
            "the builder's proxy asks for each request, and public servers are allowed while the list is learned"
        }
        false => "the builder's proxy asks for each request, and what no rule allows gets 403",
    };
    let second = match private {
        Some(network) => {
            format!("; the builder's namespace leads to these servers alone (network {network})")
        }
        None => String::new(),
    };
    Claim::held(REACHES, format!("{list}{second}")).forced()
}

/// Whether a line is printed of it: all that a person has to know of the list, and what does not hold.
pub fn is_told(claim: &Claim) -> bool {
    let own = [PROXY, REACHES].contains(&claim.about.as_str());
    let beyond = BEYOND.iter().any(|(about, _)| claim.about == *about);
    let part = claim.about.starts_with("RUN") || [peer::NETWORK, peer::JAIL].contains(&claim.about.as_str());
    own || beyond || part && claim.state != State::Held
}

/// The end of a build whose list is not kept. A builder of ktl's own must have proven that it is; of another one the opposite
/// must not have been seen.
pub fn verdict(claims: &[Claim], private: bool) -> Result<(), Failure> {
    let own = [PROXY, REACHES, peer::NETWORK, peer::JAIL];
    claims::ends_without(
        "--egress",
        claims.iter().filter(|claim| match claim.state {
            State::Held => false,
            State::Broken if claim.forced => true,
            State::Broken | State::Unproven => private && own.contains(&claim.about.as_str()),
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(states: [State; 4]) -> Vec<Claim> {
        let abouts = [PROXY, inside::PROXIED, "RUN: names", peer::NETWORK];
        abouts.iter().zip(states).map(|(about, state)| Claim::new(*about, state, "seen").forced()).collect()
    }

    #[test]
    fn one_weak_look_weakens_the_sum() {
        let (held, broken, unproven) = (State::Held, State::Broken, State::Unproven);
        let network = Some("egress-00000007".parse().unwrap());
        let list = Egress::default();
        for (states, plain, private) in [
            ([held; 4], held, held),
            ([held, held, held, broken], held, broken),
            ([held, held, unproven, held], unproven, unproven),
            ([held, unproven, broken, unproven], broken, broken),
            ([held, broken, held, held], broken, broken),
        ] {
            let claims = looked(states);
            for (network, want) in [(None, plain), (network, private)] {
                let claim = reaches(&claims, &list, network);
                assert_eq!(claim.state, want, "{states:?} {claim}");
                let sum = verdict(&[claim], network.is_some());
                assert_eq!(sum.is_ok(), want == held || want == unproven && network.is_none(), "{states:?}");
            }
        }
        for missing in 0..4 {
            let mut claims = looked([held; 4]);
            claims.remove(missing);
            let state = |network| reaches(&claims, &list, network).state;
            let want = |needed: bool| if needed { unproven } else { held };
            assert_eq!((state(None), state(network)), (want(missing < 2), want(missing != 2)), "{missing}");
        }
    }

    #[test]
    fn what_is_said_of_a_list() {
        let network = Some("egress-00000007".parse().unwrap());
        let claim = |list: &Egress, network| reaches(&looked([State::Held; 4]), list, network).to_string();
        let private = claim(&Egress::default(), network);
        assert!(
            private.starts_with("held: RUN reaches only the list: ") && private.contains("egress-00000007")
        );
        assert!(claim(&Egress::new([], true), None).contains("while the list is learned"));
        assert!(unproven().iter().all(is_told) && is_told(&proxy("v0.32.2")));
        let told = looked([State::Held; 4]).iter().filter(|claim| is_told(claim)).count();
        assert_eq!(told, 1, "the looks are told where they fail");
        assert!(verdict(&unproven(), true).is_ok());
    }
}
