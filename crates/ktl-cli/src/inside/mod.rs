//! A look from inside a step: what RUN reaches on this builder, tried and not believed.
//!
//! Before the build, ktl has the daemon run ktl itself as a step, with the network that the build's own steps get. In there it
//! tries each way to the host and out of it ([`step`]). The host side has opened sockets of its own for the step to find
//! ([`Controls`]), and has connected to each of them first: so "not reached" is never said of something that nobody could reach,
//! and a connection that arrives is seen on this side, whatever the answer claims.
//!
//! It shows how the daemon is configured, not that it is honest: one that lies can run this step elsewhere. Against that stands
//! the private builder, whose jail is ktl's own work.

mod controls;
mod proxied;
pub mod step;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buildsvc::build::Build;
use buildsvc::client::Client;
use buildsvc::error::BuildError;
use buildsvc::session::host::Host;
use buildsvc::trial::{self, Network, Trial};
use sandbox_linux::{Probe, Verdict};
use serde::{Deserialize, Serialize};

use crate::claims::{Claim, State};
use crate::failure::chain;

pub use controls::Controls;
use proxied::Doorman;
pub use proxied::PROXIED;

/// For the whole look; the first one on a builder sends it the program.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the claim is about when nothing could be tried.
const ALL: &str = "RUN, seen from inside";

/// What the guest needs for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InsidePlan {
    /// The directory with ktl's own binary `ktl`, which is static.
    pub dir: PathBuf,
    pub question: Question,
}

/// What the step is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Of this run; the answer holds it too.
    pub nonce: String,
    pub links: Vec<Link>,
}

/// One claim's worth of tries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    pub about: String,
    pub tries: Vec<Try>,
    /// The network mode of the steps alone keeps it shut, which the client forces.
    pub network: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Try {
    /// One question of [`sandbox_linux::ask`]; the words are for people.
    Reach(String, Probe),
    /// Network interfaces that could lead somewhere.
    Interfaces,
    /// The name servers that the step is given.
    Names,
    /// A request for this URL through the daemon's proxy.
    Proxied(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    pub nonce: String,
    /// For each link, for each of its tries.
    pub links: Vec<Vec<Answer>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub verdict: Verdict,
    pub words: String,
}

/// Looks, and makes claims of what was seen. A look that fails is a claim that is not proven.
pub async fn look(client: &Client, plan: &InsidePlan, build: &Build, host: Arc<dyn Host>) -> Vec<Claim> {
    let question = match serde_json::to_string(&plan.question) {
        Ok(question) => question,
        Err(error) => return vec![Claim::new(ALL, State::Unproven, error.to_string())],
    };
    let doorman = Doorman::of(&plan.question).map(Arc::new);
    let mode = build.frontend_attrs.get("force-network-mode").map(String::as_str);
    let trial = Trial {
        dir: &plan.dir,
        program: "ktl",
        args: vec![step::COMMAND.to_owned(), question],
        network: Network::forced(mode),
        proxy_network: build.proxy_network,
        entitlements: build.entitlements.iter().filter(|name| *name == "network.host").cloned().collect(),
        verifier: doorman.clone().map(|doorman| doorman as _),
        answer: step::ANSWER,
    };
    let mut claims = judge(&plan.question, trial::run(client, &trial, host, PATIENCE).await);
    if let Some(doorman) = doorman {
        doorman.check_claims(&mut claims);
    }
    claims
}

fn judge(question: &Question, answer: Result<Vec<u8>, BuildError>) -> Vec<Claim> {
    let unproven = |why: String| vec![Claim::new(ALL, State::Unproven, why)];
    let bytes = match answer {
        Ok(bytes) => bytes,
        Err(error) => return unproven(format!("the step could not be run: {}", chain(&error))),
    };
    let answers: Answers = match serde_json::from_slice(&bytes) {
        Ok(answers) => answers,
        Err(error) => return unproven(format!("the step gave no answer that can be read: {error}")),
    };
    let fits = answers.nonce == question.nonce
        && answers.links.len() == question.links.len()
        && answers.links.iter().zip(&question.links).all(|(answer, link)| answer.len() == link.tries.len());
    if !fits {
        return unproven("the step answered another question".to_owned());
    }
    let pairs = question.links.iter().zip(&answers.links);
    pairs.map(|(link, answers)| link.claim(answers)).collect()
}

impl Link {
    /// As strong as its weakest try.
    fn claim(&self, answers: &[Answer]) -> Claim {
        let has = |verdict| answers.iter().any(|answer| answer.verdict == verdict);
        let state = match () {
            () if has(Verdict::Visible) => State::Broken,
            () if has(Verdict::Unknown) || answers.is_empty() => State::Unproven,
            () => State::Held,
        };
        let worst = match state {
            State::Held => Verdict::Hidden,
            State::Broken => Verdict::Visible,
            State::Unproven => Verdict::Unknown,
        };
        let told = self.tries.iter().zip(answers).filter(|(_, answer)| answer.verdict == worst);
        let told: Vec<String> = told.map(|(tried, answer)| tried.told(answer)).collect();
        let claim = Claim::new(&self.about, state, told.join("; "));
        if self.network { claim.forced() } else { claim }
    }
}

impl Try {
    fn told(&self, answer: &Answer) -> String {
        match self {
            Try::Reach(what, _) => format!("{what} {}", answer.words),
            Try::Interfaces | Try::Names | Try::Proxied(_) => answer.words.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> Question {
        let link = |about: &str, tries| Link { about: about.to_owned(), tries, network: true };
        Question {
            nonce: "n".to_owned(),
            links: vec![link("a", vec![Try::Interfaces, Try::Names]), link("b", vec![Try::Names])],
        }
    }

    fn answers(verdicts: &[&[Verdict]]) -> Vec<u8> {
        let answer = |verdict: &Verdict| Answer { verdict: *verdict, words: format!("{verdict:?}") };
        let links = verdicts.iter().map(|link| link.iter().map(answer).collect()).collect();
        serde_json::to_vec(&Answers { nonce: "n".to_owned(), links }).unwrap()
    }

    #[test]
    fn a_link_is_as_strong_as_its_weakest_try() {
        let (hidden, visible, unknown) = (Verdict::Hidden, Verdict::Visible, Verdict::Unknown);
        for (first, state, words) in [
            (&[hidden, hidden], State::Held, "Hidden; Hidden"),
            (&[hidden, visible], State::Broken, "Visible"),
            (&[unknown, visible], State::Broken, "Visible"),
            (&[unknown, hidden], State::Unproven, "Unknown"),
        ] {
            let claims = judge(&question(), Ok(answers(&[first, &[hidden]])));
            assert_eq!((claims[0].state, claims[0].detail.as_str()), (state, words), "{first:?}");
            assert_eq!((claims[1].state, claims.len()), (State::Held, 2));
            assert!(claims[0].forced);
        }
    }

    #[test]
    fn what_is_no_answer_proves_nothing() {
        let hidden: &[Verdict] = &[Verdict::Hidden];
        let other =
            String::from_utf8(answers(&[&[Verdict::Hidden; 2], hidden])).unwrap().replace("\"n\"", "\"m\"");
        for bytes in [
            Vec::new(),
            b"held".to_vec(),
            answers(&[]),
            answers(&[hidden, hidden]),
            answers(&[&[Verdict::Hidden; 2], hidden, hidden]),
            other.into_bytes(),
        ] {
            let claims = judge(&question(), Ok(bytes));
            assert_eq!((claims.len(), claims[0].state), (1, State::Unproven), "{claims:?}");
        }
        let claims = judge(&question(), Err(BuildError::Cancelled));
        assert_eq!(claims[0].state, State::Unproven);
    }
}
