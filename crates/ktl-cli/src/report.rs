//! What is said about a build that failed, and the exit code that goes with it.
//!
//! A report is for somebody who knows Docker: the error first, then what the failing step said last, then the place in
//! the Dockerfile in the form that buildx prints it, and where the cause is a known one, a hint what to do. Errors,
//! sources and logs come from the daemon and are made inert. The hints go by the texts of the daemon, which are no
//! contract: a text that is not known costs the hint and nothing else.

mod excerpt;
mod hint;
pub mod rule;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use buildsvc::error::{BuildError, SolveFailure};
use buildsvc::event::{SourceInfo, SourceRange};

use crate::display::{FailedStep, Summary, inert};

/// Bytes of an error text that are printed.
const MESSAGE_MAX: usize = 16 * 1024;
/// Excerpts that are printed; a chain of frontends may bring many.
const EXCERPTS_MAX: usize = 4;

/// The report of a failure, with a newline at its end. With `summary.logs_shown`, the output of the failed steps is on
/// the screen already and is not repeated. A rule of the build's own that it broke takes the place of hints.
pub fn render(failure: &BuildError, summary: &Summary, rule: Option<&str>, colour: bool) -> String {
    let bold_red = if colour { ("\u{1b}[1;31m", "\u{1b}[0m") } else { ("", "") };
    let message = inert::bounded(&message(failure), MESSAGE_MAX);
    let mut out = format!("{}ERROR:{} {}\n", bold_red.0, bold_red.1, inert::paragraph(&message));
    if let BuildError::Solve(solve) = failure {
        if !summary.logs_shown {
            for step in failed_steps(solve, summary) {
                out.push_str(&step.block());
            }
        }
        for (source, ranges) in solve.sources.iter().take(EXCERPTS_MAX) {
            out.push_str(&excerpt::render(source, ranges, colour));
        }
    }
    let (label, lines) = match rule {
        Some(rule) => ("rule", vec![rule.to_owned()]),
        None => ("hint", hint::of(failure, summary)),
    };
    for line in lines {
        let cyan = if colour { ("\u{1b}[36m", "\u{1b}[0m") } else { ("", "") };
        let _ = writeln!(out, "{}{label}:{} {}", cyan.0, cyan.1, inert::text(&line));
    }
    out
}

/// The lines of a source that something is about, without colour.
pub fn excerpt(source: &SourceInfo, ranges: &[SourceRange]) -> String {
    excerpt::render(source, ranges, false)
}

/// The warnings of a build, one line each, as buildx lists them; empty without any.
pub fn warnings(summary: &Summary) -> String {
    let count = summary.warnings.len() as u64 + summary.warnings_dropped;
    if count == 0 {
        return String::new();
    }
    let mut out = format!("{count} warning{} found:\n", if count == 1 { "" } else { "s" });
    for warning in &summary.warnings {
        let _ = writeln!(out, " - {}", inert::line(&warning.short, inert::Sgr::Drop));
    }
    if summary.warnings_dropped > 0 {
        let _ = writeln!(out, " - … and {} more", summary.warnings_dropped);
    }
    out
}

/// The exit code for a failure: 1 for a build that failed, 3 for a builder that was lost or took too long, 5 for one that may not or cannot keep
/// a promise, 130 for one that was interrupted.
pub fn exit_code(failure: &BuildError) -> u8 {
    match failure {
        BuildError::Unenforceable { .. } | BuildError::Mismatch { .. } => 5,
        BuildError::Solve(solve) if hint::forbidden(&solve.message) => 5,
        BuildError::Solve(_)
        | BuildError::Unsupported { .. }
        | BuildError::NoCredential { .. }
        | BuildError::Output { .. } => 1,
        BuildError::Lost { .. } | BuildError::TimedOut(_) => 3,
        BuildError::Cancelled => 130,
    }
}

/// The error with its causes, after what failed.
fn message(failure: &BuildError) -> String {
    let mut text = match failure {
        BuildError::Solve(solve) => return format!("failed to build: {}", cause(solve)),
        BuildError::Cancelled | BuildError::TimedOut(_) => return failure.to_string(),
        failure => format!("failed to build: {failure}"),
    };
    let mut source = std::error::Error::source(failure);
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// The steps to quote: the one the daemon names, or all that failed and said something.
fn failed_steps<'a>(solve: &SolveFailure, summary: &'a Summary) -> Vec<&'a FailedStep> {
    let talkative = summary.failed.iter().filter(|s| !s.log.is_empty());
    let named = talkative.clone().find(|s| solve.vertex.as_deref() == Some(&s.digest));
    named.map_or_else(|| talkative.collect(), |step| vec![step])
}

/// The daemon's text without what only the daemon's own client would say.
fn cause(solve: &SolveFailure) -> &str {
    let text = solve.message.trim();
    let text = text.strip_prefix("failed to solve: ").unwrap_or(text);
    if text.is_empty() { "the builder gave no reason" } else { text }
}
