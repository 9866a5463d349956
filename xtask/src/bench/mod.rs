//! `cargo xtask bench`: ktl beside buildctl and buildx, on one daemon, in one run, interleaved, so that whatever else the
//! machine does hits all of them alike.
//!
//! Every number is of the client alone: wall time from start to exit, CPU time (user and system) of the client and all its
//! children, the largest resident set among them. The daemon's work is the same for all and shows in wall time only.

mod cases;
mod clients;
pub mod jail;
mod measure;
pub mod private;
mod table;

pub use measure::{SUBCOMMAND as MEASURE, main as measure};

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::parts::{self, Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir};
use crate::workspace::{self, Profile};
use crate::{command, setup, tools};

use cases::{Case, Ground};
use clients::{Client, Clients};
use measure::Sample;

/// What `cargo xtask bench` was asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Print JSON instead of the table.
    pub json: bool,
    /// Small inputs and few runs: shows that the bench works, not how fast anything is.
    pub quick: bool,
    /// Names of clients to run; empty for all.
    pub clients: Vec<String>,
    /// Names of cases to run; empty for all.
    pub cases: Vec<String>,
}

/// One client in one case.
#[derive(Debug)]
struct Row {
    case: Case,
    client: Client,
    samples: Vec<Sample>,
}

/// Sets up, runs the cases, prints the result on stdout.
pub fn run(request: &Request) -> Result<()> {
    let clients = selected(&Client::ALL, Client::name, &request.clients).context("--clients")?;
    let cases = selected(&Case::ALL, Case::name, &request.cases).context("--cases")?;
    setup::run()?;
    let ktl = if clients.iter().any(|client| client.is_ktl()) {
        eprintln!("bench: building ktl with --profile dist (some minutes the first time)");
        Some(workspace::build_ktl(Profile::Dist)?)
    } else {
        None
    };

    let scratch = ScratchDir::new("bench")?;
    let registry = Registry::start(&scratch.join("registry"), Auth::None)?;
    let daemon = Buildkitd::start(
        &scratch.join("daemon"),
        &Options {
            plain_http: vec![registry.address().to_owned()],
            // Else the daemon cuts a step's log at 2 MiB and at 200 KiB/s, and a slow client would look quick.
            environment: [("BUILDKIT_STEP_LOG_MAX_SIZE", "-1"), ("BUILDKIT_STEP_LOG_MAX_SPEED", "-1")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..Options::default()
        },
    )?;
    parts::push_base_images(&daemon, &registry, &[BaseImage::Busybox])?;

    let programs = Clients::new(ktl, &daemon, scratch.dir("clients")?)?;
    let ground = Ground::new(&programs, &daemon, &registry, &scratch, request.quick)?;
    let mut rows: Vec<Row> = Vec::new();
    for group in Case::groups(&cases) {
        for round in 0..group.rounds(request.quick) {
            // Each client goes first in turn.
            for turn in 0..clients.len() {
                let client = clients[(turn + round) % clients.len()];
                eprintln!("bench: {} round {} {}", group.name(), round + 1, client.name());
                for (case, sample) in ground.round(group, client, round)? {
                    if !cases.contains(&case) {
                        continue;
                    }
                    match rows.iter_mut().find(|row| row.case == case && row.client == client) {
                        Some(row) => row.samples.push(sample),
                        None => rows.push(Row { case, client, samples: vec![sample] }),
                    }
                }
            }
        }
    }
    rows.sort_by_key(|row| (row.case, row.client));
    let about = about(&programs, &clients, request.quick)?;
    print!("{}", if request.json { table::json(&rows, &about) } else { table::text(&rows, &about) });
    Ok(())
}

/// Picks by name; nothing asked for means all.
fn selected<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str, wanted: &[String]) -> Result<Vec<T>> {
    if let Some(unknown) = wanted.iter().find(|wanted| !all.iter().any(|item| name(*item) == wanted.as_str()))
    {
        let names: Vec<&str> = all.iter().map(|item| name(*item)).collect();
        bail!("{unknown:?} is none of {}", names.join(", "));
    }
    Ok(all
        .iter()
        .copied()
        .filter(|item| wanted.is_empty() || wanted.iter().any(|want| want == name(*item)))
        .collect())
}

/// What the numbers were taken on: name and value pairs.
fn about(programs: &Clients, clients: &[Client], quick: bool) -> Result<Vec<(&'static str, String)>> {
    let first_line = |command: &mut Command| -> Result<String> {
        let output = command::output_of(command)?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().trim().to_owned())
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut about = vec![
        ("inputs", if quick { "quick: small, the numbers mean little" } else { "full" }.to_owned()),
        ("cpus", cpus.to_string()),
        ("kernel", kernel.trim().to_owned()),
        ("daemon", first_line(Command::new(tools::buildkitd()?).arg("--version"))?),
    ];
    for client in clients.iter().filter(|client| **client != Client::KtlUnjailed) {
        about.push((client.name(), first_line(&mut programs.version(*client)?)?));
    }
    Ok(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_and_cases_are_picked_by_name() -> Result<()> {
        assert_eq!(selected(&Client::ALL, Client::name, &[])?, Client::ALL);
        assert_eq!(selected(&Client::ALL, Client::name, &["buildx".into()])?, [Client::Buildx]);
        let error = selected(&Case::ALL, Case::name, &["nonsense".into()]).expect_err("no such case");
        assert!(error.to_string().starts_with("\"nonsense\" is none of version, "), "{error}");
        Ok(())
    }
}
