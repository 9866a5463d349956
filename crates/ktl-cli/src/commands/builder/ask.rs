//! A question to a builder, put from inside a jail that holds nothing but ktl: the answer is untrusted input.

use std::os::fd::OwnedFd;

use super::target::Target;
use crate::cli::JailFlags;
use crate::commands::build::facts;
use crate::dial::Connection;
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::fd;
use crate::launch::{self, Rooms};
use crate::log::Log;
use crate::look::{self, Question, Refused, Said};
use crate::plan::{self, LookPlan};
use crate::ui::Ui;

/// What the builder answers.
pub(in crate::commands) fn ask(
    target: Target,
    question: Question,
    env: &Env,
    ui: &Ui,
) -> Result<Said, Failure> {
    ask_from(&JailFlags::default(), target, question, env, ui)
}

/// What the builder answers to a question from a jail that is made as `jail` says.
pub(in crate::commands) fn ask_from(
    jail: &JailFlags,
    target: Target,
    question: Question,
    env: &Env,
    ui: &Ui,
) -> Result<Said, Failure> {
    let facts = facts(env)?;
    let sandbox = plan::sandbox_plan(jail, false, env, &facts)?;
    let cache = plan::cache_dir(env, &facts)?;
    let nothing = launch::private_dir(&cache.join("nothing"))?;
    let log = Log::off(ui);
    // Who makes the jail is no news here.
    let quiet = Ui { quiet: !ui.verbose, ..*ui };
    let rooms = Rooms {
        cache: &cache,
        context: &nothing,
        dockerfile: None,
        inputs: &[],
        outputs: Vec::new(),
        fds: vec![fd::PLAN, fd::RESULT, fd::CONNECTION],
    };
    let prepared = launch::open(rooms, &sandbox, None, &log, &quiet)?;
    let plan = LookPlan {
        version: plan::VERSION,
        nonce: facts.nonce.clone(),
        verbose: u8::from(ui.verbose),
        targets: Vec::new(),
        question: Some(question),
        promises: Some(prepared.promises()),
    };
    let Target { name, connection, _lease } = target;
    let Connection { stream, relay, .. } = connection;
    let stream: OwnedFd = stream;
    let looked = launch::look(prepared, &plan, Some(stream), ui, || {
        if let Some(relay) = relay {
            std::thread::spawn(move || drop(relay.run()));
        }
        Ok(())
    })?;
    match looked.builder {
        Some(answer) => answer.map_err(|refused| refusal(&name, refused)),
        None => Err(Failure::internal(format!("{name}: the question was not asked"))),
    }
}

/// What the builder answers to a question that is put from this very process, as builds are with `--sandbox=off`.
pub(in crate::commands) fn ask_unjailed(target: Target, question: &Question) -> Result<Said, Failure> {
    let Target { name, connection, _lease } = target;
    let Connection { stream, relay, .. } = connection;
    if let Some(relay) = relay {
        std::thread::spawn(move || drop(relay.run()));
    }
    look::put(question, stream)?.map_err(|refused| refusal(&name, refused))
}

fn refusal(name: &str, Refused { code, why }: Refused) -> Failure {
    Failure::new(Exit::Guest(code), format!("{name}: {}", inert::text(&why)))
}

/// An answer to something else.
pub(in crate::commands) fn astray() -> Failure {
    Failure::internal("the guest has answered another question")
}
