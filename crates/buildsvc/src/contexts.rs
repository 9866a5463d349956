//! Named contexts: the grammar of `--build-context`.
//!
//! Follows docker buildx (`util/buildflags/context.go`, `build/opt.go`). A name is one of an image, in the form that people
//! write and without the tag that everybody means: `FROM alpine` and `FROM docker.io/library/alpine:latest` are replaced alike.

use std::path::PathBuf;

use crate::ocilayout::{LayoutError, LayoutRef};
use crate::reference::{ImageRef, ReferenceError};
use crate::remote;

/// One parsed `--build-context`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedContext {
    pub name: String,
    pub source: ContextSource,
}

/// Where a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// Something that the daemon fetches: `docker-image://…`, a URL, a repository.
    Remote(String),
    Layout(LayoutRef),
    Directory(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("{0:?} is not of the form NAME=VALUE")]
    NotAPair(String),
    #[error("{name:?} cannot be the name of a context")]
    Name { name: String, source: ReferenceError },
    #[error("{0:?} is no image in a directory")]
    Layout(String, #[source] LayoutError),
    #[error("{0:?} belongs to docker buildx bake: a build has no other targets")]
    Target(String),
}

impl NamedContext {
    /// Parses all values of the flag, empty ones left out. Of several with one name the last counts.
    pub fn list<S: AsRef<str>>(values: &[S]) -> Result<Vec<NamedContext>, ContextError> {
        let mut contexts: Vec<NamedContext> = Vec::new();
        for value in values.iter().map(AsRef::as_ref).filter(|value| !value.is_empty()) {
            let context = NamedContext::parse(value)?;
            contexts.retain(|known| known.name != context.name);
            contexts.push(context);
        }
        Ok(contexts)
    }

    fn parse(text: &str) -> Result<NamedContext, ContextError> {
        let (name, value) = text.split_once('=').ok_or_else(|| ContextError::NotAPair(text.to_owned()))?;
        let reference: ImageRef =
            name.parse().map_err(|source| ContextError::Name { name: name.to_owned(), source })?;
        let familiar = reference.familiar();
        let name = familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned();
        let source = if value.starts_with("docker-image://") || remote::is_remote(value) {
            ContextSource::Remote(value.to_owned())
        } else if value.starts_with("target:") {
            return Err(ContextError::Target(value.to_owned()));
        } else if let Some(layout) = LayoutRef::parse(value) {
            ContextSource::Layout(layout.map_err(|error| ContextError::Layout(value.to_owned(), error))?)
        } else {
            ContextSource::Directory(value.into())
        };
        Ok(NamedContext { name, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_contexts() {
        use ContextSource as S;
        let layout = || LayoutRef { path: "dir".into(), tag: Some("v1".into()), digest: None };
        for (text, name, source) in [
            ("base=docker-image://alpine", "base", S::Remote("docker-image://alpine".into())),
            ("alpine:latest=../dir", "alpine", S::Directory("../dir".into())),
            ("docker.io/library/alpine:3=dir", "alpine:3", S::Directory("dir".into())),
            ("r.example/a=https://h/x.git#y", "r.example/a", S::Remote("https://h/x.git#y".into())),
            ("x=oci-layout://dir:v1", "x", S::Layout(layout())),
            ("x=a=b", "x", S::Directory("a=b".into())),
        ] {
            let want = NamedContext { name: name.to_owned(), source };
            assert_eq!(NamedContext::list(&[text]).unwrap(), [want], "{text}");
        }
        for bad in ["x", "X=dir", "=dir", "a b=dir", "x=target:y", "x=oci-layout://d@sha256:1"] {
            assert!(NamedContext::list(&[bad]).is_err(), "{bad}");
        }
        let last = NamedContext::list(&["a=1", "b=2", "", "a:latest=3"]).unwrap();
        assert_eq!(last.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    }
}
