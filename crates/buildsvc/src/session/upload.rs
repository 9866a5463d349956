//! A context that is one archive, such as a tar on standard input.
//!
//! The daemon's own HTTP source fetches it from a host that stands for this session. What was a pipe can be read once, so a
//! second call finds nothing. Follows moby/buildkit `session/upload`.

use std::io::Read;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Upload;
use crate::proto::moby::upload::v1::{BytesMessage, upload_server};

pub(super) const METHODS: &[&str] = &["/moby.upload.v1.Upload/Pull"];

const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Archive(Mutex<Option<Upload>>);

impl Archive {
    pub(super) fn new(upload: Upload) -> Archive {
        Archive(Mutex::new(Some(upload)))
    }

    /// The archive, for the first who asks for it by its name.
    fn take(&self, path: &str) -> Result<Upload, Status> {
        let id = path.rsplit('/').next().unwrap_or_default();
        let mut upload = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match upload.take() {
            Some(found) if found.id == id => Ok(found),
            other => {
                *upload = other;
                Err(Status::not_found("there is no such archive, or it was fetched already"))
            }
        }
    }
}

#[tonic::async_trait]
impl upload_server::Upload for Archive {
    type PullStream = ReceiverStream<Result<BytesMessage, Status>>;

    async fn pull(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = call.metadata().get("urlpath").and_then(|path| path.to_str().ok()).unwrap_or_default();
        let Upload { head, mut rest, .. } = self.take(path)?;
        let (send, receive) = mpsc::channel(4);
        // A thread that may wait for a pipe for as long as its writer takes.
        tokio::task::spawn_blocking(move || {
            let message = |data: Bytes| Ok(BytesMessage { data });
            if send.blocking_send(message(head.into())).is_err() {
                return;
            }
            let mut buffer = vec![0; CHUNK];
            loop {
                let next = match rest.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => message(Bytes::copy_from_slice(&buffer[..read])),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(Status::aborted(format!("failed to read the archive: {error}"))),
                };
                let ended = next.is_err();
                if send.blocking_send(next).is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
}
