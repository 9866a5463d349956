//! Registry credentials and tokens.
//!
//! The daemon prefers a token authority: the client proves that it holds a key, fetches tokens itself, and the password
//! stays where it is. A host side that offers none answers "unimplemented" here, on which the daemon asks for
//! credentials. Follows moby/buildkit `session/auth/auth.go` and `session/auth/authprovider`.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::host::{Host, HostError, Secret, TokenRequest};
use crate::proto::moby::filesync::v1 as wire;

pub(super) const METHODS: &[&str] = &[
    "/moby.filesync.v1.Auth/Credentials",
    "/moby.filesync.v1.Auth/FetchToken",
    "/moby.filesync.v1.Auth/GetTokenAuthority",
    "/moby.filesync.v1.Auth/VerifyTokenAuthority",
];

/// Longer than any host name, URL, scope or challenge that a registry gives.
const MAX_TEXT: usize = 4096;
const MAX_SCOPES: usize = 256;

#[derive(Debug)]
pub(super) struct Auth {
    host: Arc<dyn Host>,
}

impl Auth {
    pub(super) fn new(host: Arc<dyn Host>) -> Auth {
        Auth { host }
    }
}

#[tonic::async_trait]
impl wire::auth_server::Auth for Auth {
    /// Empty strings, and no error, when there are none: a public image needs none.
    async fn credentials(
        &self,
        request: Request<wire::CredentialsRequest>,
    ) -> Result<Response<wire::CredentialsResponse>, Status> {
        let registry = request.into_inner().host;
        bounded([registry.as_str()])?;
        let credentials = match self.host.credentials(&registry).await {
            Ok(credentials) => credentials,
            Err(HostError::NotOffered(_)) => Default::default(),
            Err(error) => return Err(refusal(&error)),
        };
        let secret = text(credentials.secret)?;
        Ok(Response::new(wire::CredentialsResponse { username: credentials.username, secret }))
    }

    async fn fetch_token(
        &self,
        request: Request<wire::FetchTokenRequest>,
    ) -> Result<Response<wire::FetchTokenResponse>, Status> {
        let wire::FetchTokenRequest { client_id, host, realm, service, scopes } = request.into_inner();
        bounded([&client_id, &host, &realm, &service].into_iter().chain(&scopes).map(String::as_str))?;
        if scopes.len() > MAX_SCOPES {
            return Err(Status::invalid_argument("too many scopes"));
        }
        let request = TokenRequest { client_id, host, realm, service, scopes };
        let token = self.host.fetch_token(request).await.map_err(|error| refusal(&error))?;
        Ok(Response::new(wire::FetchTokenResponse {
            token: text(token.token)?,
            expires_in: token.expires_in,
            issued_at: token.issued_at,
        }))
    }

    async fn get_token_authority(
        &self,
        request: Request<wire::GetTokenAuthorityRequest>,
    ) -> Result<Response<wire::GetTokenAuthorityResponse>, Status> {
        let wire::GetTokenAuthorityRequest { host, salt } = request.into_inner();
        bounded([host.as_str()])?;
        bounded_bytes(&salt)?;
        match self.host.token_authority(&host, &salt).await {
            Ok(Some(key)) => {
                Ok(Response::new(wire::GetTokenAuthorityResponse { public_key: key.to_vec().into() }))
            }
            Ok(None) => Err(Status::unavailable("client side tokens are not offered")),
            // Whatever is wrong with the key, the credentials that are asked for next decide.
            Err(HostError::Refused(why)) => Err(Status::unavailable(why)),
            Err(error) => Err(refusal(&error)),
        }
    }

    async fn verify_token_authority(
        &self,
        request: Request<wire::VerifyTokenAuthorityRequest>,
    ) -> Result<Response<wire::VerifyTokenAuthorityResponse>, Status> {
        let wire::VerifyTokenAuthorityRequest { host, payload, salt } = request.into_inner();
        bounded([host.as_str()])?;
        bounded_bytes(&salt)?;
        bounded_bytes(&payload)?;
        let signed =
            self.host.sign_token_challenge(&host, &salt, &payload).await.map_err(|error| refusal(&error))?;
        Ok(Response::new(wire::VerifyTokenAuthorityResponse { signed: signed.into() }))
    }
}

/// What the daemon learns of an answer that was not given.
pub(super) fn refusal(error: &HostError) -> Status {
    match error {
        HostError::NotOffered(_) => Status::unimplemented(error.to_string()),
        HostError::Refused(_) => Status::permission_denied(error.to_string()),
        HostError::Gone(_) => Status::aborted(error.to_string()),
    }
}

fn text(secret: Secret) -> Result<String, Status> {
    String::from_utf8(secret.0)
        .map_err(|_| Status::failed_precondition("the registry's password or token is not UTF-8"))
}

fn bounded<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<(), Status> {
    texts.into_iter().try_for_each(|text| bounded_bytes(text.as_bytes()))
}

fn bounded_bytes(bytes: &[u8]) -> Result<(), Status> {
    if bytes.len() > MAX_TEXT { Err(Status::invalid_argument("the question is too long")) } else { Ok(()) }
}
