//! `ktl sandbox policy`.

mod diff;
mod explain;
mod lint;
mod show;

use std::path::Path;

use clap::{Args, Subcommand};
use sandbox_linux::{Builtin, Policy};

use super::probe::context;
use super::{print, print_json};
use crate::cli::JailFlags;
use crate::commands::build::facts;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::fd;
use crate::launch::{self, Rooms, Settled};
use crate::plan;

/// Read policies: what ktl makes of one, what it leaves open, what its fields mean, how two differ
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Show(show::ShowArgs),
    Lint(lint::LintArgs),
    Explain(explain::ExplainArgs),
    Diff(diff::DiffArgs),
}

pub fn run(args: &PolicyArgs, env: &Env) -> Result<Exit, Failure> {
    match &args.command {
        PolicyCommand::Show(args) => show::run(args, env),
        PolicyCommand::Lint(args) => lint::run(args),
        PolicyCommand::Explain(args) => explain::run(args, env),
        PolicyCommand::Diff(args) => diff::run(args),
    }
}

/// A policy by its path, or one of ktl's own by its name where there is no such file.
fn named(path: &Path) -> Result<Policy, Failure> {
    if !path.exists() {
        let given = path.as_os_str().to_string_lossy();
        let own = |which: &&Builtin| {
            which.file_name() == given || which.file_name().strip_suffix(".cfg") == Some(&given)
        };
        if let Some(which) = Builtin::ALL.iter().find(own) {
            return Ok(Policy::builtin(*which));
        }
    }
    launch::read_policy(path).map_err(|failure| {
        let names: Vec<&str> =
            Builtin::ALL.iter().filter_map(|which| which.file_name().strip_suffix(".cfg")).collect();
        if path.exists() {
            failure
        } else {
            failure.hint(format!("ktl's own are called {}.", names.join(", ")))
        }
    })
}

/// The jail that a build of `dir` would have under this policy.
fn settled(policy: Policy, dir: &Path, env: &Env) -> Result<Settled, Failure> {
    let facts = facts(env)?;
    let context = context(dir, &facts)?;
    let sandbox = plan::sandbox_plan(&JailFlags::default(), false, env, &facts)?;
    let cache = plan::cache_dir(env, &facts)?;
    let rooms = Rooms {
        cache: &cache,
        context: &context,
        dockerfile: None,
        inputs: &[],
        outputs: Vec::new(),
        fds: vec![fd::PLAN, fd::CONNECTION, fd::BROKER, fd::CONTROL, fd::RESULT],
    };
    launch::settle(policy, rooms, &sandbox)
}
