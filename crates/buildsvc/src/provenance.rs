//! What the daemon recorded of a build: its provenance, as docker buildx writes it into metadata files.
//!
//! Follows docker buildx (`build/provenance.go`) and moby/buildkit `solver/llbsolver/provenance/types`: a predicate of SLSA v1 is
//! told in the form of v0.2.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::blob;
use crate::client::{Client, refused};
use crate::error::BuildError;
use crate::proto::moby::buildkit::v1 as wire;
use crate::status::bounded;

const DURING: &str = "the question for provenance";
const ANSWER: Duration = Duration::from_secs(20);
/// Of all predicates of a build together.
const MAX_BYTES: usize = 8 << 20;
const MAX_EVENTS: usize = 64;
const MAX_MATERIALS: usize = 2_000;
/// Of a URI or a digest.
const MAX_TEXT: usize = 4 << 10;
const IN_TOTO: &str = "application/vnd.in-toto+json";
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
const SLSA: &str = "https://slsa.dev/provenance/";

/// How much of it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Without the steps and without times.
    #[default]
    Min,
    Max,
}

/// Something that went into a build, as the daemon tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Material {
    pub uri: String,
    /// Hexadecimal digits by algorithm; empty when the daemon does not tell any.
    pub digests: BTreeMap<String, String>,
}

/// What went into the finished build `reference`, each once. A daemon that has not recorded it is an error.
pub async fn materials(client: &Client, reference: &str) -> Result<Vec<Material>, BuildError> {
    let lost = |detail: &str| BuildError::Lost { during: DURING, detail: detail.to_owned() };
    let predicates = of_build(client, reference, Detail::Min).await?;
    if predicates.is_empty() {
        return Err(lost("the builder has recorded none"));
    }
    let mut found: Vec<Material> = Vec::new();
    for predicate in predicates.values() {
        // One without materials has no such list.
        let listed = predicate["materials"].as_array().map_or(&[][..], Vec::as_slice);
        for material in listed.iter().map(material) {
            if found.len() == MAX_MATERIALS {
                return Err(lost("it tells more materials than any build has"));
            }
            if !found.contains(&material) {
                found.push(material);
            }
        }
    }
    Ok(found)
}

fn material(told: &Value) -> Material {
    let text = |value: &Value| bounded(value.as_str().unwrap_or_default().to_owned(), MAX_TEXT);
    let digests = told["digest"].as_object().into_iter().flatten();
    Material {
        uri: text(&told["uri"]),
        digests: digests
            .take(8)
            .map(|(name, value)| (bounded(name.clone(), MAX_TEXT), text(value)))
            .collect(),
    }
}

/// The predicates of the finished build `reference`: one without a name, or one for each platform.
pub async fn of_build(
    client: &Client,
    reference: &str,
    detail: Detail,
) -> Result<BTreeMap<String, Value>, BuildError> {
    let request = wire::BuildHistoryRequest {
        r#ref: reference.to_owned(),
        early_exit: true,
        ..wire::BuildHistoryRequest::default()
    };
    let mut control = client.control();
    let events = client.ask(DURING, ANSWER, control.listen_build_history(request)).await?;
    let mut events = events.map_err(|status| refused(DURING, &status))?.into_inner();
    let mut found = BTreeMap::new();
    for _ in 0..MAX_EVENTS {
        let event = client.ask(DURING, ANSWER, events.message()).await?;
        let Some(event) = event.map_err(|status| refused(DURING, &status))? else { break };
        let Some(record) = event.record else { continue };
        let mut results: Vec<(String, wire::BuildResultInfo)> = record.results.into_iter().collect();
        if results.is_empty() {
            results.extend(record.result.map(|result| (String::new(), result)));
        }
        for (platform, result) in results {
            let is_provenance = |attestation: &&wire::Descriptor| {
                let kind = attestation.annotations.get(PREDICATE_TYPE);
                attestation.media_type == IN_TOTO && kind.is_some_and(|kind| kind.starts_with(SLSA))
            };
            let Some(attestation) = result.attestations.iter().find(is_provenance) else { continue };
            let kind = &attestation.annotations[PREDICATE_TYPE];
            let predicate = blob::read(client, DURING, &attestation.digest, MAX_BYTES).await?;
            let predicate = serde_json::from_slice(&predicate).map_err(|error| BuildError::Lost {
                during: DURING,
                detail: format!("the provenance is no JSON: {error}"),
            })?;
            found.insert(platform, told(predicate, kind == "https://slsa.dev/provenance/v1", detail));
        }
    }
    Ok(found)
}

fn told(predicate: Value, is_v1: bool, detail: Detail) -> Value {
    let mut predicate = if is_v1 { in_old_form(&predicate) } else { predicate };
    if let (Detail::Min, Some(fields)) = (detail, predicate.as_object_mut()) {
        fields.remove("buildConfig");
        fields.remove("metadata");
    }
    predicate
}

/// A v1 predicate as v0.2.
fn in_old_form(new: &Value) -> Value {
    let definition = &new["buildDefinition"];
    let (external, internal) = (&definition["externalParameters"], &definition["internalParameters"]);
    let source = &external["configSource"];
    let dependencies = definition["resolvedDependencies"].as_array().map_or(&[][..], Vec::as_slice);
    let material =
        |dependency: &Value| given(&[("uri", &dependency["uri"]), ("digest", &dependency["digest"])]);
    let materials: Value = dependencies.iter().map(material).collect();

    let mut environment = internal.as_object().cloned().unwrap_or_default();
    let build_config = environment.remove("buildConfig").unwrap_or_default();
    let platform = environment.remove("builderPlatform").unwrap_or_else(|| "".into());
    environment.insert("platform".to_owned(), platform);

    let empty = json!({});
    let parameters = if external["request"].is_null() { &empty } else { &external["request"] };
    let metadata = &new["runDetails"]["metadata"];
    let metadata = if metadata.is_null() { Value::Null } else { old_metadata(metadata) };
    let invocation = json!({
        "configSource": given(&[
            ("uri", &source["uri"]),
            ("digest", &source["digest"]),
            ("entryPoint", &source["path"]),
        ]),
        "parameters": parameters,
        "environment": environment,
    });
    let builder = json!({ "id": new["runDetails"]["builder"]["id"].as_str().unwrap_or_default() });
    given(&[
        ("builder", &builder),
        ("buildType", &"https://mobyproject.org/buildkit@v1".into()),
        ("materials", &materials),
        ("invocation", &invocation),
        ("buildConfig", &build_config),
        ("metadata", &metadata),
    ])
}

fn old_metadata(new: &Value) -> Value {
    let truth = |value: &Value| value.as_bool().unwrap_or_default();
    let completeness = json!({
        "parameters": truth(&new["buildkit_completeness"]["request"]),
        "environment": true,
        "materials": truth(&new["buildkit_completeness"]["resolvedDependencies"]),
    });
    let hermetic = if truth(&new["buildkit_hermetic"]) { Value::Bool(true) } else { Value::Null };
    let empty = json!({});
    let own = if new["buildkit_metadata"].is_null() { &empty } else { &new["buildkit_metadata"] };
    given(&[
        ("buildInvocationID", &new["invocationId"]),
        ("buildStartedOn", &new["startedOn"]),
        ("buildFinishedOn", &new["finishedOn"]),
        ("completeness", &completeness),
        ("reproducible", &truth(&new["buildkit_reproducible"]).into()),
        ("https://mobyproject.org/buildkit@v1#metadata", own),
        ("https://mobyproject.org/buildkit@v1#hermetic", &hermetic),
    ])
}

/// The fields that there are: Go leaves empty ones out.
fn given(fields: &[(&str, &Value)]) -> Value {
    let is_given = |value: &Value| match value {
        Value::Null => false,
        Value::Array(values) => !values.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    };
    let given = fields.iter().filter(|(_, value)| is_given(value));
    given.map(|(key, value)| ((*key).to_owned(), (*value).clone())).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_predicates_are_told_in_the_old_form() {
        let new = json!({
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {"configSource": {"path": "Dockerfile"}, "request": {"frontend": "dockerfile.v0"}},
                "internalParameters": {"builderPlatform": "linux/amd64", "custom": 1, "buildConfig": {"llbDefinition": []}},
                "resolvedDependencies": [{"uri": "pkg:docker/x", "digest": {"sha256": "ab"}, "name": "x"}]
            },
            "runDetails": {"builder": {"id": ""}, "metadata": {
                "invocationId": "i", "startedOn": "s", "buildkit_hermetic": true,
                "buildkit_completeness": {"request": true, "resolvedDependencies": false}
            }}
        });
        let min = json!({
            "builder": {"id": ""},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "materials": [{"uri": "pkg:docker/x", "digest": {"sha256": "ab"}}],
            "invocation": {
                "configSource": {"entryPoint": "Dockerfile"},
                "parameters": {"frontend": "dockerfile.v0"},
                "environment": {"platform": "linux/amd64", "custom": 1}
            }
        });
        assert_eq!(told(new.clone(), true, Detail::Min), min);
        let max = told(new, true, Detail::Max);
        assert_eq!(max["buildConfig"], json!({"llbDefinition": []}));
        let metadata = json!({
            "buildInvocationID": "i", "buildStartedOn": "s", "reproducible": false,
            "completeness": {"parameters": true, "environment": true, "materials": false},
            "https://mobyproject.org/buildkit@v1#metadata": {}, "https://mobyproject.org/buildkit@v1#hermetic": true
        });
        assert_eq!(max["metadata"], metadata);
        let old = json!({"builder": {"id": "x"}, "metadata": {}, "buildConfig": {}});
        assert_eq!(told(old.clone(), false, Detail::Max), old);
        assert_eq!(told(old, false, Detail::Min), json!({"builder": {"id": "x"}}));
        assert!(told(Value::Null, true, Detail::Max).is_object());
    }
}
