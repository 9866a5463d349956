//! What is said elsewhere than on the command line: `KTL_…` variables and the files `ktl.toml` stand for flags that nobody
//! typed.
//!
//! Done once, between reading the command line and acting on it, so that no command has to know: a setting becomes the default of
//! its flag, and the command line is read again. What was typed wins over all. A setting never takes protection away: which flags
//! have to be typed, and which can only become stricter, is in [`reach`].

mod apply;
mod file;
mod fit;
mod flag;
mod merge;
mod places;
mod reach;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod told;
mod value;
mod variables;

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;
use crate::env::Env;
use crate::failure::Failure;
pub use fit::Settled;
use flag::Flag;
use reach::Reach;
pub use told::Told;
use value::Setting;

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Unread {
    /// What was typed asks for help, or makes no sense.
    Typed(clap::Error),
    /// What was set does not.
    Set(Failure),
}

impl From<clap::Error> for Unread {
    fn from(error: clap::Error) -> Unread {
        Unread::Typed(error)
    }
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Unread {
        Unread::Set(failure)
    }
}

/// The command that a person typed, for settings.
struct Typed<'a> {
    /// Names of the subcommands that lead to it.
    path: Vec<String>,
    command: &'a Command,
    matches: &'a ArgMatches,
}

impl<'a> Typed<'a> {
    fn of(command: &'a Command, matches: &'a ArgMatches) -> Typed<'a> {
        let mut typed = Typed { path: Vec::new(), command, matches };
        while let Some((name, matches)) = typed.matches.subcommand()
            && let Some(command) = typed.command.find_subcommand(name)
        {
            typed = Typed { path: [typed.path, vec![name.to_owned()]].concat(), command, matches };
        }
        typed
    }

    fn has(&self, flag: &Flag) -> bool {
        self.has_id(flag.id.as_str())
    }

    fn has_id(&self, id: &str) -> bool {
        self.matches.value_source(id) == Some(ValueSource::CommandLine)
    }

    fn is_build(&self) -> bool {
        self.path == ["build"]
    }
}

/// Reads a command line, and what is set for the flags that it leaves out. What took effect is told by [`Env::settings`] of the
/// environment that comes back.
pub fn read(arguments: Vec<OsString>, env: Env) -> Result<(Cli, Env), Unread> {
    let mut command = Cli::command();
    let matches = command.try_get_matches_from_mut(&arguments)?;
    let typed = Typed::of(&command, &matches);
    let flags = Flag::of(&typed.path, &command);
    let mut settings = variables::set(&flags, &typed, &env)?;
    settings.extend(places::set(&flags, &typed, &command, &env)?);
    let settled = fit::fit(settings, &typed)?;
    let elsewhere = settled.in_effect.iter().filter(|setting| setting.flag.reach == Reach::Elsewhere);
    let env = elsewhere
        .fold(env, |env, Setting { flag, values, .. }| env.filled(&flag.variable, &values.join(" ")));
    if settled.in_effect.is_empty() {
        return Ok((Cli::from_arg_matches(&matches)?, env.with_settings(settled)));
    }
    let mut command = apply::apply(Cli::command(), &typed.path, &settled.in_effect);
    let matches = command.try_get_matches_from_mut(&arguments)?;
    Ok((Cli::from_arg_matches(&matches)?, env.with_settings(settled)))
}
