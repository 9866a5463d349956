//! `ktl sandbox policy lint`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use sandbox_linux::{Builtin, Finding, Policy, Severity};
use serde_json::json;

use super::{named, print, print_json};
use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;

/// Tell what a policy leaves open when it is used with plain nsjail, exactly as it is written
///
/// `open` is a way out of the jail, `weak` a wall that could be thicker, `note` something that surprises. No file but the
/// policy is looked at, so the same policy has the same findings everywhere. ktl itself closes most of this: see
/// `ktl sandbox policy explain`.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing is open, 1 something is, 2 usage, 4 a policy cannot be read")]
pub struct LintArgs {
    /// Policies, text or JSON; ktl's own go by linux-strict, linux-ci and ktl-hermetic [default: linux-strict]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &LintArgs) -> Result<Exit, Failure> {
    let policies = match args.files.as_slice() {
        [] => vec![Policy::builtin(Builtin::Strict)],
        files => files.iter().map(|file| named(file)).collect::<Result<_, _>>()?,
    };
    let found: Vec<(&Policy, Vec<Finding>)> =
        policies.iter().map(|policy| (policy, sandbox_linux::lint(policy))).collect();
    if args.json {
        let files: Vec<_> = found
            .iter()
            .map(|(policy, findings)| json!({ "policy": policy.name(), "findings": findings }))
            .collect();
        print_json(&json!(files))?;
    } else {
        print(&found.iter().map(|(policy, findings)| listing(policy.name(), findings)).collect::<String>())?;
    }
    let open = found.iter().any(|(_, findings)| findings.iter().any(|f| f.severity == Severity::Open));
    Ok(if open { Exit::Unmet } else { Exit::Ok })
}

fn listing(name: &str, findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let place = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "{}{place}: {} {}: {}",
            inert::text(name),
            finding.severity,
            finding.field,
            inert::text(&finding.what)
        );
        let _ = writeln!(out, "    {}\n    mend: {}", finding.why, finding.mend);
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let _ = writeln!(
        out,
        "{}: {} open, {} weak, {} to note",
        inert::text(name),
        count(Severity::Open),
        count(Severity::Weak),
        count(Severity::Note)
    );
    out
}
