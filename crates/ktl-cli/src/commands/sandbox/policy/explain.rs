//! `ktl sandbox policy explain`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use sandbox_linux::{Builtin, Policy};
use serde_json::json;

use super::{named, print, print_json, settled};
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;

/// Tell what each field that a policy sets does, and what ktl makes of it
///
/// The second half is read off the jail that a build in the current directory would have, so it holds for this host and this
/// user.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 ok (also for a policy that gives no jail: that is said), 2 usage, 4 the policy cannot be read"
)]
pub struct ExplainArgs {
    /// The policy, text or JSON; ktl's own go by linux-strict, linux-ci and ktl-hermetic [default: linux-strict]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the fields as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ExplainArgs, env: &Env) -> Result<Exit, Failure> {
    let policy = match &args.file {
        Some(file) => named(file)?,
        None => Policy::builtin(Builtin::Strict),
    };
    let settled = settled(policy.clone(), ".".as_ref(), env);
    let explained = sandbox_linux::explain(&policy, settled.as_ref().ok().map(|settled| &settled.jail));
    let refusal = settled.err().map(|failure| failure.title);
    if args.json {
        print_json(&json!({ "policy": policy.name(), "fields": explained, "refused": refusal }))?;
        return Ok(Exit::Ok);
    }
    let mut out = String::new();
    for field in &explained {
        let place = field.line.map(|line| format!("{line}: ")).unwrap_or_default();
        let value = inert::bounded(&inert::text(&field.value), 90);
        let _ = writeln!(out, "{place}{}: {value}\n    {}", field.field, inert::text(&field.does));
        if let Some(ktl) = &field.ktl {
            let _ = writeln!(out, "    ktl {}.", inert::bounded(&inert::text(ktl), 240));
        }
    }
    if let Some(refusal) = refusal {
        let _ = writeln!(out, "ktl makes no jail of it: {}", inert::text(&refusal));
    }
    print(&out)?;
    Ok(Exit::Ok)
}
