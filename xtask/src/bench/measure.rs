//! One exact measurement. A process of its own runs one program, waits for it and asks the kernel what its children used:
//! `RUSAGE_CHILDREN` then covers that program and everything it waited for, and nothing else.
//!
//! The resident set has a floor: a child starts as a copy of its parent, here of a small static program (about 2 MiB).

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::command;

/// The hidden subcommand of xtask that measures: `xtask __measure LOG PROGRAM ARGUMENT…`.
pub const SUBCOMMAND: &str = "__measure";

/// What one run took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    pub wall: Duration,
    /// User and system time.
    pub cpu: Duration,
    /// Of the largest process.
    pub peak_rss_kib: u64,
}

/// The measuring process: runs the program with both streams in the log, prints four numbers on stdout (exit code, wall and
/// CPU microseconds, KiB).
pub fn main(arguments: &[String]) -> Result<()> {
    let [log, program, arguments @ ..] = arguments else { bail!("{SUBCOMMAND} LOG PROGRAM [ARGUMENT…]") };
    let log = File::create(log).with_context(|| format!("create {log}"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the log")?)
        .stderr(log);
    let started = Instant::now();
    let status = command.status().with_context(|| format!("start {program}"))?;
    let wall = started.elapsed();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    let cpu = micros(usage.user_time()) + micros(usage.system_time());
    println!("{} {} {cpu} {}", status.code().unwrap_or(-1), wall.as_micros(), usage.max_rss());
    Ok(())
}

fn micros(time: TimeVal) -> i64 {
    time.tv_sec() * 1_000_000 + time.tv_usec()
}

/// Runs `command` in a measuring process. `log` gets its output; a failed run is an error that ends with it.
pub fn sample(command: &Command, log: &Path) -> Result<Sample> {
    // Not by its path: cargo may have replaced that file since the bench started.
    let mut measured = Command::new("/proc/self/exe");
    measured.arg(SUBCOMMAND).arg(log).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => measured.env(name, value),
            None => measured.env_remove(name),
        };
    }
    let numbers =
        String::from_utf8(command::output_of(&mut measured)?.stdout).context("read the measurement")?;
    let numbers: Vec<i64> = numbers.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [code, wall, cpu, rss] = numbers[..] else { bail!("the measuring process printed {numbers:?}") };
    if code != 0 {
        let said = std::fs::read(log).unwrap_or_default();
        bail!(
            "{} ended with {code}:\n{}",
            command::line(command),
            command::last_lines(&String::from_utf8_lossy(&said), 20)
        );
    }
    let micros = |number: i64| u64::try_from(number).map(Duration::from_micros).context("a negative time");
    Ok(Sample {
        wall: micros(wall)?,
        cpu: micros(cpu)?,
        peak_rss_kib: u64::try_from(rss).context("a negative size")?,
    })
}

/// Smallest and middle value; of an even number of values the lower middle one.
pub fn min_and_median<T: Ord + Copy>(values: impl Iterator<Item = T>) -> Option<(T, T)> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    Some((*values.first()?, *values.get((values.len() - 1) / 2)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_some_numbers() {
        assert_eq!(min_and_median([3, 1, 2].into_iter()), Some((1, 2)));
        assert_eq!(min_and_median([4, 1, 3, 2].into_iter()), Some((1, 2)));
        assert_eq!(min_and_median(std::iter::empty::<u8>()), None);
    }
}
