//! All that a daemon tells of one build: what was asked for, why it failed, what it used and what came of it.
//!
//! Follows docker buildx `commands/history/inspect.go`.

use std::collections::BTreeMap;

use prost::Message as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DURING, Record};
use crate::blob;
use crate::client::Client;
use crate::error::{BuildError, SolveFailure};
use crate::event::{Event, VertexLog};
use crate::failure;
use crate::proto::google::rpc;
use crate::proto::moby::buildkit::v1 as wire;
use crate::status::bounded;

const MAX_ATTRS: usize = 256;
const MAX_VALUE: usize = 4 << 10;
const MAX_MESSAGE: usize = 16 << 10;
const MAX_SOURCES: usize = 4;
const MAX_SOURCE: usize = 128 << 10;
const MAX_ATTACHMENTS: usize = 256;
const MAX_MATERIALS: usize = 1000;
/// Of an index or a predicate.
const MAX_DOCUMENT: usize = 8 << 20;
/// What the failed step said last.
const LOG_LINES: usize = 16;
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Details {
    pub record: Record,
    /// Of the frontend.
    pub attrs: BTreeMap<String, String>,
    /// The whole of the error, where the daemon has kept it.
    pub failure: Option<SolveFailure>,
    /// The step that failed and its last lines.
    pub step: Option<(String, Vec<Vec<u8>>)>,
    pub materials: Vec<Material>,
    pub attachments: Vec<Attachment>,
}

/// What went into a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    pub uri: String,
    pub digests: Vec<String>,
}

/// A document about a build, or a result of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Attachment {
    /// Empty for all platforms.
    pub platform: String,
    /// Its predicate's, or the media type.
    pub kind: String,
    pub digest: String,
}

impl Details {
    pub(super) async fn read(
        client: &Client,
        record: wire::BuildHistoryRecord,
    ) -> Result<Details, BuildError> {
        let mut details = Details { record: Record::from(&record), ..Details::default() };
        if let (Some(error), Some(told)) = (&mut details.record.error, &record.error) {
            error.message = bounded(told.message.clone(), MAX_MESSAGE);
        }
        if let Some(kept) = &record.external_error {
            let bytes = blob::read(client, DURING, &kept.digest, MAX_DOCUMENT).await?;
            details.failure = read_failure(bytes);
        }
        if let Some(vertex) = details.failure.as_ref().and_then(|failure| failure.vertex.clone()) {
            details.step = last_words(client, &details.record.reference, &vertex).await?;
        }
        let mut attachments = Vec::new();
        let whole = record.result.into_iter().map(|result| (String::new(), result));
        for (platform, result) in whole.chain(record.results) {
            for found in result.attestations {
                attachments.push(attachment(&platform, &found.media_type, &found.digest, &found.annotations));
            }
            for found in result.results.into_values() {
                let first = attachment(&platform, &found.media_type, &found.digest, &found.annotations);
                walk(client, first, &found.media_type, &mut attachments).await?;
            }
        }
        attachments.truncate(MAX_ATTACHMENTS);
        attachments.sort();
        let provenance =
            attachments.iter().find(|found| found.kind.starts_with("https://slsa.dev/provenance/"));
        if let Some(provenance) = provenance {
            let predicate = blob::read(client, DURING, &provenance.digest, MAX_DOCUMENT).await?;
            details.materials = materials(&serde_json::from_slice(&predicate).unwrap_or_default());
        }
        details.attachments = attachments;
        let attrs = record.frontend_attrs.into_iter().filter(|(key, _)| key != "frontend.caps");
        details.attrs = attrs
            .take(MAX_ATTRS)
            .map(|(key, value)| (bounded(key, MAX_VALUE), bounded(value, MAX_VALUE)))
            .collect();
        Ok(details)
    }
}

fn read_failure(bytes: Vec<u8>) -> Option<SolveFailure> {
    let told = rpc::Status::decode(bytes.as_slice()).ok()?;
    let status = tonic::Status::with_details(tonic::Code::from_i32(told.code), told.message, bytes.into());
    let mut failure = failure::read(&status);
    failure.sources.truncate(MAX_SOURCES);
    failure.sources.retain(|(source, _)| source.data.len() <= MAX_SOURCE);
    Some(failure)
}

async fn last_words(
    client: &Client,
    reference: &str,
    vertex: &str,
) -> Result<Option<(String, Vec<Vec<u8>>)>, BuildError> {
    let which = super::Which::Named(reference.to_owned());
    let Some(mut replay) = client.replay(&which).await? else { return Ok(None) };
    let (mut name, mut words) = (String::new(), Words::default());
    while let Some(Event { vertexes, logs, .. }) = replay.next().await? {
        if let Some(found) = vertexes.into_iter().find(|found| found.digest == vertex) {
            name = found.name;
        }
        logs.iter().filter(|log| log.vertex == vertex).for_each(|log| words.add(log));
    }
    let lines = words.lines.into_iter().map(|(_, line, _)| line).collect();
    Ok(Some((bounded(name, MAX_VALUE), lines)))
}

/// The last lines of two streams, in the order in which they began: by stream, the line, and whether it goes on.
#[derive(Debug, Default)]
struct Words {
    lines: std::collections::VecDeque<(crate::event::LogStream, Vec<u8>, bool)>,
}

impl Words {
    fn add(&mut self, log: &VertexLog) {
        for piece in log.data.split_inclusive(|byte| *byte == b'\n') {
            let (text, goes_on) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, false),
                None => (piece, true),
            };
            let open = self.lines.iter_mut().rev().find(|line| line.0 == log.stream && line.2);
            if let Some(line) = open {
                let room = MAX_VALUE.saturating_sub(line.1.len());
                line.1.extend_from_slice(&text[..text.len().min(room)]);
                line.2 = goes_on;
            } else if !text.is_empty() {
                let text = text[..text.len().min(MAX_VALUE)].to_vec();
                self.lines.push_back((log.stream, text, goes_on));
            }
            while self.lines.len() > LOG_LINES {
                self.lines.pop_front();
            }
        }
    }
}

fn attachment<'a>(
    platform: &str,
    media_type: &str,
    digest: &str,
    annotations: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Attachment {
    let predicate = annotations.into_iter().find(|(key, _)| *key == PREDICATE_TYPE);
    let text = |text: &str| bounded(text.to_owned(), super::MAX_TEXT);
    Attachment {
        platform: text(platform),
        kind: text(predicate.map_or(media_type, |(_, value)| value)),
        digest: text(digest),
    }
}

/// A result that is there still, and what an index holds; an attestation's manifest is none.
async fn walk(
    client: &Client,
    first: Attachment,
    media_type: &str,
    found: &mut Vec<Attachment>,
) -> Result<(), BuildError> {
    let mut pending = vec![(first, media_type.to_owned(), false)];
    let mut seen = 0;
    while let Some((attachment, media_type, hidden)) = pending.pop() {
        seen += 1;
        if seen > MAX_ATTACHMENTS || !blob::is_there(client, DURING, &attachment.digest).await? {
            continue;
        }
        if INDEXES.contains(&media_type.as_str()) {
            let bytes = blob::read(client, DURING, &attachment.digest, MAX_DOCUMENT).await?;
            let index: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            for entry in index["manifests"].as_array().into_iter().flatten().take(MAX_ATTACHMENTS) {
                pending.push(listed(entry, &attachment.platform));
            }
        }
        if !hidden {
            found.push(attachment);
        }
    }
    Ok(())
}

fn listed(entry: &Value, platform: &str) -> (Attachment, String, bool) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let annotations: BTreeMap<String, String> =
        serde_json::from_value(entry["annotations"].clone()).unwrap_or_default();
    let own = &entry["platform"];
    let own = own.is_object().then(|| {
        crate::platform::Platform::of(&text(&own["os"]), &text(&own["architecture"]), &text(&own["variant"]))
            .to_string()
    });
    let kind = text(&entry["mediaType"]);
    let hidden =
        annotations.get("vnd.docker.reference.type").is_some_and(|kind| kind == "attestation-manifest");
    let platform = own.as_deref().unwrap_or(platform);
    (attachment(platform, &kind, &text(&entry["digest"]), &annotations), kind, hidden)
}

/// Of a predicate in the form of SLSA v1 or v0.2.
fn materials(predicate: &Value) -> Vec<Material> {
    let new = predicate["buildDefinition"]["resolvedDependencies"].as_array();
    let all = new.or_else(|| predicate["materials"].as_array()).into_iter().flatten();
    let material = |told: &Value| {
        let digests = told["digest"].as_object().into_iter().flatten().take(8);
        let digest = |(kind, value): (&String, &Value)| {
            bounded(format!("{kind}:{}", value.as_str().unwrap_or_default()), super::MAX_TEXT)
        };
        Material {
            uri: bounded(told["uri"].as_str().unwrap_or_default().to_owned(), super::MAX_TEXT),
            digests: digests.map(digest).collect(),
        }
    };
    all.take(MAX_MATERIALS).map(material).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::LogStream;
    use serde_json::json;

    #[test]
    fn last_lines_are_put_together() {
        let mut words = Words::default();
        for (stream, data) in [
            (LogStream::Stdout, "a\nb"),
            (LogStream::Stderr, "e"),
            (LogStream::Stdout, "c\n\nd\n"),
            (LogStream::Stderr, "f\n"),
        ] {
            let (vertex, timestamp) = (String::new(), std::time::SystemTime::UNIX_EPOCH);
            words.add(&VertexLog { vertex, stream, data: data.into(), timestamp });
        }
        let lines: Vec<_> = words.lines.iter().map(|line| String::from_utf8_lossy(&line.1)).collect();
        assert_eq!(lines, ["a", "bc", "ef", "d"]);
    }

    #[test]
    fn materials_are_read_of_both_forms() {
        let entry = json!([{"uri": "pkg:docker/x", "digest": {"sha256": "ab"}}]);
        let want = vec![Material { uri: "pkg:docker/x".into(), digests: vec!["sha256:ab".into()] }];
        assert_eq!(materials(&json!({"buildDefinition": {"resolvedDependencies": entry}})), want);
        assert_eq!(materials(&json!({"materials": entry})), want);
        assert!(materials(&Value::Null).is_empty());
    }

    #[test]
    fn manifests_of_attestations_are_hidden() {
        let (found, kind, hidden) = listed(
            &json!({"digest": "d", "mediaType": "m", "platform": {"os": "linux", "architecture": "arm64"}}),
            "",
        );
        assert_eq!((found.platform.as_str(), kind.as_str(), hidden), ("linux/arm64", "m", false));
        let annotations = json!({"vnd.docker.reference.type": "attestation-manifest"});
        assert!(listed(&json!({"annotations": annotations}), "").2);
    }
}
