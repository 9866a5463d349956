//! From a command's wish for a private daemon to one that answers.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use super::settings::Settings;
use super::supervisor::{self, COMMAND, READY};
use super::terms::Terms;
use super::{Lock, Network, Place, Record, Way, limits, stop, trust};
use crate::builder::{Address, Candidate, DEFAULT_NAME};
use crate::cli::PrivateFlags;
use crate::dial::{self, Connection};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::tls::TlsFiles;
use crate::ui::Ui;

/// A log beyond this is put aside when the next daemon starts.
const LOG_LIMIT: u64 = 16 << 20;
/// Of what a supervisor says.
const REPLY_LIMIT: u64 = 64 << 10;

/// Sees to it that a daemon runs behind each candidate that is a private one, and puts its socket in its place. The lease is
/// to be held as long as the daemon is used.
pub fn ensure(
    candidates: Vec<Candidate>,
    flags: &PrivateFlags,
    way: &Way,
    env: &Env,
    ui: &Ui,
) -> Result<(Vec<Candidate>, Option<Lock>), Failure> {
    let mut lease = None;
    let mut found = Vec::with_capacity(candidates.len());
    for candidate in candidates {
        let settings = match &candidate.address {
            Address::Jail(name) => {
                let name = trust::name(name, flags, env)?;
                settings(&name, way, flags, env)?
            }
            Address::Ephemeral => {
                // A name that nobody else has, and that no other run will have.
                let name = format!("once-{:.16}", crate::commands::build::facts(env)?.nonce);
                let name = trust::name(&name, flags, env)?;
                settings(&name, way, flags, env)?.ephemeral()
            }
            _ => {
                found.push(candidate);
                continue;
            }
        };
        lease = Some(running(&settings, ui)?);
        found.push(Candidate { address: Address::Unix(settings.place.socket()), ..candidate });
    }
    Ok((found, lease))
}

/// The place of a private builder, whose trust may allow it less of a network.
fn place(name: &str, network: Network, env: &Env) -> Result<Place, Failure> {
    Place::of(name, Terms::of(name, env)?.network(network), env)
}

/// Connects to the builder of a build: to a candidate that answers, a private one included, or else, when nobody has named one
/// and this machine has what it takes, to the default private one.
pub fn dial(
    candidates: Vec<Candidate>,
    tls: Option<&TlsFiles>,
    flags: &PrivateFlags,
    way: &Way,
    env: &Env,
    ui: &Ui,
) -> Result<(Connection, Option<Lock>), Failure> {
    let (candidates, lease) = ensure(candidates, flags, way, env, ui)?;
    let not_found = match dial::dial(&candidates, tls, env, ui) {
        Err(failure) if candidates.iter().all(|candidate| !candidate.demanded) => failure,
        found => return found.map(|connection| (connection, lease)),
    };
    let Ok(settings) = settings(DEFAULT_NAME, way, flags, env) else {
        return Err(not_found);
    };
    let lease = running(&settings, ui).map_err(|failure| {
        failure.hint("Nobody named another builder, and none was found where ktl looks; -v tells where.")
    })?;
    let address = Address::Unix(settings.place.socket());
    let own = Candidate::only(address, "there being no other");
    Ok((dial::dial(&[own], tls, env, ui)?, Some(lease)))
}

/// Sees to it that the daemon at `place` runs, whatever it is wanted for. The lease is to be held as long as it is used.
pub fn lease(place: &Place, flags: &PrivateFlags, env: &Env, ui: &Ui) -> Result<Lock, Failure> {
    running(&Settings::resolve(place.clone(), flags, env)?, ui)
}

fn settings(name: &str, way: &Way, flags: &PrivateFlags, env: &Env) -> Result<Settings, Failure> {
    let settings = Settings::resolve(place(name, way.network, env)?, flags, env)?;
    Ok(Settings { egress: way.egress.clone(), ..settings })
}

/// Returns with the daemon running, and a lease on it.
fn running(settings: &Settings, ui: &Ui) -> Result<Lock, Failure> {
    let place = &settings.place;
    let failed = |what: &'static str| {
        move |error: std::io::Error| {
            Failure::new(Exit::Builder, format!("{place}: failed to {what}: {error}"))
        }
    };
    place.make().map_err(failed("make its directory"))?;
    // Waits while one that was idle for too long is ending.
    let lease = Lock::shared(&place.lease()).map_err(failed("take a lease"))?;
    let _alone = Lock::exclusive(&place.start_lock()).map_err(failed("take its lock"))?;
    if let Some(record) = Record::of(place).map_err(failed("read its record"))? {
        let answers = UnixStream::connect(place.socket()).is_ok();
        if answers && record.settings.serves(settings) {
            ui.verbose(format_args!("builder: {place} runs as process {}", record.pid));
            return Ok(lease);
        }
        drop(lease);
        // Whoever else uses it holds a lease, and keeps what he has.
        if answers && Lock::try_exclusive(&place.lease()).map_err(failed("take a lease"))?.is_none() {
            return Err(Failure::new(Exit::Builder, format!("{place} is in use with other settings"))
                .hint("Wait for the other command to end, or take another name: --builder jail://NAME"));
        }
        stop::stop(place)?;
        let lease = Lock::shared(&place.lease()).map_err(failed("take a lease"))?;
        start(settings, ui)?;
        return Ok(lease);
    }
    start(settings, ui)?;
    Ok(lease)
}

fn start(settings: &Settings, ui: &Ui) -> Result<(), Failure> {
    let place = &settings.place;
    let failed = |what: &'static str| {
        move |error: std::io::Error| {
            Failure::new(Exit::Builder, format!("{place}: failed to {what}: {error}"))
        }
    };
    if let Some(why) = limits::settle(settings.limits)?.without {
        ui.note(format_args!("[builder] its steps may start any number of processes: {why}"));
    }
    if fs::metadata(place.log()).is_ok_and(|log| log.len() > LOG_LIMIT) {
        fs::rename(place.log(), place.dir().join("log.1")).map_err(failed("put its log aside"))?;
    }
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(place.log());
    let log = log.map_err(failed("open its log"))?;
    let settings_text = serde_json::to_vec(settings)
        .map_err(|error| Failure::internal(format!("failed to write the settings: {error}")))?;
    let mut supervisor = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed("start its supervisor"))?;
    if let Some(mut stdin) = supervisor.stdin.take() {
        stdin.write_all(&settings_text).map_err(failed("talk to its supervisor"))?;
    }
    let mut reply = String::new();
    let stdout = supervisor.stdout.take();
    // Ends with the first word or with the supervisor.
    let read = stdout.map_or(Ok(0), |stdout| stdout.take(REPLY_LIMIT).read_to_string(&mut reply));
    read.map_err(failed("hear its supervisor"))?;
    if reply == READY {
        ui.note(format_args!("[builder] started {place}"));
        return Ok(());
    }
    let _ = supervisor.wait();
    let mut failure = Failure::new(Exit::Builder, format!("{place} did not start"));
    let said = reply.trim().trim_start_matches("ERROR: ").to_owned();
    let said = if said.is_empty() { supervisor::log_tail(place) } else { Some(said) };
    failure = failure.hints(said);
    Err(failure.hint(format!("Its log is {}", place.log().display())))
}
