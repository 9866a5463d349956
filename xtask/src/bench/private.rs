//! `cargo xtask bench --private`: what a private builder costs beside a plain daemon that runs already. The same client builds
//! the same on both, in turn, so that whatever else the machine does hits both alike.
//!
//! The targets: the first build, which starts the private daemon, takes at most 1.5 s more; builds after it at most 1.1 of the
//! plain daemon's middle time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::measure::{min_and_median, sample};
use crate::parts::{Buildkitd, Options, ScratchDir};
use crate::workspace::{self, Profile};
use crate::{command, setup, tools};

/// What `cargo xtask bench --private` was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// Print JSON instead of the table.
    pub json: bool,
    /// A third of the runs.
    pub quick: bool,
}

const RUNS: usize = 15;
const QUICK_RUNS: usize = 5;
const LATER: f64 = 1.5;
const RATIO: f64 = 1.1;

const DOCKERFILE: &str = "FROM scratch\nCOPY busybox /bin/busybox\n\
                          RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nCOPY stamp /\nRUN cat /stamp >/out\n";

/// What is built, and what of it is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// Nothing is cached, and the private daemon does not run.
    First,
    /// Both daemons run, and the last step is a new one.
    Changed,
    /// Everything is cached.
    Cached,
}

impl Case {
    const ALL: [Case; 3] = [Case::First, Case::Changed, Case::Cached];

    fn name(self) -> &'static str {
        match self {
            Case::First => "first",
            Case::Changed => "changed",
            Case::Cached => "cached",
        }
    }
}

/// Times on the plain daemon and on the private one.
#[derive(Debug)]
struct Row {
    case: Case,
    plain: Vec<Duration>,
    private: Vec<Duration>,
}

impl Row {
    fn figures(&self) -> Option<[(Duration, Duration); 2]> {
        Some([min_and_median(self.plain.iter().copied())?, min_and_median(self.private.iter().copied())?])
    }

    /// How much more the private one takes, in seconds, and how many times as much; of middle values.
    fn more(&self) -> Option<(f64, f64)> {
        let [(_, plain), (_, private)] = self.figures()?;
        let (plain, private) = (plain.as_secs_f64(), private.as_secs_f64());
        Some((private - plain, private / plain))
    }

    fn is_met(&self) -> Option<bool> {
        let (later, ratio) = self.more()?;
        Some(if self.case == Case::First { later <= LATER } else { ratio <= RATIO })
    }
}

struct Ground {
    ktl: PathBuf,
    home: PathBuf,
    context: PathBuf,
    state: PathBuf,
    log: PathBuf,
    plain: String,
    path: String,
}

impl Ground {
    fn ktl(&self) -> Command {
        let mut ktl = Command::new(&self.ktl);
        ktl.env_clear()
            .env("HOME", &self.home)
            .env("PATH", &self.path)
            .env("KTL_STATE_DIR", &self.state)
            .env("KTL_SANDBOX_RUNTIME", "native");
        ktl
    }

    fn build(&self, builder: &str) -> Result<Duration> {
        let mut build = self.ktl();
        build.arg("build").arg(&self.context).args(["--quiet", "--builder", builder]);
        Ok(sample(&build, &self.log)?.wall)
    }

    fn stamp(&self, text: &str) -> Result<()> {
        std::fs::write(self.context.join("stamp"), text).context("write the stamp")
    }

    /// One build of each; who goes first alternates.
    fn both(&self, row: &mut Row, round: usize) -> Result<()> {
        for turn in 0..2 {
            if (turn + round).is_multiple_of(2) {
                row.plain.push(self.build(&self.plain)?);
            } else {
                row.private.push(self.build(PRIVATE)?);
            }
        }
        Ok(())
    }
}

const PRIVATE: &str = "jail://bench";

/// Sets up, measures, prints the result on stdout.
pub fn run(request: Request) -> Result<()> {
    setup::run()?;
    eprintln!("bench: building ktl with --profile dist (some minutes the first time)");
    let ktl = workspace::build_ktl(Profile::Dist)?;
    let scratch = ScratchDir::new("private")?;
    let daemon = Buildkitd::start(&scratch.join("daemon"), &Options::default())?;
    let ground = Ground {
        ktl,
        home: scratch.dir("home")?,
        context: scratch.dir("context")?,
        state: scratch.join("s"),
        log: scratch.join("log"),
        plain: daemon.address(),
        path: path()?,
    };
    std::fs::write(ground.context.join("Dockerfile"), DOCKERFILE).context("write the Dockerfile")?;
    std::fs::copy(tools::busybox()?, ground.context.join("busybox")).context("copy busybox")?;

    let runs = if request.quick { QUICK_RUNS } else { RUNS };
    let measured = measure(&ground, &daemon, runs);
    // The daemon outlives whoever started it.
    let stopped = command::run(ground.ktl().args(["builder", "stop"]));
    let rows = measured?;
    stopped?;
    print!("{}", if request.json { as_json(&rows) } else { text(&rows) });
    Ok(())
}

fn path() -> Result<String> {
    let mut path = String::new();
    for tool in [tools::buildkitd()?, tools::runc()?] {
        path += &format!("{}:", tool.parent().unwrap_or(Path::new("/")).display());
    }
    Ok(path + "/usr/sbin:/usr/bin:/sbin:/bin")
}

fn measure(ground: &Ground, daemon: &Buildkitd, runs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for case in Case::ALL {
        let mut row = Row { case, plain: Vec::new(), private: Vec::new() };
        for round in 0..runs {
            eprintln!("bench: {} round {}", case.name(), round + 1);
            match case {
                Case::First => {
                    command::run(daemon.buildctl()?.args(["prune", "--all"]))?;
                    if ground.state.join("daemons/bench").exists() {
                        command::run(ground.ktl().args(["builder", "rm", "bench"]))?;
                    }
                    ground.stamp(&format!("first {round}"))?;
                }
                Case::Changed => ground.stamp(&format!("changed {round}"))?,
                Case::Cached => {}
            }
            ground.both(&mut row, round)?;
        }
        rows.push(row);
    }
    Ok(rows)
}

fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<8} {:>4} {:>10} {:>10} {:>12} {:>12} {:>9} {:>5}  target\n",
        "build", "runs", "plain min", "plain med", "private min", "private med", "more", "x"
    );
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1000.0);
    for row in rows {
        let (Some([plain, private]), Some((more, ratio))) = (row.figures(), row.more()) else { continue };
        let target = match row.case {
            Case::First => format!("at most {LATER} s more"),
            _ => format!("at most {RATIO}x"),
        };
        let verdict = if row.is_met() == Some(true) { "met" } else { "MISSED" };
        text += &format!(
            "{:<8} {:>4} {:>10} {:>10} {:>12} {:>12} {:>9} {ratio:>5.2}  {target}: {verdict}\n",
            row.case.name(),
            row.plain.len(),
            ms(plain.0),
            ms(plain.1),
            ms(private.0),
            ms(private.1),
            format!("{:.0} ms", more * 1000.0),
        );
    }
    text
}

fn as_json(rows: &[Row]) -> String {
    let seconds = |times: &[Duration]| times.iter().map(|time| json!(time.as_secs_f64())).collect::<Vec<_>>();
    let object = |row: &Row| {
        json!({
            "build": row.case.name(),
            "plain_s": seconds(&row.plain),
            "private_s": seconds(&row.private),
            "more_s": row.more().map(|more| more.0),
            "ratio": row.more().map(|more| more.1),
            "met": row.is_met(),
        })
    };
    format!("{:#}\n", json!(rows.iter().map(object).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_of_middle_values() {
        let row = |case, plain: [u64; 3], private: [u64; 3]| Row {
            case,
            plain: plain.map(Duration::from_millis).to_vec(),
            private: private.map(Duration::from_millis).to_vec(),
        };
        for (row, met) in [
            (row(Case::First, [1000, 1100, 9000], [2000, 2600, 2700]), true),
            (row(Case::First, [1000, 1000, 1000], [2000, 2501, 2700]), false),
            (row(Case::Cached, [100, 100, 900], [90, 110, 900]), true),
            (row(Case::Changed, [100, 100, 100], [100, 111, 111]), false),
        ] {
            assert_eq!(row.is_met(), Some(met), "{row:?}");
            assert!(text(&[row]).contains(if met { ": met" } else { ": MISSED" }));
        }
    }
}
