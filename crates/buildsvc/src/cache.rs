//! Where a build's cache is read from and written to: the grammar of `--cache-from` and `--cache-to`.
//!
//! Follows docker buildx (`util/buildflags/cache.go`).

use std::collections::BTreeMap;

use crate::build::CacheEntry;
use crate::csv::{self, CsvError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheError {
    #[error(transparent)]
    Csv(#[from] CsvError),
    #[error("{0:?} is not of the form KEY=VALUE")]
    NotAPair(String),
    #[error("{0:?} has no type, such as type=registry")]
    NoType(String),
    #[error("type={kind} needs {key}")]
    Missing { kind: String, key: &'static str },
}

/// All values of the flag, empty ones left out. References alone are caches in registries. `place` is what a local cache's
/// directory is called: `src` or `dest`.
pub fn list<S: AsRef<str>>(values: &[S], place: &'static str) -> Result<Vec<CacheEntry>, CacheError> {
    let mut entries = Vec::new();
    for value in values.iter().map(AsRef::as_ref).filter(|value| !value.is_empty()) {
        if value.contains('=') {
            entries.push(entry(value, place)?);
            continue;
        }
        for reference in csv::fields(value)? {
            entries.push(CacheEntry::new("registry", [("ref".to_owned(), reference)]));
        }
    }
    Ok(entries)
}

fn entry(text: &str, place: &'static str) -> Result<CacheEntry, CacheError> {
    let (mut kind, mut attrs) = (String::new(), BTreeMap::new());
    for field in csv::fields(text)? {
        let Some((key, value)) = field.split_once('=') else { return Err(CacheError::NotAPair(field)) };
        match key.to_ascii_lowercase().as_str() {
            "type" => value.clone_into(&mut kind),
            key => drop(attrs.insert(key.to_owned(), value.to_owned())),
        }
    }
    let needed = match kind.as_str() {
        "" => return Err(CacheError::NoType(text.to_owned())),
        "registry" => Some("ref"),
        "local" => Some(place),
        _ => None,
    };
    match needed.filter(|key| attrs.get(*key).is_none_or(String::is_empty)) {
        Some(key) => Err(CacheError::Missing { kind, key }),
        None => Ok(CacheEntry::new(&kind, attrs)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let entry = |kind: &str, attrs: &[(&str, &str)]| {
            CacheEntry::new(kind, attrs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
        };
        for (text, want) in [
            ("", vec![]),
            ("user/app:cache", vec![entry("registry", &[("ref", "user/app:cache")])]),
            ("a,b", vec![entry("registry", &[("ref", "a")]), entry("registry", &[("ref", "b")])]),
            ("type=local,src=dir,Tag=x", vec![entry("local", &[("src", "dir"), ("tag", "x")])]),
            ("type=inline", vec![entry("inline", &[])]),
            ("type=s3,region=r,bucket=b", vec![entry("s3", &[("region", "r"), ("bucket", "b")])]),
        ] {
            assert_eq!(list(&[text], "src").unwrap(), want, "{text}");
        }
        for (text, want) in [
            ("ref=x", CacheError::NoType("ref=x".into())),
            ("type=registry", CacheError::Missing { kind: "registry".into(), key: "ref" }),
            ("type=local,dest=x", CacheError::Missing { kind: "local".into(), key: "src" }),
            ("type=local,src", CacheError::NotAPair("src".into())),
        ] {
            assert_eq!(list(&[text], "src").unwrap_err(), want, "{text}");
        }
    }
}
