//! How a build ends when it does not end well.
//!
//! The daemon reports a failure as a gRPC status with JSON details; [`SolveFailure`] is what of it a person can use. Texts
//! come from the daemon and the frontend, so they are untrusted: bounded here, made inert where they are shown.

use crate::event::{SourceInfo, SourceRange};

/// Why a build gave no result.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The daemon tried and the build failed: a step, the Dockerfile, an image that is not there, an export.
    #[error("{}", .0.message)]
    Solve(Box<SolveFailure>),
    /// The build was cancelled by its caller.
    #[error("the build was cancelled")]
    Cancelled,
    /// The connection ended, or what came over it was not BuildKit.
    #[error("lost the connection to the builder during {during}: {detail}")]
    Lost { during: &'static str, detail: String },
    /// The build took longer than it was given.
    #[error("the build was given up after {}: its time is over", seconds(*.0))]
    TimedOut(std::time::Duration),
    /// The daemon is too old for, or was configured without, something this build depends on.
    #[error("the builder (BuildKit {version}) cannot {what}")]
    Unsupported { version: String, what: String },
    /// The daemon cannot be trusted to keep to a rule of this build: it is too old, or does not say how old it is.
    #[error("the builder (BuildKit {version}) cannot {what}")]
    Unenforceable { version: String, what: String },
    /// The host side did not give out the secret of a cache.
    #[error("the {cache} cache got no {attr}")]
    NoCredential { cache: String, attr: String },
    /// The result is not what the daemon said it was, or not what it says of itself.
    #[error("the output {path} is not what the builder says: {what}")]
    Mismatch { path: String, what: String },
    /// The result could not be written on this side.
    #[error("failed to {operation} {path}")]
    Output {
        operation: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
}

fn seconds(time: std::time::Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// What the daemon said about a failed build.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SolveFailure {
    /// The message of the status, whole.
    pub message: String,
    /// gRPC status code number.
    pub code: i32,
    /// The vertex that failed.
    pub vertex: Option<String>,
    /// Exit code of a failed RUN.
    pub exit_code: Option<u32>,
    /// Source excerpts, innermost first.
    pub sources: Vec<(SourceInfo, Vec<SourceRange>)>,
}
