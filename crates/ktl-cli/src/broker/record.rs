//! What was asked of the desk, what it gave and what it refused, for the user to read afterwards.
//!
//! Plain data, bounded, and free of anything secret: a log can keep it as it is.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

/// Entries of each kind beyond this many are counted and not kept.
const KEPT: usize = 100;
/// A flood of one kind of refusals leaves room for the others.
const KEPT_OF_A_KIND: usize = 20;
/// A text may quote what the guest sent; no more of it than this is kept.
const TEXT_LIMIT: usize = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Questions by kind, answered or not.
    pub asked: BTreeMap<&'static str, u64>,
    /// How many of them were refused by rule.
    pub refused: u64,
    /// The first of those, each once.
    pub refusals: Vec<Refusal>,
    /// Questions that a rule allowed and that failed nevertheless: a helper that broke, a file that went away.
    pub failed: u64,
    /// Where logins went, each use once.
    pub logins: Vec<LoginUse>,
    /// Which keys signed.
    pub signatures: Vec<KeyUse>,
    /// Secrets that were handed out, by id, and how often.
    pub secrets: BTreeMap<String, u64>,
    /// Ids that were asked for and that this build has no secret of.
    pub unknown_secrets: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    pub kind: &'static str,
    pub reason: String,
    /// Not for everybody's eyes: builders that mean no harm ask for such things as well.
    pub usual: bool,
    pub count: u64,
}

/// A password that was handed over, or a token that was fetched with or without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoginUse {
    pub host: String,
    /// Where the token came from; empty when the builder got the password itself.
    pub realm: String,
    pub scopes: Vec<String>,
    pub anonymous: bool,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyUse {
    /// The id of `--ssh`.
    pub agent: String,
    /// `SHA256:…`
    pub fingerprint: String,
    pub comment: String,
    /// Whom the key logged in as.
    pub user: String,
    pub count: u64,
}

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// A rule forbids it.
    Rule(String),
    /// A rule forbids it, and no harm was meant.
    Usual(String),
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
            Denial::Rule(text) | Denial::Usual(text) | Denial::Failure(text) => text,
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
            Denial::Usual(reason) => self.refusal(kind, reason, true),
            Denial::Failure(_) => self.record().failed += 1,
        }
    }

    pub fn refused(&self, kind: &'static str, reason: &str) {
        self.refusal(kind, reason, false);
    }

    fn refusal(&self, kind: &'static str, reason: &str, usual: bool) {
        let mut record = self.record();
        record.refused += 1;
        let refusal = Refusal { kind, reason: bounded(reason), usual, count: 1 };
        let of_kind = |known: &&Refusal| (known.kind, known.usual) == (kind, usual);
        if record.refusals.iter().filter(of_kind).count() >= KEPT_OF_A_KIND
            && !record.refusals.iter().any(|known| known.kind == kind && known.reason == refusal.reason)
        {
            return;
        }
        keep(&mut record.refusals, refusal, |r| (r.kind, r.reason.clone()), |r| &mut r.count);
    }

    pub fn login(&self, host: &str, realm: &str, scopes: &[String], anonymous: bool) {
        let used = LoginUse {
            host: bounded(host),
            realm: bounded(realm),
            scopes: scopes.iter().take(KEPT).map(|scope| bounded(scope)).collect(),
            anonymous,
            count: 1,
        };
        let key = |l: &LoginUse| (l.host.clone(), l.realm.clone(), l.scopes.clone(), l.anonymous);
        keep(&mut self.record().logins, used, key, |l| &mut l.count);
    }

    pub fn signed(&self, agent: &str, fingerprint: &str, comment: &str, user: &str) {
        let used = KeyUse {
            agent: bounded(agent),
            fingerprint: bounded(fingerprint),
            comment: bounded(comment),
            user: bounded(user),
            count: 1,
        };
        let key = |k: &KeyUse| (k.agent.clone(), k.fingerprint.clone(), k.user.clone());
        keep(&mut self.record().signatures, used, key, |k| &mut k.count);
    }

    pub fn secret(&self, id: &str, known: bool) {
        let mut record = self.record();
        let counts = if known { &mut record.secrets } else { &mut record.unknown_secrets };
        let id = bounded(id);
        if counts.len() < KEPT || counts.contains_key(&id) {
            *counts.entry(id).or_default() += 1;
        }
    }

    pub fn close(self) -> Record {
        self.0.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Counts `entry` with an equal one, or keeps it while there is room.
fn keep<T, K: PartialEq>(
    entries: &mut Vec<T>,
    entry: T,
    key: impl Fn(&T) -> K,
    count: impl Fn(&mut T) -> &mut u64,
) {
    let wanted = key(&entry);
    if let Some(known) = entries.iter_mut().find(|known| key(known) == wanted) {
        *count(known) += 1;
    } else if entries.len() < KEPT {
        entries.push(entry);
    }
}

fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_stays_small() {
        let book = Book::default();
        let long = "x\x1b[31m".repeat(1000);
        for index in 0..1000 {
            book.refused("secret", &format!("{index}{long}"));
            book.login(&format!("{index}{long}"), &long, &vec![long.clone(); 1000], false);
            book.signed(&long, &format!("{index}"), &long, &long);
            book.secret(&format!("{index}{long}"), index % 2 == 0);
        }
        book.denied("token", &Denial::Failure("broke".into()));
        let record = book.close();
        assert_eq!((record.refused, record.failed, record.refusals.len()), (1000, 1, KEPT_OF_A_KIND));
        assert_eq!((record.logins.len(), record.signatures.len()), (KEPT, KEPT));
        assert_eq!((record.secrets.len(), record.unknown_secrets.len()), (KEPT, KEPT));
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("u001b") && text.len() < 8 << 20, "{}", text.len());
    }

    #[test]
    fn what_is_the_same_is_counted() {
        let book = Book::default();
        for _ in 0..3 {
            book.denied("token", &Denial::Rule("a".into()));
            book.denied("token", &Denial::Usual("b".into()));
            book.login("h", "r", &["s".into()], false);
            book.signed("default", "SHA256:x", "me", "git");
            book.secret("s", true);
        }
        let record = book.close();
        let counts: Vec<_> = record.refusals.iter().map(|r| (r.reason.as_str(), r.usual, r.count)).collect();
        assert_eq!(counts, [("a", false, 3), ("b", true, 3)]);
        assert_eq!((record.logins[0].count, record.signatures[0].count, record.secrets["s"]), (3, 3, 3));
    }
}
