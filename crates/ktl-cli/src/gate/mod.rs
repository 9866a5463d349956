//! The gate: a Docker Engine's socket for a jailed client, cut down to what a build needs.
//!
//! Whoever can write to an Engine's socket is root on its host: one call starts a container with the host's root mounted.
//! A jail with that socket in it is none. So the jail gets a socket of ours, and behind it stands this module: HTTP/1.1 with
//! the client, a table of what passes ([`rules`]), and a request made anew for the Engine ([`forward`]). `docs/gate.md` says
//! what passes and what a build can still do.

mod forward;
mod grpc;
mod info;
mod path;
mod query;
mod record;
mod rules;
mod serve;

#[cfg(test)]
mod engine_tests;
#[cfg(test)]
mod raw_tests;
#[cfg(test)]
mod rules_tests;

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::failure::{Failure, chain};

pub use record::GateRecord;
use serve::Limits;

/// A unix socket that is listening, not yet served. It makes no thread and no runtime, so it may be made before the jail is
/// forked; what connects meanwhile waits.
#[derive(Debug)]
pub struct Gate {
    listener: UnixListener,
    socket: SocketFile,
    engine: PathBuf,
    limits: Limits,
}

impl Gate {
    /// Listens in `dir`, an existing directory of ours with mode 0700, for calls to `engine`, the Engine's socket.
    ///
    /// The socket has mode 0666: the jail's id is not ours, and only the jail gets at the file, by a bind.
    pub fn listen(dir: &Path, engine: &Path) -> Result<Gate, Failure> {
        let path = dir.join("docker.sock");
        let failed = |what: &str, error: &io::Error| {
            Failure::sandbox(format!("{what} {}: {}", path.display(), chain(error)))
                .hint("this socket is how the jailed docker reaches the Engine")
        };
        let listener = UnixListener::bind(&path).map_err(|error| failed("listen on", &error))?;
        let socket = SocketFile(path.clone());
        fs::set_permissions(&path, Permissions::from_mode(0o666)).map_err(|error| failed("chmod", &error))?;
        listener.set_nonblocking(true).map_err(|error| failed("prepare", &error))?;
        Ok(Gate { listener, socket, engine: engine.to_owned(), limits: Limits::default() })
    }

    /// What to bind into the jail.
    pub fn socket(&self) -> &Path {
        &self.socket.0
    }

    /// Serves from now on. To be called after the fork: it starts one thread with its own runtime.
    pub fn serve(self) -> Result<Serving, Failure> {
        let failed =
            |what: &str, error: io::Error| Failure::new(Exit::Sandbox, format!("{what}: {}", chain(&error)));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|error| failed("make the gate's runtime", error))?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::UnixListener::from_std(self.listener)
                .map_err(|error| failed("watch the gate's socket", error))?
        };
        let desk = Arc::new(forward::Desk { engine: self.engine, recorder: record::Recorder::default() });
        let stop = CancellationToken::new();
        let thread = {
            let (desk, stop, limits) = (Arc::clone(&desk), stop.clone(), self.limits);
            std::thread::Builder::new()
                .name("gate".to_owned())
                // Dropping the runtime with the closure drops every connection.
                .spawn(move || {
                    runtime.block_on(stop.run_until_cancelled(serve::accept(listener, desk, limits)))
                })
                .map_err(|error| failed("start the gate's thread", error))?
        };
        Ok(Serving { desk, stop, thread: Some(thread), _socket: self.socket })
    }
}

/// The gate at work. Dropping it ends the thread and every connection, and removes the socket.
#[derive(Debug)]
pub struct Serving {
    desk: Arc<forward::Desk>,
    stop: CancellationToken,
    thread: Option<JoinHandle<Option<()>>>,
    _socket: SocketFile,
}

impl Serving {
    /// Ends as a drop does, and tells what went through.
    pub fn close(mut self) -> GateRecord {
        self.end();
        self.desk.recorder.take()
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // It ends by itself or has panicked; either way no connection is left.
            let _ended = thread.join();
        }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.end();
    }
}

/// Removed when the value goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(&self.0);
    }
}
