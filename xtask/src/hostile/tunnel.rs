//! The daemon's end of a session: gRPC with the roles reversed, inside `Control.Session`.
//!
//! Follows moby/buildkit `session/grpchijack` and `session/manager.go`.

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use super::wire::moby::buildkit::v1::BytesMessage;

const BUFFER: usize = 1 << 20;
const WINDOW: u32 = 16 << 20;

/// What comes back on the call.
pub type Outgoing = tokio_stream::wrappers::ReceiverStream<Result<BytesMessage, Status>>;

/// Opens the connection that lies in the call's messages.
pub async fn open(incoming: Streaming<BytesMessage>) -> Result<(Channel, Outgoing), Status> {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (replies, outgoing) = mpsc::channel(4);
    carry(far, incoming, replies);
    let mut once = Some(TokioIo::new(near));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected));
        async move { stream }
    });
    let channel = Endpoint::from_static("http://localhost")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_max_header_list_size(WINDOW)
        .connect_with_connector_lazy(connector);
    Ok((channel, outgoing.into()))
}

fn carry(
    far: DuplexStream,
    mut incoming: Streaming<BytesMessage>,
    replies: mpsc::Sender<Result<BytesMessage, Status>>,
) {
    let (mut read, mut write) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Ok(Some(message)) = incoming.message().await {
            if write.write_all(&message.data).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            let message = BytesMessage { data: bytes::Bytes::copy_from_slice(&buffer[..count]) };
            if replies.send(Ok(message)).await.is_err() {
                return;
            }
        }
    });
}
