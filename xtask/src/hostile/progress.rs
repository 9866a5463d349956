//! What a daemon says of its progress, well-formed or not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, skip_field};
use prost_types::Timestamp;

use super::wire::moby::buildkit::v1::{Vertex, VertexLog, VertexStatus, VertexWarning};

/// A `StatusResponse` as bytes, so that anything can be sent as one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Raw(pub Bytes);

impl Message for Raw {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put(self.0.clone());
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        skip_field(wire_type, tag, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// A `StatusResponse` as its parts.
#[derive(Clone, PartialEq, Message)]
pub struct Update {
    #[prost(message, repeated, tag = "1")]
    pub vertexes: Vec<Vertex>,
    #[prost(message, repeated, tag = "2")]
    pub statuses: Vec<VertexStatus>,
    #[prost(message, repeated, tag = "3")]
    pub logs: Vec<VertexLog>,
    #[prost(message, repeated, tag = "4")]
    pub warnings: Vec<VertexWarning>,
}

impl Update {
    pub fn raw(&self) -> Raw {
        Raw(self.encode_to_vec().into())
    }

    pub fn of_vertexes(vertexes: Vec<Vertex>) -> Raw {
        Update { vertexes, ..Update::default() }.raw()
    }

    pub fn of_logs(logs: Vec<VertexLog>) -> Raw {
        Update { logs, ..Update::default() }.raw()
    }
}

pub fn now() -> Option<Timestamp> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    Some(Timestamp { seconds, nanos: since.subsec_nanos().cast_signed() })
}

/// A step that has started.
pub fn step(digest: &str, name: &str) -> Vertex {
    Vertex { digest: digest.to_owned(), name: name.to_owned(), started: now(), ..Vertex::default() }
}

/// The same step, ended; with an error unless that is empty.
pub fn ended(step: &Vertex, error: &str) -> Vertex {
    Vertex { completed: now(), error: error.to_owned(), ..step.clone() }
}

pub fn log(digest: &str, text: impl Into<Bytes>) -> VertexLog {
    VertexLog { vertex: digest.to_owned(), timestamp: now(), stream: 1, msg: text.into() }
}
