//! The last of a guest: what it handed out, and what the log is told of its end.

use std::fs::File;
use std::io::{self, Read, Seek};

use sandbox_linux::Outcome;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::log::{Event, Log, Reported};

/// A result holds a few digests; one that does not was not written by ktl.
const RESULT_LIMIT: u64 = 16 << 20;

/// Says in the log how the guest ended and whether it had proven its jail, and gives its result. One that comes without a
/// proof is none.
pub fn hear<R: DeserializeOwned>(result: File, outcome: &Outcome, log: &Log) -> Result<R, Failure> {
    let broken = |why: &dyn std::fmt::Display| {
        Failure::sandbox(format!("the guest handed out a broken result: {why}"))
    };
    let bytes = read_bounded(result);
    let (reported, result) = Reported::read(bytes.as_deref().unwrap_or_default());
    match (&reported, outcome) {
        (Some(Reported::Proven(proof)), _) => log.say(&Event::Proof(proof)),
        (Some(Reported::Refused(why)), _) => log.say(&Event::Unproven { why }),
        (None, Outcome::JailFailed { .. }) => {}
        (None, _) => log.say(&Event::Unproven { why: "the guest ended before it said so" }),
    }
    log.say(&match outcome {
        Outcome::Exited(code) => Event::Exited { code: *code },
        Outcome::Signaled(signal) => Event::Killed { signal: *signal },
        Outcome::JailFailed { stage, detail, hint, .. } => Event::JailFailed { stage, detail, hints: hint },
    });
    bytes.map_err(|error| broken(&error))?;
    match (reported, result) {
        (Some(Reported::Proven(_)), Ok(Some(result))) => Ok(result),
        (_, Err(error)) => Err(broken(&error)),
        (Some(Reported::Proven(_)), Ok(None)) => Err(broken(&"there is none")),
        (_, Ok(_)) => Err(broken(&"it comes without a proof")),
    }
}

fn read_bounded(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(RESULT_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > RESULT_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 16 MiB"));
    }
    Ok(bytes)
}
