//! Rules under which nothing goes into a build but what is pinned: this build's own directories, images by digest.
//!
//! They bind on top of whatever policy the user has. In a policy the last rule that matches decides, and a request holds one
//! policy, so these come last and only deny: no rule of the user's can take one back, and none of them allows what the user has
//! denied. "All but …" must therefore be said in a pattern, and RE2, whose patterns these are, has no negation; so each pattern
//! spells out how a text differs from what is allowed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Condition, Constraint, Match, Rule, Selector, SourcePolicy};
use crate::proto::moby::buildkit::v1::sourcepolicy as wire;

/// What is looked at by a rule of its own. Anything else is denied.
const SCHEMES: [&str; 7] = [LOCAL, IMAGE, LAYOUT, BLOB, HTTP, HTTPS, GIT];
const LOCAL: &str = "local://";
const IMAGE: &str = "docker-image://";
const LAYOUT: &str = "oci-layout://";
const BLOB: &str = "oci-layout+blob://";
const HTTP: &str = "http://";
const HTTPS: &str = "https://";
const GIT: &str = "git://";
/// Attributes by which the daemon itself pins a source, as `solver/pb/attr.go` names them.
const HTTP_CHECKSUM: &str = "http.checksum";
const STORE: &str = "oci.store";

/// What a build may use beside images by digest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Directories that the session offers, by name.
    pub locals: BTreeSet<String>,
    /// Stores of blobs that the session offers, by name.
    pub stores: BTreeSet<String>,
    /// Further `http://` sources, in full. Meant for what the session itself serves; names of up to some 200 characters.
    pub served: BTreeSet<String>,
    /// Files of web servers, whatever their URL, by the checksum that the source demands: `sha256:…`.
    pub checksums: BTreeSet<String>,
}

impl SourcePolicy {
    /// This policy, and nothing that is not pinned.
    pub fn pinned(mut self, pinned: &Pinned) -> SourcePolicy {
        self.version = 1;
        let served = pinned.served.iter().filter_map(|served| served.strip_prefix(HTTP)).collect();
        let images = [IMAGE, LAYOUT, BLOB];
        self.rules.extend([
            deny(outside(&SCHEMES.into())),
            deny(within(LOCAL, &other(&pinned.locals.iter().map(String::as_str).collect()))),
            deny(images.map(|scheme| within(scheme, &without_digest())).join("|")),
            // Older daemons look for the image without saying where, which asks nobody for anything.
            unless(
                [LAYOUT, BLOB].map(literal_from_start).join("|"),
                STORE,
                pinned.stores.iter().map(String::as_str).chain([""]),
            ),
            unless(within(HTTP, &other(&served)), HTTP_CHECKSUM, pinned.checksums.iter().map(String::as_str)),
            unless(literal_from_start(HTTPS), HTTP_CHECKSUM, pinned.checksums.iter().map(String::as_str)),
            // One that is locked has become an image of the store by now.
            deny(literal_from_start(GIT)),
        ]);
        self
    }
}

fn deny(pattern: String) -> Rule {
    unless(pattern, "", [])
}

/// Denies what `pattern` is found in, but for what has one of `values` in its attribute `key`.
fn unless<'a>(pattern: String, key: &str, values: impl IntoIterator<Item = &'a str>) -> Rule {
    let constraint = |value: &str| Constraint {
        key: key.to_owned(),
        value: value.to_owned(),
        condition: Condition(wire::AttrMatch::Notequal),
    };
    let selector = Selector {
        // `.` is to be every character.
        identifier: format!("(?s){pattern}"),
        match_type: Match(wire::MatchType::Regex),
        constraints: values.into_iter().map(constraint).collect(),
    };
    Rule { action: Action(wire::PolicyAction::Deny), selector: Some(selector), updates: None }
}

/// What begins with `prefix` and goes on as `rest` has it, to its end.
fn within(prefix: &str, rest: &str) -> String {
    format!("{}(?:{rest})$", literal_from_start(prefix))
}

fn literal_from_start(text: &str) -> String {
    let text: String = text.chars().map(literal).collect();
    format!("^{text}")
}

/// What does not end in `@sha256:` and 64 digits behind a name, told by the last character, counted from the end, that is
/// another one.
fn without_digest() -> String {
    const DIGITS: usize = 64;
    const MARK: &str = "@sha256:";
    let mut ways =
        vec![format!(".{{0,{}}}", MARK.len() + DIGITS), format!(".*[^0-9a-f].{{0,{}}}", DIGITS - 1)];
    for (behind, c) in MARK.chars().rev().enumerate() {
        ways.push(format!(".*[^{}].{{{}}}", literal(c), DIGITS + behind));
    }
    ways.join("|")
}

/// All texts but `words`; to be followed by the end of the text.
fn other(words: &BTreeSet<&str>) -> String {
    if words.is_empty() {
        return ".*".to_owned();
    }
    let mut ways = Vec::new();
    if !words.contains("") {
        ways.push(String::new());
    }
    let branches = branches(words);
    ways.push(format!("{}.*", none_of(branches.keys())));
    ways.extend(branches.iter().map(|(c, rest)| format!("{}(?:{})", literal(*c), other(rest))));
    ways.join("|")
}

/// All texts that begin with none of `prefixes`.
fn outside(prefixes: &BTreeSet<&str>) -> String {
    fn rest(prefixes: &BTreeSet<&str>) -> String {
        let branches = branches(prefixes);
        let mut ways = vec!["$".to_owned(), none_of(branches.keys())];
        let further = branches.iter().filter(|(_, rest)| !rest.contains(""));
        ways.extend(further.map(|(c, further)| format!("{}(?:{})", literal(*c), rest(further))));
        ways.join("|")
    }
    format!("^(?:{})", rest(prefixes))
}

/// Words by their first characters.
fn branches<'a>(words: &BTreeSet<&'a str>) -> BTreeMap<char, BTreeSet<&'a str>> {
    let mut branches: BTreeMap<char, BTreeSet<&str>> = BTreeMap::new();
    for word in words {
        let mut rest = word.chars();
        if let Some(first) = rest.next() {
            branches.entry(first).or_default().insert(rest.as_str());
        }
    }
    branches
}

fn none_of<'a>(characters: impl Iterator<Item = &'a char>) -> String {
    let inner: String = characters.map(|c| literal(*c)).collect();
    if inner.is_empty() { ".".to_owned() } else { format!("[^{inner}]") }
}

fn literal(c: char) -> String {
    if c.is_ascii_alphanumeric() { c.to_string() } else { format!("\\x{{{:x}}}", u32::from(c)) }
}

#[cfg(test)]
mod tests;
