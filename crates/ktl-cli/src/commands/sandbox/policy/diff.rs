//! `ktl sandbox policy diff`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{named, print, print_json};
use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;

/// Tell in which fields two policies differ
///
/// Order and notation of the files do not count, and a field that is not set counts as its default. Mounts are compared by
/// their place in the jail.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  ktl sandbox policy diff linux-strict my.cfg

Exit codes: 0 they mean the same, 1 they differ, 2 usage, 4 a policy cannot be read")]
pub struct DiffArgs {
    /// A policy, text or JSON, or one of linux-strict, linux-ci and ktl-hermetic
    #[arg(value_name = "A")]
    left: PathBuf,
    /// The other one
    #[arg(value_name = "B")]
    right: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &DiffArgs) -> Result<Exit, Failure> {
    let (left, right) = (named(&args.left)?, named(&args.right)?);
    let differences = sandbox_linux::diff(&left, &right);
    if args.json {
        print_json(&json!({ "left": left.name(), "right": right.name(), "differences": differences }))?;
    } else {
        let mut out = String::new();
        if !differences.is_empty() {
            let _ = writeln!(out, "--- {}\n+++ {}", inert::text(left.name()), inert::text(right.name()));
        }
        for difference in &differences {
            for (sign, side) in [('-', &difference.left), ('+', &difference.right)] {
                if let Some(value) = side {
                    let _ =
                        writeln!(out, "{sign} {}: {}", inert::text(&difference.field), inert::text(value));
                }
            }
        }
        print(&out)?;
    }
    Ok(if differences.is_empty() { Exit::Ok } else { Exit::Unmet })
}
