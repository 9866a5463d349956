//! An image archive in a file: an OCI image layout in one tar, and where in it the blobs are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;
use sha2::Digest as _;

use super::CompareError;

/// Of manifests, configs and indexes.
const JSON_LIMIT: u64 = 16 << 20;
const BLOBS_LIMIT: usize = 100_000;
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub struct Archive {
    file: File,
    path: String,
    /// By hexadecimal digits: where, and how long.
    blobs: BTreeMap<String, (u64, u64)>,
    pub(super) index: Value,
}

impl Archive {
    pub fn open(path: &Path) -> Result<Archive, CompareError> {
        let shown = path.display().to_string();
        let failed = |source| CompareError::Read { path: shown.clone(), source };
        let file = File::open(path).map_err(failed)?;
        let mut archive = Archive { file, path: shown.clone(), blobs: BTreeMap::new(), index: Value::Null };
        let reader = archive.file.try_clone().map_err(failed)?;
        let mut tar = tar::Archive::new(reader);
        let mut index = None;
        for entry in tar.entries_with_seek().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let place = (entry.raw_file_position(), entry.size());
            let name = entry.path_bytes();
            if &*name == b"index.json" {
                index = Some(place);
            } else if let Some(hex) = name.strip_prefix(b"blobs/sha256/".as_slice())
                && let Ok(hex) = std::str::from_utf8(hex)
            {
                archive.blobs.insert(hex.to_owned(), place);
                if archive.blobs.len() > BLOBS_LIMIT {
                    return Err(archive.broken(format!("more than {BLOBS_LIMIT} blobs")));
                }
            }
        }
        let index = index.ok_or_else(|| archive.broken("no index.json"))?;
        let bytes = archive.bytes(index)?;
        archive.index = archive.parsed("index.json", &bytes)?;
        Ok(archive)
    }

    /// A document, whose bytes have that digest.
    pub fn json(&self, digest: &str) -> Result<Value, CompareError> {
        let bytes = self.bytes(self.place(digest)?)?;
        self.is(digest, &sha2::Sha256::digest(&bytes))?;
        self.parsed(digest, &bytes)
    }

    /// Reads a blob of any size to see that its bytes have that digest.
    pub fn check(&self, digest: &str) -> Result<(), CompareError> {
        let mut section = self.blob(digest)?;
        let (mut sum, mut chunk) = (sha2::Sha256::new(), vec![0; CHUNK]);
        loop {
            match section.read(&mut chunk).map_err(|source| self.read_error(source))? {
                0 => return self.is(digest, &sum.finalize()),
                read => sum.update(&chunk[..read]),
            }
        }
    }

    fn is(&self, digest: &str, sum: &[u8]) -> Result<(), CompareError> {
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        match digest.strip_prefix("sha256:") == Some(sum.as_str()) {
            true => Ok(()),
            false => Err(self.broken(format!("the blob {digest} has other bytes"))),
        }
    }

    /// The bytes of a blob, as often as they are asked for.
    pub fn blob(&self, digest: &str) -> Result<Section<'_>, CompareError> {
        let (at, size) = self.place(digest)?;
        Ok(Section { file: &self.file, at, end: at.saturating_add(size) })
    }

    pub fn broken(&self, what: impl Into<String>) -> CompareError {
        CompareError::Broken { path: self.path.clone(), what: what.into() }
    }

    pub fn read_error(&self, source: io::Error) -> CompareError {
        CompareError::Read { path: self.path.clone(), source }
    }

    fn place(&self, digest: &str) -> Result<(u64, u64), CompareError> {
        let found = digest.strip_prefix("sha256:").and_then(|hex| self.blobs.get(hex));
        found.copied().ok_or_else(|| self.broken(format!("no blob {digest:?}")))
    }

    fn bytes(&self, (at, size): (u64, u64)) -> Result<Vec<u8>, CompareError> {
        if size > JSON_LIMIT {
            return Err(self.broken(format!("a document of {size} bytes")));
        }
        let mut bytes = Vec::new();
        let mut section = Section { file: &self.file, at, end: at.saturating_add(size) };
        section.read_to_end(&mut bytes).map_err(|source| self.read_error(source))?;
        Ok(bytes)
    }

    fn parsed(&self, name: &str, bytes: &[u8]) -> Result<Value, CompareError> {
        serde_json::from_slice(bytes).map_err(|error| self.broken(format!("{name} is no JSON: {error}")))
    }
}

/// A part of a file. It has a place of its own, so that several can be read at once.
#[derive(Debug, Clone)]
pub struct Section<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
