//! Makes the connection to the builder, on the host side and before any thread exists.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

mod container;
mod engine;
#[cfg(test)]
pub use engine::tests::read_all as read_engine_answer;
pub mod program;
pub mod ssh;

use crate::builder::{self, Address, Candidate, EngineHost, Ssh};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::tls::{self, TlsFiles};
use crate::ui::Ui;
pub use engine::ImageStore;
use engine::{EngineError, Reached};
pub use program::Program;

/// How long a TCP connection may take to be made. A unix socket answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected stream that speaks HTTP/2 in the clear, whatever lies behind it.
#[derive(Debug)]
pub struct Connection {
    pub stream: OwnedFd,
    /// Must run on the host side, once threads are allowed, for the stream to move.
    pub relay: Option<tls::Relay>,
    /// What carries the stream, where a program does; its end is waited for when this is dropped.
    pub program: Option<Program>,
    /// What the builder makes of images, where it is a Docker Engine.
    pub engine: Option<ImageStore>,
    /// The address that answered.
    pub address: Address,
}

/// Connects to the first candidate that answers.
pub fn dial(
    candidates: &[Candidate],
    tls: Option<&TlsFiles>,
    env: &Env,
    ui: &Ui,
) -> Result<Connection, Failure> {
    let mut tried = Vec::new();
    for candidate in candidates {
        let Candidate { address, named_by, demanded, .. } = candidate;
        match connect(address, tls.or(candidate.tls.as_ref()), env, ui) {
            Ok(connection) => {
                ui.verbose(format_args!("builder: {address}, named by {named_by}"));
                return Ok(connection);
            }
            Err(ConnectError::Io(error)) if !demanded => {
                ui.verbose(format_args!("builder: {address}, named by {named_by}: {error}"));
                tried.push(format!("{address} ({named_by}): {error}"));
            }
            Err(ConnectError::Io(error)) => return Err(unreachable(candidate, &error)),
            Err(ConnectError::Final(failure)) => return Err(failure),
        }
    }
    Err(Failure::new(Exit::Builder, "found no builder").hints(tried).hint(WAYS_TO_GET_ONE))
}

const WAYS_TO_GET_ONE: &str = "Have one, in any of these ways:
- by ktl itself: with buildkitd and runc on PATH, ktl starts one in a jail of its own (--builder jail://)
- with docker:  docker run -d --name buildkitd --privileged -v /run/buildkit:/run/buildkit moby/buildkit
- installed:    sudo buildkitd --group $(id -gn)   (apk add buildkit, pacman -S buildkit, nix profile install nixpkgs#buildkit)
- as yourself:  rootlesskit buildkitd              (the same packages, and rootlesskit and uidmap)
- in ktl's own checkout:  cargo xtask setup && sudo .tools/bin/buildkitd --group $(id -gn)
One that listens elsewhere is named by --builder, KTL_BUILDER, BUILDKIT_HOST or BUILDX_BUILDER, as in --builder tcp://127.0.0.1:1234.";

/// Whether somebody listens at an address; who that is, is not asked.
pub fn answers(address: &Address) -> bool {
    match address {
        Address::Unix(path) => UnixStream::connect(path).is_ok(),
        Address::Tcp { host, port } => connect_tcp(host, *port).is_ok(),
        // Nothing is started to find out.
        _ => false,
    }
}

enum ConnectError {
    /// Another candidate may do.
    Io(io::Error),
    Final(Failure),
}

fn connect(
    address: &Address,
    tls: Option<&TlsFiles>,
    env: &Env,
    ui: &Ui,
) -> Result<Connection, ConnectError> {
    let over = |stream: OwnedFd, program| Connection {
        stream,
        relay: None,
        program,
        engine: None,
        address: address.clone(),
    };
    match address {
        Address::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(ConnectError::Io)?;
            Ok(over(stream.into(), None))
        }
        Address::Container(container) => {
            let (stream, program) = container::connect(container).map_err(ConnectError::Final)?;
            Ok(over(stream.into(), Some(program)))
        }
        Address::Ssh(server) => {
            let cache = for_sockets(env).map_err(ConnectError::Final)?;
            let (stream, program) = ssh::connect(server, &cache, ui).map_err(ConnectError::Final)?;
            Ok(over(stream.into(), program))
        }
        Address::Engine(_) | Address::Context(_) => {
            let host = match address {
                Address::Engine(Some(path)) => EngineHost::Unix(path.clone()),
                Address::Context(name) => builder::of_context(env, name).map_err(ConnectError::Final)?,
                _ => builder::of_docker(env).map_err(ConnectError::Final)?,
            };
            let control = match &host {
                EngineHost::Ssh(server) => for_sockets(env).and_then(|cache| ssh::ready(server, &cache, ui)),
                _ => Ok(PathBuf::new()),
            };
            let reached = engine::connect(&host, &control.map_err(ConnectError::Final)?, ui);
            let Reached { stream, relay, program, store } = reached.map_err(|error| match error {
                EngineError::Io(error) => ConnectError::Io(error),
                error => ConnectError::Final(
                    Failure::new(
                        Exit::Builder,
                        format!("cannot reach the Docker Engine at {address}: {error}"),
                    )
                    .hint("ktl needs an Engine of 20.10 or newer (`docker version`), with its BuildKit."),
                ),
            })?;
            Ok(Connection { relay, engine: Some(store), ..over(stream, program) })
        }
        // `private::start` puts a socket in its place.
        Address::Jail(_) | Address::Ephemeral => {
            Err(ConnectError::Io(io::Error::new(io::ErrorKind::NotConnected, "is not started")))
        }
        Address::Tcp { host, port } => {
            let stream = connect_tcp(host, *port).map_err(ConnectError::Io)?;
            let Some(files) = tls else {
                return Ok(over(stream.into(), None));
            };
            let (plain, relay) = tls::handshake(stream, host, files).map_err(|error| {
                ConnectError::Final(
                    Failure::new(Exit::Builder, format!("no TLS with the builder at {address}: {error}")).hint(
                        "Check --tlscacert (who signed the builder's certificate), --tlsservername (the name in it) and \
                         --tlscert/--tlskey (what it wants of you).",
                    ),
                )
            })?;
            Ok(Connection { relay: Some(relay), ..over(plain, None) })
        }
    }
}

/// Where the sockets of ssh may lie.
pub fn for_sockets(env: &Env) -> Result<PathBuf, Failure> {
    env.cache_dir().ok_or_else(|| {
        Failure::new(Exit::Builder, "ssh:// needs a place for its sockets: set KTL_CACHE_DIR or HOME")
    })
}

fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("the name {host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A server that was reached, or not, and gives no builder.
fn refused(ssh: &Ssh, why: &str) -> Failure {
    Failure::new(Exit::Builder, format!("the server of {ssh} {why}"))
}

fn unreachable(candidate: &Candidate, error: &io::Error) -> Failure {
    let Candidate { address, named_by, .. } = candidate;
    let failure = Failure::new(
        Exit::Builder,
        format!("cannot reach the builder at {address} (named by {named_by}): {error}"),
    );
    match (address, error.kind()) {
        (Address::Unix(path), io::ErrorKind::NotFound) => failure.hint(format!(
            "There is no socket at {}. Is buildkitd running? It prints the address it listens on when it starts.",
            path.display()
        )),
        (Address::Unix(path), io::ErrorKind::PermissionDenied) => failure.hint(format!(
            "You may not open {}. Start buildkitd with `--group GROUP` for a group of yours, or run a rootless one.",
            path.display()
        )),
        (Address::Unix(_), io::ErrorKind::ConnectionRefused) => {
            failure.hint("The socket is there but nothing listens: buildkitd has ended. Start it again.")
        }
        (Address::Engine(_) | Address::Context(_), io::ErrorKind::PermissionDenied) => failure.hint(
            "You may not use that Engine. Who may is root on its machine; `usermod -aG docker USER` makes USER one of them.",
        ),
        (Address::Engine(_) | Address::Context(_), _) => {
            failure.hint("Is the Docker Engine running (`docker version`)? DOCKER_HOST and DOCKER_CONTEXT name another.")
        }
        (Address::Tcp { .. }, _) => failure.hint(
            "Does buildkitd listen there (`buildkitd --addr tcp://…`)? Is a firewall between? Does it want TLS (--tlscacert)?",
        ),
        _ => failure,
    }
}
