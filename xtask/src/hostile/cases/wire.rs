//! Below gRPC: connections that are none.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tonic::Status;

use crate::hostile::case::{Case, End, Honest};
use crate::hostile::ground::Ground;
use crate::hostile::raw::{Connection, bombs, table_filled};
use crate::hostile::visit::Visit;

const fn talking(name: &'static str, about: &'static str) -> Case {
    Case::new(name, about, |visit| Box::pin(never(visit))).ends(&[3]).honest(Honest::Visited)
}

pub const CASES: &[Case] = &[
    talking("wire/not-http2", "answers with something that is not HTTP/2, without end")
        .talk(|stream, ground| Box::pin(not_http2(stream, ground))),
    talking("wire/header-bombs", "answers with headers of some bytes that stand for 1 GiB")
        .talk(|stream, ground| Box::pin(header_bombs(stream, ground))),
    talking("wire/endless-headers", "answers with 512 MiB of headers in continuations")
        .talk(|stream, ground| Box::pin(endless_headers(stream, ground))),
    talking("wire/settings-flood", "sends a million settings, which all want an answer")
        .talk(|stream, ground| Box::pin(settings_flood(stream, ground))),
];

/// The script of daemons that never get as far.
async fn never(_: Visit) -> End {
    Err(Status::internal("no build was to begin"))
}

async fn not_http2(mut stream: UnixStream, ground: Arc<Ground>) {
    ground.record.visited();
    for _ in 0..64 << 10 {
        if stream.write_all(&[b'x'; 4096]).await.is_err() {
            return;
        }
    }
}

async fn header_bombs(stream: UnixStream, ground: Arc<Ground>) {
    let Some(mut connection) = Connection::accept(stream).await else { return };
    ground.record.visited();
    // Each byte of a block stands for 4000: 16 blocks of 16 KiB are 1 GiB.
    let _ = connection.endless_headers(&table_filled(), &bombs(), 16).await;
    connection.listen().await;
}

async fn endless_headers(stream: UnixStream, ground: Arc<Ground>) {
    let Some(mut connection) = Connection::accept(stream).await else { return };
    ground.record.visited();
    // Literal without indexing, a new name of 8 letters and a value of 100, again and again.
    let one = [&[0x00, 8][..], b"x-header", &[100], &[b'v'; 100]].concat();
    let block: Vec<u8> = one.iter().copied().cycle().take(one.len() * (16_000 / one.len())).collect();
    let _ = connection.endless_headers(&[0x88], &block, 32 << 10).await;
    connection.listen().await;
}

async fn settings_flood(stream: UnixStream, ground: Arc<Ground>) {
    let Some(mut connection) = Connection::accept(stream).await else { return };
    ground.record.visited();
    for _ in 0..1_000_000 {
        if connection.frame(4, 0, 0, &[]).await.is_none() {
            return;
        }
    }
}
