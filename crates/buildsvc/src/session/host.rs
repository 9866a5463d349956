//! What a session asks of the host side.
//!
//! A build session is asked by the daemon for things that belong to the user: registry credentials, secrets, ssh
//! signatures, and context files that only the user may read. Inside a jail none of them is in sight, so this crate
//! names the questions and leaves the answers to whoever holds the user's things. The one who answers decides by rule;
//! nothing in here may assume that an answer is given.

use std::os::fd::OwnedFd;
use std::path::Path;

/// Answers to the questions of the daemon, given outside the jail.
///
/// Every method may be called from several tasks at once and may take seconds (a credential helper that asks the
/// user). `Ok(None)` means "there is none", which the daemon must be able to tell from a failure.
#[tonic::async_trait]
pub trait Host: std::fmt::Debug + Send + Sync + 'static {
    /// Credentials of the registry `host` as docker's config has them; empty strings when there are none.
    async fn credentials(&self, host: &str) -> Result<Credentials, HostError>;

    /// Ed25519 public key with which tokens for `host` are guarded, or `None` when the host side holds no seed and
    /// the daemon should ask for credentials instead. Follows `session/auth/authprovider` of moby/buildkit.
    async fn token_authority(&self, host: &str, salt: &[u8]) -> Result<Option<[u8; 32]>, HostError>;

    /// `payload` signed with the key of [`Host::token_authority`]: 64 bytes of signature, then the payload.
    async fn sign_token_challenge(
        &self,
        host: &str,
        salt: &[u8],
        payload: &[u8],
    ) -> Result<Vec<u8>, HostError>;

    /// A registry token, fetched on the host side so that the password never reaches the daemon.
    async fn fetch_token(&self, request: TokenRequest) -> Result<Token, HostError>;

    /// The secret called `id`, or `None` when this build has none of that name.
    async fn secret(&self, id: &str) -> Result<Option<Secret>, HostError>;

    /// A connected stream to the ssh agent called `id` that admits only listing and signing, or `None`.
    async fn agent(&self, id: &str) -> Result<Option<OwnedFd>, HostError>;

    /// Whether an agent called `id` exists, without opening it.
    async fn has_agent(&self, id: &str) -> Result<bool, HostError>;
}

/// Opens what the session itself may not read beneath a local directory.
///
/// Called from blocking threads, and only after the session's own attempt ended in `EACCES`. `path` is relative to the
/// directory called `local`, clean, and never leaves it: the host side opens it with `openat2(RESOLVE_BENEATH |
/// RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)`.
pub trait Opener: std::fmt::Debug + Send + Sync + 'static {
    fn open(&self, local: &str, path: &Path, access: Access) -> std::io::Result<OwnedFd>;
}

/// How an [`Opener`] opens an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Access {
    /// `O_PATH | O_NOFOLLOW`: to stat it, to read a link.
    Locate,
    /// `O_RDONLY | O_NONBLOCK` of a regular file.
    Read,
    /// `O_RDONLY | O_DIRECTORY`.
    List,
}

/// A name and a password, or an identity token when the name is empty.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub secret: Secret,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Bytes that must not be shown. No `Display`; `Debug` tells the length alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// What a daemon wants a token for. `FetchTokenRequest` of moby/buildkit `session/auth/auth.proto`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TokenRequest {
    pub client_id: String,
    pub host: String,
    pub realm: String,
    pub service: String,
    pub scopes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub token: Secret,
    /// Seconds; 0 when the registry did not say.
    pub expires_in: i64,
    /// Unix seconds; 0 when the registry did not say.
    pub issued_at: i64,
}

/// Why the host side gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The host side holds nothing by which it could answer this kind of question.
    #[error("{0} is not offered to this build")]
    NotOffered(&'static str),
    /// It tried and failed, or refused by rule. The text is meant for the user.
    #[error("{0}")]
    Refused(String),
    /// The way to the host side is gone.
    #[error("the host side does not answer: {0}")]
    Gone(#[source] std::io::Error),
}
