//! Image archives, hashed again as they go by.
//!
//! A daemon says what it exported: the digest of the image. [`Inspector`] reads the archive that it sends, piece by piece and
//! keeping nothing but the index, and so knows what was exported: every blob must be what its name says, and the index names
//! the image. Follows the OCI image layout, the tar of POSIX 1003.1 (ustar, with sizes and paths of pax), and what
//! containerd `images/archive/exporter.go` makes of both.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::digest::Digest;
use crate::ocilayout::{INDEX, MAX_INDEX};

const BLOCK: usize = 512;
/// Entries of an archive: an image has some hundred blobs.
const MAX_ENTRIES: usize = 100_000;
/// Of a pax header.
const MAX_PAX: u64 = 64 << 10;

/// Why an archive is not an image that can be vouched for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    #[error("it is no proper tar: {0}")]
    Tar(&'static str),
    #[error("its entry {name:?} {reason}")]
    Entry { name: String, reason: &'static str },
    #[error("its blob {name} has the digest {got}")]
    Blob { name: Digest, got: Digest },
    #[error("its index names {0}, which is not in it")]
    Missing(Digest),
    #[error("it has no index of images")]
    NoIndex,
}

/// What an archive turned out to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// What the index names.
    pub images: BTreeSet<Digest>,
    pub blobs: usize,
}

/// Reads an archive in pieces of any size.
#[derive(Debug, Default)]
pub struct Inspector {
    header: Vec<u8>,
    entry: Option<Entry>,
    pax: Pax,
    seen: BTreeSet<String>,
    blobs: BTreeSet<Digest>,
    index: Option<Vec<u8>>,
    /// Two blocks of zeros have come, or the first of them.
    zeros: usize,
}

/// What a pax header says of the next entry.
#[derive(Debug, Default)]
struct Pax {
    path: Option<String>,
    size: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    left: u64,
    padding: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Blob(Digest, Box<Sum>),
    Index(Vec<u8>),
    Pax(Vec<u8>),
    Other,
}

#[derive(Debug)]
enum Sum {
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl Sum {
    fn of(digest: &Digest) -> Sum {
        match digest.algorithm() {
            "sha384" => Sum::Sha384(Sha384::new()),
            "sha512" => Sum::Sha512(Sha512::new()),
            _ => Sum::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Sum::Sha256(sum) => sum.update(bytes),
            Sum::Sha384(sum) => sum.update(bytes),
            Sum::Sha512(sum) => sum.update(bytes),
        }
    }

    fn digest(self) -> Option<Digest> {
        let (algorithm, sum) = match self {
            Sum::Sha256(sum) => ("sha256", sum.finalize().to_vec()),
            Sum::Sha384(sum) => ("sha384", sum.finalize().to_vec()),
            Sum::Sha512(sum) => ("sha512", sum.finalize().to_vec()),
        };
        let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{algorithm}:{hex}").parse().ok()
    }
}

impl Inspector {
    /// The next bytes. After an error, what follows means nothing.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !bytes.is_empty() && self.zeros < 2 {
            let Some(entry) = &mut self.entry else {
                let (head, rest) = bytes.split_at(bytes.len().min(BLOCK - self.header.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if self.header.len() == BLOCK {
                    let header = std::mem::take(&mut self.header);
                    self.begin(&header)?;
                }
                continue;
            };
            let take = |left: u64| usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            if entry.left > 0 {
                let (piece, rest) = bytes.split_at(take(entry.left));
                match &mut entry.body {
                    Body::Blob(_, sum) => sum.update(piece),
                    Body::Index(kept) | Body::Pax(kept) => kept.extend_from_slice(piece),
                    Body::Other => {}
                }
                entry.left -= piece.len() as u64;
                bytes = rest;
            } else {
                let skipped = take(entry.padding);
                entry.padding -= skipped as u64;
                bytes = &bytes[skipped..];
            }
            self.end_of_entry()?;
        }
        Ok(())
    }

    /// What it held, once all has come.
    pub fn finish(self) -> Result<Contents, ArchiveError> {
        if self.entry.is_some() || !self.header.is_empty() || self.zeros == 0 {
            return Err(ArchiveError::Tar("it ends early"));
        }
        let index = self.index.ok_or(ArchiveError::NoIndex)?;
        let index: serde_json::Value = serde_json::from_slice(&index).map_err(|_| ArchiveError::NoIndex)?;
        let manifests = index.get("manifests").and_then(|list| list.as_array());
        let images: BTreeSet<Digest> = manifests
            .ok_or(ArchiveError::NoIndex)?
            .iter()
            .map(|manifest| manifest.get("digest")?.as_str()?.parse().ok())
            .collect::<Option<_>>()
            .filter(|images: &BTreeSet<Digest>| !images.is_empty())
            .ok_or(ArchiveError::NoIndex)?;
        match images.iter().find(|image| !self.blobs.contains(image)) {
            Some(missing) => Err(ArchiveError::Missing(missing.clone())),
            None => Ok(Contents { images, blobs: self.blobs.len() }),
        }
    }

    fn begin(&mut self, header: &[u8]) -> Result<(), ArchiveError> {
        if header.iter().all(|byte| *byte == 0) {
            self.zeros += 1;
            return Ok(());
        }
        if self.zeros > 0 {
            return Err(ArchiveError::Tar("an entry after its end"));
        }
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) })
            .sum();
        if number(&header[148..156]) != Some(sum) {
            return Err(ArchiveError::Tar("a header with a wrong checksum"));
        }
        let size = number(&header[124..136]).ok_or(ArchiveError::Tar("a header with a bad size"))?;
        let kind = header[156];
        let name = name(header);
        let fail = |name: &str, reason| Err(ArchiveError::Entry { name: name.to_owned(), reason });
        if kind == b'x' {
            if size > MAX_PAX {
                return fail(&name, "is too large a pax header");
            }
            self.open(size, Body::Pax(Vec::new()));
            return self.end_of_entry();
        }
        let pax = std::mem::take(&mut self.pax);
        let name = pax.path.unwrap_or(name);
        let size = pax.size.unwrap_or(size);
        let name = name.strip_prefix("./").unwrap_or(&name).trim_end_matches('/').to_owned();
        match kind {
            b'0' | 0 | b'5' => {}
            b'1' | b'2' => return fail(&name, "is a link"),
            _ => return fail(&name, "is of a kind that image archives do not have"),
        }
        if self.seen.len() >= MAX_ENTRIES {
            return Err(ArchiveError::Tar("too many entries"));
        }
        if !self.seen.insert(name.clone()) {
            return fail(&name, "is there twice");
        }
        let body = if kind == b'5' {
            Body::Other
        } else if let Some(blob) = name.strip_prefix("blobs/") {
            let Ok(digest) = blob.replacen('/', ":", 1).parse::<Digest>() else {
                return fail(&name, "is no blob's name");
            };
            let sum = Box::new(Sum::of(&digest));
            Body::Blob(digest, sum)
        } else if name == INDEX {
            if size > MAX_INDEX {
                return fail(&name, "is too large");
            }
            Body::Index(Vec::new())
        } else {
            Body::Other
        };
        self.open(size, body);
        self.end_of_entry()
    }

    fn open(&mut self, size: u64, body: Body) {
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        self.entry = Some(Entry { left: size, padding, body });
    }

    /// Closes the entry if it is complete.
    fn end_of_entry(&mut self) -> Result<(), ArchiveError> {
        let Some(entry) = self.entry.take_if(|entry| entry.left == 0 && entry.padding == 0) else {
            return Ok(());
        };
        match entry.body {
            Body::Blob(name, sum) => {
                let got = sum.digest().ok_or(ArchiveError::Tar("a blob without a digest"))?;
                if got != name {
                    return Err(ArchiveError::Blob { name, got });
                }
                self.blobs.insert(name);
            }
            Body::Index(index) => self.index = Some(index),
            Body::Pax(records) => self.pax = pax(&records)?,
            Body::Other => {}
        }
        Ok(())
    }
}

/// The name of an entry, with the prefix that ustar has for long ones.
fn name(header: &[u8]) -> String {
    let text = |field: &[u8]| {
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        String::from_utf8_lossy(&field[..end]).into_owned()
    };
    let (name, prefix) = (text(&header[..100]), text(&header[345..500]));
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() { format!("{prefix}/{name}") } else { name }
}

/// Octal digits, or for large numbers the binary form of GNU.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        return rest.iter().try_fold(u64::from(first & 0x7f), |number, byte| {
            number.checked_mul(256)?.checked_add(u64::from(*byte))
        });
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// Records of the form `LENGTH KEY=VALUE\n`.
fn pax(mut records: &[u8]) -> Result<Pax, ArchiveError> {
    let bad = || ArchiveError::Tar("a damaged pax header");
    let mut pax = Pax::default();
    while !records.is_empty() {
        let space = records.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = std::str::from_utf8(&records[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let length =
            length.filter(|length| *length > space + 1 && *length <= records.len()).ok_or_else(bad)?;
        let record = std::str::from_utf8(&records[space + 1..length]).map_err(|_| bad())?;
        let (key, value) = record.strip_suffix('\n').and_then(|r| r.split_once('=')).ok_or_else(bad)?;
        match key {
            "path" => pax.path = Some(value.to_owned()),
            "size" => pax.size = Some(value.parse().map_err(|_| bad())?),
            _ => {}
        }
        records = &records[length..];
    }
    Ok(pax)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(bytes: &[u8]) -> Digest {
        Digest::sha256(&Sha256::digest(bytes).into())
    }

    fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_entry_type(kind);
        header.set_path(name).unwrap();
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }

    /// An archive of one image; `also` may spoil it.
    fn archive(also: impl FnOnce(&mut tar::Builder<Vec<u8>>, &Digest)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let layer = vec![7; 100_000];
        let manifest = format!(r#"{{"layers":[{{"digest":"{}"}}]}}"#, sha256(&layer)).into_bytes();
        let image = sha256(&manifest);
        append(&mut builder, "blobs/", tar::EntryType::Directory, b"");
        append(&mut builder, "blobs/sha256/", tar::EntryType::Directory, b"");
        for blob in [&layer, &manifest] {
            let name = format!("blobs/sha256/{}", sha256(blob).hex());
            append(&mut builder, &name, tar::EntryType::Regular, blob);
        }
        append(&mut builder, "oci-layout", tar::EntryType::Regular, br#"{"imageLayoutVersion":"1.0.0"}"#);
        also(&mut builder, &image);
        builder.into_inner().unwrap()
    }

    fn index(builder: &mut tar::Builder<Vec<u8>>, image: &Digest) {
        let index = format!(r#"{{"manifests":[{{"digest":"{image}"}},{{"digest":"{image}"}}]}}"#);
        append(builder, "index.json", tar::EntryType::Regular, index.as_bytes());
    }

    fn inspect(archive: &[u8], piece: usize) -> Result<Contents, ArchiveError> {
        let mut inspector = Inspector::default();
        archive.chunks(piece).try_for_each(|piece| inspector.feed(piece))?;
        inspector.finish()
    }

    #[test]
    fn an_image_is_known_by_its_digest_however_it_is_cut() {
        let mut image = None;
        let archive = archive(|builder, digest| {
            index(builder, digest);
            image = Some(digest.clone());
        });
        for piece in [1, 511, 512, 513, 70_001, usize::MAX] {
            let contents = inspect(&archive, piece).unwrap();
            assert_eq!((contents.images.first(), contents.blobs), (image.as_ref(), 2), "{piece}");
        }
    }

    #[test]
    fn sizes_and_paths_of_pax_count() {
        let blob = b"content";
        let archive = archive(|builder, digest| {
            index(builder, digest);
            let path = format!("blobs/sha256/{}", sha256(blob).hex());
            let record = format!("path={path}\n");
            let length = record.len() + 3;
            let records = format!("{length} {record}");
            assert_eq!(records.len(), length);
            append(builder, "pax", tar::EntryType::XHeader, records.as_bytes());
            append(builder, "short", tar::EntryType::Regular, blob);
        });
        assert_eq!(inspect(&archive, 1000).unwrap().blobs, 3);
    }

    #[test]
    fn what_is_not_what_it_says_is_refused() {
        let cases: Vec<(Vec<u8>, &str)> = vec![
            (archive(|_, _| ()), "no index"),
            (archive(|b, d| (index(b, d), index(b, d)).1), "is there twice"),
            (archive(|b, _| index(b, &sha256(b"another"))), "which is not in it"),
            (archive(|b, _| append(b, "index.json", tar::EntryType::Regular, b"[]")), "no index"),
            (
                archive(|b, _| append(b, "index.json", tar::EntryType::Regular, br#"{"manifests":[]}"#)),
                "no index",
            ),
            (archive(|b, _| append(b, "blobs/sha256/up", tar::EntryType::Regular, b"")), "is no blob's name"),
            (
                archive(|b, d| {
                    index(b, d);
                    let name = format!("blobs/sha256/{}", sha256(b"one").hex());
                    append(b, &name, tar::EntryType::Regular, b"two");
                }),
                "has the digest",
            ),
            (archive(|b, _| append(b, "l", tar::EntryType::Symlink, b"")), "is a link"),
            (archive(|b, _| append(b, "g", tar::EntryType::XGlobalHeader, b"")), "of a kind"),
            (archive(|b, _| append(b, "x", tar::EntryType::XHeader, b"9 path")), "damaged pax"),
            (archive(index)[..60_000].to_vec(), "ends early"),
            (b"no tar at all".repeat(100), "wrong checksum"),
            (Vec::new(), "ends early"),
        ];
        for (archive, reason) in cases {
            let error = inspect(&archive, 4096).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error} / {reason}");
        }
    }
}
