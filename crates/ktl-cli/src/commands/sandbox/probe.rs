//! `ktl sandbox probe`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sandbox_linux::{Answer, Probe, Verdict, Visibility};
use serde_json::json;

use super::{print, print_json};
use crate::cli::{JailFlags, LogFlags};
use crate::commands::build::facts;
use crate::display::inert;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::fd;
use crate::launch::{self, Rooms};
use crate::log::Log;
use crate::look::Looked;
use crate::plan::{self, Facts, Kind, LookPlan};
use crate::ui::Ui;

/// Ask from inside the jail what can be seen and reached there
///
/// Starts the same jail as `ktl build` would, with nothing in it but ktl, and asks. A path is hidden when it does not exist
/// inside; an endpoint is hidden when the jail's kernel refuses the way there. Names are not resolved inside: the jail has no
/// resolver, so give an IP address, or localhost. A connection attempt takes two seconds at most. Nothing is built and no
/// builder is needed.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ProbeArgs {
    /// PATH (absolute), HOST:PORT, unix:SOCKET, cap:NAME or env:NAME [default: a list of things that a build client has no
    /// business with]
    #[arg(value_name = "TARGET", value_parser = parse_target)]
    targets: Vec<Probe>,
    /// What every target must be; exit 1 when one is not
    #[arg(long, value_enum, value_name = "hidden|visible")]
    expect: Option<Expect>,
    /// Print the answers as JSON, and write the log of the sandbox, where one is asked for, as JSON lines
    #[arg(long)]
    json: bool,
    /// Directory that is shown as the build context
    #[arg(long, value_name = "DIR", default_value = ".")]
    context: PathBuf,
    #[command(flatten)]
    jail: JailFlags,
    #[command(flatten)]
    log: LogFlags,
    /// As a build with --hermetic: without --sandbox-config, take the policy ktl-hermetic
    #[arg(long, help_heading = "Sandbox")]
    hermetic: bool,
}

const AFTER_HELP: &str = "Examples:
  ktl sandbox probe                        ask for twenty and more things at once
  ktl sandbox probe /etc/shadow $HOME/.ssh --expect hidden
  ktl sandbox probe unix:/run/docker.sock 127.0.0.1:5000 cap:SYS_ADMIN env:GITHUB_TOKEN
  ktl sandbox probe --sandbox-config ci.cfg --expect hidden --json

Answers: hidden; VISIBLE (what); unreachable (why), which is neither of the two.
The last column is the host's own view of a path: what is not there either proves nothing.

Exit codes: 0 asked, and as expected; 1 an expectation does not hold; 2 usage; 4 no jail, or not proven";

const DOCTOR: &str = "`ktl sandbox doctor` looks for the cause.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Expect {
    Hidden,
    Visible,
}

impl Expect {
    fn is_met_by(self, answer: &Answer) -> bool {
        match self {
            Expect::Hidden => answer.verdict == Verdict::Hidden,
            Expect::Visible => answer.verdict == Verdict::Visible,
        }
    }
}

fn parse_target(text: &str) -> Result<Probe, String> {
    text.parse()
}

pub fn run(args: &ProbeArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: false };
    let facts = facts(env)?;
    let context = context(&args.context, &facts)?;
    let sandbox = plan::sandbox_plan(&args.jail, args.hermetic, env, &facts)?;
    let cache = plan::cache_dir(env, &facts)?;
    let log = Log::open(&plan::log_plan(&args.log, args.json, &facts), "sandbox probe", &cache, &ui)?;
    let ask = || {
        let targets = if args.targets.is_empty() { usual_targets(env) } else { args.targets.clone() };
        let rooms = Rooms {
            cache: &cache,
            context: &context,
            dockerfile: None,
            inputs: &[],
            outputs: Vec::new(),
            fds: vec![fd::PLAN, fd::RESULT],
        };
        let prepared = launch::open(rooms, &sandbox, Some(DOCTOR), &log, &ui)?;
        let plan = LookPlan {
            version: plan::VERSION,
            nonce: facts.nonce.clone(),
            verbose,
            targets,
            question: None,
            promises: Some(prepared.promises()),
        };
        let looked = launch::look(prepared, &plan, None, &ui, || Ok(()))?;
        let rows = rows(&plan.targets, &looked)?;
        if args.json {
            print_json(&as_json(&rows, &looked, args.expect))?;
        } else {
            print(&table(&rows, &looked, args.expect))?;
        }
        let met = args.expect.is_none_or(|expect| rows.iter().all(|row| expect.is_met_by(row.answer)));
        Ok(if met { Exit::Ok } else { Exit::Unmet })
    };
    let outcome = ask();
    log.close(outcome)
}

/// The directory that a build would have as its context.
pub(super) fn context(given: &Path, facts: &Facts) -> Result<PathBuf, Failure> {
    let dir = facts.cwd.join(given);
    let dir = (facts.real)(&dir).unwrap_or(dir);
    if (facts.kind_of)(&dir) == Kind::Directory {
        Ok(dir)
    } else {
        Err(Failure::usage(format!("--context {}: is no directory", dir.display())))
    }
}

/// What a build client has no business with, as far as one can know beforehand.
fn usual_targets(env: &Env) -> Vec<Probe> {
    const PATHS: [&str; 24] = [
        "/etc/shadow",
        "/etc/passwd",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/etc/ssl/private",
        "/root",
        "/home",
        "/run",
        "/var",
        "/usr/bin",
        "/bin/sh",
        "/lib",
        "/opt",
        "/srv",
        "/mnt",
        "/boot",
        "/sys",
        "/dev/kmsg",
        "/dev/kvm",
        "/dev/mem",
        "/dev/fuse",
        "/dev/sda",
        "/dev/net/tun",
        "/proc/kcore/x",
    ];
    const OTHERS: [&str; 8] = [
        "unix:/var/run/docker.sock",
        "unix:/run/buildkit/buildkitd.sock",
        "unix:/run/containerd/containerd.sock",
        "127.0.0.1:22",
        "169.254.169.254:80",
        "cap:SYS_ADMIN",
        "cap:DAC_OVERRIDE",
        "env:SSH_AUTH_SOCK",
    ];
    let mut targets: Vec<Probe> = PATHS.iter().map(|path| Probe::Path(path.into())).collect();
    if let Some(home) = env.home() {
        targets.push(Probe::Path(home.clone()));
        targets.extend([".ssh", ".docker/config.json", ".aws"].map(|name| Probe::Path(home.join(name))));
    }
    if let Some(agent) = env.text(env::SSH_AUTH_SOCK).filter(|path| path.starts_with('/')) {
        targets.push(Probe::Unix(agent));
    }
    targets.extend(OTHERS.iter().filter_map(|text| text.parse().ok()));
    let mut seen = Vec::new();
    targets.retain(|target| {
        !seen.contains(target) && {
            seen.push(target.clone());
            true
        }
    });
    targets
}

struct Row<'a> {
    target: &'a Probe,
    answer: &'a Answer,
    /// The host's view, of paths only: a look does no harm, a connection might.
    outside: Option<Visibility>,
}

fn rows<'a>(targets: &'a [Probe], looked: &'a Looked) -> Result<Vec<Row<'a>>, Failure> {
    if targets.len() != looked.answers.len() {
        return Err(Failure::sandbox("the guest did not answer every question"));
    }
    let outside = |target: &Probe| match target {
        Probe::Path(path) => Some(sandbox_linux::probe(path)),
        Probe::Unix(socket) if socket.starts_with('/') => Some(sandbox_linux::probe(Path::new(socket))),
        _ => None,
    };
    Ok(targets
        .iter()
        .zip(&looked.answers)
        .map(|(target, answer)| Row { target, answer, outside: outside(target) })
        .collect())
}

fn table(rows: &[Row<'_>], looked: &Looked, expect: Option<Expect>) -> String {
    let there = |seen: &Visibility| match seen {
        Visibility::Hidden => "not there".to_owned(),
        Visibility::Visible { kind, .. } => (*kind).to_owned(),
        Visibility::Unreachable { reason } => reason.clone(),
    };
    let mut lines = vec![["TARGET".to_owned(), "IN THE JAIL".to_owned(), "ON THE HOST".to_owned()]];
    for row in rows {
        let mark = match expect {
            Some(expect) if !expect.is_met_by(row.answer) => "  <- not as expected",
            _ => "",
        };
        lines.push([
            inert::text(&row.target.to_string()).into_owned(),
            format!("{}{mark}", inert::text(&row.answer.words)),
            row.outside.as_ref().map_or_else(|| "-".to_owned(), there),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut out = String::new();
    for [target, inside, outside] in &lines {
        let _ = writeln!(out, "{target:first$}  {inside:second$}  {outside}");
    }
    let _ = writeln!(out, "\nproof: {}", inert::text(&looked.proof.to_string()));
    out
}

fn as_json(rows: &[Row<'_>], looked: &Looked, expect: Option<Expect>) -> serde_json::Value {
    let targets: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut object = json!({
                "target": row.target.to_string(),
                "kind": row.target.kind(),
                "verdict": row.answer.verdict,
                "answer": row.answer.words,
            });
            if let Some(outside) = &row.outside {
                object["on_host"] = match outside {
                    Visibility::Hidden => json!(false),
                    Visibility::Visible { .. } => json!(true),
                    Visibility::Unreachable { .. } => json!(null),
                };
            }
            if let Some(expect) = expect {
                object["as_expected"] = json!(expect.is_met_by(row.answer));
            }
            object
        })
        .collect();
    let mut object = json!({ "targets": targets, "proof": looked.proof });
    if let Some(expect) = expect {
        object["as_expected"] = json!(rows.iter().all(|row| expect.is_met_by(row.answer)));
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_list_is_long_and_knows_the_home() {
        let targets = usual_targets(&Env::of(&[("HOME", "/home/me"), ("SSH_AUTH_SOCK", "/tmp/a.sock")]));
        let paths = targets.iter().filter(|target| target.kind() == "path").count();
        assert!(paths >= 20, "{paths}");
        let written: Vec<String> = targets.iter().map(Probe::to_string).collect();
        for target in ["/home/me/.ssh", "unix:/tmp/a.sock", "cap:SYS_ADMIN", "169.254.169.254:80"] {
            assert!(written.iter().any(|text| text == target), "{target} is not in {written:?}");
        }
        // Every target can be typed again.
        assert!(written.iter().all(|text| text.parse::<Probe>().is_ok()));
    }

    #[test]
    fn what_is_not_known_meets_no_expectation() {
        for (verdict, hidden, visible) in [
            (Verdict::Hidden, true, false),
            (Verdict::Visible, false, true),
            (Verdict::Unknown, false, false),
        ] {
            let answer = Answer { verdict, words: String::new() };
            let met = [Expect::Hidden, Expect::Visible].map(|expect| expect.is_met_by(&answer));
            assert_eq!(met, [hidden, visible], "{verdict:?}");
        }
    }
}
