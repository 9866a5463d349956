//! A build's progress, read from the daemon and brought into bounds.
//!
//! Follows the status stream of moby/buildkit `control/control.go` and how `client/solve.go` reads it to its end.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status, Streaming};

use crate::client::{Client, MAX_MESSAGE};
use crate::event::Event;
use crate::proto::moby::buildkit::v1 as wire;
use crate::undecoded::Undecoded;
use crate::updates::Updates;

/// After the solve has ended, for the tail of the logs.
const SILENCE: Duration = Duration::from_secs(5);
/// The same when nothing was heard before: a request that is refused at once never becomes a build with progress.
const NEVER_HEARD: Duration = Duration::from_secs(1);
/// Between two attempts to find a build that the daemon has not registered yet.
const RETRY: Duration = Duration::from_millis(500);

const METHOD: &str = "/moby.buildkit.v1.Control/Status";

/// Passes on the progress of `reference` until the daemon ends it, or falls silent after `solved`.
///
/// Never fails a build: without progress it is still built. A receiver that has gone away is drained for.
pub(crate) async fn follow(
    client: &Client,
    reference: String,
    events: mpsc::Sender<Event>,
    solved: CancellationToken,
) {
    loop {
        let end = tokio::select! {
            reply = subscribe(client, &reference) => match reply {
                Ok(updates) => drain(updates, &events, &solved).await,
                Err(status) => Err(status),
            },
            () = silence(&solved, NEVER_HEARD) => return,
        };
        match end {
            Ok(()) => return,
            // It looks for some seconds; a solve may take longer to begin on a busy machine.
            Err(status) if status.code() == Code::NotFound && !solved.is_cancelled() => {
                tokio::time::sleep(RETRY).await;
            }
            Err(status) => {
                tracing::debug!(code = ?status.code(), message = status.message(), "progress ended early");
                return;
            }
        }
    }
}

/// The updates as they come; decoded whole, a small one may fill the memory.
pub(crate) async fn subscribe(client: &Client, reference: &str) -> Result<Streaming<Bytes>, Status> {
    let mut call = tonic::client::Grpc::new(client.channel()).max_decoding_message_size(MAX_MESSAGE);
    call.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let request = wire::StatusRequest { r#ref: reference.to_owned() }.encode_to_vec();
    let reply = call
        .server_streaming(Request::new(request.into()), PathAndQuery::from_static(METHOD), Undecoded)
        .await?;
    Ok(reply.into_inner())
}

async fn drain(
    mut updates: Streaming<Bytes>,
    events: &mpsc::Sender<Event>,
    solved: &CancellationToken,
) -> Result<(), Status> {
    let mut patience = NEVER_HEARD;
    loop {
        let update = tokio::select! {
            update = updates.message() => update?,
            () = silence(solved, patience) => return Ok(()),
        };
        let Some(update) = update else { return Ok(()) };
        patience = SILENCE;
        for event in Updates::of(update) {
            let _ = events.send(event).await;
        }
    }
}

/// Done when the solve has ended and then nothing has happened for a while.
async fn silence(solved: &CancellationToken, patience: Duration) {
    solved.cancelled().await;
    tokio::time::sleep(patience).await;
}

/// Cut at a character's boundary.
pub(crate) fn bounded(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
    text
}
