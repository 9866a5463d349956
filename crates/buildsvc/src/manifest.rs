//! The documents that an image is made of: indexes of platforms, manifests, configs.
//!
//! They come from registries and stores, so what is no plain document of its kind is refused, and nothing in it is believed but
//! digests, sizes and platforms. Follows the OCI image specification 1.1, of which docker's own media types are a subset.

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// A larger document is none.
pub const DOCUMENT_LIMIT: u64 = 4 << 20;
const ENTRIES_LIMIT: usize = 1_000;
/// No layer is larger.
const BLOB_LIMIT: u64 = 1 << 40;

/// What a registry is asked for: everything that is read here.
pub const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// Manifests, each with its platform; `None` for what is no image.
    Index(Vec<(Descriptor, Option<Platform>)>),
    Manifest {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("no JSON of an image, at line {}, column {}", .0.line(), .0.column())]
    Json(#[from] serde_json::Error),
    #[error("neither an index nor a manifest")]
    Neither,
    #[error("an index and a manifest at once")]
    Both,
    #[error("schema version {0}, of which nothing is known")]
    Schema(u64),
    #[error("more than {ENTRIES_LIMIT} entries")]
    TooMany,
    #[error("{0} has {1} bytes, which no part of an image has")]
    Size(Digest, u64),
    #[error("its layer {0} may not be passed on by registries and has to be fetched elsewhere")]
    Foreign(Digest),
    #[error("a config without a platform")]
    NoPlatform,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    schema_version: u64,
    manifests: Option<Vec<EntryForm>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct EntryForm {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<PlatformForm>,
}

#[derive(Deserialize)]
struct PlatformForm {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

impl PlatformForm {
    /// Attestations stand in an index under a platform that does not exist.
    fn known(&self) -> Option<Platform> {
        let named = |text: &str| !text.is_empty() && text != "unknown";
        (named(&self.os) && named(&self.architecture))
            .then(|| Platform::of(&self.os, &self.architecture, &self.variant))
    }
}

impl Document {
    pub fn parse(json: &[u8]) -> Result<Document, ManifestError> {
        let form: Form = serde_json::from_slice(json)?;
        if form.schema_version != 2 {
            return Err(ManifestError::Schema(form.schema_version));
        }
        match (form.manifests, form.config, form.layers) {
            (Some(entries), None, None) => {
                let entries = entries.into_iter().map(|entry| {
                    let platform = entry.platform.and_then(|platform| platform.known());
                    Ok((entry.descriptor.checked(DOCUMENT_LIMIT)?, platform))
                });
                bounded(entries).map(Document::Index)
            }
            (None, Some(config), layers) => {
                let layers = layers.unwrap_or_default().into_iter().map(|layer| {
                    let kind = &layer.media_type;
                    if kind.contains(".nondistributable.") || kind.contains(".foreign.") {
                        return Err(ManifestError::Foreign(layer.digest));
                    }
                    layer.checked(BLOB_LIMIT)
                });
                Ok(Document::Manifest { layers: bounded(layers)?, config: config.checked(DOCUMENT_LIMIT)? })
            }
            (Some(_), ..) => Err(ManifestError::Both),
            (None, None, _) => Err(ManifestError::Neither),
        }
    }
}

fn bounded<T>(
    items: impl ExactSizeIterator<Item = Result<T, ManifestError>>,
) -> Result<Vec<T>, ManifestError> {
    if items.len() > ENTRIES_LIMIT { Err(ManifestError::TooMany) } else { items.collect() }
}

impl Descriptor {
    fn checked(self, limit: u64) -> Result<Descriptor, ManifestError> {
        if self.size > limit { Err(ManifestError::Size(self.digest, self.size)) } else { Ok(self) }
    }
}

/// The manifest of an index that a builder takes for `platform`.
pub fn choose<'a>(
    entries: &'a [(Descriptor, Option<Platform>)],
    platform: &Platform,
) -> Option<&'a Descriptor> {
    platform.with_lesser().iter().find_map(|wanted| {
        entries.iter().find(|(_, platform)| platform.as_ref() == Some(wanted)).map(|(found, _)| found)
    })
}

/// The platform that a config is for.
pub fn platform_of(config: &[u8]) -> Result<Platform, ManifestError> {
    let form: PlatformForm = serde_json::from_slice(config)?;
    form.known().ok_or(ManifestError::NoPlatform)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn sha(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn parse(json: &Value) -> Result<Document, ManifestError> {
        Document::parse(json.to_string().as_bytes())
    }

    #[test]
    fn indexes_give_platforms() {
        let entry = |c, os: &str, architecture: &str, variant: &str| {
            json!({"digest": sha(c), "size": 7, "mediaType": "m",
                   "platform": {"os": os, "architecture": architecture, "variant": variant}})
        };
        let index = parse(&json!({"schemaVersion": 2, "manifests": [
            entry('a', "unknown", "unknown", ""),
            entry('b', "linux", "arm", "v6"),
            entry('c', "linux", "arm64", "v8"),
            entry('d', "linux", "amd64", ""),
            {"digest": sha('e'), "size": 7},
        ]}));
        let Document::Index(entries) = index.unwrap() else { panic!("no index") };
        let chosen = |platform: &str| {
            choose(&entries, &platform.parse().unwrap())
                .map(|found| found.digest.hex().chars().next().unwrap())
        };
        assert_eq!(chosen("linux/amd64"), Some('d'));
        assert_eq!(chosen("linux/amd64/v2"), Some('d'));
        assert_eq!(chosen("linux/arm64"), Some('c'));
        assert_eq!(chosen("linux/arm/v7"), Some('b'));
        assert_eq!(chosen("linux/arm/v5"), None);
        assert_eq!(chosen("windows/amd64"), None);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let descriptor = |c, size: u64| json!({"digest": sha(c), "size": size, "mediaType": "m"});
        let good =
            json!({"schemaVersion": 2, "config": descriptor('a', 1), "layers": [descriptor('b', 1 << 35)]});
        assert!(matches!(parse(&good).unwrap(), Document::Manifest { layers, .. } if layers.len() == 1));
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        for (bad, said) in [
            (json!({"schemaVersion": 1, "manifests": []}), "schema version 1"),
            (json!({"schemaVersion": 2}), "neither"),
            (json!({"schemaVersion": 2, "layers": []}), "neither"),
            (json!({"schemaVersion": 2, "manifests": [], "config": descriptor('a', 1)}), "at once"),
            (json!({"schemaVersion": 2, "manifests": [], "layers": []}), "at once"),
            (json!({"schemaVersion": 2, "config": descriptor('a', 5 << 20)}), "no part of an image"),
            (
                json!({"schemaVersion": 2, "config": {"digest": "sha256:../x", "size": 1}}),
                "no JSON of an image",
            ),
            (json!({"schemaVersion": 2, "config": {"digest": sha('a'), "size": -1}}), "no JSON of an image"),
            (json!({"schemaVersion": 2, "manifests": vec![descriptor('a', 1); 1001]}), "more than 1000"),
            (
                json!({"schemaVersion": 2, "config": descriptor('a', 1),
                       "layers": [{"digest": sha('b'), "size": 1, "mediaType": foreign}]}),
                "fetched elsewhere",
            ),
        ] {
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert_eq!(
            platform_of(br#"{"os":"linux","architecture":"amd64"}"#).unwrap().to_string(),
            "linux/amd64"
        );
        assert!(platform_of(b"{}").is_err() && platform_of(b"[").is_err());
    }
}
