//! May the daemon fetch this? Asked for each source of a build that has named its session for it, and, where steps have the
//! daemon's proxy for a network, for each request of theirs.
//!
//! Follows moby/buildkit `sourcepolicy/policysession` and `solver/llbsolver/policy.go`: what is not allowed in so many words is
//! denied there, an answer that fails included.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::proto::moby::buildkit::v1::sourcepolicy::PolicyAction;
use crate::proto::moby::buildkit::v1::sourcepolicy::policysession as wire;
use wire::check_policy_response::Result as Answer;

pub(super) const METHODS: &[&str] =
    &["/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy"];

/// What the daemon is about to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `docker-image://…`, `https://…`, `git://…`
    pub identifier: String,
    /// Requests of a step have none.
    pub attrs: BTreeMap<String, String>,
}

/// Decides about sources. Asked from several tasks at once; must not block.
pub trait Verifier: fmt::Debug + Send + Sync + 'static {
    /// `Err` with the reason for a person where it may not be fetched.
    fn check(&self, source: &Source) -> Result<(), String>;
}

#[derive(Debug)]
pub(super) struct Policy(pub(super) Arc<dyn Verifier>);

#[tonic::async_trait]
impl wire::policy_verifier_server::PolicyVerifier for Policy {
    async fn check_policy(
        &self,
        call: Request<wire::CheckPolicyRequest>,
    ) -> Result<Response<wire::CheckPolicyResponse>, Status> {
        let source = call.into_inner().source.and_then(|source| source.source);
        let source = source.ok_or_else(|| Status::invalid_argument("no source was named"))?;
        let source = Source { identifier: source.identifier, attrs: source.attrs.into_iter().collect() };
        let decision = match self.0.check(&source) {
            Ok(()) => {
                wire::DecisionResponse { action: PolicyAction::Allow.into(), deny_messages: Vec::new() }
            }
            Err(message) => wire::DecisionResponse {
                action: PolicyAction::Deny.into(),
                deny_messages: vec![wire::DenyMessage { message }],
            },
        };
        Ok(Response::new(wire::CheckPolicyResponse { result: Some(Answer::Decision(decision)) }))
    }
}
