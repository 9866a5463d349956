//! `ktl lock`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;

use buildsvc::lock::Lock;
use clap::Args;

use super::{build, stage};
use crate::cli::NamesFlags;
use crate::depot::Depot;
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::{self, Facts, Named};
use crate::pull::Puller;
use crate::ui::Ui;

/// Show what ktl.lock says, or check that it fits the Dockerfile
///
/// `ktl stage` writes the lock. Without --check its entries are printed, one a line. With it, each difference between Dockerfile
/// and lock is printed, and the exit code is 1 when there is one; no network is needed.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct LockArgs {
    /// The build context, a directory
    #[arg(value_name = "PATH", default_value = ".")]
    pub context: PathBuf,
    #[command(flatten)]
    pub names: NamesFlags,
    /// Compare the lock with the Dockerfile
    #[arg(long)]
    pub check: bool,
    /// Ask the registries as well whether tags have moved
    #[arg(long, requires = "check")]
    pub upstream: bool,
}

const AFTER_HELP: &str = "Exit codes: 0 the lock fits, 1 it does not or there is none, 2 usage";

pub fn run(args: &LockArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: false };
    let facts = build::facts(env)?;
    let named = Named::read(&args.context, &args.names, env, &facts)?;
    let path = named.lock_file.display();
    let Some(lock) = named.lock(&facts)? else {
        return Err(
            Failure::new(Exit::Unmet, format!("there is no lock at {path}")).hint("`ktl stage` makes one.")
        );
    };
    if !args.check {
        return print(&shown(&lock)).map(|()| Exit::Ok);
    }
    named.refuse_unknown()?;
    let mut lines = named.missing(&lock, &named.images());
    lines.extend(named.unused(&lock));
    if args.upstream {
        lines.extend(moved(&lock, &args.names.allow_host, env, &facts, &ui)?);
    }
    if lines.is_empty() {
        ui.note(format_args!("{path} fits {} ({})", named.dockerfile.display(), lock.digest()));
        return Ok(Exit::Ok);
    }
    lines.sort();
    // Names of a Dockerfile hold what they like.
    print(&lines.iter().map(|line| format!("{}\n", inert::text(line))).collect::<String>())?;
    let stale = format!("{path} does not fit {}", named.dockerfile.display());
    let mend =
        if args.upstream { "`ktl stage --update` takes what there is now." } else { "`ktl stage` mends it." };
    Err(Failure::new(Exit::Unmet, stale).hint(mend))
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(|error| Failure::new(Exit::BuildFailed, format!("failed to print: {error}")))
}

/// One entry a line: kind, name, what it means, and the rest.
fn shown(lock: &Lock) -> String {
    let mut text = String::new();
    for image in lock.images() {
        let platforms: Vec<String> = image.platforms.keys().map(ToString::to_string).collect();
        let _ = writeln!(text, "image  {}  {}  {}", image.reference, image.digest, platforms.join(","));
    }
    for url in lock.urls() {
        let _ = writeln!(text, "url    {}  {}  {} bytes", url.url, url.checksum, url.size);
    }
    for git in lock.gits() {
        let _ = writeln!(text, "git    {}  {}", git.url, git.commit);
    }
    text
}

/// The names that mean something else by now.
fn moved(lock: &Lock, allowed: &[String], env: &Env, facts: &Facts, ui: &Ui) -> Result<Vec<String>, Failure> {
    // Nothing is put into it.
    let depot = Depot::at(plan::store_dir(None, env, facts)?);
    let bounds = stage::bounds(allowed)?;
    let registries = stage::registries(lock.images().map(|image| &image.reference), &bounds, env, ui)?;
    let puller = Puller::new(registries, &depot, bounds);
    let mut lines = Vec::new();
    for image in lock.images().filter(|image| image.reference.digest().is_none()) {
        let now = puller.resolve(&image.reference);
        let now = now.map_err(|error| stage::failed(&image.reference, &error))?;
        if now != image.digest {
            lines.push(format!("{}: locked as {}, and {now} now", image.reference, image.digest));
        }
    }
    Ok(lines)
}
