//! A build's updates, from bytes to events of bounded size.
//!
//! An update is one message of gRPC, and yet little on the wire may be much in memory: a step of nothing takes two bytes
//! there and hundreds as a value. So an update is never decoded as a whole. Its parts are taken one by one, too large or
//! empty ones are counted and left out, and what is kept leaves in events of which a full queue of them is still small.
//!
//! Follows `StatusResponse` of moby/buildkit `api/services/control/control.proto`.

use std::time::SystemTime;

use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost_types::Timestamp;

use crate::event::{self, Event, LogStream};
use crate::proto::moby::buildkit::v1 as wire;
use crate::proto::pb;
use crate::status::bounded;

/// Of one event: parts, and bytes beyond which it takes no more.
const EVENT_PARTS: usize = 1000;
const EVENT_BYTES: usize = 64 << 10;
/// What a part weighs beyond its texts.
const PART: usize = 256;
/// A part's bytes on the wire. Logs have no bound, since nothing but their text can be large.
const MAX_VERTEX: usize = 1 << 20;
const MAX_STATUS: usize = 64 << 10;
const MAX_WARNING: usize = 2 << 20;
const MAX_INPUTS: usize = 10_000;
const MAX_NAME: usize = 16 << 10;
const MAX_ID: usize = 512;
const MAX_ERROR: usize = 64 << 10;
const MAX_DETAILS: usize = 1000;
/// Of a source file that comes with a warning.
const MAX_SOURCE: usize = 256 << 10;

/// The events of one update.
#[derive(Debug)]
pub(crate) struct Updates {
    rest: Bytes,
    /// What is left of a log that is too long for one event.
    log: Option<(event::VertexLog, Bytes)>,
    event: Event,
    parts: usize,
    bytes: usize,
}

impl Updates {
    pub(crate) fn of(update: Bytes) -> Updates {
        Updates { rest: update, log: None, event: Event::default(), parts: 0, bytes: 0 }
    }

    /// Adds the next part; false at the end.
    fn add(&mut self) -> bool {
        if let Some((log, mut text)) = self.log.take() {
            let piece = text.split_to(text.len().min(EVENT_BYTES));
            self.weigh(piece.len());
            self.event.logs.push(event::VertexLog { data: piece.into(), ..log.clone() });
            self.log = (!text.is_empty()).then_some((log, text));
            return true;
        }
        if self.rest.is_empty() {
            return false;
        }
        match part(&mut self.rest) {
            Ok(Some((tag, part))) => self.take(tag, part),
            Ok(None) => {}
            Err(_) => {
                self.event.dropped += 1;
                self.rest.clear();
            }
        }
        true
    }

    fn take(&mut self, tag: u32, part: Bytes) {
        let size = part.len();
        let kept = match tag {
            1 if size <= MAX_VERTEX => {
                wire::Vertex::decode(part).ok().filter(|v| !v.digest.is_empty()).map(|v| {
                    let vertex = vertex(v);
                    let inputs: usize =
                        vertex.inputs.iter().map(|input| input.len() + size_of::<String>()).sum();
                    self.weigh(vertex.name.len() + vertex.error.len() + inputs);
                    self.event.vertexes.push(vertex);
                })
            }
            2 if size <= MAX_STATUS => {
                wire::VertexStatus::decode(part).ok().filter(|s| !s.vertex.is_empty()).map(|s| {
                    let status = status(s);
                    self.weigh(status.id.len() + status.name.len());
                    self.event.statuses.push(status);
                })
            }
            3 => wire::VertexLog::decode(part).ok().filter(|log| !log.vertex.is_empty()).map(|mut log| {
                let text = std::mem::take(&mut log.msg);
                self.log = Some((log_head(log), text));
            }),
            4 if size <= MAX_WARNING => {
                let filled = |w: &wire::VertexWarning| !w.vertex.is_empty() || !w.short.is_empty();
                wire::VertexWarning::decode(part).ok().filter(filled).map(|w| {
                    let warning = warning(w);
                    self.weigh(size.min(MAX_SOURCE));
                    self.event.warnings.push(warning);
                })
            }
            1..=4 => None,
            // Of a newer daemon.
            _ => Some(()),
        };
        if kept.is_none() {
            self.event.dropped += 1;
        }
    }

    fn weigh(&mut self, bytes: usize) {
        self.parts += 1;
        self.bytes += PART + bytes;
    }
}

impl Iterator for Updates {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while self.parts < EVENT_PARTS && self.bytes < EVENT_BYTES {
            if !self.add() {
                let event = std::mem::take(&mut self.event);
                (self.parts, self.bytes) = (0, 0);
                return (event != Event::default()).then_some(event);
            }
        }
        (self.parts, self.bytes) = (0, 0);
        Some(std::mem::take(&mut self.event))
    }
}

/// The next field of the message; `None` where it is none of ours, an error where there is no field.
fn part(rest: &mut Bytes) -> Result<Option<(u32, Bytes)>, ()> {
    let (tag, kind) = decode_key(rest).map_err(drop)?;
    if kind != WireType::LengthDelimited {
        return skip_field(kind, tag, rest, DecodeContext::default()).map(|()| None).map_err(drop);
    }
    let length = decode_varint(rest).ok().and_then(|length| usize::try_from(length).ok()).ok_or(())?;
    if length > rest.remaining() { Err(()) } else { Ok(Some((tag, rest.split_to(length)))) }
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

/// A log without its text.
fn log_head(log: wire::VertexLog) -> event::VertexLog {
    event::VertexLog {
        vertex: bounded(log.vertex, MAX_ID),
        stream: if log.stream == 2 { LogStream::Stderr } else { LogStream::Stdout },
        data: Vec::new(),
        timestamp: time(log.timestamp.unwrap_or_default()),
    }
}

fn warning(warning: wire::VertexWarning) -> event::VertexWarning {
    let cut = |text: Bytes| text.slice(..text.len().min(MAX_ERROR)).into();
    event::VertexWarning {
        vertex: bounded(warning.vertex, MAX_ID),
        level: warning.level,
        short: cut(warning.short),
        detail: warning.detail.into_iter().take(MAX_DETAILS).map(cut).collect(),
        url: bounded(warning.url, MAX_NAME),
        source: warning.info.map(|info| event::SourceInfo {
            filename: bounded(info.filename, MAX_NAME),
            data: info.data.slice(..info.data.len().min(MAX_SOURCE)).into(),
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

/// Never before 1970, which serialisation could not express.
fn time(stamp: Timestamp) -> SystemTime {
    SystemTime::try_from(stamp).map_or(SystemTime::UNIX_EPOCH, |time| time.max(SystemTime::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
                vertex: "sha256:1".into(),
                current: 3,
                ..wire::VertexStatus::default()
            }],
            logs: vec![
                wire::VertexLog {
                    stream: 2,
                    vertex: "sha256:1".into(),
                    msg: "\u{1b}[1mx".into(),
                    timestamp: stamp(-9),
                },
                wire::VertexLog {
                    vertex: "sha256:1".into(),
                    stream: 1,
                    msg: Bytes::from_static(&[0xff]),
                    ..Default::default()
                },
            ],
            warnings: vec![wire::VertexWarning {
                short: "w".into(),
                ranges: vec![pb::Range { start: Some(pb::Position { line: 2, character: 1 }), end: None }],
                ..Default::default()
            }],
        };
        let event = Updates::of(update.encode_to_vec().into()).next().unwrap();
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

    #[test]
    fn empty_parts_cost_nothing() {
        for tag in [0x0a, 0x12, 0x1a, 0x22] {
            let events: Vec<Event> = Updates::of([tag, 0].repeat(50_000).into()).collect();
            let kept: usize = events
                .iter()
                .map(|e| e.vertexes.len() + e.statuses.len() + e.logs.len() + e.warnings.len())
                .sum();
            assert_eq!((kept, events.iter().map(|event| event.dropped).sum::<u64>()), (0, 50_000));
        }
    }

    #[test]
    fn large_parts_are_dropped_and_large_logs_cut_into_pieces() {
        let vertex = |name: usize| wire::Vertex {
            digest: "sha256:1".into(),
            name: "n".repeat(name),
            ..wire::Vertex::default()
        };
        let text = Bytes::from(vec![b'x'; 5 * EVENT_BYTES + 1]);
        let update = wire::StatusResponse {
            vertexes: vec![vertex(MAX_VERTEX + 1), vertex(1)],
            logs: vec![wire::VertexLog {
                vertex: "sha256:1".into(),
                msg: text.clone(),
                ..Default::default()
            }],
            ..wire::StatusResponse::default()
        };
        let events: Vec<Event> = Updates::of(update.encode_to_vec().into()).collect();
        assert_eq!(events.iter().map(|event| event.dropped).sum::<u64>(), 1);
        assert_eq!(events.iter().flat_map(|event| &event.vertexes).count(), 1);
        let logs = events.iter().flat_map(|event| &event.logs);
        assert!(logs.clone().all(|log| log.data.len() <= EVENT_BYTES));
        assert_eq!(logs.flat_map(|log| log.data.clone()).collect::<Vec<u8>>(), text);
    }

    #[test]
    fn a_full_event_makes_room() {
        let vertex = wire::Vertex { digest: "sha256:1".into(), ..wire::Vertex::default() };
        let update = wire::StatusResponse { vertexes: vec![vertex; 5000], ..Default::default() };
        let events: Vec<Event> = Updates::of(update.encode_to_vec().into()).collect();
        assert!(events.iter().all(|event| event.vertexes.len() <= EVENT_PARTS));
        assert_eq!(events.iter().map(|event| event.vertexes.len()).sum::<usize>(), 5000);
    }

    #[test]
    fn what_is_no_update_is_counted() {
        for bytes in [&b"\xff"[..], b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x00"]
        {
            let events: Vec<Event> = Updates::of(Bytes::copy_from_slice(bytes)).collect();
            assert_eq!(events.iter().map(|event| event.dropped).sum::<u64>(), 1, "{bytes:?}");
        }
    }
}
