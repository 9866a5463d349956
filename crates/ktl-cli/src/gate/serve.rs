//! Connections of the jailed client: how many, how large their heads, and for how long one may stay silent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::forward::{self, Desk};

/// What one client may hold. It is a client's own loss when it fills this.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once, hijacked ones among them; the next ones wait to be accepted.
    pub connections: usize,
    /// From the first wait for a request until its head is complete; also how long an idle connection is kept.
    pub head: Duration,
    /// Bytes of a head. A build's arguments and labels travel in its query.
    pub head_size: usize,
    /// Headers of a request.
    pub headers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: 64, head: Duration::from_secs(30), head_size: 128 << 10, headers: 64 }
    }
}

/// Accepts and serves, for ever.
pub async fn accept(listener: UnixListener, desk: Arc<Desk>, limits: Limits) {
    let places = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            // Out of descriptors or memory: what is open may end meanwhile.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            let place = Arc::new(place);
            let service = service_fn(|request| {
                let (desk, place) = (Arc::clone(&desk), Arc::clone(&place));
                async move { Ok::<_, Infallible>(forward::answer(desk, place, request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(limits.head_size)
                .max_headers(limits.headers)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
            if served
                .is_err_and(|error| error.is_parse() || error.is_timeout() || error.is_incomplete_message())
            {
                desk.recorder.malformed();
            }
        });
    }
}
