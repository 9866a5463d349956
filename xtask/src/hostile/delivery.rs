//! A result on its way to the client, by fsutil's protocol or against it.

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::progress::Raw;
use super::visit::{Visit, mode};
use super::wire::fsutil::types::{Packet, Stat, packet::PacketType};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// One call. What the client answers is waited for by [`Delivery::finish`] alone.
#[derive(Debug)]
pub struct Delivery {
    packets: mpsc::Sender<Raw>,
    answers: mpsc::UnboundedReceiver<Result<Packet, Status>>,
}

impl Delivery {
    /// Begins a delivery, of the first exporter unless another is named.
    pub async fn open(visit: &Visit, exporter: Option<&str>) -> Delivery {
        let (packets, outgoing) = mpsc::channel(64);
        let (heard, answers) = mpsc::unbounded_channel();
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(Ok(id)) = exporter.map(AsciiMetadataValue::try_from) {
            request.metadata_mut().insert("buildkit-attachable-exporter-id", id);
        }
        let session = visit.session("FileSend").await;
        // Some clients answer the call only once they have something to say.
        tokio::spawn(async move {
            let call = async {
                let mut client = tonic::client::Grpc::new(session);
                client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
                let path = tonic::codegen::http::uri::PathAndQuery::from_static(DIFF_COPY);
                let codec = ProstCodec::<Raw, Packet>::default();
                let mut answers = client.streaming(request, path, codec).await?.into_inner();
                while let Some(packet) = answers.message().await? {
                    if heard.send(Ok(packet)).is_err() {
                        break;
                    }
                }
                Ok(())
            };
            if let Err(status) = call.await {
                let _ = heard.send(Err(status));
            }
        });
        Delivery { packets, answers }
    }

    /// Sends a message as it is. False once the client takes no more.
    pub async fn bytes(&mut self, message: &[u8]) -> bool {
        self.packets.send(Raw(Bytes::copy_from_slice(message))).await.is_ok()
    }

    async fn packet(&mut self, packet: Packet) -> bool {
        self.packets.send(Raw(packet.encode_to_vec().into())).await.is_ok()
    }

    pub async fn entry(&mut self, stat: Stat) -> bool {
        self.packet(Packet { stat: Some(stat), ..Packet::default() }).await
    }

    pub async fn data(&mut self, id: u32, data: &[u8]) -> bool {
        let data = Bytes::copy_from_slice(data);
        self.packet(Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() }).await
    }

    /// Ends the list, gives `content` for every file that the client wants, and waits for it to be content.
    pub async fn finish(mut self, content: &[u8]) -> Result<(), Status> {
        self.packet(Packet::default()).await;
        while let Some(answer) = self.answers.recv().await {
            let answer = answer?;
            match PacketType::try_from(answer.r#type) {
                Ok(PacketType::PacketReq) => {
                    self.data(answer.id, content).await;
                    self.data(answer.id, b"").await;
                }
                Ok(PacketType::PacketFin) => {
                    let fin = Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() };
                    self.packet(fin).await;
                    return Ok(());
                }
                Ok(PacketType::PacketErr) => {
                    return Err(Status::aborted(String::from_utf8_lossy(&answer.data).into_owned()));
                }
                _ => {}
            }
        }
        Err(Status::aborted("the client ended the delivery"))
    }

    /// Ends an archive and waits for the client's word.
    pub async fn close(self) -> Result<(), Status> {
        let Delivery { packets, mut answers } = self;
        drop(packets);
        while let Some(answer) = answers.recv().await {
            answer?;
        }
        Ok(())
    }

    /// Leaves it unfinished.
    pub fn abandon(self) {}
}

/// A file that anybody may read.
pub fn file(path: &str) -> Stat {
    Stat { path: path.to_owned().into(), mode: 0o644, size: 1, ..Stat::default() }
}

pub fn dir(path: &str) -> Stat {
    Stat { mode: mode::DIR | 0o755, ..file(path) }
}

pub fn symlink(path: &str, target: &str) -> Stat {
    Stat { mode: mode::SYMLINK | 0o777, linkname: target.to_owned().into(), ..file(path) }
}
