//! `ktl builder`: the private daemons of this user.

use std::fs::File;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde_json::json;

use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private::{Place, Record, remove, stop};
use crate::ui::Ui;

/// Look after private builders: those that `--builder jail://NAME` starts
///
/// A private builder is a buildkitd in a jail of its own. It is started when a command needs it and stops by itself when
/// nobody has used it for a while (--idle-timeout); its cache stays. NAME has one of each network, which share nothing;
/// NAME@TRUST is that of a trust (--trust).
#[derive(Debug, Args)]
pub struct BuilderArgs {
    #[command(subcommand)]
    command: BuilderCommand,
}

#[derive(Debug, Subcommand)]
enum BuilderCommand {
    /// List them, running or not
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what the daemons of that name have logged
    Logs {
        #[arg(value_name = "NAME", default_value = "default")]
        name: String,
    },
    /// Stop the running daemons of these names, or all; their caches stay
    Stop {
        #[arg(value_name = "NAME")]
        names: Vec<String>,
    },
    /// Stop the daemons of these names and remove their caches
    Rm {
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

pub fn run(args: &BuilderArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: false };
    let places = Place::all(env)?;
    match &args.command {
        BuilderCommand::Ls { json } => list(&places, *json),
        BuilderCommand::Logs { name } => logs(&named(&places, std::slice::from_ref(name))?),
        BuilderCommand::Stop { names } => {
            let chosen = if names.is_empty() { places } else { named(&places, names)? };
            for place in chosen {
                if stop::stop(&place)? {
                    ui.line(format_args!("stopped {place}"));
                }
            }
            Ok(Exit::Ok)
        }
        BuilderCommand::Rm { names } => {
            for place in named(&places, names)? {
                remove::remove(&place, env, &ui)?;
                ui.line(format_args!("removed {place}"));
            }
            Ok(Exit::Ok)
        }
    }
}

fn named(places: &[Place], names: &[String]) -> Result<Vec<Place>, Failure> {
    let mut chosen = Vec::new();
    for name in names {
        let before = chosen.len();
        chosen.extend(places.iter().filter(|place| place.name == *name).cloned());
        if chosen.len() == before {
            return Err(Failure::usage(format!("there is no private builder `{name}`"))
                .hint("`ktl builder ls` lists them; `--builder jail://NAME` makes one."));
        }
    }
    Ok(chosen)
}

fn record(place: &Place) -> Result<Option<Record>, Failure> {
    Record::of(place)
        .map_err(|error| Failure::internal(format!("{place}: failed to read its record: {error}")))
}

fn list(places: &[Place], as_json: bool) -> Result<Exit, Failure> {
    let mut lines = vec![["NAME", "NETWORK", "STATUS", "JAIL", "SOCKET"].map(str::to_owned)];
    let mut objects = Vec::new();
    for place in places {
        let record = record(place)?;
        let status =
            record.as_ref().map_or("stopped".to_owned(), |record| format!("running as {}", record.pid));
        let jail = record.as_ref().map_or("-".to_owned(), |record| record.runtime.clone());
        objects.push(json!({
            "name": place.name,
            "network": place.network,
            "dir": place.dir(),
            "socket": place.socket(),
            "running": record,
        }));
        let socket = place.socket().display().to_string();
        lines.push([place.name.clone(), place.network.to_string(), status, jail, socket]);
    }
    let mut out = io::stdout().lock();
    let written = if as_json {
        writeln!(out, "{:#}", serde_json::Value::from(objects))
    } else {
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2), width(3)];
        lines.iter().try_for_each(|[name, network, status, jail, socket]| {
            let [a, b, c, d] = widths;
            writeln!(out, "{name:a$}  {network:b$}  {status:c$}  {jail:d$}  {socket}")
        })
    };
    written.map_err(|error| Failure::usage(format!("failed to write to stdout: {error}")))?;
    Ok(Exit::Ok)
}

fn logs(places: &[Place]) -> Result<Exit, Failure> {
    for place in places {
        let fail =
            |error: io::Error| Failure::usage(format!("failed to print {}: {error}", place.log().display()));
        match File::open(place.log()) {
            Ok(mut log) => drop(io::copy(&mut log, &mut io::stdout().lock()).map_err(fail)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(Exit::Ok)
}
