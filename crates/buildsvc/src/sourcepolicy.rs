//! Which sources a build may use, and what they are replaced by: BuildKit's source policies, as JSON files have them.
//!
//! Follows moby/buildkit `sourcepolicy/pb`. A policy is a promise of safety, so what is not understood is refused: Go would
//! leave out a key that it does not know, and with it a rule.

mod convert;
mod pinned;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::proto::moby::buildkit::v1::sourcepolicy as wire;
pub use convert::Conversion;
pub use pinned::Pinned;

/// Rules in order; the last that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourcePolicy {
    #[serde(default)]
    version: i64,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    action: Action,
    #[serde(default)]
    selector: Option<Selector>,
    #[serde(default)]
    updates: Option<Update>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    match_type: Match,
    #[serde(default)]
    constraints: Vec<Constraint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default)]
    identifier: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constraint {
    #[serde(default)]
    key: String,
    #[serde(default)]
    value: String,
    #[serde(default)]
    condition: Condition,
}

/// Declares an enum whose JSON is a name or the number of the wire, as Go's encoder of these messages has it.
macro_rules! named_numbers {
    ($($(#[$doc:meta])* $name:ident, $wire:ident, $what:literal: $($text:literal)*;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(try_from = "Word", into = "i32")]
        struct $name(wire::$wire);

        impl TryFrom<Word> for $name {
            type Error = String;

            fn try_from(word: Word) -> Result<Self, String> {
                match &word {
                    Word::Name(name) => wire::$wire::from_str_name(name),
                    Word::Number(number) => wire::$wire::try_from(*number).ok(),
                }
                .map($name)
                .ok_or_else(|| format!(concat!("{:?} is no ", $what, "; there are ", $($text, " ",)*), word))
            }
        }

        impl From<$name> for i32 {
            fn from(value: $name) -> i32 {
                value.0.into()
            }
        }
    )*};
}

named_numbers! {
    Action, PolicyAction, "action": "ALLOW" "DENY" "CONVERT";
    Match, MatchType, "match type": "WILDCARD" "EXACT" "REGEX";
    Condition, AttrMatch, "condition": "EQUAL" "NOTEQUAL" "MATCHES";
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Name(String),
    Number(i32),
}

/// Why a text is no source policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("no source policy in JSON")]
    Json(#[from] serde_json::Error),
    #[error("a source policy is an object")]
    NoObject,
    #[error("version {0} of source policies is not known; there is version 1")]
    Version(i64),
    #[error("rule {0} has no selector")]
    NoSelector(usize),
}

impl SourcePolicy {
    pub fn parse(json: &[u8]) -> Result<SourcePolicy, PolicyError> {
        let value: serde_json::Value = serde_json::from_slice(json)?;
        // A list would be read as the fields of the object in their order; an empty one would forbid nothing.
        if !value.is_object() {
            return Err(PolicyError::NoObject);
        }
        let policy: SourcePolicy = serde_json::from_value(value)?;
        // 0 is what Go makes of a version that is not given.
        if !matches!(policy.version, 0 | 1) {
            return Err(PolicyError::Version(policy.version));
        }
        match policy.rules.iter().position(|rule| rule.selector.is_none()) {
            Some(index) => Err(PolicyError::NoSelector(index + 1)),
            None => Ok(policy),
        }
    }

    pub(crate) fn to_wire(&self) -> wire::Policy {
        let constraint = |constraint: &Constraint| wire::AttrConstraint {
            key: constraint.key.clone(),
            value: constraint.value.clone(),
            condition: constraint.condition.into(),
        };
        let selector = |selector: &Selector| wire::Selector {
            identifier: selector.identifier.clone(),
            match_type: selector.match_type.into(),
            constraints: selector.constraints.iter().map(constraint).collect(),
        };
        let update = |update: &Update| wire::Update {
            identifier: update.identifier.clone(),
            attrs: update.attrs.clone().into_iter().collect(),
        };
        let rule = |rule: &Rule| wire::Rule {
            action: rule.action.into(),
            selector: rule.selector.as_ref().map(selector),
            updates: rule.updates.as_ref().map(update),
        };
        wire::Policy { version: self.version, rules: self.rules.iter().map(rule).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let text = r#"{"version": 1, "rules": [
            {"action": "DENY", "selector": {"identifier": "*"}},
            {"action": 2, "selector": {"identifier": "a", "match_type": "EXACT"}, "updates": {"identifier": "b", "attrs": {"c": "d"}}},
            {"selector": {"identifier": "x", "match_type": 2, "constraints": [{"key": "k", "value": "v", "condition": "MATCHES"}]}}
        ]}"#;
        let policy = SourcePolicy::parse(text.as_bytes()).unwrap();
        let sent = policy.to_wire();
        assert_eq!(sent.rules.iter().map(|rule| rule.action).collect::<Vec<_>>(), [1, 2, 0]);
        let selector = sent.rules[2].selector.as_ref().unwrap();
        assert_eq!((selector.match_type, selector.constraints[0].condition), (2, 2));
        assert_eq!(sent.rules[1].updates.as_ref().unwrap().attrs["c"], "d");
        let again = serde_json::to_vec(&policy).unwrap();
        assert_eq!(SourcePolicy::parse(&again).unwrap(), policy);
    }

    #[test]
    fn conversions_come_first() {
        let policy =
            SourcePolicy::parse(br#"{"rules": [{"action": "DENY", "selector": {"identifier": "*"}}]}"#)
                .unwrap();
        let attrs = BTreeMap::from([("oci.store".to_owned(), "s".to_owned())]);
        let only = vec![("k".to_owned(), "v".to_owned(), true), ("l".to_owned(), "w".to_owned(), false)];
        let sent = policy
            .converting(&[Conversion { from: "https://h/a".into(), only, to: "b".into(), attrs }])
            .to_wire();
        assert_eq!(sent.rules.iter().map(|rule| rule.action).collect::<Vec<_>>(), [2, 1]);
        let (selector, update) =
            (sent.rules[0].selector.as_ref().unwrap(), sent.rules[0].updates.as_ref().unwrap());
        assert_eq!((selector.identifier.as_str(), selector.match_type), ("https://h/a", 1));
        assert_eq!(selector.constraints.iter().map(|c| c.condition).collect::<Vec<_>>(), [0, 1]);
        assert_eq!((update.identifier.as_str(), update.attrs["oci.store"].as_str()), ("b", "s"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for bad in [
            "",
            "[]",
            r#"{"version": 2}"#,
            r#"{"rules": [{"action": "FORBID", "selector": {"identifier": "*"}}]}"#,
            r#"{"rules": [{"action": 3, "selector": {"identifier": "*"}}]}"#,
            r#"{"rules": [{"action": "DENY", "selector": {"identifier": "*", "matchType": "EXACT"}}]}"#,
            r#"{"rules": [{"action": "DENY"}]}"#,
            r#"{"Rules": []}"#,
        ] {
            assert!(SourcePolicy::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
