//! Build secrets, by id.
//!
//! Absence is an answer of its own, "not found": a step that can do without its secret then runs. The daemon asks for
//! ids of its own making too (`GIT_AUTH_TOKEN.github.com`), so asking for an unknown one is nothing unusual. Follows
//! moby/buildkit `session/secrets`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tonic::{Request, Response, Status};

use super::auth::refusal;
use super::host::{Host, HostError};
use crate::proto::moby::buildkit::secrets::v1 as wire;
use crate::secret::MAX_SECRET;

pub(super) const METHODS: &[&str] = &["/moby.buildkit.secrets.v1.Secrets/GetSecret"];

#[derive(Debug)]
pub(super) struct Secrets {
    host: Arc<dyn Host>,
    known: BTreeSet<String>,
    /// Questions for others.
    wrong: AtomicU32,
}

/// After so many wrong questions no more is said: somebody guesses.
const MAX_WRONG: u32 = 100;
const MAX_ID: usize = 1 << 10;

impl Secrets {
    pub(super) fn new(host: Arc<dyn Host>, known: BTreeSet<String>) -> Secrets {
        Secrets { host, known, wrong: AtomicU32::new(0) }
    }
}

#[tonic::async_trait]
impl wire::secrets_server::Secrets for Secrets {
    async fn get_secret(
        &self,
        request: Request<wire::GetSecretRequest>,
    ) -> Result<Response<wire::GetSecretResponse>, Status> {
        let id = request.into_inner().id;
        let absent = || Status::not_found(format!("secret {id:?} is not offered to this build"));
        if !self.known.contains(&id) {
            if self.wrong.fetch_add(1, Ordering::Relaxed) >= MAX_WRONG {
                return Err(Status::resource_exhausted("too many questions for secrets that are not there"));
            }
            if id.len() > MAX_ID {
                return Err(Status::not_found("no secret has so long a name"));
            }
            // The host side has none either, but is to know what was asked for.
            let _none = self.host.secret(&id).await;
            return Err(absent());
        }
        let secret = match self.host.secret(&id).await {
            Ok(Some(secret)) => secret,
            Ok(None) | Err(HostError::NotOffered(_)) => return Err(absent()),
            Err(error) => return Err(refusal(&error)),
        };
        if secret.0.len() > MAX_SECRET {
            return Err(Status::invalid_argument(format!("secret {id:?} is larger than {MAX_SECRET} bytes")));
        }
        Ok(Response::new(wire::GetSecretResponse { data: secret.0.into() }))
    }
}
