//! Daemons below gRPC: frames of HTTP/2 by hand, for what no library would send.
//!
//! Follows RFC 9113 for frames and RFC 7541 for headers.

use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::ground::Ground;

/// What a daemon does with a connection.
pub type Talk = fn(UnixStream, Arc<Ground>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// The largest frame that every peer takes.
const FRAME: usize = 16 << 10;

/// A connection whose first request was read.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Of the request.
    pub id: u32,
}

impl Connection {
    /// Says what a server says first, and reads to the first request.
    pub async fn accept(mut stream: UnixStream) -> Option<Connection> {
        let mut preface = [0; PREFACE];
        stream.read_exact(&mut preface).await.ok()?;
        let mut connection = Connection { stream, id: 0 };
        connection.frame(SETTINGS, 0, 0, &[]).await?;
        loop {
            let mut head = [0; 9];
            connection.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut body = vec![0; length];
            connection.stream.read_exact(&mut body).await.ok()?;
            match head[3] {
                SETTINGS if head[4] & 1 == 0 => connection.frame(SETTINGS, 1, 0, &[]).await?,
                HEADERS => {
                    connection.id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    return Some(connection);
                }
                _ => {}
            }
        }
    }

    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, body: &[u8]) -> Option<()> {
        let length = u32::try_from(body.len()).ok()?.to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&head).await.ok()?;
        self.stream.write_all(body).await.ok()
    }

    /// Answers the request with `block` as its headers, `times` over in continuations, which never end.
    pub async fn endless_headers(&mut self, first: &[u8], block: &[u8], times: usize) -> Option<()> {
        self.frame(HEADERS, 0, self.id, first).await?;
        for _ in 0..times {
            self.frame(CONTINUATION, 0, self.id, block).await?;
        }
        self.frame(CONTINUATION, END_HEADERS, self.id, &[]).await
    }

    /// Answers the request with headers that are well and good, and no end.
    pub async fn open_answer(&mut self) -> Option<()> {
        // `:status: 200` and a literal field.
        let kind = [&[0x00, 12][..], b"content-type", &[16], b"application/grpc"].concat();
        self.frame(HEADERS, END_HEADERS, self.id, &[&[0x88], &kind[..]].concat()).await
    }

    /// Announces a frame of data and sends the beginning of it.
    pub async fn torn_frame(&mut self) -> Option<()> {
        let head = [&[0, 1, 0, 0, 0][..], &self.id.to_be_bytes(), &[0; 10]].concat();
        self.stream.write_all(&head).await.ok()
    }

    /// Says nothing more, but goes on listening.
    pub async fn half_close(&mut self) -> Option<()> {
        self.stream.shutdown().await.ok()
    }

    /// Reads and drops what comes, until the client goes.
    pub async fn listen(mut self) {
        let mut nothing = [0; 4096];
        while let Ok(1..) = self.stream.read(&mut nothing).await {}
    }
}

/// `:status: 200`, and one header of 4000 bytes that goes into the table of both sides.
pub fn table_filled() -> Vec<u8> {
    // Literal with incremental indexing, a new name of one letter; the length 4000 as 127 + 0x80|..
    let length = 4000 - 127;
    let coded = [0x7f, 0x80 | (length % 128) as u8, (length / 128) as u8];
    [&[0x88, 0x40, 1, b'x'][..], &coded, &[b'a'; 4000]].concat()
}

/// That header again, one byte each.
pub fn bombs() -> Vec<u8> {
    vec![0xbe; FRAME]
}
