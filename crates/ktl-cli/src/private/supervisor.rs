//! The second ktl: makes the jail, starts the daemon in it, and stops it when nobody has used it for a while.
//!
//! It reads its [`Settings`] from standard input, tells on standard output that the daemon listens (or why not), and writes
//! everything else to the log. A TERM ends the daemon, and with it this process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ids::Ids;
use super::room::{Room, SOCKETS, STATE};
use super::settings::Settings;
use super::{Lock, Place, Record, limits, outlet, remove};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::fd;
use crate::launch;
use crate::log::Log;
use crate::plan::{self, LogPlan, SandboxPlan};
use crate::ui::Ui;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

/// Name of the hidden command.
pub const COMMAND: &str = "__daemon";

/// What the supervisor says on standard output when the daemon listens; anything else is why it does not.
pub const READY: &str = "ready\n";

/// Settings are a few paths.
const SETTINGS_LIMIT: u64 = 1 << 20;
/// For buildkitd to listen; a large cache takes some seconds.
const START: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_secs(1);
/// For a daemon to end by itself after it was told to, in ticks.
const GRACE: u32 = 20;

/// The hidden command.
pub fn run(env: &Env) -> Exit {
    // Out of reach of the terminal's signals.
    let _ = setsid();
    let Ok(told) = io::stdout().as_fd().try_clone_to_owned() else { return Exit::Internal };
    // The jail inherits the streams, and must not be able to speak for this process.
    let (Ok(null), Ok(log)) = (File::open("/dev/null"), io::stderr().as_fd().try_clone_to_owned()) else {
        return Exit::Internal;
    };
    let mut settings = Vec::new();
    let read = io::stdin().lock().take(SETTINGS_LIMIT).read_to_end(&mut settings);
    if rustix::stdio::dup2_stdin(&null).is_err() || rustix::stdio::dup2_stdout(&log).is_err() {
        return Exit::Internal;
    }
    let settings: Settings =
        match read.map_err(serde_json::Error::io).and_then(|_| serde_json::from_slice(&settings)) {
            Ok(settings) => settings,
            Err(error) => {
                return refuse(told, &Failure::internal(format!("the settings cannot be read: {error}")));
            }
        };
    let mut told = Some(told);
    let outcome = supervise(&settings, env, &mut told);
    if settings.ephemeral
        && let Err(failure) = remove::clear(&settings.place, env, &Ui { verbose: false, quiet: true })
    {
        let _ = write!(io::stderr().lock(), "{failure}");
    }
    match outcome {
        Ok(exit) => exit,
        Err(failure) => match told {
            Some(told) => refuse(told, &failure),
            None => {
                let _ = write!(io::stderr().lock(), "{failure}");
                failure.exit
            }
        },
    }
}

fn refuse(told: OwnedFd, failure: &Failure) -> Exit {
    let _ = write!(io::stderr().lock(), "{failure}");
    let _ = File::from(told).write_all(failure.to_string().as_bytes());
    failure.exit
}

fn supervise(settings: &Settings, env: &Env, told: &mut Option<OwnedFd>) -> Result<Exit, Failure> {
    let place = &settings.place;
    let failed =
        |what: &str, error: io::Error| Failure::sandbox(format!("{place}: failed to {what}: {error}"));
    place.make().map_err(|error| failed("make its directory", error))?;
    let _running = running(place)
        .map_err(|error| failed("lock its directory", error))?
        .ok_or_else(|| Failure::new(Exit::Builder, format!("{place} is running already")))?;
    // Left by one that was killed.
    for left in [place.record(), place.socket()] {
        match fs::remove_file(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("clear up", error)),
            _ => {}
        }
    }
    let ids = Ids::of(place, env)?;
    let sandbox = sandbox(settings, env)?;
    let ui = Ui { verbose: true, quiet: false };
    let log_plan = LogPlan { stream: true, file: None, json: false };
    let log = Log::open(&log_plan, "private builder", &settings.cache, &ui)?;
    let programs = [settings.buildkitd(), settings.oci_runtime().as_os_str()];
    let limits = limits::settle(settings.limits)?;
    let room = Room {
        place,
        ids: &ids,
        sandbox: &sandbox,
        cache: &settings.cache,
        limits: &limits.policy,
        programs: &programs,
        egress: settings.egress.as_ref(),
    };
    let (prepared, plan, runtime) = room.prepare(arguments(settings), &log, &ui)?;
    let record = Record {
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        runtime,
        settings: settings.clone(),
    };
    let mut handed = Vec::new();
    let mut way_out = None;
    if let Some(egress) = &settings.egress {
        let (ours, theirs) = UnixStream::pair().map_err(|error| failed("make its way out", error))?;
        handed.push((theirs.into(), fd::OUTLET));
        way_out = Some((ours, egress.clone()));
    }
    let outcome = launch::exec(prepared, &plan, handed, &ui, || {
        if let Some((channel, egress)) = way_out {
            outlet::serve(channel, egress);
        }
        let told = told.take().map(File::from);
        let settings = settings.clone();
        std::thread::spawn(move || attend(&settings, &record, told));
        Ok(())
    });
    log.close(outcome)
}

/// The lock that says so. Whoever looks whether a daemon runs holds it for a moment.
fn running(place: &Place) -> io::Result<Option<Lock>> {
    for _ in 0..20 {
        if let Some(lock) = Lock::try_exclusive(&place.run_lock())? {
            return Ok(Some(lock));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(None)
}

fn sandbox(settings: &Settings, env: &Env) -> Result<SandboxPlan, Failure> {
    let facts = crate::commands::build::facts(env)?;
    let sandbox = plan::sandbox_plan(&Default::default(), false, env, &facts)?;
    Ok(SandboxPlan {
        runtime: settings.runtime,
        bin: settings.nsjail.clone(),
        workdir: "/".into(),
        path_var: Some(settings.search.clone().into()),
        ..sandbox
    })
}

fn arguments(settings: &Settings) -> Vec<OsString> {
    let mut runtime = OsString::from("--oci-worker-binary=");
    runtime.push(settings.oci_runtime());
    vec![
        format!("--root={STATE}").into(),
        format!("--addr=unix://{SOCKETS}/buildkitd.sock").into(),
        "--oci-worker=true".into(),
        "--containerd-worker=false".into(),
        runtime,
        // The daemon's namespace, whatever network plug-ins are configured.
        "--oci-worker-net=host".into(),
    ]
}

/// Beside the jail: waits until the daemon listens and says so, then counts the time in which nobody uses it.
fn attend(settings: &Settings, record: &Record, mut told: Option<File>) {
    let place = &settings.place;
    let until = Instant::now() + START;
    while UnixStream::connect(place.socket()).is_err() {
        if Instant::now() > until {
            if let Some(mut told) = told.take() {
                let _ = write!(told, "buildkitd does not listen after {} s", START.as_secs());
            }
            let _ = kill(Pid::this(), Signal::SIGTERM);
            return;
        }
        sleep(Duration::from_millis(10));
    }
    let written = record.write(place);
    if let Some(mut told) = told.take() {
        let _ = match written {
            Ok(()) => told.write_all(READY.as_bytes()),
            Err(error) => write!(told, "failed to write {}: {error}", place.record().display()),
        };
    }
    let mut idle = 0;
    loop {
        sleep(TICK);
        match Lock::try_exclusive(&place.lease()) {
            Ok(Some(unused)) => {
                idle += 1;
                if idle >= settings.idle {
                    // Whoever wants the daemon now waits until this process has ended, and starts the next one.
                    let _ =
                        writeln!(io::stderr().lock(), "[builder] nobody has used it for {} s", settings.idle);
                    return stop_this_process(unused);
                }
            }
            Ok(None) => idle = 0,
            // Its directory is gone, so nobody can find it any more.
            Err(_) => {
                idle += 1;
                if idle >= settings.idle {
                    let _ = kill(Pid::this(), Signal::SIGTERM);
                    return;
                }
            }
        }
    }
}

fn stop_this_process(lease: Lock) {
    let told = || kill(Pid::this(), Signal::SIGTERM);
    let _ = told();
    for _ in 0..GRACE {
        sleep(TICK);
    }
    // The second one ends the jail.
    let _ = told();
    loop {
        sleep(TICK);
        let _held = &lease;
    }
}

/// The last words of a daemon's log.
pub fn log_tail(place: &Place) -> Option<String> {
    let text = fs::read(place.log()).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n");
    (!tail.is_empty()).then_some(tail)
}
