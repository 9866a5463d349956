//! What was asked of the desk and what it refused, for the user to read afterwards.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

/// Refusals beyond this many are counted and not kept.
const KEPT: usize = 100;
/// A reason may quote what the guest sent; no more of it than this is kept.
const REASON_LIMIT: usize = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Questions by kind, answered or not.
    pub asked: BTreeMap<&'static str, u64>,
    /// How many of them were refused by rule.
    pub refused: u64,
    /// The first of those.
    pub refusals: Vec<Refusal>,
    /// Questions that a rule allowed and that failed nevertheless: a helper that broke, a file that went away.
    pub failed: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub kind: &'static str,
    pub reason: String,
}

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// A rule forbids it.
    Rule(String),
    /// It was tried.
    Failure(String),
}

impl Denial {
    /// A failure told with all its causes.
    pub fn failure(error: &dyn std::error::Error) -> Denial {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Denial::Failure(text)
    }

    pub fn text(&self) -> &str {
        match self {
            Denial::Rule(text) | Denial::Failure(text) => text,
        }
    }
}

/// A record that several threads write.
#[derive(Debug, Default)]
pub struct Book(Mutex<Record>);

impl Book {
    pub fn asked(&self, kind: &'static str) {
        *self.record().asked.entry(kind).or_default() += 1;
    }

    pub fn denied(&self, kind: &'static str, denial: &Denial) {
        match denial {
            Denial::Rule(reason) => self.refused(kind, reason),
            Denial::Failure(_) => self.record().failed += 1,
        }
    }

    pub fn refused(&self, kind: &'static str, reason: &str) {
        let mut record = self.record();
        record.refused += 1;
        if record.refusals.len() < KEPT {
            let reason = reason.chars().filter(|c| !c.is_control()).take(REASON_LIMIT).collect();
            record.refusals.push(Refusal { kind, reason });
        }
    }

    pub fn close(self) -> Record {
        self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_stays_small() {
        let book = Book::default();
        for _ in 0..1000 {
            book.refused("secret", &"x\x1b[31m".repeat(1000));
        }
        book.denied("token", &Denial::Failure("broke".into()));
        let record = book.close();
        assert_eq!((record.refused, record.failed, record.refusals.len()), (1000, 1, KEPT));
        assert!(record.refusals.iter().all(|r| r.reason.len() <= REASON_LIMIT && !r.reason.contains('\x1b')));
    }
}
