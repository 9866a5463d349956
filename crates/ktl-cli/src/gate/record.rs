//! What went through the gate and what did not: counts, and the first refusals by name. Bounded, whatever a client does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Refusals that are kept by name; the rest is counted.
const KEPT: usize = 100;
/// Characters of a path or reason that are kept.
const LONGEST: usize = 300;

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct GateRecord {
    /// Calls that were forwarded, by row of the rule table (`POST /build`) or by gRPC method.
    pub passed: BTreeMap<&'static str, u64>,
    /// The first distinct ones.
    pub refused: Vec<Refused>,
    /// All of them.
    pub refused_total: u64,
    /// Connections that ended because what came was no HTTP/1.1, too large or too slow.
    pub malformed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    pub method: String,
    pub path: String,
    pub reason: String,
    pub count: u64,
}

/// The record while connections write to it.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<GateRecord>);

impl Recorder {
    pub fn passed(&self, call: &'static str) {
        *self.lock().passed.entry(call).or_default() += 1;
    }

    pub fn refused(&self, method: &str, path: &str, reason: &str) {
        let (method, path, reason) = (kept(method), kept(path), kept(reason));
        let mut guard = self.lock();
        let record = &mut *guard;
        record.refused_total += 1;
        let full = record.refused.len() >= KEPT;
        let known = record
            .refused
            .iter_mut()
            .find(|refused| refused.method == method && refused.path == path && refused.reason == reason);
        match known {
            Some(refused) => refused.count += 1,
            None if !full => {
                record.refused.push(Refused { method, path, reason, count: 1 });
            }
            None => {}
        }
    }

    pub fn malformed(&self) {
        self.lock().malformed += 1;
    }

    pub fn take(&self) -> GateRecord {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, GateRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kept(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_refusals_are_counted_and_a_hundred_kept() {
        let recorder = Recorder::default();
        for number in 0..10_000 {
            recorder.refused("POST", &format!("/{number}/{}", "x".repeat(1000)), "no");
        }
        recorder.refused("POST", &format!("/0/{}", "x".repeat(1000)), "no");
        recorder.passed("GET /_ping");
        recorder.passed("GET /_ping");
        let record = recorder.take();
        assert_eq!((record.refused.len(), record.refused_total), (KEPT, 10_001));
        assert_eq!(record.refused[0].count, 2);
        assert!(record.refused.iter().all(|refused| refused.path.chars().count() == LONGEST));
        assert_eq!(record.passed, BTreeMap::from([("GET /_ping", 2)]));
    }
}
