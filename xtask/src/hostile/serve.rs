//! A hostile daemon on its socket.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use anyhow::{Context, Result};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::case::Case;
use super::control::Daemon;
use super::ground::Ground;
use super::wire::moby::buildkit::v1::control_server::ControlServer;
use super::wire::moby::buildkit::v1::frontend::llb_bridge_server::LlbBridgeServer;

/// What all daemons of this process run in.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hostile")
        .enable_all()
        .build()
        .expect("threads for a hostile daemon")
});

const MAX_MESSAGE: usize = 64 << 20;

/// A daemon that listens; gone with the value.
#[derive(Debug)]
pub struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves `case` at `socket`.
pub fn serve(case: &Case, ground: &Arc<Ground>, socket: &Path) -> Result<Listening> {
    let _context = RUNTIME.enter();
    let listener = UnixListener::bind(socket).with_context(|| format!("listen at {}", socket.display()))?;
    let (case, ground) = (*case, ground.clone());
    Ok(Listening(RUNTIME.spawn(async move {
        if let Some(talk) = case.talk {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, ground.clone()));
            }
            return;
        }
        let daemon = Daemon::new(case, ground);
        let control = ControlServer::new(daemon.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let served = Server::builder()
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .add_service(control)
            .add_service(LlbBridgeServer::new(daemon))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let _ended = served.await;
    })))
}
