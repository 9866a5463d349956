//! TLS to a builder, terminated on the host side.
//!
//! The client's key must not enter the jail, and the guest should not care how its bytes travel. So the handshake is made
//! here, before the jail exists, and a relay on the host side then moves plain bytes between the guest's end of a socketpair
//! and the encrypted stream. One thread, `poll(2)`, no runtime.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::cli::BuilderFlags;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 << 10;

/// Where the certificates are. Flag names and file names follow buildctl (`cmd/buildctl/common`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

impl TlsFiles {
    /// `None` when no flag asks for TLS; a TCP connection is then made in the clear, as buildctl does.
    pub fn from_flags(flags: &BuilderFlags) -> Result<Option<TlsFiles>, String> {
        if flags.tlscert.is_some() != flags.tlskey.is_some() {
            return Err("--tlscert and --tlskey are needed together".to_owned());
        }
        let mut files = TlsFiles {
            ca: flags.tlscacert.clone(),
            identity: flags.tlscert.clone().zip(flags.tlskey.clone()),
            server_name: flags.tlsservername.clone(),
        };
        if let Some(dir) = &flags.tlsdir {
            let found = TlsFiles::in_dir(dir).map_err(|why| format!("--tlsdir {why}"))?;
            files = TlsFiles { server_name: files.server_name, ..found };
        }
        Ok((files != TlsFiles::default()).then_some(files))
    }

    /// The files that somebody has named one by one.
    pub fn new(ca: PathBuf, identity: Option<(PathBuf, PathBuf)>, server_name: Option<String>) -> TlsFiles {
        TlsFiles { ca: Some(ca), identity, server_name }
    }

    /// Those of a directory, under the names that buildctl and docker know.
    pub fn in_dir(dir: &Path) -> Result<TlsFiles, String> {
        let pick = |names: [&str; 2]| names.into_iter().map(|name| dir.join(name)).find(|path| path.exists());
        let ca = pick(["ca.pem", "ca.crt"]);
        let identity = match (pick(["cert.pem", "tls.crt"]), pick(["key.pem", "tls.key"])) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(format!("{}: a certificate and a key are needed together", dir.display())),
        };
        if ca.is_none() && identity.is_none() {
            return Err(format!("{}: holds neither ca.pem, cert.pem nor key.pem", dir.display()));
        }
        Ok(TlsFiles { ca, identity, server_name: None })
    }

    fn config(&self, protocol: &[u8]) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(path) => {
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|error| TlsError::file(path, error))?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Tls)?
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some((cert, key)) => {
                let private =
                    PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::file(key, error))?;
                builder
                    .with_client_auth_cert(certificates(cert)?, private)
                    .map_err(|error| TlsError::file(cert, error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| TlsError::file(path, error))?
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::file(path, error))?;
    if found.is_empty() { Err(TlsError::file(path, "no certificate in it")) } else { Ok(found) }
}

/// Why there is no TLS with the builder.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {why}")]
    File { path: String, why: String },
    #[error("`{0}` is not a name that a certificate can carry")]
    Name(String),
    #[error(transparent)]
    Tls(rustls::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl TlsError {
    fn file(path: &Path, why: impl fmt::Display) -> TlsError {
        TlsError::File { path: path.display().to_string(), why: why.to_string() }
    }
}

/// Makes the handshake on `stream` and returns the plain end for the guest and the relay that serves it.
pub fn handshake(stream: TcpStream, host: &str, files: &TlsFiles) -> Result<(OwnedFd, Relay), TlsError> {
    Ok(open(stream, host, files, b"h2")?.relay()?)
}

/// Makes the handshake on `stream`, for a server that is to speak `protocol` (RFC 7301).
pub fn open(
    mut stream: TcpStream,
    host: &str,
    files: &TlsFiles,
    protocol: &[u8],
) -> Result<Secured, TlsError> {
    let name = files.server_name.as_deref().unwrap_or(host);
    let server = ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))?;
    let mut session =
        ClientConnection::new(Arc::new(files.config(protocol)?), server).map_err(TlsError::Tls)?;
    stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
    stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT))?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(Secured { session, stream })
}

/// An encrypted stream that is still spoken on here. Each read and write has the handshake's patience.
#[derive(Debug)]
pub struct Secured {
    session: ClientConnection,
    stream: TcpStream,
}

impl Secured {
    /// The plain end for the guest, and what serves it. What was read and not taken is the guest's.
    pub fn relay(self) -> io::Result<(OwnedFd, Relay)> {
        let Secured { session, stream } = self;
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        stream.set_nonblocking(true)?;
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        Ok((far.into(), Relay { session, stream, near }))
    }
}

impl Read for Secured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match rustls::Stream::new(&mut self.session, &mut self.stream).read(buffer) {
            // Go's servers end a connection without the alert.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other,
        }
    }
}

impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        rustls::Stream::new(&mut self.session, &mut self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        rustls::Stream::new(&mut self.session, &mut self.stream).flush()
    }
}

/// Moves bytes between the guest and the encrypted stream until either side ends.
#[derive(Debug)]
pub struct Relay {
    session: ClientConnection,
    stream: TcpStream,
    near: UnixStream,
}

impl Relay {
    /// Runs until both directions are done or one fails; the guest then sees its stream end. Each direction holds at most
    /// one chunk beyond what rustls buffers, so a slow side slows the other.
    pub fn run(mut self) -> io::Result<()> {
        self.session.set_buffer_limit(Some(1 << 20));
        let mut to_guest: Vec<u8> = Vec::new();
        let mut from_guest: Vec<u8> = Vec::new();
        let mut chunk = vec![0; CHUNK];
        let mut guest_ended = false;
        let mut peer_ended = false;
        loop {
            if peer_ended && to_guest.is_empty() {
                return Ok(());
            }
            if guest_ended && from_guest.is_empty() && !self.session.wants_write() {
                return Ok(());
            }
            let mut near = PollFlags::empty();
            near.set(PollFlags::POLLIN, !guest_ended && from_guest.is_empty());
            near.set(PollFlags::POLLOUT, !to_guest.is_empty());
            let mut far = PollFlags::empty();
            far.set(PollFlags::POLLIN, !peer_ended && to_guest.is_empty());
            far.set(PollFlags::POLLOUT, self.session.wants_write());
            // A side that nothing is wanted of is left out: its hang-up would turn the wait into a spin.
            let mut fds = Vec::with_capacity(2);
            if !near.is_empty() {
                fds.push(PollFd::new(self.near.as_fd(), near));
            }
            if !far.is_empty() {
                fds.push(PollFd::new(self.stream.as_fd(), far));
            }
            match poll(&mut fds, PollTimeout::NONE) {
                Err(nix::errno::Errno::EINTR) => continue,
                other => other?,
            };
            let mut ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            let near_ready = if near.is_empty() { near } else { ready.next().unwrap_or(near) };
            let far_ready = if far.is_empty() { far } else { ready.next().unwrap_or(far) };

            if near.contains(PollFlags::POLLIN)
                && near_ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP)
            {
                match self.near.read(&mut chunk) {
                    Ok(0) => guest_ended = true,
                    Ok(count) => from_guest.extend_from_slice(&chunk[..count]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            } else if near_ready.contains(PollFlags::POLLERR) {
                return Ok(());
            }
            if !from_guest.is_empty() {
                let taken = self.session.writer().write(&from_guest)?;
                from_guest.drain(..taken);
            }
            if far.contains(PollFlags::POLLIN) && far_ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP)
            {
                match self.session.read_tls(&mut self.stream) {
                    Ok(0) => peer_ended = true,
                    Ok(_) => {
                        self.session.process_new_packets().map_err(io::Error::other)?;
                        loop {
                            match self.session.reader().read(&mut chunk) {
                                Ok(0) => break peer_ended = true,
                                Ok(count) => to_guest.extend_from_slice(&chunk[..count]),
                                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                                Err(error) => return Err(error),
                            }
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            while self.session.wants_write() {
                match self.session.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            if !to_guest.is_empty() {
                match self.near.write(&to_guest) {
                    Ok(count) => drop(to_guest.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}
