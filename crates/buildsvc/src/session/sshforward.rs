//! The user's ssh agent, lent to build steps.
//!
//! Each connection that a step makes to its agent socket is one call, whose bytes are copied to and from a connection of
//! the host side. What an agent may be asked is decided there. Follows moby/buildkit `session/sshforward`.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::auth::refusal;
use super::host::{Host, HostError};
use crate::proto::moby::sshforward::v1 as wire;
use crate::ssh::DEFAULT_AGENT;
use wire::BytesMessage;

pub(super) const METHODS: &[&str] =
    &["/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"];

const CHUNK: usize = 32 << 10;

#[derive(Debug)]
pub(super) struct Agents {
    host: Arc<dyn Host>,
    known: BTreeSet<String>,
}

impl Agents {
    pub(super) fn new(host: Arc<dyn Host>, known: BTreeSet<String>) -> Agents {
        Agents { host, known }
    }
}

fn absent(id: &str) -> Status {
    Status::not_found(format!("ssh agent {id:?} is not offered to this build"))
}

fn named(id: &str) -> &str {
    if id.is_empty() { DEFAULT_AGENT } else { id }
}

#[tonic::async_trait]
impl wire::ssh_server::Ssh for Agents {
    async fn check_agent(
        &self,
        request: Request<wire::CheckAgentRequest>,
    ) -> Result<Response<wire::CheckAgentResponse>, Status> {
        let request = request.into_inner();
        let id = named(&request.id);
        if !self.known.contains(id) {
            return Err(absent(id));
        }
        match self.host.has_agent(id).await {
            Ok(true) => Ok(Response::new(wire::CheckAgentResponse {})),
            Ok(false) | Err(HostError::NotOffered(_)) => Err(absent(id)),
            Err(error) => Err(refusal(&error)),
        }
    }

    type ForwardAgentStream = FromAgent;

    async fn forward_agent(
        &self,
        call: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<FromAgent>, Status> {
        let id = call.metadata().get("buildkit.ssh.id").and_then(|id| id.to_str().ok()).unwrap_or_default();
        let id = named(id);
        if !self.known.contains(id) {
            return Err(absent(id));
        }
        let agent = match self.host.agent(id).await {
            Ok(Some(agent)) => agent,
            Ok(None) | Err(HostError::NotOffered(_)) => return Err(absent(id)),
            Err(error) => return Err(refusal(&error)),
        };
        let (from_agent, to_agent) = connected(agent)
            .map_err(|error| {
                Status::unavailable(format!("failed to use the connection to ssh agent {id:?}: {error}"))
            })?
            .into_split();
        let (replies, received) = mpsc::channel(2);
        let writing = tokio::spawn(copy_to(to_agent, call.into_inner()));
        let reading = tokio::spawn(copy_from(from_agent, replies));
        Ok(Response::new(FromAgent { received, tasks: [writing, reading] }))
    }
}

fn connected(agent: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = StdUnixStream::from(agent);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Ends with the daemon's half of the call; the agent may still be answering.
async fn copy_to(mut agent: OwnedWriteHalf, mut step: Streaming<BytesMessage>) {
    while let Ok(Some(message)) = step.message().await {
        if agent.write_all(&message.data).await.is_err() {
            return;
        }
    }
    let _ = agent.shutdown().await;
}

async fn copy_from(mut agent: OwnedReadHalf, step: mpsc::Sender<Result<BytesMessage, Status>>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let message = match agent.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(BytesMessage { data: buffer.split().freeze() }),
            Err(error) => Err(Status::unavailable(format!("failed to read from the ssh agent: {error}"))),
        };
        let last = message.is_err();
        if step.send(message).await.is_err() || last {
            return;
        }
    }
}

/// What the agent answers. Dropped with the call, and then both copies end.
#[derive(Debug)]
pub(super) struct FromAgent {
    received: mpsc::Receiver<Result<BytesMessage, Status>>,
    tasks: [JoinHandle<()>; 2],
}

impl Stream for FromAgent {
    type Item = Result<BytesMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.received.poll_recv(cx)
    }
}

impl Drop for FromAgent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
