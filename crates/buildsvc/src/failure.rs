//! What a person can use of a failed solve.
//!
//! The daemon attaches details to its gRPC status: protobuf outside, Go's JSON inside. Follows moby/buildkit
//! `util/grpcerrors/grpcerrors.go` and `solver/errdefs`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde::Deserialize;

use crate::error::SolveFailure;
use crate::event::{Position, SourceInfo, SourceRange};
use crate::proto::google::rpc;
use crate::status::bounded;

const MAX_MESSAGE: usize = 256 << 10;
const MAX_DETAILS: usize = 1000;
const MAX_SOURCES: usize = 32;
const MAX_RANGES: usize = 1000;
const MAX_NAME: usize = 16 << 10;

/// Reads a status and its details. What cannot be read is left out: the message alone says enough.
pub(crate) fn read(status: &tonic::Status) -> SolveFailure {
    let mut failure = SolveFailure {
        message: bounded(status.message().to_owned(), MAX_MESSAGE),
        code: status.code() as i32,
        ..SolveFailure::default()
    };
    let details = rpc::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    for detail in details.into_iter().take(MAX_DETAILS) {
        // `github.com/moby/buildkit/errdefs.Source+json`
        let kind = detail.type_url.rsplit('/').next().unwrap_or_default();
        match kind {
            "errdefs.Source+json" => {
                if let Ok(source) = serde_json::from_slice::<Source>(&detail.value)
                    && failure.sources.len() < MAX_SOURCES
                {
                    failure.sources.push(source.read());
                }
            }
            "errdefs.Vertex+json" => {
                if let Ok(vertex) = serde_json::from_slice::<Vertex>(&detail.value) {
                    failure.vertex.get_or_insert(bounded(vertex.digest, MAX_NAME));
                }
            }
            "gatewayapi.ExitMessage+json" => {
                if let Ok(exit) = serde_json::from_slice::<Exit>(&detail.value) {
                    failure.exit_code.get_or_insert(exit.code);
                }
            }
            _ => {}
        }
    }
    failure
}

/// Go leaves out what is empty, and writes `null` for absent messages.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Source {
    info: Option<Info>,
    ranges: Option<Vec<Range>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Info {
    filename: String,
    /// Base64.
    data: Option<String>,
    language: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Range {
    start: Option<At>,
    end: Option<At>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct At {
    line: i32,
    character: i32,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Vertex {
    digest: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Exit {
    #[serde(rename = "Code", alias = "code")]
    code: u32,
}

impl Source {
    fn read(self) -> (SourceInfo, Vec<SourceRange>) {
        let info = self.info.unwrap_or_default();
        let position = |at: Option<At>| {
            at.map_or_else(Position::default, |at| Position { line: at.line, character: at.character })
        };
        let range = |range: Range| SourceRange { start: position(range.start), end: position(range.end) };
        let source = SourceInfo {
            filename: bounded(info.filename, MAX_NAME),
            data: info.data.and_then(|data| STANDARD.decode(data).ok()).unwrap_or_default(),
            language: bounded(info.language, MAX_NAME),
        };
        (source, self.ranges.unwrap_or_default().into_iter().take(MAX_RANGES).map(range).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn details_are_json() {
        let any = |kind: &str, json: &str| prost_types::Any {
            type_url: format!("github.com/moby/buildkit/{kind}"),
            value: json.to_owned().into(),
        };
        let details = rpc::Status {
            details: vec![
                any("stack.Stack+json", "{}"),
                any("errdefs.Vertex+json", r#"{"digest":"sha256:ab"}"#),
                any(
                    "errdefs.Source+json",
                    r#"{"info":{"filename":"Dockerfile","data":"RlJPTSB4"},"ranges":[{"start":{"line":3},"end":{"line":4}}]}"#,
                ),
                any("errdefs.Source+json", r#"{"info":null,"ranges":null}"#),
                any("errdefs.Source+json", "not json"),
                any("gatewayapi.ExitMessage+json", r#"{"Code":42}"#),
            ],
            ..rpc::Status::default()
        };
        let status = tonic::Status::with_details(Code::Unknown, "it failed", details.encode_to_vec().into());
        let failure = read(&status);
        assert_eq!((failure.message.as_str(), failure.code), ("it failed", 2));
        assert_eq!((failure.vertex.as_deref(), failure.exit_code), (Some("sha256:ab"), Some(42)));
        assert_eq!(failure.sources.len(), 2);
        let (source, ranges) = &failure.sources[0];
        assert_eq!((source.filename.as_str(), source.data.as_slice()), ("Dockerfile", &b"FROM x"[..]));
        assert_eq!((ranges[0].start.line, ranges[0].end.line), (3, 4));
    }

    #[test]
    fn bad_details_leave_the_message() {
        let status =
            tonic::Status::with_details(Code::Internal, "broken", bytes::Bytes::from_static(&[0xff, 0x01]));
        assert_eq!(
            read(&status),
            SolveFailure { message: "broken".into(), code: 13, ..SolveFailure::default() }
        );
    }
}
