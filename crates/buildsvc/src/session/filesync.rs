//! Local directories, as the daemon fetches them.
//!
//! What is asked for stands in the call's metadata: the directory, and which of its entries. Follows moby/buildkit
//! `session/filesync/filesync.go`.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::context::{LocalDir, Selection, send};
use crate::proto::fsutil::types::Packet;
use crate::proto::moby::filesync::v1::file_sync_server;

pub(super) const METHODS: &[&str] = &["/moby.filesync.v1.FileSync/DiffCopy"];

#[derive(Debug)]
pub(super) struct FileSync {
    locals: BTreeMap<String, LocalDir>,
    /// Bytes of patterns and paths that all transfers under way may have together.
    room: Arc<Semaphore>,
}

impl FileSync {
    pub(super) fn new(locals: BTreeMap<String, LocalDir>) -> FileSync {
        FileSync { locals, room: Arc::new(Semaphore::new(MAX_TOGETHER as usize)) }
    }
}

/// More patterns or paths than a request has, and longer ones, are refused: each costs time for every file.
const MAX_VALUES: usize = 20_000;
const MAX_VALUE: usize = 8 << 10;
/// A pattern takes many times its length once it is compiled. The list itself and each of its entries count, too.
const MAX_TOGETHER: u32 = 2 << 20;
const TRANSFER: usize = 4 << 10;
const VALUE: usize = 16;

type Packets = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

#[tonic::async_trait]
impl file_sync_server::FileSync for FileSync {
    type DiffCopyStream = Packets;

    async fn diff_copy(&self, call: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        let name = values(call.metadata(), "dir-name")?.into_iter().next().unwrap_or_default();
        let Some(dir) = self.locals.get(&name) else {
            // This code has the daemon look in other sessions of the build.
            return Err(Status::not_found(format!("no access allowed to dir {name:?}")));
        };
        let selection = Selection {
            include: values(call.metadata(), "include-patterns")?,
            exclude: values(call.metadata(), "exclude-patterns")?,
            followpaths: values(call.metadata(), "followpaths")?,
        };
        let lists = [&selection.include, &selection.exclude, &selection.followpaths];
        let length: usize = lists.into_iter().flatten().map(|value| value.len() + VALUE).sum();
        let length = u32::try_from(length + TRANSFER).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(length).map_err(|_| {
            Status::resource_exhausted(format!(
                "patterns and paths of more than {MAX_TOGETHER} bytes in the transfers under way"
            ))
        })?;
        tracing::debug!(name, ?selection, "the builder fetches a directory");
        let packets = send::send(dir.clone(), selection, call.into_inner());
        Ok(Response::new(Box::pin(packets.map(move |packet| {
            // Held for as long as the transfer lasts.
            let _room = &room;
            packet
        }))))
    }

    type TarStreamStream = Packets;

    /// No daemon has ever called it.
    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        Err(Status::unimplemented("directories are sent by DiffCopy"))
    }
}

/// All values of a key in their order, which decides what a negated pattern negates. When one of them could not stand in
/// a header, all are escaped and a second key says so.
fn values(metadata: &MetadataMap, key: &str) -> Result<Vec<String>, Status> {
    let escaped = metadata
        .get(format!("{key}-encoded"))
        .is_some_and(|value| matches!(value.as_bytes(), b"1" | b"t" | b"T" | b"true" | b"TRUE" | b"True"));
    let bad =
        || Status::invalid_argument(format!("{key} holds a value that is not UTF-8 or wrongly escaped"));
    let read = |value: &[u8]| {
        let bytes = if escaped { unescape(value).ok_or_else(bad)? } else { value.to_vec() };
        String::from_utf8(bytes).map_err(|_| bad())
    };
    let values = metadata.get_all(key);
    if values.iter().take(MAX_VALUES + 1).count() > MAX_VALUES
        || values.iter().any(|value| value.as_bytes().len() > MAX_VALUE)
    {
        return Err(Status::resource_exhausted(format!(
            "{key}: more than {MAX_VALUES} values, or one longer than {MAX_VALUE} bytes"
        )));
    }
    values.iter().map(|value| read(value.as_bytes())).collect()
}

/// The inverse of Go's `url.QueryEscape`: a plus is a space.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16);
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        plain.push(match first {
            b'+' => b' ',
            b'%' => {
                let (hex, tail) = rest.split_at_checked(2)?;
                rest = tail;
                u8::try_from(digit(&hex[0])? * 16 + digit(&hex[1])?).ok()?
            }
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_order_and_are_unescaped() {
        let mut metadata = MetadataMap::new();
        for pattern in ["b,c", "!a", "x+y%20"] {
            metadata.append("exclude-patterns", pattern.parse().unwrap());
        }
        assert_eq!(values(&metadata, "exclude-patterns").unwrap(), ["b,c", "!a", "x+y%20"]);
        metadata.insert("exclude-patterns-encoded", "1".parse().unwrap());
        assert_eq!(values(&metadata, "exclude-patterns").unwrap(), ["b,c", "!a", "x y "]);
        assert!(values(&metadata, "followpaths").unwrap().is_empty());
        metadata.insert("followpaths", "x".repeat(MAX_VALUE + 1).parse().unwrap());
        assert_eq!(values(&metadata, "followpaths").unwrap_err().code(), tonic::Code::ResourceExhausted);
        for (escaped, want) in
            [("%C3%A9", Some("é")), ("%2B", Some("+")), ("%4", None), ("%zz", None), ("%ff", None)]
        {
            let mut metadata = MetadataMap::new();
            metadata.insert("dir-name", escaped.parse().unwrap());
            metadata.insert("dir-name-encoded", "true".parse().unwrap());
            let read = values(&metadata, "dir-name").ok();
            assert_eq!(read.as_ref().map(|values| values[0].as_str()), want, "{escaped}");
        }
    }
}
