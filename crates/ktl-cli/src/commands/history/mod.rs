//! `ktl history`: the builds that a builder remembers. Flags and output are docker buildx's.

mod filter;
mod inspect;
mod ls;
mod told;

use buildsvc::history::Which;
use clap::{Args, Subcommand};

use super::builder::ask::{ask, astray};
use super::builder::target;
use crate::cli::BuilderFlags;
use crate::commands::sandbox::print;
use crate::display::{Mode, inert};
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::look::{Question, Replaying, Said};
use crate::ui::Ui;

/// Look at past builds, and at those that run
///
/// The builder keeps the records, of all its clients. REF is what `ktl history ls` and metadata files have, with or without
/// its prefix; ^1 is the build before the latest. Needs BuildKit 0.11. A builder's answer is untrusted, so it is asked from
/// inside a jail.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    #[command(subcommand)]
    command: HistoryCommand,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    Ls(Box<ls::LsArgs>),
    Inspect(Box<inspect::InspectArgs>),
    Logs(Box<LogsArgs>),
    Rm(Box<RmArgs>),
}

/// Show the progress of a build as it was, on stderr; of one that runs, as it goes on
#[derive(Debug, Args)]
struct LogsArgs {
    /// The build, as REF or ^N [default: the latest]
    #[arg(value_name = "REF", value_parser = Which::parse)]
    reference: Option<Which>,
    /// How it is shown: plain, rawjson or tty
    #[arg(long, value_name = "MODE", default_value = "plain", value_parser = mode)]
    progress: Mode,
    #[command(flatten)]
    builder: BuilderFlags,
}

/// Remove records of builds; what was built stays
#[derive(Debug, Args)]
struct RmArgs {
    /// The builds
    #[arg(value_name = "REF", required_unless_present = "all")]
    references: Vec<String>,
    /// All that have ended
    #[arg(long, conflicts_with = "references")]
    all: bool,
    #[command(flatten)]
    builder: BuilderFlags,
}

pub fn run(args: &HistoryArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: false };
    match &args.command {
        HistoryCommand::Ls(args) => ls::run(args, env, &ui),
        HistoryCommand::Inspect(args) => inspect::run(args, env, &ui),
        HistoryCommand::Logs(args) => logs(args, env, &ui),
        HistoryCommand::Rm(args) => remove(args, env, &ui),
    }
}

fn mode(name: &str) -> Result<Mode, String> {
    match name {
        "plain" | "auto" => Ok(Mode::Plain),
        "rawjson" => Ok(Mode::RawJson),
        "tty" => Ok(Mode::Tty),
        _ => Err("expected plain, rawjson or tty".to_owned()),
    }
}

/// What the first daemon that knows the build says of it. A private builder has a daemon for each network; which of their
/// builds is the latest, is for the user to say.
fn of_one<T>(
    which: Option<&Which>,
    flags: &BuilderFlags,
    env: &Env,
    ui: &Ui,
    mut put: impl FnMut(target::Target, Which) -> Result<Option<T>, Failure>,
) -> Result<T, Failure> {
    let targets = target::of(None, flags, env, ui)?;
    let which = which.cloned().unwrap_or(Which::Before(0));
    if targets.len() > 1 && matches!(which, Which::Before(_)) {
        return Err(Failure::usage(format!(
            "this builder has {} daemons: which build is meant?",
            targets.len()
        ))
        .hint("`ktl history ls` lists them all; give one's REF."));
    }
    for target in targets {
        if let Some(answer) = put(target, which.clone())? {
            return Ok(answer);
        }
    }
    Err(match which {
        Which::Named(name) => {
            Failure::usage(format!("the builder has no record of `{}`", inert::text(&name)))
        }
        Which::Before(0) => Failure::usage("the builder has no record of any build"),
        Which::Before(offset) => Failure::usage(format!("the builder has no record of a build at ^{offset}")),
    }
    .hint("`ktl history ls` lists what it has."))
}

fn logs(args: &LogsArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    of_one(args.reference.as_ref(), &args.builder, env, ui, |target, which| {
        let colour = env.get(env::NO_COLOR).is_none();
        let replaying = Replaying { which, mode: args.progress, colour };
        match ask(target, Question::Replay(replaying), env, ui)? {
            Said::Replayed(known) => Ok(known.then_some(())),
            _ => Err(astray()),
        }
    })?;
    Ok(Exit::Ok)
}

fn remove(args: &RmArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let name = |text: &String| match Which::parse(text) {
        Ok(Which::Named(name)) => Ok(name),
        Ok(Which::Before(_)) => {
            Err(Failure::usage(format!("{text}: only a REF says surely what is removed")))
        }
        Err(why) => Err(Failure::usage(why)),
    };
    let mut left: Vec<String> = args.references.iter().map(name).collect::<Result<_, _>>()?;
    let mut refused = Vec::new();
    for target in target::of(None, &args.builder, env, ui)? {
        let which = (!args.all).then(|| left.clone());
        let Said::Forgotten(forgotten) = ask(target, Question::Forget(which), env, ui)? else {
            return Err(astray());
        };
        let line = |reference: &String| format!("{}\n", inert::text(reference));
        print(&forgotten.removed.iter().map(line).collect::<String>())?;
        left.retain(|reference| forgotten.unknown.contains(reference));
        refused.extend(forgotten.refused);
    }
    let mut wrong: Vec<String> =
        left.iter().map(|name| format!("no record of `{}`", inert::text(name))).collect();
    wrong.extend(refused.iter().map(|(name, why)| format!("{}: {}", inert::text(name), inert::text(why))));
    match wrong.is_empty() {
        true => Ok(Exit::Ok),
        false => Err(Failure::new(Exit::Unmet, format!("not removed: {}", wrong.join("; ")))),
    }
}
