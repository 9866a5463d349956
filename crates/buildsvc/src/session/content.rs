//! Stores of blobs on this side: image layouts that a build starts from, caches in directories.
//!
//! One store is chosen for each call by its metadata. Follows moby/buildkit `session/content` and containerd's
//! `plugins/services/content/contentserver`.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::digest::Digest;
use crate::proto::containerd::services::content::v1 as wire;
use crate::store::{ContentStore, Ingest, StoreError};

pub(super) const METHODS: &[&str] = &[
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/Update",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/Write",
    "/containerd.services.content.v1.Content/Abort",
];

const CHUNK: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Content {
    stores: BTreeMap<String, ContentStore>,
}

impl Content {
    pub(super) fn new(stores: BTreeMap<String, ContentStore>) -> Content {
        Content { stores }
    }

    fn choose(&self, metadata: &MetadataMap) -> Result<ContentStore, Status> {
        let id = metadata.get("buildkit-attachable-store-id");
        let id = id.ok_or_else(|| Status::invalid_argument("no store is named"))?;
        let known = self.stores.iter().find(|(known, _)| known.as_bytes() == id.as_bytes());
        known.map(|(_, store)| store.clone()).ok_or_else(|| Status::not_found("unknown store"))
    }
}

fn digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{error}")))
}

fn status(error: StoreError) -> Status {
    let text = match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match error {
        StoreError::NoBlob(_) | StoreError::NoIngest(_) => Status::not_found(text),
        StoreError::InUse(_) | StoreError::TooMany => Status::unavailable(text),
        StoreError::Exists(_) => Status::already_exists(text),
        StoreError::ReadOnly | StoreError::Size { .. } | StoreError::Digest { .. } => {
            Status::failed_precondition(text)
        }
        StoreError::Offset { .. } => Status::out_of_range(text),
        StoreError::Io(..) => Status::internal(text),
    }
}

/// Has a thread that may wait for the disk do `work`.
async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Status::internal(error.to_string()))?.map_err(status)
}

#[tonic::async_trait]
impl wire::content_server::Content for Content {
    async fn info(&self, call: Request<wire::InfoRequest>) -> Result<Response<wire::InfoResponse>, Status> {
        let store = self.choose(call.metadata())?;
        let digest = digest(&call.into_inner().digest)?;
        let name = digest.to_string();
        let (modified, size) = on_disk(move || {
            let (file, size) = store.open(&digest)?;
            Ok((file.metadata().and_then(|meta| meta.modified()).ok().map(Into::into), size))
        })
        .await?;
        let info = wire::Info {
            digest: name,
            size: size.try_into().unwrap_or(i64::MAX),
            created_at: modified,
            updated_at: modified,
            labels: Default::default(),
        };
        Ok(Response::new(wire::InfoResponse { info: Some(info) }))
    }

    /// Labels are nowhere to be kept; a daemon goes on without them.
    async fn update(
        &self,
        call: Request<wire::UpdateRequest>,
    ) -> Result<Response<wire::UpdateResponse>, Status> {
        self.choose(call.metadata())?;
        Err(Status::failed_precondition("this store keeps no labels"))
    }

    type ListStream = tokio_stream::Empty<Result<wire::ListContentResponse, Status>>;

    async fn list(&self, _: Request<wire::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        Err(Status::unimplemented("this store is not listed"))
    }

    async fn delete(&self, _: Request<wire::DeleteContentRequest>) -> Result<Response<()>, Status> {
        Err(Status::permission_denied("nothing is deleted in this store"))
    }

    type ReadStream = ReceiverStream<Result<wire::ReadContentResponse, Status>>;

    async fn read(
        &self,
        call: Request<wire::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let store = self.choose(call.metadata())?;
        let wire::ReadContentRequest { digest: name, offset, size } = call.into_inner();
        let digest = digest(&name)?;
        let offset = u64::try_from(offset).map_err(|_| Status::out_of_range("offset below zero"))?;
        let (mut file, length) = on_disk(move || {
            let (mut file, length) = store.open(&digest)?;
            file.seek(SeekFrom::Start(offset)).map_err(|error| StoreError::Io("read", error))?;
            Ok((file, length))
        })
        .await?;
        if offset > length {
            return Err(Status::out_of_range("offset behind the end"));
        }
        let rest = length - offset;
        let size = u64::try_from(size).ok().filter(|size| *size > 0).map_or(rest, |size| size.min(rest));
        let (send, receive) = mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK];
            let mut done = 0;
            while done < size {
                let room = buffer.len().min(usize::try_from(size - done).unwrap_or(usize::MAX));
                let next = match file.read(&mut buffer[..room]) {
                    Ok(0) => Err(Status::data_loss("the blob has become shorter")),
                    Ok(read) => Ok(wire::ReadContentResponse {
                        offset: i64::try_from(offset + done).unwrap_or(i64::MAX),
                        data: Bytes::copy_from_slice(&buffer[..read]),
                    }),
                    Err(error) => Err(Status::internal(format!("failed to read a blob: {error}"))),
                };
                done += next.as_ref().map_or(size, |next| next.data.len() as u64);
                if send.blocking_send(next).is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn status(
        &self,
        call: Request<wire::StatusRequest>,
    ) -> Result<Response<wire::StatusResponse>, Status> {
        let store = self.choose(call.metadata())?;
        let name = call.into_inner().r#ref;
        let offset = store.progress(&name).map_err(status)?;
        let offset = offset.try_into().unwrap_or(i64::MAX);
        let found = wire::Status { r#ref: name, offset, ..wire::Status::default() };
        Ok(Response::new(wire::StatusResponse { status: Some(found) }))
    }

    async fn list_statuses(
        &self,
        _: Request<wire::ListStatusesRequest>,
    ) -> Result<Response<wire::ListStatusesResponse>, Status> {
        Err(Status::unimplemented("uploads are not listed"))
    }

    type WriteStream = ReceiverStream<Result<wire::WriteContentResponse, Status>>;

    async fn write(
        &self,
        call: Request<Streaming<wire::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let store = self.choose(call.metadata())?;
        let mut requests = call.into_inner();
        let (send, receive) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut upload = Upload { store, open: None };
            loop {
                let reply = match requests.message().await {
                    Ok(Some(request)) => upload.act(request).await,
                    Ok(None) | Err(_) => break,
                };
                let ended = reply.is_err()
                    || reply.as_ref().is_ok_and(|reply| reply.action() == wire::WriteAction::Commit);
                if send.send(reply).await.is_err() || ended {
                    break;
                }
            }
            upload.suspend();
        });
        Ok(Response::new(ReceiverStream::new(receive)))
    }

    async fn abort(&self, call: Request<wire::AbortRequest>) -> Result<Response<()>, Status> {
        let store = self.choose(call.metadata())?;
        store.abort(&call.into_inner().r#ref).map_err(status)?;
        Ok(Response::new(()))
    }
}

/// One call of `Write`: it names its upload in the first message and may leave the name out later.
struct Upload {
    store: ContentStore,
    open: Option<(String, Ingest)>,
}

impl Upload {
    async fn act(
        &mut self,
        request: wire::WriteContentRequest,
    ) -> Result<wire::WriteContentResponse, Status> {
        let action = request.action();
        let expected = match request.expected.as_str() {
            "" => None,
            text => Some(digest(text)?),
        };
        let size = |size: i64| u64::try_from(size).map_err(|_| Status::out_of_range("below zero"));
        let (total, offset) = (size(request.total)?, size(request.offset)?);
        if self.open.is_none() {
            if request.r#ref.is_empty() {
                return Err(Status::invalid_argument("an upload needs a name"));
            }
            if let Some(expected) = &expected
                && self.store.open(expected).is_ok()
            {
                return Err(status(StoreError::Exists(expected.clone())));
            }
            self.open = Some((request.r#ref.clone(), self.store.begin(&request.r#ref).map_err(status)?));
        }
        let (name, mut ingest) = self.open.take().ok_or_else(|| Status::internal("no upload"))?;
        if !request.r#ref.is_empty() && request.r#ref != name {
            self.open = Some((name, ingest));
            return Err(Status::invalid_argument("one call is one upload"));
        }
        let mut reply = wire::WriteContentResponse { total: request.total, ..Default::default() };
        reply.set_action(action);
        let data = request.data;
        if !data.is_empty() {
            let (back, written) = on_disk(move || {
                let written = ingest.write(offset, &data);
                Ok((ingest, written))
            })
            .await?;
            ingest = back;
            if let Err(error) = written {
                self.open = Some((name, ingest));
                return Err(status(error));
            }
        }
        reply.offset = ingest.offset.try_into().unwrap_or(i64::MAX);
        if action == wire::WriteAction::Commit {
            let store = self.store.clone();
            let digest = on_disk(move || store.commit(&name, ingest, total, expected.as_ref())).await?;
            reply.digest = digest.to_string();
        } else {
            self.open = Some((name, ingest));
        }
        Ok(reply)
    }

    fn suspend(self) {
        if let Some((name, ingest)) = self.open {
            self.store.suspend(&name, ingest);
        }
    }
}
