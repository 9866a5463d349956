//! What can be said in the log of the sandbox. The names of events and fields are part of ktl's contract; docs/jail.md has
//! the list.

use std::fmt;

use sandbox_linux::{Correction, LogLine, Promises, Proof};
use serde::Serialize;

/// One thing that happened. Displays as one line without its time.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event<'a> {
    /// The first line of a run.
    Begin {
        version: &'static str,
        command: &'a str,
        pid: u32,
    },
    /// Who makes the jail; everything up to the next one of these is about this jail.
    Runtime {
        name: String,
        program: Option<String>,
        why: &'static str,
    },
    /// What it is made of.
    Policy {
        name: &'a str,
    },
    Correction {
        field: &'a str,
        was: &'a str,
        now: &'a str,
        why: &'a str,
    },
    /// A host path that ktl or the user shows inside.
    Bind {
        host: String,
        guest: String,
        rw: bool,
    },
    /// What the guest will compare with the kernel's word.
    Promises(&'a Promises),
    /// The jail's first process runs: nsjail, or the native jail's init.
    Start {
        pid: u32,
        program: &'a str,
        fds: &'a [i32],
    },
    /// A line of the runtime's own log.
    Jail {
        level: &'static str,
        text: &'a str,
    },
    /// A limit that the runtime says was reached.
    Limit {
        limit: Limit,
    },
    /// A signal to ktl: told to the guest, or the end of the jail.
    Signal {
        signal: u8,
        told: bool,
    },
    /// Every promise was found to hold, says the guest. Read when it has ended.
    Proof(&'a Proof),
    /// The guest did not go on, or never said that it did.
    Unproven {
        why: &'a str,
    },
    /// The program in the jail ended by itself.
    Exited {
        code: i32,
    },
    /// It was killed, or the jail was.
    Killed {
        signal: i32,
    },
    /// It was never started.
    JailFailed {
        stage: &'a str,
        detail: &'a str,
        hints: &'a [String],
    },
    /// What the builder asked of the user's things.
    Broker {
        record: serde_json::Value,
    },
    /// The last line: ktl's exit code, and what it said.
    Outcome {
        exit: u8,
        error: Option<&'a str>,
    },
    /// Lines that stood here were dropped, because there were too many of them.
    Dropped {
        lines: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Time,
}

impl<'a> Event<'a> {
    pub fn correction(correction: &'a Correction) -> Event<'a> {
        let Correction { field, was, now, why } = correction;
        Event::Correction { field, was, now, why }
    }

    pub fn jail(line: &'a LogLine) -> Event<'a> {
        Event::Jail { level: line.level.name(), text: &line.text }
    }
}

impl Limit {
    /// The limit of which a line of a runtime's log says that it was reached. Both runtimes say it in nsjail's words.
    pub fn reached(line: &LogLine) -> Option<Limit> {
        line.text.contains("run time >= time limit").then_some(Limit::Time)
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Begin { version, command, pid } => write!(f, "ktl {version}, {command}, process {pid}"),
            Event::Runtime { name, program: None, why } => write!(f, "jailed by {name}: {why}"),
            Event::Runtime { name, program: Some(program), why } => {
                write!(f, "jailed by {name} ({program}): {why}")
            }
            Event::Policy { name } => write!(f, "policy {name}"),
            Event::Correction { field, was, now, why } => {
                write!(f, "corrected: {field}: {was} -> {now} ({why})")
            }
            Event::Bind { host, guest, rw } => {
                write!(f, "bind {host} -> {guest} {}", if *rw { "rw" } else { "ro" })
            }
            Event::Promises(promises) => {
                let kinds: Vec<&str> = promises.host_namespaces.keys().map(String::as_str).collect();
                write!(
                    f,
                    "promised: own namespaces {}; {} mounts; descriptors {:?}; variables {}; {}",
                    kinds.join(" "),
                    promises.mounts.len(),
                    promises.fds,
                    promises.env.join(" "),
                    if promises.no_network { "no network" } else { "the policy's network" }
                )
            }
            Event::Start { pid, program, .. } => write!(f, "started process {pid} for {program}"),
            Event::Jail { text, .. } => f.write_str(text),
            Event::Limit { limit: Limit::Time } => f.write_str("the policy's time limit was reached"),
            Event::Signal { signal, told: true } => write!(f, "signal {signal}, told to the guest"),
            Event::Signal { signal, told: false } => write!(f, "signal {signal}, the jail is ended"),
            Event::Proof(proof) => write!(f, "proven: {proof}"),
            Event::Unproven { why } => write!(f, "not proven: {why}"),
            Event::Exited { code } => write!(f, "the guest ended with code {code}"),
            Event::Killed { signal } => write!(f, "the guest was ended by signal {signal}"),
            Event::JailFailed { stage, detail, hints } => {
                write!(f, "the jail did not start: {stage}: {detail}")?;
                hints.iter().try_for_each(|hint| write!(f, "; {hint}"))
            }
            Event::Broker { record } => write!(f, "broker: {record}"),
            Event::Outcome { exit, error: None } => write!(f, "exit {exit}"),
            Event::Outcome { exit, error: Some(error) } => write!(f, "exit {exit}: {error}"),
            Event::Dropped { lines } => write!(f, "{lines} lines were dropped here"),
        }
    }
}
