//! `ktl sandbox policy show`.

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

/// Print the policy that the jail is really made of: yours or ktl's, after ktl's corrections and additions
///
/// The output is a policy again, in nsjail's text form. Started by root, the outside ids and the nonce differ from run to run,
/// and bind sources are staged under other paths. The outputs of a build are added to it then.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 ok, 2 usage, 4 the policy cannot be read or gives no jail")]
pub struct ShowArgs {
    /// The policy to start from [default: ktl's own linux-strict]
    #[arg(long, value_name = "FILE")]
    sandbox_config: Option<PathBuf>,
    /// Start from ktl's own ktl-hermetic
    #[arg(long, conflicts_with = "sandbox_config")]
    hermetic: bool,
    /// Directory that is the build context
    #[arg(long, value_name = "DIR", default_value = ".")]
    context: PathBuf,
    /// Print an object with the policy, in nsjail's JSON form, and the corrections
    #[arg(long)]
    json: bool,
}

pub fn run(args: &ShowArgs, env: &Env) -> Result<Exit, Failure> {
    let policy = match &args.sandbox_config {
        Some(file) => named(file)?,
        None => Policy::builtin(if args.hermetic { Builtin::Hermetic } else { Builtin::Strict }),
    };
    let settled = settled(policy, &args.context, env)?;
    let corrections = settled.jail.corrections();
    let effective = settled.jail.policy();
    if args.json {
        let corrections: Vec<_> = corrections
            .iter()
            .map(|c| json!({ "field": c.field, "was": c.was, "now": c.now, "why": c.why }))
            .collect();
        print_json(&json!({
            "from": settled.policy.name(),
            "policy": effective.to_json(),
            "corrections": corrections,
        }))?;
        return Ok(Exit::Ok);
    }
    let mut out = format!("# What ktl makes of {}.\n", inert::text(settled.policy.name()));
    for correction in corrections {
        let _ = writeln!(out, "# corrected: {}", inert::text(&correction.to_string()));
    }
    if corrections.is_empty() {
        out.push_str("# Nothing was corrected; ktl's program, context, cache, environment, ids and descriptors were added.\n");
    }
    out.push_str(&effective.to_text());
    print(&out)?;
    Ok(Exit::Ok)
}
