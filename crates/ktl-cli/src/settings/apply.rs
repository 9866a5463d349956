//! Settings as defaults of their flags: clap then reads them as it reads what is typed, and knows which of the two counts.

use clap::error::ErrorKind;
use clap::{Arg, Command, CommandFactory as _};

use super::flag::Kind;
use super::reach::Reach;
use super::value::Setting;
use crate::cli::Cli;
use crate::failure::Failure;

/// Whether the flag takes the values. Asked before [`apply`], which takes them for good.
pub fn check(path: &[String], setting: &Setting) -> Result<(), Failure> {
    if matches!(setting.flag.kind, Kind::Switch | Kind::Count) {
        return Ok(());
    }
    let typed = setting.values.iter().map(|value| format!("--{}={value}", setting.flag.long));
    let line = ["ktl".to_owned()].into_iter().chain(path.iter().cloned()).chain(typed);
    match Cli::command().try_get_matches_from(line) {
        Ok(_) => Ok(()),
        // The flag stands alone here.
        Err(error) if error.kind() == ErrorKind::MissingRequiredArgument => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default();
            let why = first.strip_prefix("error: ").unwrap_or(first);
            Err(Failure::usage(format!("{}: {why}", setting.source)))
        }
    }
}

/// The command line with these settings as its defaults.
pub fn apply(command: Command, path: &[String], settings: &[Setting]) -> Command {
    let settings = settings.iter().filter(|setting| setting.flag.reach != Reach::Elsewhere);
    settings.fold(command, |command, setting| {
        let set = |arg: Arg| arg.default_values(&setting.values);
        let id = setting.flag.id.as_str();
        // A global flag is the root's.
        let is_global = command.get_arguments().any(|arg| arg.get_id() == id);
        match is_global {
            true => command.mut_arg(id, set),
            false => at(command, path, |command| command.mut_arg(id, set)),
        }
    })
}

fn at(command: Command, path: &[String], change: impl FnOnce(Command) -> Command) -> Command {
    match path.split_first() {
        None => change(command),
        Some((name, rest)) => command.mut_subcommand(name, |command| at(command, rest, change)),
    }
}
