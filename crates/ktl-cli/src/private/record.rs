//! What a running daemon's supervisor writes down about itself.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::{Lock, Place};

/// Valid only as long as the supervisor holds its lock.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Process id of the supervisor.
    pub pid: i32,
    /// Seconds since 1970.
    pub started: u64,
    /// Who made the jail.
    pub runtime: String,
    pub settings: Settings,
}

impl Record {
    pub fn write(&self, place: &Place) -> io::Result<()> {
        let fresh = place.dir().join("daemon.json.new");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(fresh, place.record())
    }

    /// The record of the daemon that runs at `place`; `None` when none does, whatever a dead one left behind.
    pub fn of(place: &Place) -> io::Result<Option<Record>> {
        if !place.exists() || Lock::try_exclusive(&place.run_lock())?.is_some() {
            return Ok(None);
        }
        match fs::read(place.record()) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            // It is just starting.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
