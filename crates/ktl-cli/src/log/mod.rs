//! The log of the sandbox: what was made of a jail and what became of it, as the host side sees it.
//!
//! A denial has to be understood without running once more and without a jail, so every run is written down while it goes on:
//! who makes the jail and why, each correction of the policy, binds and promises, the jail's own words, the proof, what the
//! broker refused, and the end. The user has it streamed ([`LogPlan::stream`]) or written ([`LogPlan::file`]); whatever he
//! chose, it is held in memory, and kept in a file when the run ends in a way that nobody wants ([`Log::close`]).
//!
//! No value of an environment variable, build argument or secret comes near it: events are made of policies, paths, names and
//! numbers. What the jail and the guest say is untrusted, bounded by whoever reads it, and inert when printed.

mod event;
mod kept;
mod memory;
mod reported;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::LogPlan;
use crate::ui::Ui;

pub use event::{Event, Limit};
pub use reported::Reported;

/// Mode of the user's file, as nsjail makes its own: the group may read it.
const FILE_MODE: u32 = 0o640;

/// One run's log. It lives on the host side's one thread.
#[derive(Debug)]
pub struct Log {
    ui: Ui,
    json: bool,
    stream: bool,
    /// Below it, logs of failed runs are kept; nothing for a run without a jail, which has no log.
    cache: Option<PathBuf>,
    inner: RefCell<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    file: Option<(PathBuf, File)>,
    memory: memory::Memory,
    refused: bool,
    /// How the guest itself ended.
    ended: Option<i32>,
}

/// An event as it stands in a line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

impl Log {
    /// Opens the user's file, where he wants one, and says that `command` begins. Nothing may have been started by then: a
    /// file that cannot be written to is a mistake of the command line.
    pub fn open(plan: &LogPlan, command: &'static str, cache: &Path, ui: &Ui) -> Result<Log, Failure> {
        let file = match &plan.file {
            Some(path) => {
                let open = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path);
                let file = open.map_err(|error| {
                    Failure::usage(format!("--sandbox-log-file {}: {error}", path.display()))
                })?;
                Some((path.clone(), file))
            }
            None => None,
        };
        let log = Log {
            ui: *ui,
            json: plan.json,
            stream: plan.stream,
            cache: Some(cache.to_owned()),
            inner: RefCell::new(Inner { file, ..Inner::default() }),
        };
        log.say(&Event::Begin { version: env!("CARGO_PKG_VERSION"), command, pid: std::process::id() });
        Ok(log)
    }

    /// The log of a run without a jail: there is nothing to say.
    pub fn off(ui: &Ui) -> Log {
        Log { ui: *ui, json: false, stream: false, cache: None, inner: RefCell::default() }
    }

    /// True when the user sees each event on stderr, so that no other line has to say the same.
    pub fn streams(&self) -> bool {
        self.stream
    }

    pub fn say(&self, event: &Event<'_>) {
        if self.cache.is_none() {
            return;
        }
        let time = utc(SystemTime::now());
        let json = serde_json::to_string(&Line { time: &time, event }).unwrap_or_else(|error| {
            format!("{{\"time\":\"{time}\",\"event\":\"unwritable\",\"why\":\"{error}\"}}")
        });
        let text = || inert::text(&event.to_string()).into_owned();
        if self.stream {
            if self.json {
                self.ui.line(format_args!("{json}"));
            } else {
                self.ui.line(format_args!("[sandbox] {}", text()));
            }
        }
        let mut inner = self.inner.borrow_mut();
        if let Some((path, file)) = &mut inner.file {
            // In one piece, so that the lines of two runs that share a file do not mix.
            let line = if self.json { format!("{json}\n") } else { format!("{time} {}\n", text()) };
            if let Err(error) = file.write_all(line.as_bytes()) {
                // What was asked for beside a build must not end the build; the log goes on in memory.
                self.ui.line(format_args!(
                    "WARNING: --sandbox-log-file {}: {error}; the rest is not in it",
                    path.display()
                ));
                inner.file = None;
            }
        }
        if let Event::Exited { code } = event {
            inner.ended = Some(*code);
        }
        inner.memory.add(json, matches!(event, Event::Jail { .. }));
    }

    /// What the broker wrote down, as it is. Of its form no more is known than the number `refused` and the list `refusals`, in
    /// which one that says `usual` of itself is no reason to look into the log.
    pub fn broker(&self, record: &impl Serialize) {
        let record = match serde_json::to_value(record) {
            Ok(record) => record,
            Err(error) => serde_json::json!({ "unwritable": error.to_string() }),
        };
        self.inner.borrow_mut().refused |= tells_of_harm(&record);
        self.say(&Event::Broker { record });
    }

    /// Writes down how the run ended. A run that failed because of its jail, or after a refusal of the broker, leaves its log
    /// behind, and the user is told where.
    pub fn close(self, outcome: Result<Exit, Failure>) -> Result<Exit, Failure> {
        let exit = match &outcome {
            Ok(exit) => *exit,
            Err(failure) => failure.exit,
        };
        // Hints are for the person at the terminal, and may quote a line of a policy.
        let error = outcome.as_ref().err().map(|failure| failure.title.as_str());
        self.say(&Event::Outcome { exit: exit.code(), error });
        let Log { ui, cache, inner, .. } = self;
        let inner = inner.into_inner();
        let Some(cache) = cache.filter(|_| is_worth_keeping(exit, inner.refused, inner.ended)) else {
            return outcome;
        };
        let told = match inner.file {
            Some((path, _)) => format!("The log of the sandbox: {}", path.display()),
            None => match kept::keep(&cache, &file_stamp(SystemTime::now()), inner.memory) {
                Ok(path) => format!("The log of the sandbox was kept: {}", path.display()),
                Err(error) => format!("The log of the sandbox could not be kept: {error}"),
            },
        };
        match outcome {
            Ok(exit) => {
                ui.line(format_args!("[sandbox] {told}"));
                Ok(exit)
            }
            Err(failure) => Err(failure.hint(told)),
        }
    }
}

fn tells_of_harm(record: &Value) -> bool {
    let refusals = record.get("refusals").and_then(Value::as_array);
    match refusals.filter(|refusals| !refusals.is_empty()) {
        Some(refusals) => refusals.iter().any(|refusal| refusal.get("usual") != Some(&Value::Bool(true))),
        None => record.get("refused").and_then(Value::as_u64).is_some_and(|count| count > 0),
    }
}

/// A failure of the jail, of ktl or of the guest, as opposed to one of the build; or a build that failed after a refusal. A
/// user who ends a run himself knows why it ended. A code that comes from inside speaks of the jail only where it is the guest's
/// own: that of a program which it ran means what that program says.
fn is_worth_keeping(exit: Exit, refused: bool, ended: Option<i32>) -> bool {
    match exit {
        Exit::Ok | Exit::Signal(_) => false,
        Exit::Guest(code) if ended != Some(i32::from(code)) => refused,
        other => refused || matches!(other.code(), 4 | 64..),
    }
}

/// RFC 3339 in UTC, to the millisecond.
fn utc(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
    let whole = prost_types::Timestamp { seconds, nanos: 0 }.to_string();
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), since.subsec_millis())
}

/// The same, as the part of a file's name that sorts by time.
fn file_stamp(time: SystemTime) -> String {
    utc(time).replace(['-', ':'], "")
}

/// Why the log of a failed run is not there.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} is not a directory of yours")]
    Foreign { path: PathBuf },
}

#[cfg(test)]
mod tests;
