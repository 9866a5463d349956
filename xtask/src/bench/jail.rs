//! `cargo xtask bench --jail`: how long a jail takes that runs a program which ends at once. The native runtime beside the
//! nsjail program and bubblewrap, in one run, in turn, on a quiet machine and on one with work for every processor.
//!
//! What is compared are whole commands, as a person would type them: from the start of the process to its end, by the
//! monotonic clock. For `native` that is a small program around the library (`examples/start.rs` of sandbox-linux), because
//! ktl itself does more than start a jail. Two more rows show the library alone, measured inside that program.

mod load;
mod report;
mod starters;

pub use load::{SUBCOMMAND as SPIN, spin};

use std::time::Duration;

use anyhow::{Context, Result};

use crate::parts::ScratchDir;
use crate::workspace::{self, Profile};
use crate::{setup, tools};

use load::Load;
use starters::{Ground, Starter};

/// What `cargo xtask bench --jail` was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// Print JSON instead of the table.
    pub json: bool,
    /// A fifth of the runs.
    pub quick: bool,
}

const RUNS: usize = 1000;
const QUICK_RUNS: usize = 200;
/// Starts of each before the first that counts.
const WARM_UP: usize = 5;

/// One starter under one load; the times in the order in which they were taken.
#[derive(Debug)]
struct Row {
    loaded: bool,
    starter: Starter,
    times: Vec<Duration>,
    /// Starts beside these that came to nothing.
    failed: usize,
}

/// Sets up, measures, prints the result on stdout.
pub fn run(request: Request) -> Result<()> {
    setup::run()?;
    eprintln!("bench: building the starter with --profile dist (some minutes the first time)");
    let program = workspace::build_starter(Profile::Dist)?;
    let scratch = ScratchDir::new("jail")?;
    let ground = Ground::new(&scratch, program)?;
    let starters: Vec<Starter> = Starter::ALL
        .into_iter()
        .filter(|starter| *starter != Starter::Bwrap || there(tools::bwrap()))
        .collect();

    let runs = if request.quick { QUICK_RUNS } else { RUNS };
    let processors = std::thread::available_parallelism().context("count the processors")?.get();
    let mut rows = Vec::new();
    for loaded in [false, true] {
        let load = if loaded { Some(Load::start(processors)?) } else { None };
        eprintln!("bench: {runs} starts of each of {}, {}", starters.len(), report::load_name(loaded));
        rows.extend(measure(&ground, &starters, loaded, runs)?);
        drop(load);
    }
    let about = about(&ground, runs, processors)?;
    print!("{}", if request.json { report::json(&rows, &about) } else { report::text(&rows, &about) });
    Ok(())
}

/// False, with a word on stderr, for a program that this machine does not have.
fn there<T>(found: Result<T>) -> bool {
    found.map_err(|error| eprintln!("bench: left out: {error:#}")).is_ok()
}

fn measure(ground: &Ground, starters: &[Starter], loaded: bool, runs: usize) -> Result<Vec<Row>> {
    let row =
        |starter: &Starter| Row { loaded, starter: *starter, times: Vec::with_capacity(runs), failed: 0 };
    let mut rows: Vec<Row> = starters.iter().map(row).collect();
    for round in 0..WARM_UP + runs {
        // Each goes first in turn.
        rows.rotate_left(1);
        for row in &mut rows {
            let took = loop {
                match ground.start(row.starter)? {
                    Some(took) => break took,
                    None => row.failed += 1,
                }
            };
            if round >= WARM_UP {
                row.times.push(took);
            }
        }
    }
    rows.sort_by_key(|row| row.starter);
    Ok(rows)
}

/// What the numbers were taken on: name and value pairs.
fn about(ground: &Ground, runs: usize, processors: usize) -> Result<Vec<(&'static str, String)>> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let others = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Ok(vec![
        ("runs", format!("{runs} of each, in turn")),
        ("cpus", processors.to_string()),
        ("kernel", kernel.trim().to_owned()),
        ("load", format!("{processors} processes that spin at nice 0, each in a session of its own")),
        ("load average at the end", others.trim().to_owned()),
        (
            "jails",
            "own user, mount, pid, ipc, uts, cgroup and net namespaces; root and /proc of their own, one bound file".to_owned(),
        ),
        ("program", format!("{} true", tools::busybox()?.display())),
        ("native", ground.shown(Starter::Native)?),
        ("nsjail", ground.shown(Starter::Nsjail)?),
    ])
}
