//! Images and files, fetched from where a Dockerfile names them into the store.
//!
//! `ktl stage` asks registries itself, because what comes out of a builder has other digests than what went in: the lock would
//! name images that no registry knows. What arrives is untrusted: documents are small and parsed strictly, blobs have the size
//! that was told and count only when their digest is right.
//!
//! Follows the OCI distribution specification 1.1.

mod agents;
mod bounds;
mod download;
mod file;
mod git;
mod image;
mod registry;
mod tree;
mod way;

use std::path::PathBuf;

pub use bounds::{Bounds, OutOfBounds};
pub use image::Puller;
pub use registry::Registries;

use buildsvc::digest::Digest;
use buildsvc::manifest::ManifestError;
use buildsvc::platform::Platform;

use bounds::ResolveError;

use crate::broker::ProgramError;
use crate::depot::DepotError;

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("failed to ask {url}")]
    Fetch {
        url: String,
        #[source]
        source: ureq::Error,
    },
    #[error("failed to read the answer of {url}")]
    Read {
        url: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{url} is not there ({status})")]
    NotFound { url: String, status: u16 },
    #[error("{url}: access is refused ({status}){}", .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Refused { url: String, status: u16, why: Option<String> },
    #[error("{url} answers with status {status}")]
    Status { url: String, status: u16 },
    #[error("{url} sends more than {limit} bytes")]
    TooLong { url: String, limit: u64 },
    #[error("{url} ends after {got} of {expected} bytes")]
    Short { url: String, expected: u64, got: u64 },
    #[error("{url} is {got} and not {expected}")]
    Changed { url: String, expected: Digest, got: Digest },
    #[error("{digest} is no image")]
    Document {
        digest: Digest,
        #[source]
        source: ManifestError,
    },
    #[error("an index leads to another index, {0}")]
    Nested(Digest),
    #[error("{what} is not for {platform}; it is for {there}")]
    Platform { what: String, platform: Platform, there: String },
    #[error(transparent)]
    Depot(#[from] DepotError),
    #[error("{0}")]
    Login(String),
    #[error("git is not on the search path; it tells the commit of {0}")]
    NoGit(String),
    #[error("git {what} {remote}")]
    Git {
        what: &'static str,
        remote: String,
        #[source]
        source: ProgramError,
    },
    #[error("git {what} {remote}: {text}")]
    GitFailed { what: &'static str, remote: String, text: String },
    #[error("cannot bound what git writes")]
    Limit(#[source] std::io::Error),
    #[error("{remote} does not give its commit {commit}")]
    NoCommit { remote: String, commit: String },
    #[error("failed to read or write {}", path.display())]
    Files {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("where {remote} is")]
    Resolve {
        remote: String,
        #[source]
        source: ResolveError,
    },
    #[error("{name}: {why}")]
    Tree { name: String, why: String },
    #[error("{remote} has no branch or tag {reference:?}")]
    NoReference { remote: String, reference: String },
    #[error("{name} is at {got}, and the Dockerfile says {expected}")]
    Commit { name: String, expected: String, got: String },
}

impl PullError {
    /// The place that has to be named, if that is what is missing.
    pub fn out_of_bounds(&self) -> Option<&OutOfBounds> {
        match self {
            PullError::Fetch { source: ureq::Error::Other(error), .. } => error.downcast_ref(),
            PullError::Resolve { source: ResolveError::OutOfBounds(error), .. } => Some(error),
            _ => None,
        }
    }

    /// Whether it may be otherwise in a moment.
    fn is_passing(&self) -> bool {
        match self {
            PullError::Fetch { source, .. } => !matches!(
                source,
                ureq::Error::Other(_)
                    | ureq::Error::RequireHttpsOnly(_)
                    | ureq::Error::TooManyRedirects
                    | ureq::Error::BadUri(_)
            ),
            PullError::Read { .. } | PullError::Short { .. } => true,
            PullError::Status { status, .. } => matches!(status, 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}
