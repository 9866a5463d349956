//! The builder's door: a unix socket in the jail behind which the host side dials the builder.
//!
//! A client that is not ktl wants an address, and gets one that is the same wherever the builder is. Each connection is
//! carried byte for byte over one of its own; TLS ends outside, so no client key enters the jail. The socket's file lies in a
//! directory that only the user can enter, and is bound into the jail alone.

use std::fs::{self, Permissions};
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::builder::Candidate;
use crate::dial::{self, Connection};
use crate::env::Env;
use crate::failure::Failure;
use crate::tls::TlsFiles;
use crate::ui::Ui;

/// Connections at a time; a client has a handful.
const MOST: usize = 64;

/// A socket that listens and is not yet served. It makes no thread, so it may be made before the fork.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    socket: PathBuf,
    builder: Candidate,
    tls: Option<TlsFiles>,
    env: Env,
}

impl Door {
    /// Listens in `dir`, a directory of ours with mode 0700.
    pub fn listen(dir: &Path, builder: Candidate, tls: Option<TlsFiles>, env: Env) -> Result<Door, Failure> {
        let socket = dir.join("buildkitd.sock");
        let failed =
            |error: io::Error| Failure::sandbox(format!("failed to listen on {}: {error}", socket.display()));
        let listener = UnixListener::bind(&socket).map_err(failed)?;
        // The guest's id is not ours; nobody else gets through the directory.
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Door { listener, socket, builder, tls, env })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Serves until this process ends. To be called after the fork.
    pub fn serve(self, ui: Ui) -> Result<(), Failure> {
        let Door { listener, builder, tls, env, .. } = self;
        let open = Arc::new(AtomicUsize::new(0));
        let shared = Arc::new((builder, tls, env));
        let accept = move || {
            for client in listener.incoming() {
                let Ok(client) = client else {
                    // Out of descriptors, most likely; others end in a moment.
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    continue;
                };
                let taken = Taken::of(&open);
                let (Some(taken), shared) = (taken, Arc::clone(&shared)) else {
                    continue;
                };
                let carry = move || {
                    let _taken = taken;
                    let (builder, tls, env) = &*shared;
                    if let Err(why) = carry(client, builder, tls.as_ref(), env, &ui) {
                        ui.line(format_args!("[builder] {why}"));
                    }
                };
                // Without a thread the client sees its connection end.
                let _ = std::thread::Builder::new().name("door".to_owned()).spawn(carry);
            }
        };
        std::thread::Builder::new()
            .name("doors".to_owned())
            .spawn(accept)
            .map(drop)
            .map_err(|error| Failure::internal(format!("failed to serve the builder's door: {error}")))
    }
}

/// One of the places for connections.
struct Taken(Arc<AtomicUsize>);

impl Taken {
    fn of(open: &Arc<AtomicUsize>) -> Option<Taken> {
        let taken = Taken(Arc::clone(open));
        (open.fetch_add(1, Ordering::Relaxed) < MOST).then_some(taken)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn carry(
    client: UnixStream,
    builder: &Candidate,
    tls: Option<&TlsFiles>,
    env: &Env,
    ui: &Ui,
) -> Result<(), String> {
    let quiet = Ui { verbose: false, ..*ui };
    let Connection { stream, relay, program: _program, .. } =
        dial::dial(std::slice::from_ref(builder), tls, env, &quiet).map_err(|failure| failure.title)?;
    if let Some(relay) = relay {
        std::thread::Builder::new().spawn(move || drop(relay.run())).map_err(|error| error.to_string())?;
    }
    // Reading, writing and half-closing are the same for every kind of socket.
    let far = UnixStream::from(stream);
    let halves = || Ok::<_, io::Error>((client.try_clone()?, far.try_clone()?));
    let (mut from_client, mut to_builder) = halves().map_err(|error| error.to_string())?;
    let up = std::thread::Builder::new()
        .spawn(move || {
            // An end is an end, whichever way it comes: the other side is told, and tells the client.
            let _ = io::copy(&mut from_client, &mut to_builder);
            let _ = to_builder.shutdown(Shutdown::Write);
        })
        .map_err(|error| error.to_string())?;
    let (mut from_builder, mut to_client) = (far, client);
    let _ = io::copy(&mut from_builder, &mut to_client);
    let _ = to_client.shutdown(Shutdown::Both);
    let _ = up.join();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::builder::Address;

    fn door(dir: &Path, builder: PathBuf) -> PathBuf {
        let builder = Candidate::only(Address::Unix(builder), "test");
        let door = Door::listen(dir, builder, None, Env::default()).unwrap();
        let socket = door.socket().to_owned();
        door.serve(Ui { verbose: false, quiet: true }).unwrap();
        socket
    }

    #[test]
    fn carries_bytes_and_ends_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let far = dir.path().join("far.sock");
        let builder = UnixListener::bind(&far).unwrap();
        let socket = door(dir.path(), far);
        for round in 0..MOST + 3 {
            let mut client = UnixStream::connect(&socket).unwrap();
            client.write_all(b"asked").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let (mut peer, _) = builder.accept().unwrap();
            let mut heard = String::new();
            peer.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "asked", "round {round}");
            peer.write_all(b"answered").unwrap();
            drop(peer);
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "answered", "round {round}");
        }
    }

    #[test]
    fn a_builder_that_is_gone_ends_the_clients_connection() {
        let dir = tempfile::tempdir().unwrap();
        let socket = door(dir.path(), dir.path().join("none.sock"));
        let mut client = UnixStream::connect(&socket).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
}
