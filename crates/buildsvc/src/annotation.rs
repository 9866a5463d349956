//! Annotations of an image: the grammar of `--annotation`.
//!
//! Follows docker buildx (`util/buildflags/export.go`); the exporters' attribute names follow moby/buildkit
//! `exporter/containerimage/exptypes/annotations.go`.

use crate::platform::{Platform, PlatformError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    #[error("{0:?} is not of the form KEY=VALUE or TYPE:KEY=VALUE")]
    NotAPair(String),
    #[error(
        "{0:?} is no place for an annotation; there are index, index-descriptor, manifest[PLATFORM] and manifest-descriptor[PLATFORM]"
    )]
    Place(String),
    #[error(transparent)]
    Platform(#[from] PlatformError),
}

/// The exporter attributes of one `[TYPE[PLATFORM][,TYPE…]:]KEY=VALUE`; none for an empty text.
pub fn attrs(text: &str) -> Result<Vec<(String, String)>, AnnotationError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let (name, value) = text.split_once('=').ok_or_else(|| AnnotationError::NotAPair(text.to_owned()))?;
    let (places, key) = match name.split_once(':') {
        Some((places, key)) => (Some(places), key),
        None => (None, name),
    };
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(AnnotationError::NotAPair(text.to_owned()));
    }
    let Some(places) = places else {
        return Ok(vec![(format!("annotation.{key}"), value.to_owned())]);
    };
    places
        .split(',')
        .map(|place| Ok((format!("annotation-{}.{key}", normal(place)?), value.to_owned())))
        .collect()
}

fn normal(place: &str) -> Result<String, AnnotationError> {
    let bad = || AnnotationError::Place(place.to_owned());
    let (kind, platform) = match place.split_once('[') {
        Some((kind, rest)) => (kind, Some(rest.strip_suffix(']').ok_or_else(bad)?)),
        None => (place, None),
    };
    match (kind, platform) {
        // An index is of no platform; docker drops one that is given.
        ("index" | "index-descriptor", _) | ("manifest" | "manifest-descriptor", None) => Ok(kind.to_owned()),
        ("manifest" | "manifest-descriptor", Some(platform)) => {
            Ok(format!("{kind}[{}]", platform.parse::<Platform>()?))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_keys() {
        for (text, want) in [
            ("", &[][..]),
            ("a=b=c", &[("annotation.a", "b=c")]),
            ("org.x/y=", &[("annotation.org.x/y", "")]),
            ("index:a=b", &[("annotation-index.a", "b")]),
            ("manifest[linux/amd64]:a=b", &[("annotation-manifest[linux/amd64].a", "b")]),
            (
                "index,manifest-descriptor[linux/arm64/v8]:a=b",
                &[("annotation-index.a", "b"), ("annotation-manifest-descriptor[linux/arm64].a", "b")],
            ),
        ] {
            let got = attrs(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let got: Vec<_> = got.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            assert_eq!(got, want, "{text}");
        }
        for bad in
            ["a", "=b", "manifest:=b", "image:a=b", "manifest[linux:a=b", "manifest[nope/x y]:a=b", "a b=c"]
        {
            assert!(attrs(bad).is_err(), "{bad}");
        }
    }
}
