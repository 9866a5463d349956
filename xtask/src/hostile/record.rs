//! What a hostile daemon came by in one visit.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Stands in everything that the daemon must not get.
pub const CANARY: &str = "CANARY";
/// Stands in what the build gives to every daemon: a daemon without it has not asked in the right way.
pub const PERMITTED: &str = "PERMITTED";
/// Kept of what a client said.
const KEPT: usize = 500;

/// Filled by the daemon, read by the judge.
#[derive(Debug, Default)]
pub struct Record(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    leaks: Vec<String>,
    permitted: bool,
    told: Vec<String>,
    visited: bool,
}

impl Record {
    /// Takes in what the client gave for `question`.
    pub fn got(&self, question: &str, answer: &[u8]) {
        let mut inner = self.lock();
        if holds(answer, CANARY) {
            let piece = String::from_utf8_lossy(&answer[..answer.len().min(120)]).into_owned();
            inner.leaks.push(format!("{question}: {piece}"));
        }
        inner.permitted |= holds(answer, PERMITTED);
    }

    /// Something that must not happen and that no canary tells.
    pub fn leak(&self, what: impl Into<String>) {
        self.lock().leaks.push(what.into());
    }

    /// The honest part of a case came about.
    pub fn honest(&self) {
        self.lock().permitted = true;
    }

    /// Something of the client's answers that helps whoever reads a failed case.
    pub fn told(&self, what: impl Into<String>) {
        let mut what = what.into();
        what.truncate(what.floor_char_boundary(KEPT));
        let mut inner = self.lock();
        if inner.told.len() < 64 {
            inner.told.push(what);
        }
    }

    pub fn visited(&self) {
        self.lock().visited = true;
    }

    pub fn leaks(&self) -> Vec<String> {
        self.lock().leaks.clone()
    }

    pub fn permitted(&self) -> bool {
        self.lock().permitted
    }

    pub fn was_visited(&self) -> bool {
        self.lock().visited
    }

    pub fn story(&self) -> String {
        self.lock().told.join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `bytes` hold `word`.
pub fn holds(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canaries_are_leaks_and_the_permitted_is_not() {
        let record = Record::default();
        record.got("open.txt", b"the PERMITTED text");
        assert!(record.permitted() && record.leaks().is_empty());
        record.got("secret.env", b"a CANARY in it");
        assert_eq!(record.leaks().len(), 1);
    }
}
