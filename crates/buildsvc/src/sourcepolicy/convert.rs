//! Sources that are taken from elsewhere than the Dockerfile says.

use std::collections::BTreeMap;

use super::{Action, Condition, Constraint, Match, Rule, Selector, SourcePolicy, Update};
use crate::proto::moby::buildkit::v1::sourcepolicy as wire;

/// A source by its identifier, and what becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversion {
    pub from: String,
    /// Attributes by which sources of one identifier differ: what each is, or is not, in the one that is meant.
    pub only: Vec<(String, String, bool)>,
    /// Another identifier; empty when it stays.
    pub to: String,
    pub attrs: BTreeMap<String, String>,
}

impl SourcePolicy {
    /// This policy, with rules in front by which the builder takes these sources from elsewhere. What a source has become is
    /// looked at by all rules anew.
    pub fn converting(mut self, conversions: &[Conversion]) -> SourcePolicy {
        self.version = 1;
        let constraint = |(key, value, is): &(String, String, bool)| Constraint {
            key: key.clone(),
            value: value.clone(),
            condition: Condition(if *is { wire::AttrMatch::Equal } else { wire::AttrMatch::Notequal }),
        };
        let rules = conversions.iter().map(|Conversion { from, only, to, attrs }| Rule {
            action: Action(wire::PolicyAction::Convert),
            selector: Some(Selector {
                identifier: from.clone(),
                match_type: Match(wire::MatchType::Exact),
                constraints: only.iter().map(constraint).collect(),
            }),
            updates: Some(Update { identifier: to.clone(), attrs: attrs.clone() }),
        });
        self.rules.splice(0..0, rules);
        self
    }
}
