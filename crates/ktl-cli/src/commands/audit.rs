//! `ktl audit show`: what was asked of builds, for a person to read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;

/// Read what --audit has written
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    Show(ShowArgs),
}

/// Show what builders asked for, and what became of it
///
/// One line for each request: when, how it ended, what was asked, what it was about, bytes that came and went, and why it was
/// refused.
#[derive(Debug, Args)]
struct ShowArgs {
    /// The file of --audit
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only what was refused, cut off, or failed
    #[arg(long)]
    refused: bool,
    /// The lines as they are, one JSON object each
    #[arg(long)]
    json: bool,
}

/// Of a line: the writer's own limit, with room for its time.
const MAX_LINE: u64 = 128 << 10;

pub fn run(args: &AuditArgs) -> Result<Exit, Failure> {
    let AuditCommand::Show(args) = &args.command;
    let path = args.file.display();
    let fail = |error: io::Error| Failure::usage(format!("failed to read {path}: {error}"));
    let mut reader = BufReader::new(File::open(&args.file).map_err(fail)?);
    let mut out = io::stdout().lock();
    for number in 1.. {
        let mut line = Vec::new();
        if reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).map_err(fail)? == 0 {
            break;
        }
        let event: Value = serde_json::from_slice(&line).map_err(|_| {
            Failure::new(Exit::Unmet, format!("line {number} of {path} is none that ktl has written"))
                .hint("A run that was killed may have left half a line at the very end.")
        })?;
        if args.refused && !is_refused(&event) {
            continue;
        }
        let text = if args.json { event.to_string() } else { shown(&event) };
        match writeln!(out, "{text}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(|error| Failure::internal(format!("failed to print: {error}")))?,
        }
    }
    Ok(Exit::Ok)
}

fn is_refused(event: &Value) -> bool {
    matches!(event["end"].as_str(), Some("refused" | "failed" | "cut off"))
}

/// One line. Everything but the words of this function may have come from a builder.
fn shown(event: &Value) -> String {
    let text = |key: &str| inert::text(event[key].as_str().unwrap_or_default()).to_string();
    let time = time(event["time"].as_f64().unwrap_or_default());
    match event["event"].as_str() {
        Some("begin") => format!("{time} begin    ktl {} build, builder {}", text("ktl"), text("builder")),
        Some("end") => {
            let mut line = format!("{time} end      exit {}, refused {}", event["exit"], event["refused"]);
            if event["not_kept"].as_object().is_some_and(|kinds| !kinds.is_empty()) {
                line.push_str(&format!(
                    ", counted and not kept: {}",
                    inert::text(&event["not_kept"].to_string())
                ));
            }
            line
        }
        Some("request") => line(&time, event, &text("method")),
        Some("broker") => line(&time, event, &text("kind")),
        Some("finding") => {
            format!("{time} found    {}: {} (rule {})", text("local"), text("path"), text("rule"))
        }
        // A directory has neither.
        Some("output") => match event["bytes"].as_u64() {
            Some(bytes) => format!("{time} output   {} {bytes} bytes {}", text("path"), text("digest")),
            None => format!("{time} output   {}", text("path")),
        },
        _ => format!("{time} {}", inert::text(&event.to_string())),
    }
}

fn line(time: &str, event: &Value, what: &str) -> String {
    let mut line =
        format!("{time} {:<8} {what}", inert::text(event["end"].as_str().unwrap_or("?")).to_string());
    for (key, value) in event["about"].as_object().into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(list) => {
                list.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
            }
            other => other.to_string(),
        };
        line.push_str(&format!(" {}={}", inert::text(key), inert::text(&value)));
    }
    for (key, word) in [("received", "received"), ("sent", "sent")] {
        if let Some(bytes @ 1..) = event[key].as_u64() {
            line.push_str(&format!(" {word} {bytes}"));
        }
    }
    if let Some(why @ [_, ..]) = event["why"].as_str().map(str::as_bytes) {
        line.push_str(&format!(" — {}", inert::text(&String::from_utf8_lossy(why))));
    }
    line
}

/// Time of day, UTC: a build is over within one.
fn time(seconds: f64) -> String {
    let seconds = seconds as u64 % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_for_people_and_inert() {
        for (event, want) in [
            (
                json!({ "time": 3661.5, "event": "request", "method": "/a.B/C", "about": { "dir-name": ["ctx"] },
                        "received": 0, "sent": 7, "end": "ok", "why": "" }),
                "01:01:01 ok       /a.B/C dir-name=ctx sent 7",
            ),
            (
                json!({ "time": 0, "event": "broker", "kind": "token", "about": { "host": "h", "scopes": ["a", "b"] },
                        "end": "refused", "why": "no" }),
                "00:00:00 refused  token host=h scopes=a,b — no",
            ),
            (
                json!({ "time": 0, "event": "end", "exit": 0, "refused": 2, "not_kept": {} }),
                "00:00:00 end      exit 0, refused 2",
            ),
            (
                json!({ "time": 0, "event": "output", "path": "x", "bytes": 3, "digest": "sha256:a" }),
                "00:00:00 output   x 3 bytes sha256:a",
            ),
            (json!({ "time": 0, "event": "output", "path": "dir" }), "00:00:00 output   dir"),
        ] {
            assert_eq!(shown(&event), want);
        }
        let hostile = json!({ "event": "request", "method": "\x1b[31m", "end": "refused", "why": "\x07" });
        assert!(!shown(&hostile).contains(['\x1b', '\x07']));
        assert!(is_refused(&hostile) && !is_refused(&json!({ "end": "ok" })));
    }
}
