//! The private daemons of this user, and the builders that are found: `ls`, `logs`, `stop`, `rm`.

use std::fs::File;
use std::io;

use serde_json::json;

use super::columns;
use crate::builder::{self, Address, Candidate};
use crate::cli::BuilderFlags;
use crate::commands::sandbox::{print, print_json};
use crate::dial;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private::{Network, Place, Record, remove, stop, trust};
use crate::ui::Ui;

pub(super) fn stop(names: &[String], env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let places = if names.is_empty() { Place::all(env)? } else { named(names, env)? };
    for place in places {
        if stop::stop(&place)? {
            ui.line(format_args!("stopped {place}"));
        }
    }
    Ok(Exit::Ok)
}

pub(super) fn remove(names: &[String], env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    for place in named(names, env)? {
        remove::remove(&place, env, ui)?;
        ui.line(format_args!("removed {place}"));
    }
    Ok(Exit::Ok)
}

pub(super) fn logs(name: &str, env: &Env) -> Result<Exit, Failure> {
    for place in named(&[name.to_owned()], env)? {
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

/// The places of these private builders; one that has none is a mistake.
pub(super) fn named(names: &[String], env: &Env) -> Result<Vec<Place>, Failure> {
    let places = Place::all(env)?;
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

/// One line of the list.
struct Row {
    name: String,
    network: String,
    status: String,
    jail: String,
    socket: String,
    object: serde_json::Value,
}

pub(super) fn list(as_json: bool, env: &Env) -> Result<Exit, Failure> {
    let candidates = builder::candidates(&BuilderFlags::default(), env)?;
    let mut used = None;
    let mut rows = Vec::new();
    for Candidate { address, named_by, .. } in &candidates {
        if address.is_private() {
            used = used.or_else(|| Some(format!("{address}")));
            continue;
        }
        let answers = dial::answers(address);
        if answers {
            used = used.or_else(|| Some(address.to_string()));
        }
        rows.push(Row {
            name: address.to_string(),
            network: "-".to_owned(),
            status: if answers { "answers" } else { "does not answer" }.to_owned(),
            jail: "-".to_owned(),
            socket: format!("named by {named_by}"),
            object: json!({ "name": address.to_string(), "named_by": named_by, "answers": answers }),
        });
    }
    let used = used.unwrap_or_else(|| Address::Jail(builder::DEFAULT_NAME.to_owned()).to_string());
    for place in Place::all(env)? {
        let record = Record::of(&place)
            .map_err(|error| Failure::internal(format!("{place}: failed to read its record: {error}")))?;
        let status = match &record {
            Some(record) => format!("running as {}", record.pid),
            None => "stopped".to_owned(),
        };
        rows.push(Row {
            name: place.name.clone(),
            network: place.network.to_string(),
            status,
            jail: record.as_ref().map_or("-".to_owned(), |record| record.runtime.clone()),
            socket: place.socket().display().to_string(),
            object: json!({
                "name": place.name,
                "network": place.network,
                "dir": place.dir(),
                "socket": place.socket(),
                "running": record,
            }),
        });
    }
    // A build that is not hermetic has the host's network.
    let plain = Network::Host.to_string();
    for row in &mut rows {
        let address = if row.network == "-" { row.name.clone() } else { address_of(&row.name, env) };
        let current = address == used && (row.network == "-" || row.network == plain);
        row.object["current"] = current.into();
        if current {
            row.name.push('*');
        }
    }
    if as_json {
        print_json(&rows.into_iter().map(|row| row.object).collect())?;
    } else {
        let head = ["NAME", "NETWORK", "STATUS", "JAIL", "SOCKET"].map(str::to_owned).to_vec();
        let body = rows.into_iter().map(|row| vec![row.name, row.network, row.status, row.jail, row.socket]);
        print(&columns(&std::iter::once(head).chain(body).collect::<Vec<_>>()))?;
    }
    Ok(Exit::Ok)
}

/// The address that means the private builder of this name, as long as the variables name its trust.
fn address_of(name: &str, env: &Env) -> String {
    let own = name.split(trust::MARK).next().unwrap_or(name);
    match trust::name(own, &Default::default(), env) {
        Ok(meant) if meant == name => Address::Jail(own.to_owned()).to_string(),
        _ => Address::Jail(name.to_owned()).to_string(),
    }
}
