//! All that a build of a Dockerfile fetches: images with the platforms that they are wanted for, and what `ADD` takes from web
//! servers and repositories.
//!
//! Who pins these beforehand must know each of them. So, other than for logins, a name that hangs on what is not known here is
//! told instead of left out: on a variable of a base image, say.
//!
//! Follows `dispatchCopy` of `dockerfile2llb/convert.go` below `frontend/dockerfile` of moby/buildkit.

use std::collections::{BTreeMap, BTreeSet};

use super::expansion::Scope;
use super::instructions::words;
use super::parted;
use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::remote::{self, GitSource};

/// URLs and repositories, each.
const ADDED_LIMIT: usize = 2_000;

/// What a build fetches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Of `# syntax=`, or of the build argument that goes before it.
    pub frontend: Option<ImageRef>,
    pub images: BTreeMap<ImageRef, BTreeSet<Platform>>,
    pub urls: Vec<UrlSource>,
    pub gits: Vec<GitSource>,
    /// What cannot be known here, in words.
    pub unknown: Vec<String>,
    /// What is more likely a file of the context, and cannot be known either.
    pub unsure: Vec<String>,
    /// Names of the Dockerfile's own stages.
    pub stages: BTreeSet<String>,
}

/// A file of a web server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlSource {
    pub url: String,
    /// What the Dockerfile itself says that it must be.
    pub checksum: Option<Digest>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SourcesError {
    #[error("it is longer than {} bytes", super::TEXT_LIMIT)]
    TooLong,
    #[error("it has more than {} instructions", super::INSTRUCTIONS_LIMIT)]
    TooManyInstructions,
    #[error("it names {} images or more", super::REFERENCES_LIMIT)]
    TooManyImages,
}

impl Sources {
    fn unknown(&mut self, what: String) {
        if self.unknown.len() < ADDED_LIMIT && !self.unknown.contains(&what) {
            self.unknown.push(what);
        }
    }
}

/// `ADD [--checksum=…] SOURCE… DEST`, in either form.
pub(super) fn add(rest: &str, scope: &Scope, escape: char, sources: &mut Sources) {
    let (flags, words) = parted(rest);
    let list = words.join(" ");
    let mut items: Vec<String> = match serde_json::from_str(&list) {
        Ok(items) if list.starts_with('[') => items,
        _ => words,
    };
    // The last is where they go.
    items.pop();
    let checksum = flags.iter().find_map(|flag| flag.strip_prefix("--checksum="));
    let checksum = checksum.map(|text| (text, scope.expand(text, escape)));
    let keeps = flags.iter().any(|flag| matches!(flag.as_str(), "--keep-git-dir" | "--keep-git-dir=true"));
    for item in items {
        let Some(source) = scope.expand(&item, escape) else {
            if item.contains("://") || item.contains('@') {
                sources.unknown(format!("ADD {item}"));
            } else if item.starts_with('$') && sources.unsure.len() < ADDED_LIMIT {
                sources.unsure.push(format!("ADD {item}"));
            }
            continue;
        };
        let git = GitSource::parse(&source);
        if git.is_none() && !remote::is_http(&source) {
            continue;
        }
        let checksum = match &checksum {
            None => None,
            Some((_, Some(known))) => Some(known.clone()),
            Some((text, None)) => {
                sources.unknown(format!("ADD --checksum={text} {source}"));
                continue;
            }
        };
        if sources.urls.len() >= ADDED_LIMIT || sources.gits.len() >= ADDED_LIMIT {
            sources.unknown(format!("ADD {source}: one of too many"));
            continue;
        }
        match git {
            Some(mut git) => {
                git.checksum = checksum.or(git.checksum);
                git.keep_git_dir |= keeps;
                if !sources.gits.contains(&git) {
                    sources.gits.push(git);
                }
            }
            None => match checksum.map(|text| text.parse::<Digest>()).transpose() {
                Ok(checksum) => {
                    let url = UrlSource { url: source, checksum };
                    if !sources.urls.contains(&url) {
                        sources.urls.push(url);
                    }
                }
                Err(error) => sources.unknown(format!("ADD {source}: {error}")),
            },
        }
    }
}

/// `ENV NAME=VALUE…` or `ENV NAME VALUE`.
pub(super) fn set(scope: &mut Scope, rest: &str, escape: char) {
    let words = words(rest);
    if words.first().is_some_and(|word| !word.contains('=')) {
        let (name, value) = rest.trim().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
        let value = scope.expand(value.trim(), escape);
        scope.set(name, value);
        return;
    }
    // All of one instruction see what was there before it.
    let before = scope.clone();
    for (name, value) in words.iter().filter_map(|word| word.split_once('=')) {
        scope.set(name, before.expand(value, escape));
    }
}
