//! `cargo xtask test`: everything that must hold before a change goes in, on a fresh machine as on a developer's.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::{command, fuzz, setup, workspace};

/// Sets up, then formatting, lints and tests. Stops at the first step that fails and returns its exit code.
pub fn run() -> Result<u8> {
    setup::run()?;
    for arguments in [
        ["fmt", "--all", "--check"].as_slice(),
        ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"].as_slice(),
    ] {
        let mut step = cargo(arguments);
        eprintln!("\n$ {}", command::line(&step));
        let status = step.status().with_context(|| format!("start {}", command::line(&step)))?;
        if !status.success() {
            eprintln!("test: stopped, cargo {} ended with {status}", arguments[0]);
            return Ok(exit_code(status));
        }
    }
    tests()
}

/// A million damaged messages to each target, by the tests that send a few thousand otherwise.
pub fn fuzz(messages: u64, targets: &[String]) -> Result<u8> {
    let mut step =
        cargo(&["test", "-p", "buildsvc", "-p", "sandbox-linux", "-p", "ktl-cli", "--lib", "--bin", "ktl"]);
    step.args(["--no-fail-fast", "damaged_messages_are_survived", "--", "--nocapture", "--test-threads=1"]);
    step.env(fuzz::COUNT, messages.to_string()).env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    if !targets.is_empty() {
        step.env(fuzz::ONLY, targets.join(","));
    }
    eprintln!("\n$ {}", command::line(&step));
    let status = step.status().with_context(|| format!("start {}", command::line(&step)))?;
    Ok(exit_code(status))
}

/// Runs all tests, passes their output on as it comes, and closes with the counts.
fn tests() -> Result<u8> {
    let mut step = cargo(&["test", "--workspace", "--no-fail-fast"]);
    eprintln!("\n$ {}", command::line(&step));
    let mut child = step.stdout(Stdio::piped()).spawn().context("start cargo test")?;
    let stdout = child.stdout.take().context("cargo test's stdout")?;
    let mut counts = Counts::default();
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).context("read cargo test's output")? > 0 {
        std::io::stdout().write_all(&line).context("write to stdout")?;
        counts.add(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("wait for cargo test")?;
    println!(
        "test: {} passed, {} failed, {} ignored, in {} programs",
        counts.passed, counts.failed, counts.ignored, counts.programs
    );
    Ok(exit_code(status))
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = Command::new(workspace::variable("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace::root()).args(arguments).stdin(Stdio::null());
    cargo
}

/// A step that was killed by a signal counts as 1.
fn exit_code(status: std::process::ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Sums of the `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
    programs: u64,
}

impl Counts {
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        self.programs += 1;
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let number = words.next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let mut counts = Counts::default();
        for line in [
            "test a ... ok\n",
            "test result: ok. 16 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 3.10s\n",
            "test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 17, failed: 3, ignored: 2, programs: 2 });
    }
}
