//! What a build reports while it runs, as displays see it.
//!
//! The daemon's `StatusResponse` is a stream of partial updates; [`Event`] is the same stream in domain types, so that
//! displays, logs and reports never touch the wire. Everything in here came from the daemon and is untrusted: sizes are
//! bounded before an event is made, and a display must make text inert before it prints it.
//! Follows `StatusResponse` of moby/buildkit `api/services/control/control.proto` and `client/graph.go`.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// One update of the status stream. Parts that did not change are absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub vertexes: Vec<Vertex>,
    pub statuses: Vec<VertexStatus>,
    pub logs: Vec<VertexLog>,
    pub warnings: Vec<VertexWarning>,
    /// Parts of the update that were out of bounds.
    #[serde(default)]
    pub dropped: u64,
}

/// A step of the build graph. Sent again whenever something of it changes; later non-empty fields win.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Vertex {
    /// Identity of the vertex, `sha256:…` for the daemon's own.
    pub digest: String,
    pub inputs: Vec<String>,
    pub name: String,
    /// No work was done: the result came from the cache.
    pub cached: bool,
    pub started: Option<SystemTime>,
    pub completed: Option<SystemTime>,
    /// Empty unless the step failed or was cancelled.
    pub error: String,
    pub progress_group: Option<ProgressGroup>,
}

/// Vertices that share a group are shown as one line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressGroup {
    pub id: String,
    pub name: String,
    /// A weak member alone does not make the group visible.
    pub weak: bool,
}

/// A counter or a phase within a vertex: bytes of a transfer, a layer's extraction. Keyed by (`vertex`, `id`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VertexStatus {
    pub id: String,
    pub vertex: String,
    pub name: String,
    pub current: i64,
    /// 0 when unknown.
    pub total: i64,
    pub timestamp: SystemTime,
    pub started: Option<SystemTime>,
    pub completed: Option<SystemTime>,
}

/// A piece of a step's output: an arbitrary chunk, neither whole lines nor whole UTF-8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VertexLog {
    pub vertex: String,
    pub stream: LogStream,
    pub data: Vec<u8>,
    pub timestamp: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// A finding of the frontend's linter or of the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VertexWarning {
    pub vertex: String,
    pub level: i64,
    /// One line.
    pub short: Vec<u8>,
    pub detail: Vec<Vec<u8>>,
    pub url: String,
    pub source: Option<SourceInfo>,
    pub ranges: Vec<SourceRange>,
}

/// A source file that the daemon quotes, usually the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    pub filename: String,
    pub data: Vec<u8>,
    pub language: String,
}

/// Lines of a [`SourceInfo`], counted from 1; `end` is included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRange {
    pub start: Position,
    pub end: Position,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    pub line: i32,
    pub character: i32,
}
