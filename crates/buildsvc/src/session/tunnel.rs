//! The bytes of `Control.Session` as a connection.
//!
//! Incoming messages are slices of one byte stream and are read in place. Outgoing bytes gather in a buffer while the
//! outer connection is busy, and leave as one message when it is ready: small HTTP/2 frames cost no message each, idle
//! ones wait for nothing, and a full buffer holds back the writer. Follows moby/buildkit `session/grpchijack`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use crate::proto::moby::buildkit::v1::BytesMessage;

/// What may wait for the outer connection, and the most that one message carries.
const BUFFER: usize = 1 << 20;

/// The outgoing half, shared by the connection that fills it and the request stream that empties it.
#[derive(Debug, Default)]
pub(super) struct Pipe(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    buffer: BytesMut,
    closed: bool,
    /// Waits for room.
    writer: Option<Waker>,
    /// Waits for bytes to send.
    sender: Option<Waker>,
    /// Waits for bytes of the daemon; woken from here when the tunnel is closed.
    reader: Option<Waker>,
}

/// An empty pipe, and the stream of messages that comes out of it.
pub(super) fn pipe() -> (Arc<Pipe>, Outgoing) {
    let pipe = Arc::new(Pipe::default());
    (pipe.clone(), Outgoing(pipe))
}

impl Pipe {
    /// Ends the connection on both sides: reads end, writes fail, and the daemon sees its stream half-closed.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for waker in [state.writer.take(), state.sender.take(), state.reader.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll_put(&self, cx: &Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut room = BUFFER.saturating_sub(state.buffer.len());
        if room == 0 {
            park(&mut state.writer, cx);
            return Poll::Pending;
        }
        let before = room;
        for part in parts {
            let fits = &part[..part.len().min(room)];
            state.buffer.extend_from_slice(fits);
            room -= fits.len();
        }
        if let Some(waker) = state.sender.take() {
            waker.wake();
        }
        Poll::Ready(Ok(before - room))
    }
}

fn park(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

/// The request stream of `Control.Session`.
#[derive(Debug)]
pub(super) struct Outgoing(Arc<Pipe>);

impl Stream for Outgoing {
    type Item = BytesMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BytesMessage>> {
        let mut state = self.0.lock();
        if !state.buffer.is_empty() {
            let data = state.buffer.split().freeze();
            if let Some(waker) = state.writer.take() {
                waker.wake();
            }
            return Poll::Ready(Some(BytesMessage { data }));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        park(&mut state.sender, cx);
        Poll::Pending
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The connection: reads what the daemon sends, writes into the pipe.
#[derive(Debug)]
pub(super) struct Tunnel<I> {
    incoming: I,
    current: Bytes,
    pipe: Arc<Pipe>,
}

impl<I> Tunnel<I> {
    pub(super) fn new(incoming: I, pipe: Arc<Pipe>) -> Tunnel<I> {
        Tunnel { incoming, current: Bytes::new(), pipe }
    }
}

impl<I> Drop for Tunnel<I> {
    fn drop(&mut self) {
        self.pipe.close();
    }
}

impl<I> Connected for Tunnel<I> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl<I> AsyncRead for Tunnel<I>
where
    I: Stream<Item = Result<BytesMessage, tonic::Status>> + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        {
            let mut state = self.pipe.lock();
            if state.closed {
                return Poll::Ready(Ok(()));
            }
            park(&mut state.reader, cx);
        }
        while self.current.is_empty() {
            match std::task::ready!(Pin::new(&mut self.incoming).poll_next(cx)) {
                Some(Ok(message)) => self.current = message.data,
                Some(Err(status)) => return Poll::Ready(Err(io::Error::other(status))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..n]);
        self.current.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<I: Unpin> AsyncWrite for Tunnel<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.pipe.poll_put(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pipe.poll_put(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is in the pipe is on its way: the outer connection takes it as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pipe.close();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::StreamExt;

    fn message(data: &'static str) -> Result<BytesMessage, tonic::Status> {
        Ok(BytesMessage { data: Bytes::from_static(data.as_bytes()) })
    }

    fn silent() -> tokio_stream::Pending<Result<BytesMessage, tonic::Status>> {
        tokio_stream::pending()
    }

    #[tokio::test]
    async fn reads_across_messages() {
        let (pipe, _outgoing) = pipe();
        let mut tunnel = Tunnel::new(tokio_stream::iter([message("ab"), message(""), message("cd")]), pipe);
        let mut text = String::new();
        tunnel.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "abcd");
    }

    #[tokio::test]
    async fn writes_gather_and_a_full_pipe_holds_back() {
        let (pipe, mut outgoing) = pipe();
        let mut tunnel = Tunnel::new(silent(), pipe);
        tunnel.write_all(b"ab").await.unwrap();
        tunnel.write_all(b"cd").await.unwrap();
        assert_eq!(outgoing.next().await.unwrap().data, "abcd");

        let most = vec![7; 3 * BUFFER];
        let writing = tokio::spawn(async move {
            tunnel.write_all(&most).await.unwrap();
            tunnel
        });
        let mut received = 0;
        while received < 3 * BUFFER {
            let data = outgoing.next().await.unwrap().data;
            assert!(data.len() <= BUFFER);
            received += data.len();
        }
        drop(writing.await.unwrap());
        assert!(outgoing.next().await.is_none());
    }

    #[tokio::test]
    async fn closing_wakes_everyone() {
        let (pipe, mut outgoing) = pipe();
        let closer = pipe.clone();
        let mut tunnel = Tunnel::new(silent(), pipe);
        let reading = tokio::spawn(async move {
            let end = tunnel.read(&mut [0; 8]).await;
            (end, tunnel)
        });
        let sending = tokio::spawn(async move { outgoing.next().await });
        tokio::task::yield_now().await;
        closer.close();
        let (end, mut tunnel) = reading.await.unwrap();
        assert_eq!(end.unwrap(), 0);
        assert!(sending.await.unwrap().is_none());
        assert_eq!(tunnel.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
