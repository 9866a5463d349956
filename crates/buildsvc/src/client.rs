//! The connection to a daemon.
//!
//! A [`Client`] is made over a stream that somebody else has connected: the jail in which a build runs has no socket to
//! dial and no network to dial over. One HTTP/2 connection carries every call, the build's session included. It is never
//! dialled again: when it ends, whatever was under way ends in [`BuildError::Lost`].

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::BuildError;
use crate::patience::Heard;
use crate::platform::Platform;
use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::moby::buildkit::v1::control_client::ControlClient;
use crate::proto::moby::buildkit::v1::{InfoRequest, ListWorkersRequest, types};
use crate::status::bounded;
use crate::version::Version;

/// Of one gRPC message, both ways, as the daemon has it.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// Of an answer about the daemon itself: once decoded, it may take a hundred times as much.
const MAX_ANSWER: usize = 256 << 10;
/// The same of what frontends and exporters answer.
pub(crate) const MAX_RESULT: usize = 4 << 20;
/// Per call. A reader of events that stands still holds back this much of its own stream…
const STREAM_WINDOW: u32 = 4 << 20;
/// …and must leave room on the connection for the session, or the daemon's health checks would go unanswered.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Error details quote the whole Dockerfile, and arrive as a trailer.
const MAX_HEADERS: u32 = 16 << 20;
/// Of a version, an id or a message that is shown.
const MAX_TEXT: usize = 1 << 10;
/// How long a call may take to notice that its connection has ended.
const NOTICE: Duration = Duration::from_millis(300);

/// A connected daemon. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    gone: CancellationToken,
    heard: Heard,
    info: Arc<OnceCell<DaemonInfo>>,
}

/// What a daemon says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DaemonInfo {
    /// Empty for daemons before 0.11, which cannot be asked.
    pub version: String,
}

impl DaemonInfo {
    /// `None` when it is unknown or no version, such as a commit's hash.
    pub fn parsed(&self) -> Option<Version> {
        Version::parse(&self.version)
    }
}

/// One worker of a daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Worker {
    pub id: String,
    pub labels: BTreeMap<String, String>,
    pub platforms: Vec<Platform>,
    /// Empty for daemons before 0.11.
    pub version: String,
    /// What it removes by itself, in the order in which the rules are tried.
    pub gc: Vec<GcRule>,
    pub devices: Vec<Device>,
}

/// One rule of a worker's garbage collection. Sizes are bytes, and 0 says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GcRule {
    pub all: bool,
    pub filters: Vec<String>,
    pub keep: Duration,
    pub reserved_space: u64,
    pub max_used_space: u64,
    pub min_free_space: u64,
}

/// A device that a worker can give to steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub name: String,
    /// Without being asked for.
    pub auto_allow: bool,
    pub on_demand: bool,
    pub annotations: BTreeMap<String, String>,
}

impl Client {
    /// Speaks HTTP/2 with prior knowledge over `stream`. Nothing is awaited from the peer yet.
    pub async fn over<S>(stream: S) -> Result<Client, BuildError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let gone = CancellationToken::new();
        let heard = Heard::default();
        let mut once = Some(Watched { stream, gone: gone.clone(), heard: heard.clone() });
        let connector = tower::service_fn(move |_| {
            let stream = once.take().map(TokioIo::new);
            async move {
                stream.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, "the connection has ended"))
            }
        });
        let channel = Endpoint::from_static("http://localhost")
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .http2_max_header_list_size(MAX_HEADERS)
            .connect_with_connector(connector)
            .await
            .map_err(|error| lost("the handshake", &error))?;
        Ok(Client { channel, gone, heard, info: Arc::default() })
    }

    /// Asks the daemon for its version. The first call of a connection: a peer that says nothing within `limit`, or
    /// that is no BuildKit, ends it in [`BuildError::Lost`]. Asked once; later calls repeat the answer.
    pub async fn info(&self, limit: Duration) -> Result<DaemonInfo, BuildError> {
        let ask = || async {
            let mut control = self.control().max_decoding_message_size(MAX_ANSWER);
            match self.ask("the first question", limit, control.info(InfoRequest {})).await? {
                Ok(reply) => Ok(DaemonInfo {
                    version: reply
                        .into_inner()
                        .buildkit_version
                        .map_or_else(String::new, |told| bounded(told.version, MAX_TEXT)),
                }),
                Err(status) if status.code() == Code::Unimplemented && !is_broken(&status) => {
                    Ok(DaemonInfo::default())
                }
                Err(status) => Err(refused("the first question", &status)),
            }
        };
        self.info.get_or_try_init(ask).await.cloned()
    }

    /// The daemon's workers, the default one first.
    pub async fn workers(&self, limit: Duration) -> Result<Vec<Worker>, BuildError> {
        let during = "the question for workers";
        let mut control = self.control().max_decoding_message_size(MAX_ANSWER);
        let reply = self.ask(during, limit, control.list_workers(ListWorkersRequest::default())).await?;
        let records = reply.map_err(|status| refused(during, &status))?.into_inner().record;
        Ok(records.into_iter().map(Worker::from).collect())
    }

    /// Done once the connection has ended.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Done once the daemon has said nothing for `limit`.
    pub(crate) async fn silent(&self, limit: Duration) {
        self.heard.nothing_for(limit).await;
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    pub(crate) fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// `call`, or `None` once the connection has ended and the call has had time to notice by itself.
    pub(crate) async fn connected<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut call = std::pin::pin!(call);
        tokio::select! {
            biased;
            value = &mut call => return Some(value),
            () = self.gone.cancelled() => {}
        }
        tokio::time::timeout(NOTICE, call).await.ok()
    }

    pub(crate) async fn ask<T>(
        &self,
        during: &'static str,
        limit: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<Result<T, Status>, BuildError> {
        match tokio::time::timeout(limit, self.connected(call)).await {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(ended(during)),
            Err(_) => Err(BuildError::Lost {
                during,
                detail: format!("no answer within {} s", limit.as_secs_f32()),
            }),
        }
    }
}

impl From<types::WorkerRecord> for Worker {
    fn from(record: types::WorkerRecord) -> Worker {
        let text = |text: String| bounded(text, MAX_TEXT);
        let size = |size: i64| u64::try_from(size).unwrap_or(0);
        let rule = |rule: types::GcPolicy| GcRule {
            all: rule.all,
            filters: rule.filters.into_iter().map(text).collect(),
            keep: Duration::from_nanos(size(rule.keep_duration)),
            reserved_space: size(rule.reserved_space),
            max_used_space: size(rule.max_used_space),
            min_free_space: size(rule.min_free_space),
        };
        let device = |device: types::CdiDevice| Device {
            name: text(device.name),
            auto_allow: device.auto_allow,
            on_demand: device.on_demand,
            annotations: device.annotations.into_iter().collect(),
        };
        Worker {
            id: text(record.id),
            labels: record.labels.into_iter().collect(),
            platforms: record
                .platforms
                .iter()
                .map(|p| Platform::of(&p.os, &p.architecture, &p.variant))
                .collect(),
            version: record.buildkit_version.map_or_else(String::new, |told| text(told.version)),
            gc: record.gc_policy.into_iter().map(rule).collect(),
            devices: record.cdi_devices.into_iter().map(device).collect(),
        }
    }
}

/// Whether a status was made on this side, of a transport that failed, and not sent by the daemon.
pub(crate) fn is_broken(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// A call that has no result to tell of its failure: the transport failed, or the daemon does not do what every
/// BuildKit does.
pub(crate) fn refused(during: &'static str, status: &Status) -> BuildError {
    if is_broken(status) {
        return lost(during, status);
    }
    let message = bounded(status.message().to_owned(), MAX_TEXT);
    BuildError::Lost { during, detail: format!("the builder answered {:?}: {message}", status.code()) }
}

pub(crate) fn ended(during: &'static str) -> BuildError {
    BuildError::Lost { during, detail: "the builder closed it".to_owned() }
}

pub(crate) fn silent(during: &'static str, limit: Duration) -> BuildError {
    let detail =
        format!("nothing came from the builder for {} s: it hangs, or the way to it is cut", limit.as_secs());
    BuildError::Lost { during, detail }
}

pub(crate) fn endless(limit: Duration) -> BuildError {
    let detail = format!("the builder went on with progress for {} s after the build's end", limit.as_secs());
    BuildError::Lost { during: "the end of the build", detail }
}

/// The innermost cause says most: the outer ones are "transport error" and the like.
pub(crate) fn lost(during: &'static str, error: &dyn std::error::Error) -> BuildError {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    BuildError::Lost { during, detail: cause.to_string() }
}

/// A stream that tells when it has ended and that it is alive, so that nobody waits for answers that cannot come.
struct Watched<S> {
    stream: S,
    gone: CancellationToken,
    heard: Heard,
}

impl<S> Drop for Watched<S> {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &result {
            Poll::Ready(Ok(())) if room > 0 && buf.filled().len() == before => self.gone.cancel(),
            Poll::Ready(Err(_)) => self.gone.cancel(),
            Poll::Ready(Ok(())) => self.heard.note(),
            Poll::Pending => {}
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
