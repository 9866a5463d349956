//! `ktl sandbox doctor`.

mod brief;
mod builder;
mod files;
mod jail;
mod kernel;
mod registry;

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::probe::context;
use super::{print, print_json};
use crate::cli::{BuilderFlags, JailFlags, LogFlags};
use crate::commands::build::facts;
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::log::Log;
use crate::plan;
use crate::ui::Ui;

/// Check that builds can be jailed here, and tell what to do where they cannot
///
/// Every check does the thing that it speaks of: it makes the namespaces, starts the jail, asks the builder from inside it.
/// `ok` is only said of what was done; `warn` is for what works and could be better, and for what could not be tried. Checks
/// that mean nothing for you (id-mapped mounts for a plain user) are left out. Both runtimes make a jail, whichever builds
/// take. Takes the flags that a build takes.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    /// Print the checks as JSON, and write the log of the sandbox, where one is asked for, as JSON lines
    #[arg(long)]
    json: bool,
    /// Directory that is shown as the build context
    #[arg(long, value_name = "DIR", default_value = ".")]
    context: PathBuf,
    /// Registry to look at, HOST[:PORT] (repeatable): does it answer, what login does it ask for, and is there one. No login
    /// is ever sent [default: those that docker's config.json names]
    #[arg(long, value_name = "HOST")]
    registry: Vec<String>,
    #[command(flatten)]
    builder: BuilderFlags,
    #[command(flatten)]
    jail: JailFlags,
    #[command(flatten)]
    log: LogFlags,
    /// As a build with --hermetic: without --sandbox-config, take the policy ktl-hermetic
    #[arg(long, help_heading = "Sandbox")]
    hermetic: bool,
}

const AFTER_HELP: &str = "Exit codes: 0 nothing failed (warnings do not count), 1 something failed, 2 usage, 3 only the builder \
failed,\n4 the jail cannot be had";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// What a check is about, as far as the exit code cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    /// A part of the jail. Only the jail as a whole decides whether one can be had.
    Part,
    Jail,
    Builder,
    Other,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    status: Status,
    /// What was done, and what came of it.
    found: String,
    /// What to do about it; empty when all is well.
    mend: Vec<String>,
    #[serde(skip)]
    about: About,
}

impl Check {
    fn ok(about: About, name: impl Into<String>, found: impl Into<String>) -> Check {
        Check { name: name.into(), status: Status::Ok, found: found.into(), mend: Vec::new(), about }
    }

    fn warn(about: About, name: impl Into<String>, found: impl Into<String>, mend: &str) -> Check {
        let mend = vec![mend.to_owned()];
        Check { name: name.into(), status: Status::Warn, found: found.into(), mend, about }
    }

    fn fail(about: About, name: impl Into<String>, found: impl Into<String>, mend: Vec<String>) -> Check {
        Check { name: name.into(), status: Status::Fail, found: found.into(), mend, about }
    }

    fn failure(about: About, name: impl Into<String>, failure: Failure) -> Check {
        Check::fail(about, name, failure.title, failure.hints)
    }
}

pub fn run(args: &DoctorArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: true };
    let facts = facts(env)?;
    let context = context(&args.context, &facts)?;
    let sandbox = plan::sandbox_plan(&args.jail, args.hermetic, env, &facts)?;
    let cache = plan::cache_dir(env, &facts)?;

    let registries = registry::named(&args.registry)?;
    let log = Log::open(&plan::log_plan(&args.log, args.json, &facts), "sandbox doctor", &cache, &ui)?;

    let examine = || {
        let trial =
            jail::Trial { context: &context, cache: &cache, facts: &facts, verbose, log: &log, ui: &ui };
        // Children first: once the jail runs, threads may.
        let mut checks = jail::parts(&context, &cache);
        checks.extend(kernel::checks(&sandbox));
        checks.push(jail::nsjail(&sandbox));
        checks.push(jail::choice(&sandbox));
        let other = jail::other(&sandbox).and_then(|other| trial.start_other(&other));
        let reached = builder::reach(&args.builder, env, &ui)?;
        let (mut jail, introduced) = trial.start(&sandbox, reached.connection);
        if jail.status == Status::Fail
            && let Some(other) = other.as_ref().filter(|other| other.status == Status::Ok)
        {
            jail.mend.push(format!("There is a {} here; --sandbox-runtime takes it.", other.name));
        }
        checks.push(jail);
        checks.extend(other);
        checks.extend(reached.checks);
        checks.extend(introduced.map(builder::introduced).unwrap_or_default());
        // The jail has made it by now, or it was there.
        checks.extend(files::cache(&cache));
        checks.extend(files::space(&cache));
        checks.extend(files::logins(env));
        checks.extend(registry::checks(registries, env));

        if args.json {
            print_json(&json!({ "checks": checks, "exit": exit(&checks).code() }))?;
        } else {
            print(&listing(&checks))?;
        }
        Ok(exit(&checks))
    };
    let outcome = examine();
    log.close(outcome)
}

fn exit(checks: &[Check]) -> Exit {
    let failed =
        |about: About| checks.iter().any(|check| check.status == Status::Fail && check.about == about);
    if failed(About::Jail) {
        Exit::Sandbox
    } else if failed(About::Part) || failed(About::Other) {
        Exit::Unmet
    } else if failed(About::Builder) {
        Exit::Builder
    } else {
        Exit::Ok
    }
}

fn listing(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let status = match check.status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        let _ = writeln!(out, "{status}  {:width$}  {}", check.name, inert::text(&check.found));
        for line in check.mend.iter().flat_map(|mend| mend.lines()) {
            let _ = writeln!(out, "      {}", inert::text(line));
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let _ = writeln!(
        out,
        "\n{} ok, {} to look at, {} failed",
        count(Status::Ok),
        count(Status::Warn),
        count(Status::Fail)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_says_what_failed() {
        let ok = || Check::ok(About::Part, "a", "b");
        let fail = |about| Check::fail(about, "a", "b", Vec::new());
        for (checks, code) in [
            (vec![ok(), Check::warn(About::Jail, "a", "b", "c")], 0),
            (vec![ok(), fail(About::Builder)], 3),
            (vec![fail(About::Builder), fail(About::Other)], 1),
            (vec![fail(About::Part)], 1),
            (vec![fail(About::Builder), fail(About::Jail), fail(About::Other)], 4),
        ] {
            assert_eq!(exit(&checks).code(), code, "{checks:?}");
        }
    }

    #[test]
    fn a_listing_has_every_mend() {
        let mend = vec!["first\nsecond".to_owned(), "third".to_owned()];
        let text = listing(&[
            Check::ok(About::Part, "short", "x"),
            Check::fail(About::Jail, "longer", "y\u{1b}[2J", mend),
        ]);
        for part in [
            "ok    short   x\n",
            "fail  longer  ",
            "      first\n      second\n      third\n",
            "1 ok, 0 to look at, 1 failed",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }
}
