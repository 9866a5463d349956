//! What a policy leaves open when it is used with plain nsjail, exactly as it is written.
//!
//! People copy policies, and nsjail starts nearly all of them without a word. This is a reading of the file by somebody who
//! knows what each field lets through: no file of the host is looked at, so the same policy has the same findings
//! everywhere. What ktl itself makes of a policy is another question; [`Jail::corrections`](crate::Jail::corrections)
//! answers it.

mod binds;
mod filter;
mod network;
mod process;

use std::fmt;

use serde::Serialize;

use crate::lines::Lines;
use crate::policy::Policy;

/// How much a finding matters. The order is that of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A way out: to the host's files, processes, network or to more rights.
    Open,
    /// A wall that is thinner than it could be.
    Weak,
    /// Worth knowing: it may not start everywhere, or not do what it seems to.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Open => "open",
            Severity::Weak => "weak",
            Severity::Note => "note",
        })
    }
}

/// One thing that a policy leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// As in the policy, with the index of repeated ones: `mount[7]`.
    pub field: String,
    /// Line in the policy's text, from 1; `None` for what is not written there, and in JSON.
    pub line: Option<usize>,
    pub what: String,
    /// The reason, one sentence.
    pub why: String,
    pub mend: String,
}

/// Findings of a policy, the severe ones first, otherwise in the order of the file's subjects.
pub fn lint(policy: &Policy) -> Vec<Finding> {
    let mut report = Report { findings: Vec::new(), lines: policy.lines() };
    let config = policy.config();
    process::look(config, &mut report);
    network::look(config, &mut report);
    filter::look(config, &mut report);
    binds::look(config, &mut report);
    report.findings.sort_by_key(|finding| finding.severity);
    report.findings
}

/// Findings as they are made.
struct Report<'a> {
    findings: Vec<Finding>,
    lines: &'a Lines,
}

impl Report<'_> {
    fn open(&mut self, field: &str, what: impl Into<String>, why: &str, mend: &str) {
        self.add(Severity::Open, field, what.into(), why, mend);
    }

    fn weak(&mut self, field: &str, what: impl Into<String>, why: &str, mend: &str) {
        self.add(Severity::Weak, field, what.into(), why, mend);
    }

    fn note(&mut self, field: &str, what: impl Into<String>, why: &str, mend: &str) {
        self.add(Severity::Note, field, what.into(), why, mend);
    }

    fn add(&mut self, severity: Severity, field: &str, what: String, why: &str, mend: &str) {
        let (field, why, mend) = (field.to_owned(), why.to_owned(), mend.to_owned());
        let line = self.lines.find(&field);
        self.findings.push(Finding { severity, field, line, what, why, mend });
    }
}

#[cfg(test)]
mod tests;
