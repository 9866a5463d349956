//! A build's progress, read from the daemon and brought into bounds.
//!
//! Follows the status stream of moby/buildkit `control/control.go` and how `client/solve.go` reads it to its end.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::client::Client;
use crate::event::{self, Event, LogStream};
use crate::proto::moby::buildkit::v1 as wire;
use crate::proto::pb;

/// After the solve has ended, for the tail of the logs.
const SILENCE: Duration = Duration::from_secs(5);
/// The same when nothing was heard before: a request that is refused at once never becomes a build with progress.
const NEVER_HEARD: Duration = Duration::from_secs(1);
/// Between two attempts to find a build that the daemon has not registered yet.
const RETRY: Duration = Duration::from_millis(500);

/// Of one kind in one update.
const MAX_ITEMS: usize = 100_000;
const MAX_INPUTS: usize = 10_000;
const MAX_NAME: usize = 16 << 10;
const MAX_ID: usize = 512;
const MAX_ERROR: usize = 64 << 10;
const MAX_DETAILS: usize = 1000;

/// Passes on the progress of `reference` until the daemon ends it, or falls silent after `solved`.
///
/// Never fails a build: without progress it is still built. A receiver that has gone away is drained for.
pub(crate) async fn follow(
    client: &Client,
    reference: String,
    events: mpsc::Sender<Event>,
    solved: CancellationToken,
) {
    let mut control = client.control();
    loop {
        let request = wire::StatusRequest { r#ref: reference.clone() };
        let end = tokio::select! {
            reply = control.status(request) => match reply {
                Ok(reply) => drain(reply.into_inner(), &events, &solved).await,
                Err(status) => Err(status),
            },
            () = silence(&solved, NEVER_HEARD) => return,
        };
        match end {
            Ok(()) => return,
            // It looks for some seconds; a solve may take longer to begin on a busy machine.
            Err(status) if status.code() == Code::NotFound && !solved.is_cancelled() => {
                tokio::time::sleep(RETRY).await;
            }
            Err(status) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "progress ended early");
                return;
            }
        }
    }
}

async fn drain(
    mut updates: tonic::Streaming<wire::StatusResponse>,
    events: &mpsc::Sender<Event>,
    solved: &CancellationToken,
) -> Result<(), tonic::Status> {
    let mut patience = NEVER_HEARD;
    loop {
        let update = tokio::select! {
            update = updates.message() => update?,
            () = silence(solved, patience) => return Ok(()),
        };
        let Some(update) = update else { return Ok(()) };
        patience = SILENCE;
        let _ = events.send(event(update)).await;
    }
}

/// Done when the solve has ended and then nothing has happened for a while.
async fn silence(solved: &CancellationToken, patience: Duration) {
    solved.cancelled().await;
    tokio::time::sleep(patience).await;
}

/// One update in domain types and within bounds.
fn event(update: wire::StatusResponse) -> Event {
    Event {
        vertexes: update.vertexes.into_iter().take(MAX_ITEMS).map(vertex).collect(),
        statuses: update.statuses.into_iter().take(MAX_ITEMS).map(status).collect(),
        logs: update.logs.into_iter().take(MAX_ITEMS).map(log).collect(),
        warnings: update.warnings.into_iter().take(MAX_ITEMS).map(warning).collect(),
    }
}

fn vertex(vertex: wire::Vertex) -> event::Vertex {
    event::Vertex {
        digest: bounded(vertex.digest, MAX_ID),
        inputs: vertex.inputs.into_iter().take(MAX_INPUTS).map(|input| bounded(input, MAX_ID)).collect(),
        name: bounded(vertex.name, MAX_NAME),
        cached: vertex.cached,
        started: vertex.started.map(time),
        completed: vertex.completed.map(time),
        error: bounded(vertex.error, MAX_ERROR),
        progress_group: vertex.progress_group.map(|group| event::ProgressGroup {
            id: bounded(group.id, MAX_ID),
            name: bounded(group.name, MAX_NAME),
            weak: group.weak,
        }),
    }
}

fn status(status: wire::VertexStatus) -> event::VertexStatus {
    event::VertexStatus {
        id: bounded(status.id, MAX_NAME),
        vertex: bounded(status.vertex, MAX_ID),
        name: bounded(status.name, MAX_NAME),
        current: status.current,
        total: status.total,
        timestamp: time(status.timestamp.unwrap_or_default()),
        started: status.started.map(time),
        completed: status.completed.map(time),
    }
}

fn log(log: wire::VertexLog) -> event::VertexLog {
    event::VertexLog {
        vertex: bounded(log.vertex, MAX_ID),
        stream: if log.stream == 2 { LogStream::Stderr } else { LogStream::Stdout },
        // Whole: what a step says is never cut here, and a message is bounded already.
        data: log.msg.into(),
        timestamp: time(log.timestamp.unwrap_or_default()),
    }
}

fn warning(warning: wire::VertexWarning) -> event::VertexWarning {
    let cut = |text: bytes::Bytes| text.slice(..text.len().min(MAX_ERROR)).into();
    event::VertexWarning {
        vertex: bounded(warning.vertex, MAX_ID),
        level: warning.level,
        short: cut(warning.short),
        detail: warning.detail.into_iter().take(MAX_DETAILS).map(cut).collect(),
        url: bounded(warning.url, MAX_NAME),
        source: warning.info.map(|info| event::SourceInfo {
            filename: bounded(info.filename, MAX_NAME),
            data: info.data.into(),
            language: bounded(info.language, MAX_ID),
        }),
        ranges: warning.ranges.into_iter().take(MAX_DETAILS).map(range).collect(),
    }
}

fn range(range: pb::Range) -> event::SourceRange {
    let position = |at: Option<pb::Position>| {
        at.map_or_else(event::Position::default, |at| event::Position {
            line: at.line,
            character: at.character,
        })
    };
    event::SourceRange { start: position(range.start), end: position(range.end) }
}

/// Cut at a character's boundary.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
    text
}

/// Never before 1970, which serialisation could not express.
fn time(stamp: Timestamp) -> SystemTime {
    SystemTime::try_from(stamp).map_or(SystemTime::UNIX_EPOCH, |time| time.max(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_becomes_event() {
        let stamp = |seconds| Some(Timestamp { seconds, nanos: 5 });
        let update = wire::StatusResponse {
            vertexes: vec![wire::Vertex {
                digest: "sha256:1".into(),
                name: "é".repeat(MAX_NAME),
                started: stamp(7),
                progress_group: Some(pb::ProgressGroup { id: "g".into(), name: "n".into(), weak: true }),
                ..wire::Vertex::default()
            }],
            statuses: vec![wire::VertexStatus {
                id: "s".into(),
                current: 3,
                ..wire::VertexStatus::default()
            }],
            logs: vec![
                wire::VertexLog {
                    stream: 2,
                    msg: "\u{1b}[1mx".into(),
                    timestamp: stamp(-9),
                    ..Default::default()
                },
                wire::VertexLog { stream: 1, msg: bytes::Bytes::from_static(&[0xff]), ..Default::default() },
            ],
            warnings: vec![wire::VertexWarning {
                short: "w".into(),
                ranges: vec![pb::Range { start: Some(pb::Position { line: 2, character: 1 }), end: None }],
                ..Default::default()
            }],
        };
        let event = event(update);
        assert_eq!(event.vertexes[0].name.len(), MAX_NAME);
        assert_eq!(event.vertexes[0].started, Some(SystemTime::UNIX_EPOCH + Duration::new(7, 5)));
        assert!(event.vertexes[0].progress_group.as_ref().is_some_and(|group| group.weak));
        assert_eq!((event.statuses[0].current, event.statuses[0].timestamp), (3, SystemTime::UNIX_EPOCH));
        assert_eq!(
            (event.logs[0].stream, event.logs[0].timestamp),
            (LogStream::Stderr, SystemTime::UNIX_EPOCH)
        );
        assert_eq!((event.logs[1].stream, event.logs[1].data.as_slice()), (LogStream::Stdout, &[0xff][..]));
        assert_eq!(event.warnings[0].ranges[0].start.line, 2);
        assert!(serde_json::to_string(&event).is_ok());
    }
}
