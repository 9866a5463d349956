//! Which daemons a command about builders means, and the connections to them.
//!
//! The same flags, variables and order as for a build. A private builder has a daemon for each network: all that there are
//! of its name are meant, and started, because a daemon that does not run cannot be asked what it keeps.

use super::own;
use crate::builder::{self, Address, Candidate, DEFAULT_NAME};
use crate::cli::BuilderFlags;
use crate::dial::{self, Connection};
use crate::env::Env;
use crate::failure::Failure;
use crate::private::{Lock, Place, limits, start, trust};
use crate::tls::TlsFiles;
use crate::ui::Ui;

/// A daemon to be asked.
#[derive(Debug)]
pub(in crate::commands) struct Target {
    /// For people.
    pub(in crate::commands) name: String,
    pub(in crate::commands) connection: Connection,
    /// Keeps a private daemon from stopping.
    pub(in crate::commands) _lease: Option<Lock>,
}

/// The targets of a command; `named` is an address or a private builder's name.
pub(in crate::commands) fn of(
    named: Option<&str>,
    flags: &BuilderFlags,
    env: &Env,
    ui: &Ui,
) -> Result<Vec<Target>, Failure> {
    let candidates = match named {
        None => builder::candidates(flags, env)?,
        Some(text) => {
            let name = text.split(trust::MARK).all(trust::is_name);
            let address = if name { Ok(Address::Jail(text.to_owned())) } else { Address::parse(text) };
            let address = address.map_err(Failure::usage)?;
            let given = vec![Candidate::only(address, "the command line")];
            limits::keep(trust::keep(given, &flags.private, env)?, &flags.private)?
        }
    };
    if let Some(Candidate { address: Address::Jail(name), .. }) = candidates.first() {
        let name = trust::name(name, &flags.private, env)?;
        return own::named(&[name], env)?.iter().map(|place| private(place, flags, env, ui)).collect();
    }
    if candidates.iter().any(|candidate| candidate.address == Address::Ephemeral) {
        return Err(Failure::usage("an ephemeral builder keeps nothing and lives for one build"));
    }
    let tls = TlsFiles::from_flags(flags).map_err(Failure::usage)?;
    match dial::dial(&candidates, tls.as_ref(), env, ui) {
        Ok(connection) => Ok(vec![Target { name: connection.address.to_string(), connection, _lease: None }]),
        // What a build would fall back to.
        Err(failure) if candidates.iter().all(|candidate| !candidate.demanded) => {
            match own::named(&[DEFAULT_NAME.to_owned()], env) {
                Ok(places) => places.iter().map(|place| private(place, flags, env, ui)).collect(),
                Err(_) => Err(failure),
            }
        }
        Err(failure) => Err(failure),
    }
}

fn private(place: &Place, flags: &BuilderFlags, env: &Env, ui: &Ui) -> Result<Target, Failure> {
    let lease = start::lease(place, &flags.private, env, ui)?;
    let address = Address::Unix(place.socket());
    let own = Candidate::only(address, "its name");
    Ok(Target {
        name: place.to_string(),
        connection: dial::dial(&[own], None, env, ui)?,
        _lease: Some(lease),
    })
}
