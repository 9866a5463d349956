//! Sources that are taken from elsewhere than the Dockerfile says.

use std::collections::BTreeMap;

use super::{Action, Match, Rule, Selector, SourcePolicy, Update};
use crate::proto::moby::buildkit::v1::sourcepolicy as wire;

/// A source by its identifier, and what becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversion {
    pub from: String,
    /// Another identifier; empty when it stays.
    pub to: String,
    pub attrs: BTreeMap<String, String>,
}

impl SourcePolicy {
    /// This policy, with rules in front by which the builder takes these sources from elsewhere. What a source has become is
    /// looked at by all rules anew.
    pub fn converting(mut self, conversions: &[Conversion]) -> SourcePolicy {
        self.version = 1;
        let rules = conversions.iter().map(|Conversion { from, to, attrs }| Rule {
            action: Action(wire::PolicyAction::Convert),
            selector: Some(Selector {
                identifier: from.clone(),
                match_type: Match(wire::MatchType::Exact),
                constraints: Vec::new(),
            }),
            updates: Some(Update { identifier: to.clone(), attrs: attrs.clone() }),
        });
        self.rules.splice(0..0, rules);
        self
    }
}
