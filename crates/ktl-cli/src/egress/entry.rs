//! One line of the record of a build's requests: what two builds of the same inputs have in common, so no times.

use buildsvc::egress::Rule;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allowed,
    Denied,
    /// A step reports it, and nobody asked this build about it: another build shares the step, or the step made it up.
    Unasked,
}

/// A request, or several of one step that differ in nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    pub verdict: Verdict,
    /// The RUN step that made it, where that is known; none for what the daemon fetches by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// As the daemon reports it for requests that were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    pub url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// By which it was allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Why it was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of the body, where the daemon read all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// What the guest tells of the requests of a build that went well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Sorted.
    pub entries: Vec<Entry>,
    /// The rules by which the same requests would be allowed again.
    pub rules: Vec<Rule>,
}

impl Told {
    /// As lines of JSON.
    pub fn record(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = Vec::new();
        for entry in &self.entries {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
        }
        Ok(text)
    }

    /// As a file for `--egress @FILE`.
    pub fn list(&self) -> String {
        let rules = self.rules.iter().map(|rule| format!("{rule}\n"));
        let head = "# What this build reached, for ktl build --egress @FILE\n".to_owned();
        std::iter::once(head).chain(rules).collect()
    }
}
