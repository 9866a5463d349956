//! `ktl.lock`: what a Dockerfile's names meant when they were resolved.
//!
//! A tag, a URL and a branch can mean something else tomorrow. The lock says what each of them is: an image's digest, the
//! checksum of a file, a commit. It lies beside the Dockerfile, is committed with it, and reads well in a review: TOML,
//! one table for each name, sorted, so that two people who add different things seldom collide.
//!
//! A lock decides what goes into a build, so what is not understood is refused: another version, an unknown key, a name
//! given twice. Its [`Lock::digest`] is that of what it says and not of how it is written: comments, blank lines and order do
//! not change it.

mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::remote;

/// Name of the file.
pub const FILE: &str = "ktl.lock";
/// A larger file is not read.
pub const SIZE_LIMIT: u64 = 4 << 20;
/// Of each kind.
const ENTRIES_LIMIT: usize = 2_000;
const PLATFORMS_LIMIT: usize = 100;
const URL_LIMIT: usize = 4 << 10;
const VERSION: i64 = 1;

/// Names and what they mean, each name once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    images: BTreeMap<ImageRef, LockedImage>,
    urls: BTreeMap<String, LockedUrl>,
    gits: BTreeMap<String, LockedGit>,
}

/// An image that was pulled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedImage {
    /// As the Dockerfile means it, in full.
    pub reference: ImageRef,
    /// What the registry gave for it: an index, or the manifest of an image that has one platform.
    pub digest: Digest,
    /// The manifests that were pulled. One that stands alone is here as well.
    pub platforms: BTreeMap<Platform, Digest>,
}

/// A file of a web server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedUrl {
    pub url: String,
    /// Always sha256.
    pub checksum: Digest,
    pub size: u64,
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedGit {
    /// `URL#REF` without a directory, as the Dockerfile has it.
    pub url: String,
    pub commit: String,
    /// The manifests of the images that hold its files, by [`GitSource::part`](crate::remote::GitSource::part).
    #[serde(default)]
    pub trees: BTreeMap<String, Digest>,
}

/// Why a file is no lock.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    #[error("longer than {SIZE_LIMIT} bytes")]
    TooLong,
    #[error("not UTF-8")]
    NotText,
    #[error("line {line}: {why}")]
    Line { line: usize, why: String },
    #[error("version {0} of the lock is not known; there is version {VERSION}")]
    Version(i64),
    #[error("{0:?} is locked twice")]
    Twice(String),
    #[error("more than {ENTRIES_LIMIT} entries of one kind")]
    TooMany,
    #[error("{name:?}: {why}")]
    Entry { name: String, why: &'static str },
}

impl Lock {
    pub fn read(bytes: &[u8]) -> Result<Lock, LockError> {
        if bytes.len() as u64 > SIZE_LIMIT {
            return Err(LockError::TooLong);
        }
        text::read(std::str::from_utf8(bytes).map_err(|_| LockError::NotText)?)
    }

    /// The file's bytes: the same for locks that say the same.
    pub fn to_bytes(&self) -> Vec<u8> {
        text::write(self).into_bytes()
    }

    /// sha256 of [`Lock::to_bytes`].
    pub fn digest(&self) -> Digest {
        let sum = Sha256::digest(self.to_bytes());
        Digest::sha256(&sum.into())
    }

    pub fn images(&self) -> impl ExactSizeIterator<Item = &LockedImage> {
        self.images.values()
    }

    pub fn urls(&self) -> impl ExactSizeIterator<Item = &LockedUrl> {
        self.urls.values()
    }

    pub fn gits(&self) -> impl ExactSizeIterator<Item = &LockedGit> {
        self.gits.values()
    }

    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.urls.is_empty() && self.gits.is_empty()
    }

    pub fn image(&self, reference: &ImageRef) -> Option<&LockedImage> {
        self.images.get(reference)
    }

    pub fn url(&self, url: &str) -> Option<&LockedUrl> {
        self.urls.get(url)
    }

    pub fn git(&self, url: &str) -> Option<&LockedGit> {
        self.gits.get(url)
    }

    pub fn add_image(&mut self, image: LockedImage) -> Result<(), LockError> {
        image.check()?;
        add(&mut self.images, image.reference.clone(), image)
    }

    pub fn add_url(&mut self, url: LockedUrl) -> Result<(), LockError> {
        url.check()?;
        add(&mut self.urls, url.url.clone(), url)
    }

    pub fn add_git(&mut self, git: LockedGit) -> Result<(), LockError> {
        git.check()?;
        add(&mut self.gits, git.url.clone(), git)
    }
}

fn add<K: Ord + std::fmt::Display, V>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Result<(), LockError> {
    if map.contains_key(&key) {
        return Err(LockError::Twice(key.to_string()));
    }
    if map.len() >= ENTRIES_LIMIT {
        return Err(LockError::TooMany);
    }
    map.insert(key, value);
    Ok(())
}

impl LockedImage {
    fn check(&self) -> Result<(), LockError> {
        let wrong = |why| Err(LockError::Entry { name: self.reference.to_string(), why });
        if self.reference.digest().is_some_and(|digest| digest != self.digest.as_str()) {
            return wrong("the reference itself names another digest");
        }
        if self.platforms.is_empty() {
            return wrong("no platform");
        }
        if self.platforms.len() > PLATFORMS_LIMIT {
            return wrong("too many platforms");
        }
        Ok(())
    }

    /// The manifest that a builder takes for `platform`: that one's, or else the best that its processor runs as well.
    pub fn manifest(&self, platform: &Platform) -> Option<&Digest> {
        platform.with_lesser().iter().find_map(|platform| self.platforms.get(platform))
    }
}

impl LockedUrl {
    fn check(&self) -> Result<(), LockError> {
        let wrong = |why| Err(LockError::Entry { name: self.url.clone(), why });
        if !remote::is_http(&self.url) || !is_one_word(&self.url) {
            return wrong("no http(s) URL");
        }
        if self.checksum.algorithm() != "sha256" {
            return wrong("the checksum is no sha256");
        }
        Ok(())
    }
}

impl LockedGit {
    fn check(&self) -> Result<(), LockError> {
        let wrong = |why| Err(LockError::Entry { name: self.url.clone(), why });
        if !remote::is_remote(&self.url) || !is_one_word(&self.url) {
            return wrong("no URL of a repository");
        }
        let hex = self.commit.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex || !matches!(self.commit.len(), 40 | 64) {
            return wrong("the commit is no full hash");
        }
        if self.trees.len() > PLATFORMS_LIMIT {
            return wrong("too many trees");
        }
        if self.trees.keys().any(|part| part.len() > URL_LIMIT || part.chars().any(char::is_control)) {
            return wrong("a tree with a name that is none");
        }
        Ok(())
    }
}

fn is_one_word(url: &str) -> bool {
    url.len() <= URL_LIMIT && !url.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests;
