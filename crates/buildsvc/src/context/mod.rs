//! Local directories as the daemon reads them: the build context, the Dockerfile's directory, named contexts.
//!
//! The daemon asks for a directory by name and says which of it it wants; [`send::send`] then streams an ordered listing
//! and the contents that the daemon requests. One file per step: [`pattern`] and `expression` decide what matches,
//! `filter` what is kept and what need not be visited, [`fence`] what is never sent whatever is asked for, [`guard`] what
//! should not be sent though it may, [`followpaths`] which symlinks widen the selection, `walk` visits,
//! `stat` describes, `entries` remembers what may be requested, `send` speaks the protocol. Everything on disk is reached
//! through [`LocalDir`], which cannot be left by any path or symlink.
//!
//! Follows tonistiigi/fsutil as moby/buildkit uses it for `moby.filesync.v1.FileSync`.

mod entries;
mod expression;
mod fence;
mod filter;
pub(crate) mod followpaths;
pub(crate) mod gopath;
pub mod guard;
mod ignorefile;
mod local_dir;
pub(crate) mod pattern;
#[cfg(test)]
mod races_tests;
pub mod send;
pub(crate) mod stat;
mod walk;

pub use fence::{Fence, fence};
pub use gopath::BadPattern;
pub use local_dir::LocalDir;
pub use pattern::InvalidPattern;

use std::io;

/// What the daemon wants of a directory, in the words of the FileSync request's metadata. Empty lists restrict nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// An entry is kept if it or a directory above it matches.
    pub include: Vec<String>,
    /// Ignore patterns, in order; `!` takes back.
    pub exclude: Vec<String>,
    /// Paths to include together with every symlink on the way to them.
    pub followpaths: Vec<String>,
}

/// Why a directory could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    /// A pattern of the request is malformed.
    #[error("invalid {kind} pattern")]
    Pattern {
        kind: &'static str,
        #[source]
        source: InvalidPattern,
    },
    /// The directory or something in it could not be read. `path` is relative to the directory; `.` is the directory.
    #[error("failed to {operation} {path}")]
    Read {
        operation: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    /// A file was replaced, or its size changed, between its listing and its reading.
    #[error("{path} changed while it was sent: it is not the file that was listed")]
    Changed { path: String },
    /// The guard keeps it back; see [`guard`].
    #[error("{path} {about}, and is not sent (rule {rule})")]
    Guarded { path: String, rule: &'static str, about: &'static str },
    /// More names than the table of entries can count.
    #[error("too many files")]
    TooMany,
    /// The daemon asked for an entry that it may not have, or twice.
    #[error("invalid file id {0}")]
    InvalidId(u32),
    /// The daemon gave up and said why.
    #[error("error from receiver: {0}")]
    Receiver(String),
    /// The daemon ended the stream in the middle of the transfer.
    #[error("the daemon ended the transfer of a local directory early")]
    Ended,
    /// Nobody reads the transfer any more.
    #[error("the transfer was cancelled")]
    Cancelled,
}

impl ContextError {
    pub(crate) fn read(operation: &'static str, path: &[u8], source: impl Into<io::Error>) -> ContextError {
        let path = if path.is_empty() { b"." } else { path };
        ContextError::Read {
            operation,
            path: String::from_utf8_lossy(path).into_owned(),
            source: source.into(),
        }
    }
}

/// An error and its causes in one line, for those who get no more than a text: the daemon and its log.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
