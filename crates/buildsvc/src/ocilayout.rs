//! Images in directories: `oci-layout://PATH[:TAG][@DIGEST]`, and the index that such a directory has.
//!
//! Follows docker buildx (`util/ocilayout`) and moby/buildkit `client/ociindex`.

use serde_json::{Map, Value, json};

use crate::digest::{Digest, DigestError};

const PREFIX: &str = "oci-layout://";
const IMAGE_NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Name of the index in a layout.
pub const INDEX: &str = "index.json";
/// Of an index: it has a line for each image.
pub const MAX_INDEX: u64 = 4 << 20;

/// An image in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutRef {
    pub path: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error("index.json is no JSON")]
    Json(#[from] serde_json::Error),
    #[error("index.json is no index of images")]
    NoIndex,
    #[error("the layout has no image {0:?}")]
    NoImage(String),
}

impl LayoutRef {
    /// `None` for what is no reference of this kind.
    pub fn parse(text: &str) -> Option<Result<LayoutRef, LayoutError>> {
        Some(LayoutRef::read(text.strip_prefix(PREFIX)?))
    }

    fn read(mut path: &str) -> Result<LayoutRef, LayoutError> {
        let (mut tag, mut digest) = (None, None);
        if let Some((before, after)) = path.rsplit_once('@')
            && after.contains(':')
            && !after.contains('/')
        {
            (path, digest) = (before, Some(after.parse()?));
        }
        if let Some((before, after)) = path.rsplit_once(':')
            && is_tag(after)
        {
            (path, tag) = (before, Some(after.to_owned()));
        }
        if tag.is_none() && digest.is_none() {
            tag = Some("latest".to_owned());
        }
        Ok(LayoutRef { path: path.to_owned(), tag, digest })
    }

    /// What the daemon is told: the store stands for the path.
    pub fn attr(&self, store: &str, digest: &Digest) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        format!("{PREFIX}{store}{tag}@{digest}")
    }
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&text.len())
        && word(text.as_bytes()[0])
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// `index.json` of a layout. Entries of which nothing is known are kept as they are.
#[derive(Debug, Clone)]
pub struct LayoutIndex(Map<String, Value>);

impl Default for LayoutIndex {
    fn default() -> LayoutIndex {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [],
        });
        LayoutIndex(index.as_object().cloned().unwrap_or_default())
    }
}

impl LayoutIndex {
    pub fn parse(json: &[u8]) -> Result<LayoutIndex, LayoutError> {
        let Value::Object(mut index) = serde_json::from_slice(json)? else {
            return Err(LayoutError::NoIndex);
        };
        for (key, value) in LayoutIndex::default().0 {
            let found = index.entry(key).or_insert(value);
            if found.is_null() {
                *found = json!([]);
            }
        }
        if !index["manifests"].is_array() {
            return Err(LayoutError::NoIndex);
        }
        Ok(LayoutIndex(index))
    }

    fn manifests(&self) -> &[Value] {
        self.0.get("manifests").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The image called `tag`.
    pub fn find(&self, tag: &str) -> Result<Digest, LayoutError> {
        let named = |key: &str| {
            self.manifests().iter().find(|manifest| manifest["annotations"][key].as_str() == Some(tag))
        };
        let manifest = named(IMAGE_NAME).or_else(|| named(REF_NAME));
        digest(manifest.ok_or_else(|| LayoutError::NoImage(tag.to_owned()))?)
    }

    /// The image called `tag`, or the only one that there is.
    pub fn find_or_only(&self, tag: &str) -> Result<Digest, LayoutError> {
        match (self.find(tag), self.manifests()) {
            (Err(LayoutError::NoImage(_)), [only]) => digest(only),
            (found, _) => found,
        }
    }

    /// Gives `descriptor` the tag, and takes it from whatever had it.
    pub fn put(&mut self, mut descriptor: Map<String, Value>, tag: &str) {
        let mut annotations = match descriptor.remove("annotations") {
            Some(Value::Object(annotations)) => annotations,
            _ => Map::new(),
        };
        annotations.insert(REF_NAME.to_owned(), tag.into());
        descriptor.insert("annotations".to_owned(), annotations.into());
        if let Some(Value::Array(manifests)) = self.0.get_mut("manifests") {
            let is_it = |manifest: &Value| {
                let name = |key: &str| manifest["annotations"][key].as_str().unwrap_or_default();
                name(REF_NAME) == tag && name(IMAGE_NAME).is_empty()
            };
            manifests.retain(|manifest| !is_it(manifest));
            manifests.push(descriptor.into());
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }
}

fn digest(manifest: &Value) -> Result<Digest, LayoutError> {
    Ok(manifest["digest"].as_str().unwrap_or_default().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    #[test]
    fn references() {
        let pinned = format!("oci-layout://dir:v1@{}", sha('a'));
        for (text, path, tag, digest) in [
            ("oci-layout://dir", "dir", Some("latest"), None),
            ("oci-layout:///a/b:v1", "/a/b", Some("v1"), None),
            ("oci-layout:///a:b/c", "/a:b/c", Some("latest"), None),
            ("oci-layout://a@b/c", "a@b/c", Some("latest"), None),
            (pinned.as_str(), "dir", Some("v1"), Some(sha('a'))),
            (&format!("oci-layout://dir@{}", sha('a')), "dir", None, Some(sha('a'))),
        ] {
            let got = LayoutRef::parse(text).unwrap().unwrap();
            let digest = digest.map(|digest| digest.parse().unwrap());
            let want = LayoutRef { path: path.to_owned(), tag: tag.map(str::to_owned), digest };
            assert_eq!(got, want, "{text}");
        }
        assert!(LayoutRef::parse("docker-image://a").is_none());
        assert!(LayoutRef::parse("oci-layout://dir@sha256:12").unwrap().is_err());
        let layout = LayoutRef::parse(&pinned).unwrap().unwrap();
        let attr = layout.attr("id", &sha('b').parse().unwrap());
        assert_eq!(attr, format!("oci-layout://id:v1@{}", sha('b')));
    }

    #[test]
    fn images_by_their_tags() {
        let text = json!({"manifests": [
            {"digest": sha('a'), "annotations": {REF_NAME: "v1"}},
            {"digest": sha('b'), "annotations": {IMAGE_NAME: "docker.io/library/x:v1", REF_NAME: "v1"}},
        ]});
        let mut index = LayoutIndex::parse(text.to_string().as_bytes()).unwrap();
        assert_eq!(index.find("v1").unwrap().to_string(), sha('a'));
        assert_eq!(index.find("docker.io/library/x:v1").unwrap().to_string(), sha('b'));
        assert!(index.find("v2").is_err() && index.find_or_only("v2").is_err());
        index.put(json!({"digest": sha('c'), "size": 1}).as_object().cloned().unwrap(), "v1");
        assert_eq!(index.manifests().len(), 2, "the named one stays");
        assert_eq!(LayoutIndex::parse(&index.to_json()).unwrap().find("v1").unwrap().to_string(), sha('b'));

        let single =
            LayoutIndex::parse(format!(r#"{{"manifests":[{{"digest":"{}"}}]}}"#, sha('d')).as_bytes());
        assert_eq!(single.unwrap().find_or_only("any").unwrap().to_string(), sha('d'));
        for bad in ["", "[]", r#"{"manifests": 1}"#] {
            assert!(LayoutIndex::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(
            LayoutIndex::parse(br#"{"manifests":[{"digest":"../x"}]}"#).unwrap().find_or_only("a").is_err()
        );
    }
}
