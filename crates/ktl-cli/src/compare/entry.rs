//! The entries of a layer, one after the other.
//!
//! Extension headers are read here and not by the tar library, which takes as much memory for them as they say they need.

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{Entries, EntryType, Header, PaxExtensions};

/// Of names, link targets and extended attributes of one entry.
const EXTENSION_LIMIT: u64 = 1 << 20;

/// What a layer says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub path: String,
    /// What can differ, by the names that a person knows it by. The size is told apart.
    pub fields: BTreeMap<String, String>,
    pub size: u64,
}

/// The next entry and its content; nothing at the end.
pub fn next<'a, R: Read>(entries: &mut Entries<'a, R>) -> io::Result<Option<(Entry, tar::Entry<'a, R>)>> {
    let (mut path, mut link, mut pax) = (None, None, BTreeMap::new());
    loop {
        let Some(entry) = entries.next() else { return Ok(None) };
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => path = Some(text(&extension(&mut entry)?)),
            EntryType::GNULongLink => link = Some(text(&extension(&mut entry)?)),
            EntryType::XHeader => {
                for record in PaxExtensions::new(&extension(&mut entry)?) {
                    let record = record?;
                    pax.insert(text(record.key_bytes()), text(record.value_bytes()));
                }
            }
            EntryType::XGlobalHeader => drop(extension(&mut entry)?),
            _ => {
                let path = pax.remove("path").or(path).unwrap_or_else(|| text(&entry.header().path_bytes()));
                let of_header = || entry.header().link_name_bytes().map(|name| text(&name));
                let link = pax.remove("linkpath").or(link).or_else(of_header);
                let size = entry.header().size()?;
                if pax.remove("size").is_some_and(|told| told != size.to_string()) {
                    return Err(io::Error::other(format!("{path} is larger than can be compared (8 GiB)")));
                }
                let fields = fields(entry.header(), link, pax)?;
                return Ok(Some((Entry { path: relative(&path), fields, size }, entry)));
            }
        }
    }
}

fn extension(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(EXTENSION_LIMIT + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > EXTENSION_LIMIT {
        true => Err(io::Error::other(format!("an extension header of more than {EXTENSION_LIMIT} bytes"))),
        false => Ok(bytes),
    }
}

fn fields(
    header: &Header,
    link: Option<String>,
    pax: BTreeMap<String, String>,
) -> io::Result<BTreeMap<String, String>> {
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => "file",
        EntryType::Directory => "directory",
        EntryType::Symlink => "symlink",
        EntryType::Link => "hard link",
        EntryType::Char => "character device",
        EntryType::Block => "block device",
        EntryType::Fifo => "fifo",
        _ => "other",
    };
    let mut fields = BTreeMap::from([
        ("type".to_owned(), kind.to_owned()),
        ("mode".to_owned(), format!("{:04o}", header.mode()? & 0o7777)),
        ("owner".to_owned(), format!("{}:{}", header.uid()?, header.gid()?)),
        ("mtime".to_owned(), time(header.mtime()?)),
    ]);
    fields.extend(link.map(|link| ("link target".to_owned(), link)));
    if matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
        let part = |part: Option<u32>| part.unwrap_or_default();
        let device = format!("{}:{}", part(header.device_major()?), part(header.device_minor()?));
        fields.insert("device".to_owned(), device);
    }
    for (key, value) in pax {
        let name = match key.strip_prefix("SCHILY.xattr.") {
            Some(name) => format!("extended attribute {name}"),
            None if key == "mtime" => "mtime".to_owned(),
            None => key,
        };
        fields.insert(name, value);
    }
    Ok(fields)
}

fn time(seconds: u64) -> String {
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(seconds));
    // What is beyond the years that can be written stays a number.
    time.filter(|_| seconds < 253_402_300_800)
        .map_or_else(|| seconds.to_string(), |time| humantime::format_rfc3339_seconds(time).to_string())
}

fn relative(path: &str) -> String {
    path.trim_start_matches("./").trim_start_matches('/').to_owned()
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    // Bytes that are no text stay apart from those that look like them.
    bytes.utf8_chunks().fold(String::new(), |mut text, chunk| {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
        text
    })
}
