//! Two layers side by side, up to the first file that differs.

use std::io::{self, Read};

use super::archive::Section;
use super::entry::{self, Entry};
use super::json::short;

const CHUNK: usize = 64 << 10;

/// What differs first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDifference {
    pub path: String,
    /// `content`, `mode`, `mtime`…
    pub what: Vec<String>,
    /// Of the first of these, in each layer.
    pub values: (String, String),
}

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
}

impl Compression {
    /// Of a layer's media type, OCI's or Docker's; nothing for those that are not read.
    pub fn of(media_type: &str) -> Option<Compression> {
        let ending = media_type.rsplit(['.', '+']).next().unwrap_or_default();
        match ending {
            "tar" => Some(Compression::None),
            "gzip" => Some(Compression::Gzip),
            _ => None,
        }
    }
}

/// A layer that can be read from the beginning as often as needed.
#[derive(Debug, Clone)]
pub struct Layer<'a> {
    pub bytes: Section<'a>,
    pub compression: Compression,
}

impl Layer<'_> {
    fn open(&self) -> tar::Archive<Box<dyn Read + '_>> {
        tar::Archive::new(match self.compression {
            Compression::None => Box::new(self.bytes.clone()),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(
                CHUNK,
                self.bytes.clone(),
            ))),
        })
    }

    fn has(&self, path: &str) -> io::Result<bool> {
        let mut archive = self.open();
        let mut entries = archive.entries()?.raw(true);
        while let Some((entry, _)) = entry::next(&mut entries)? {
            if entry.path == path {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Which of the two could not be read.
pub type SideError = (bool, io::Error);

/// `None` when all files are equal. An error says whether it was the second layer's.
pub fn first_difference(a: &Layer<'_>, b: &Layer<'_>) -> Result<Option<FileDifference>, SideError> {
    let (first, second) = (|error| (false, error), |error| (true, error));
    let (mut one, mut other) = (a.open(), b.open());
    let mut ones = one.entries().map_err(first)?.raw(true);
    let mut others = other.entries().map_err(second)?.raw(true);
    let absent = || "is not there".to_owned();
    let only = |entry: &Entry, in_second: bool| {
        let there = format!("a {}", entry.fields["type"]);
        let values = if in_second { (absent(), there) } else { (there, absent()) };
        FileDifference { path: entry.path.clone(), what: vec!["existence".to_owned()], values }
    };
    loop {
        let left = entry::next(&mut ones).map_err(first)?;
        let right = entry::next(&mut others).map_err(second)?;
        let ((left, mut left_content), (right, mut right_content)) = match (left, right) {
            (None, None) => return Ok(None),
            (Some((left, _)), None) => return Ok(Some(only(&left, false))),
            (None, Some((right, _))) => return Ok(Some(only(&right, true))),
            (Some(left), Some(right)) => (left, right),
        };
        if left.path != right.path {
            if !b.has(&left.path).map_err(second)? {
                return Ok(Some(only(&left, false)));
            }
            if !a.has(&right.path).map_err(first)? {
                return Ok(Some(only(&right, true)));
            }
            let what = vec!["order in the layer".to_owned()];
            let values = (left.path.clone(), right.path);
            return Ok(Some(FileDifference { path: left.path, what, values }));
        }
        let mut found = differing_fields(&left, &right);
        let content = if left.size == right.size {
            content(&mut left_content, &mut right_content)?
        } else {
            Some((format!("{} bytes", left.size), format!("{} bytes", right.size)))
        };
        if let Some((a, b)) = content {
            let name = if left.size == right.size { "content" } else { "size" };
            found.insert(0, (name.to_owned(), a, b));
        }
        if let Some((_, a, b)) = found.first() {
            let values = (short(a), short(b));
            let what = found.into_iter().map(|(name, ..)| short(&name)).collect();
            return Ok(Some(FileDifference { path: left.path, what, values }));
        }
    }
}

fn differing_fields(a: &Entry, b: &Entry) -> Vec<(String, String, String)> {
    let mut names: Vec<&String> = a.fields.keys().chain(b.fields.keys()).collect();
    // Another kind of file explains all that follows from it.
    names.sort_by_key(|name| (*name != "type", *name));
    names.dedup();
    let value = |entry: &Entry, name: &String| entry.fields.get(name).cloned().unwrap_or("none".to_owned());
    names
        .into_iter()
        .map(|name| (name.clone(), value(a, name), value(b, name)))
        .filter(|(_, a, b)| a != b)
        .collect()
}

/// What there is from the first byte that differs on.
fn content(a: &mut impl Read, b: &mut impl Read) -> Result<Option<(String, String)>, SideError> {
    let (mut one, mut other) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let left = fill(a, &mut one).map_err(|error| (false, error))?;
        let right = fill(b, &mut other).map_err(|error| (true, error))?;
        if let Some(offset) = one[..left].iter().zip(&other[..right]).position(|(a, b)| a != b) {
            let shown = |bytes: &[u8]| {
                let bytes = &bytes[offset..bytes.len().min(offset + 32)];
                format!("at byte {}: \"{}\"", at + offset, bytes.escape_ascii())
            };
            return Ok(Some((shown(&one[..left]), shown(&other[..right]))));
        }
        if left != right {
            return Ok(Some((format!("ends at byte {}", at + left), format!("ends at byte {}", at + right))));
        }
        if left == 0 {
            return Ok(None);
        }
        at += left;
    }
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
