//! Ending a private daemon, and removing what it kept.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lock, Place, Record};
use crate::exit::Exit;
use crate::failure::Failure;

/// For the daemon to end by itself; after that its jail is ended.
const GRACE: Duration = Duration::from_secs(20);
const LAST: Duration = Duration::from_secs(10);

/// Stops the daemon at `place` and waits for its end; false when none runs.
pub fn stop(place: &Place) -> Result<bool, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Exit::Builder, format!("{place}: failed to stop it: {error}"));
    let Some(record) = Record::of(place).map_err(failed)? else { return Ok(false) };
    for patience in [GRACE, LAST] {
        // The lock was held a moment ago by the process that wrote this number.
        let _ = kill(Pid::from_raw(record.pid), Signal::SIGTERM);
        if ended(&place.run_lock(), patience).map_err(failed)? {
            return Ok(true);
        }
    }
    Err(Failure::new(Exit::Builder, format!("{place}: its supervisor, process {}, does not end", record.pid)))
}

fn ended(lock: &Path, patience: Duration) -> std::io::Result<bool> {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if Lock::try_exclusive(lock)?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}
