//! Results, as the daemon delivers them.
//!
//! One method carries two protocols: an archive comes as chunks of bytes, a directory as the packets of fsutil. Which of
//! them a call speaks is known by the exporter that it names in its metadata, so messages pass the codec undecoded.
//! Follows moby/buildkit `session/filesync/filesync.go` and `diffcopy.go`.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use super::deliveries::{Deliveries, Place, Writing};
use crate::client::MAX_MESSAGE;
use crate::export::archive::{Contents, Inspector};
use crate::export::{ReceiveError, Receiver, receive, too_large};
use crate::proto::fsutil::types::Packet;
use crate::proto::moby::filesync::v1::BytesMessage;
use crate::undecoded::Undecoded;

pub(super) const METHODS: &[&str] = &[DIFF_COPY];
const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// The service, by hand: generated ones fix the message type.
#[derive(Debug, Clone)]
pub(super) struct FileSend {
    deliveries: Arc<Deliveries>,
}

impl FileSend {
    pub(super) fn new(deliveries: Arc<Deliveries>) -> FileSend {
        FileSend { deliveries }
    }
}

impl NamedService for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for FileSend {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Boxed<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != DIFF_COPY {
            return Box::pin(async { Ok(Status::unimplemented("no such method").into_http()) });
        }
        let method = DiffCopy { deliveries: self.deliveries.clone() };
        Box::pin(async move {
            let mut server = Grpc::new(Undecoded).max_decoding_message_size(MAX_MESSAGE);
            Ok(server.streaming(method, request).await)
        })
    }
}

struct DiffCopy {
    deliveries: Arc<Deliveries>,
}

impl StreamingService<Bytes> for DiffCopy {
    type Response = Bytes;
    type ResponseStream = Replies;
    type Future = Boxed<Result<Response<Replies>, Status>>;

    fn call(&mut self, call: Request<Streaming<Bytes>>) -> Self::Future {
        let deliveries = self.deliveries.clone();
        Box::pin(async move {
            let id = exporter(call.metadata());
            let (place, working) = deliveries.accept(id, image(call.metadata()))?;
            match place {
                Place::Directory(receiver) => {
                    Ok(Response::new(receive_tree(deliveries, id, receiver, call.into_inner(), working)))
                }
                Place::File(writing) => {
                    if let Some(writing) = writing {
                        receive_archive(&deliveries, id, *writing, call.into_inner(), working).await?;
                    }
                    Ok(Response::new(Replies::none()))
                }
            }
        })
    }
}

/// Daemons before 0.13 have one exporter and do not number it.
fn exporter(metadata: &MetadataMap) -> usize {
    let id = metadata.get("buildkit-attachable-exporter-id");
    id.and_then(|id| id.to_str().ok()).and_then(|id| id.parse().ok()).unwrap_or(0)
}

/// The digest of the image that the call says it brings. The answer to the solve has one for all exporters together.
fn image(metadata: &MetadataMap) -> Option<String> {
    let digest = metadata.get("exporter-md-containerimage.digest")?;
    Some(String::from_utf8_lossy(digest.as_bytes()).into_owned())
}

/// Writes an archive to its end, on a thread of its own: the file may be a pipe whose reader takes its time, and a
/// blocked write must hold up neither the runtime nor its end.
async fn receive_archive(
    deliveries: &Deliveries,
    id: usize,
    Writing { file, mut inspector, most }: Writing,
    mut chunks: Streaming<Bytes>,
    working: mpsc::Sender<()>,
) -> Result<(), Status> {
    const BUFFER: usize = 256 << 10;
    // `None` ends the archive; a channel that closes without it was cut off.
    let (to_thread, mut from_daemon) = mpsc::channel::<Option<Bytes>>(2);
    let (verdict, written) = oneshot::channel();
    let write = move || {
        let mut file = BufWriter::with_capacity(BUFFER, file);
        let mut left = most;
        let mut copy = || -> io::Result<Option<Option<Contents>>> {
            while let Some(chunk) = from_daemon.blocking_recv() {
                let Some(chunk) = chunk else {
                    let seen = inspector.take().map(Inspector::finish).transpose();
                    let seen = seen.map_err(io::Error::other)?;
                    return file.flush().map(|()| Some(seen));
                };
                left = left.checked_sub(chunk.len() as u64).ok_or_else(|| too_large(most))?;
                if let Some(inspector) = &mut inspector {
                    inspector.feed(&chunk).map_err(io::Error::other)?;
                }
                file.write_all(&chunk)?;
            }
            Ok(None)
        };
        let _ = verdict.send(copy());
        drop(working);
    };
    let thread = std::thread::Builder::new().name("output".to_owned()).spawn(write);
    let end = match thread {
        Err(error) => Ok(Err(error)),
        Ok(_) => {
            let cut_off = loop {
                match chunks.message().await {
                    Ok(Some(message)) => {
                        let Ok(BytesMessage { data }) = BytesMessage::decode(message) else {
                            break Some(Status::invalid_argument("an archive comes as bytes"));
                        };
                        // A writer that has ended tells why below.
                        if to_thread.send(Some(data)).await.is_err() {
                            break None;
                        }
                    }
                    Ok(None) => {
                        let _ = to_thread.send(None).await;
                        break None;
                    }
                    Err(status) => break Some(status),
                }
            };
            if let Some(status) = cut_off {
                deliveries.finish(id, Err(None));
                return Err(status);
            }
            written.await
        }
    };
    match end {
        Ok(Ok(Some(contents))) => {
            deliveries.finish(id, Ok(contents));
            Ok(())
        }
        Ok(Err(error)) => {
            let status = Status::aborted(format!("failed to write the output: {error}"));
            deliveries.finish(id, Err(Some(error)));
            Err(status)
        }
        Ok(Ok(None)) | Err(_) => {
            deliveries.finish(id, Err(None));
            Err(Status::internal("the writer of the output ended early"))
        }
    }
}

/// Receives a tree in a task of its own: the daemon may leave the call open until the session ends, and the last times
/// are set after its last packet.
fn receive_tree(
    deliveries: Arc<Deliveries>,
    id: usize,
    root: Arc<Receiver>,
    messages: Streaming<Bytes>,
    working: mpsc::Sender<()>,
) -> Replies {
    let packets = messages.map(|message| {
        Packet::decode(message?).map_err(|_| Status::invalid_argument("a directory comes as packets"))
    });
    let (outgoing, replies) = mpsc::channel(64);
    let (failed, verdict) = oneshot::channel();
    tokio::spawn(async move {
        let end = receive(root, packets, outgoing).await;
        if let Err(error) = &end {
            let _ = failed.send(Status::aborted(format!("failed to write the output: {error}")));
        }
        deliveries.finish(id, end.map(|()| None).map_err(local));
        drop(working);
    });
    Replies { packets: Some(replies), verdict: Some(verdict) }
}

/// What of a failure is this side's to tell. The daemon's own troubles are told by its answer to the solve.
fn local(error: ReceiveError) -> Option<io::Error> {
    match error {
        ReceiveError::Write { ref source, .. } => Some(io::Error::new(source.kind(), error)),
        ReceiveError::Entry { .. } | ReceiveError::Packet(_) => Some(io::Error::other(error)),
        ReceiveError::Sender(_) | ReceiveError::Status(_) | ReceiveError::Ended | ReceiveError::Cancelled => {
            None
        }
    }
}

/// What goes back to the daemon: packets, then an error if there was one.
struct Replies {
    packets: Option<mpsc::Receiver<Packet>>,
    verdict: Option<oneshot::Receiver<Status>>,
}

impl Replies {
    fn none() -> Replies {
        Replies { packets: None, verdict: None }
    }
}

impl Stream for Replies {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(packets) = &mut self.packets {
            match std::task::ready!(packets.poll_recv(cx)) {
                Some(packet) => return Poll::Ready(Some(Ok(packet.encode_to_vec().into()))),
                None => self.packets = None,
            }
        }
        if let Some(verdict) = &mut self.verdict {
            let verdict = std::task::ready!(Pin::new(verdict).poll(cx));
            self.verdict = None;
            if let Ok(status) = verdict {
                return Poll::Ready(Some(Err(status)));
            }
        }
        Poll::Ready(None)
    }
}
