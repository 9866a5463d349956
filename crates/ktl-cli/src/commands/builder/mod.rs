//! `ktl builder`: builders and what they keep.

pub(super) mod ask;
mod cache;
mod filter;
mod inspect;
mod own;
pub mod size;
pub(super) mod target;

use clap::{Args, Subcommand};

use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::ui::Ui;

/// Look after builders, and after the private ones that `--builder jail://NAME` starts
///
/// A private builder is a buildkitd in a jail of its own. It is started when a command needs it and stops by itself when
/// nobody has used it for a while (--idle-timeout); its cache stays. NAME has one of each network, which share nothing;
/// NAME@TRUST is that of a trust (--trust). What a builder answers is untrusted, so it is asked from inside a jail.
#[derive(Debug, Args)]
pub struct BuilderArgs {
    #[command(subcommand)]
    command: BuilderCommand,
}

#[derive(Debug, Subcommand)]
enum BuilderCommand {
    /// List the private builders, running or not, and those that are found; * marks what a build would use
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    Inspect(Box<inspect::InspectArgs>),
    Du(Box<cache::DuArgs>),
    Prune(Box<cache::PruneArgs>),
    /// Print what the private daemons of that name have logged
    Logs {
        #[arg(value_name = "NAME", default_value = "default")]
        name: String,
    },
    /// Stop the running private daemons of these names, or all; their caches stay
    Stop {
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Stop the private daemons of these names and remove their caches
    Rm {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

pub fn run(args: &BuilderArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: false };
    match &args.command {
        BuilderCommand::Ls { json } => own::list(*json, env),
        BuilderCommand::Inspect(args) => inspect::run(args, env, &ui),
        BuilderCommand::Du(args) => cache::du(args, env, &ui),
        BuilderCommand::Prune(args) => cache::prune(args, env, &ui),
        BuilderCommand::Logs { name } => own::logs(name, env),
        BuilderCommand::Stop { names } => own::stop(names, env, &ui),
        BuilderCommand::Rm { names } => own::remove(names, env, &ui),
    }
}

/// Rows as columns that are wide enough, two spaces apart.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|n| width(n).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}
