//! A Docker Engine's BuildKit: a connection to the Engine that has been turned into one to the BuildKit within.
//!
//! Whoever holds the Engine's socket is root on its host. The guest gets a stream that was upgraded here, and speaks BuildKit's
//! gRPC on it and nothing else: the socket never enters the jail. Up to API 1.52 the way is `POST /grpc` with an upgrade to
//! h2c; from 1.53 the Engine serves gRPC on its socket as it is (moby/moby `daemon/command/httphandler.go`).

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::program::{self, Program, ProgramError};
use super::{connect_tcp, ssh};
use crate::builder::EngineHost;
use crate::tls::{self, Relay, Secured, TlsError};
use crate::ui::Ui;

/// An Engine answers at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// Its `/info` has some kilobytes.
const ANSWER_LIMIT: u64 = 1 << 20;
const HEAD_LIMIT: usize = 16 << 10;
/// From this API version on gRPC is served without an upgrade.
const PLAIN_GRPC: (u32, u32) = (1, 53);

/// What an Engine can do with a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageStore {
    /// Graph drivers: one platform, no attestations, and the exporters moby, local and tar.
    Graph,
    /// containerd's: all that BuildKit exports.
    Containerd,
}

/// Why an Engine is no builder.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Program(#[from] ProgramError),
    #[error("{what} was answered with {status}")]
    Refused { what: &'static str, status: u16 },
    #[error("{0} was not answered as an Engine does")]
    Strange(&'static str),
}

/// A stream to the Engine, before it is anything's.
enum Line {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<Secured>),
    Program(UnixStream, Program),
}

impl Line {
    fn open(host: &EngineHost, control: &Path, protocol: &[u8]) -> Result<Line, EngineError> {
        Ok(match host {
            EngineHost::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Line::Unix(stream)
            }
            EngineHost::Tcp { host, port, tls } => {
                let stream = connect_tcp(host, *port)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                match tls {
                    None => Line::Tcp(stream),
                    Some(files) => Line::Tls(Box::new(tls::open(stream, host, files, protocol)?)),
                }
            }
            // As docker itself does (docker/cli `cli/connhelper`).
            EngineHost::Ssh(server) => {
                let mut command: Command = ssh::command(server, control);
                command.args(["--", &server.host, "docker", "system", "dial-stdio"]);
                let (stream, program) = program::open(&mut command)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Line::Program(stream, program)
            }
        })
    }

    fn parts(&mut self) -> &mut dyn Duplex {
        match self {
            Line::Unix(stream) | Line::Program(stream, _) => stream,
            Line::Tcp(stream) => stream,
            Line::Tls(secured) => &mut **secured,
        }
    }

    fn into_stream(self) -> Result<(OwnedFd, Option<Relay>, Option<Program>), EngineError> {
        Ok(match self {
            Line::Unix(stream) => {
                stream.set_read_timeout(None)?;
                (stream.into(), None, None)
            }
            Line::Tcp(stream) => {
                stream.set_read_timeout(None)?;
                (stream.into(), None, None)
            }
            Line::Tls(secured) => {
                let (plain, relay) = secured.relay()?;
                (plain, Some(relay), None)
            }
            Line::Program(stream, program) => {
                stream.set_read_timeout(None)?;
                (stream.into(), None, Some(program))
            }
        })
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// What is handed on of an Engine: the stream, what moves it, and what the Engine is.
#[derive(Debug)]
pub struct Reached {
    pub stream: OwnedFd,
    pub relay: Option<Relay>,
    pub program: Option<Program>,
    pub store: ImageStore,
}

/// Connects to the BuildKit of the Engine at `host`. `control` is the directory of ssh's sockets.
pub fn connect(host: &EngineHost, control: &Path, ui: &Ui) -> Result<Reached, EngineError> {
    let api = api_version(&get(host, control, "/_ping", "its ping")?.0)?;
    let (_, body) = get(host, control, "/info", "the question what it is")?;
    let store = image_store(&body)?;
    ui.verbose(format_args!("docker: API {}.{}, {store:?} image store", api.0, api.1));
    let mut line = Line::open(host, control, if api >= PLAIN_GRPC { b"h2" } else { b"http/1.1" })?;
    if api < PLAIN_GRPC {
        upgrade(line.parts())?;
    }
    let (stream, relay, program) = line.into_stream()?;
    Ok(Reached { stream, relay, program, store })
}

/// One request on a connection of its own. HTTP/1.0, so that the answer is not chunked and ends with the connection.
fn get(
    host: &EngineHost,
    control: &Path,
    path: &str,
    what: &'static str,
) -> Result<(Vec<u8>, Vec<u8>), EngineError> {
    let mut line = Line::open(host, control, b"http/1.1")?;
    let stream = line.parts();
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n").as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
    let end = head_end(&answer).ok_or(EngineError::Strange(what))?;
    let body = answer.split_off(end);
    match status(&answer).ok_or(EngineError::Strange(what))? {
        200 => Ok((answer, body)),
        status => Err(EngineError::Refused { what, status }),
    }
}

/// Turns the connection into BuildKit's. Nothing behind the answer's blank line may be read here: it is HTTP/2 already.
fn upgrade(stream: &mut dyn Duplex) -> Result<(), EngineError> {
    const WHAT: &str = "the call for its BuildKit (POST /grpc)";
    stream.write_all(b"POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")?;
    stream.flush()?;
    let mut head = Vec::new();
    let mut byte = [0];
    while head_end(&head).is_none() {
        if head.len() > HEAD_LIMIT || stream.read(&mut byte)? == 0 {
            return Err(EngineError::Strange(WHAT));
        }
        head.push(byte[0]);
    }
    match status(&head).ok_or(EngineError::Strange(WHAT))? {
        101 => Ok(()),
        status => Err(EngineError::Refused { what: WHAT, status }),
    }
}

/// Behind the blank line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn parsed<T>(head: &[u8], read: impl FnOnce(&httparse::Response<'_, '_>) -> Option<T>) -> Option<T> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(head).ok().filter(|parsed| parsed.is_complete())?;
    read(&response)
}

fn status(head: &[u8]) -> Option<u16> {
    parsed(head, |response| response.code)
}

fn api_version(head: &[u8]) -> Result<(u32, u32), EngineError> {
    let version = parsed(head, |response| {
        let header =
            response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("api-version"))?;
        let (major, minor) = std::str::from_utf8(header.value).ok()?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    version.ok_or(EngineError::Strange("its ping"))
}

/// The driver's kind tells (docker/buildx `util/dockerutil`).
fn image_store(info: &[u8]) -> Result<ImageStore, EngineError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        #[serde(default)]
        driver_status: Option<Vec<Vec<String>>>,
    }
    let info: Info =
        serde_json::from_slice(info).map_err(|_| EngineError::Strange("the question what it is"))?;
    let containerd = info.driver_status.unwrap_or_default().iter().any(|pair| {
        pair.first().is_some_and(|name| name == "driver-type")
            && pair.get(1).is_some_and(|kind| kind == "io.containerd.snapshotter.v1")
    });
    Ok(if containerd { ImageStore::Containerd } else { ImageStore::Graph })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Reads what an Engine may have answered in every way that an answer is read.
    pub fn read_all(answer: &[u8]) {
        let _ = (status(answer), api_version(answer), image_store(answer), head_end(answer));
    }

    #[test]
    fn answers_of_engines() {
        let ping = b"HTTP/1.0 200 OK\r\nApi-Version: 1.41\r\nBuilder-Version: \r\n\r\n";
        assert_eq!(api_version(ping).unwrap(), (1, 41));
        assert!(api_version(b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n").is_err());
        assert_eq!(status(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: h2c\r\n\r\n"), Some(101));
        assert_eq!(status(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
        let containerd =
            br#"{"Driver":"overlayfs","DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}"#;
        assert_eq!(image_store(containerd).unwrap(), ImageStore::Containerd);
        assert_eq!(
            image_store(br#"{"DriverStatus":[["Backing Filesystem","extfs"]]}"#).unwrap(),
            ImageStore::Graph
        );
        assert_eq!(image_store(br#"{"DriverStatus":null}"#).unwrap(), ImageStore::Graph);
        assert!(image_store(b"<html>").is_err());
    }

    #[test]
    fn an_upgrade_leaves_what_follows() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nPRI").unwrap();
        upgrade(&mut near).unwrap();
        let mut rest = [0; 3];
        near.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"PRI");
        far.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
        let error = upgrade(&mut near).unwrap_err().to_string();
        assert_eq!(error, "the call for its BuildKit (POST /grpc) was answered with 404");
    }
}
