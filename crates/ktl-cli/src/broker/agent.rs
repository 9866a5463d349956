//! The ssh agent as a build sees it: it may list keys and have things signed.
//!
//! A build that clones over ssh needs signatures of the user's agent and nothing else. So the guest gets one end of a
//! socket pair, and a thread here passes on the two messages that are needed. An agent can do more (take and drop keys,
//! lock itself, load providers), and all of that is answered with a failure in the agent's stead.
//!
//! Follows draft-ietf-sshm-ssh-agent for the frames, and `session/sshforward/sshprovider` of moby/buildkit, which makes
//! its agents read-only as well.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::net::SendFlags;

use super::keyring::Keyring;
use super::record::{Book, Denial};
use super::rules::{AgentKind, AgentSource, DEFAULT_AGENT};
use super::stop::Stop;

const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;
/// `SSH_AGENT_FAILURE`, framed.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// What OpenSSH allows an agent's message.
const FRAME_LIMIT: usize = 256 << 10;
/// Each connection of a build's ssh is one stream.
const STREAM_LIMIT: usize = 64;

#[derive(Debug)]
pub struct Agents {
    sources: BTreeMap<String, AgentKind>,
    search_path: OsString,
    /// Agents of our own, started when first asked for.
    keyrings: Mutex<BTreeMap<String, Keyring>>,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    closed: bool,
    /// Handles by which the ends of running streams can be shut from outside.
    open: BTreeMap<u64, [UnixStream; 2]>,
}

/// One stream, to be run on a thread of its own.
#[derive(Debug)]
pub struct Forward {
    number: u64,
    guest: UnixStream,
    agent: UnixStream,
}

impl Agents {
    pub fn new(sources: Vec<AgentSource>, search_path: OsString) -> Agents {
        let sources = sources.into_iter().map(|source| (source.id, source.kind)).collect();
        Agents { sources, search_path, keyrings: Mutex::default(), streams: Mutex::default() }
    }

    pub fn has(&self, id: &str) -> bool {
        self.sources.contains_key(name(id))
    }

    /// The guest's end of a new stream to the agent `id`, and what must run for it to be answered.
    pub fn connect(&self, id: &str, stop: &Stop) -> Result<Option<(OwnedFd, Forward)>, Denial> {
        let Some(kind) = self.sources.get(name(id)) else { return Ok(None) };
        let socket = self.socket(name(id), kind, stop)?;
        let agent = UnixStream::connect(&socket).map_err(|error| {
            Denial::Failure(format!(
                "ssh agent {:?}: cannot connect to {}: {error}",
                name(id),
                socket.display()
            ))
        })?;
        let failed = |error: io::Error| Denial::Failure(format!("ssh agent {:?}: {error}", name(id)));
        let (near, far) = UnixStream::pair().map_err(failed)?;
        let handles = [near.try_clone().map_err(failed)?, agent.try_clone().map_err(failed)?];
        let mut streams = self.streams();
        if streams.closed || streams.open.len() >= STREAM_LIMIT {
            return Err(Denial::Rule(format!("more than {STREAM_LIMIT} streams to ssh agents at once")));
        }
        let number = streams.next;
        streams.next += 1;
        streams.open.insert(number, handles);
        Ok(Some((far.into(), Forward { number, guest: near, agent })))
    }

    /// Passes messages until either end closes.
    pub fn run(&self, forward: &Forward, book: &Book) {
        // Whatever went wrong with one end is told to both by closing them.
        let _ = copy(&forward.guest, &forward.agent, book);
        self.forget(forward);
    }

    /// Closes a stream that cannot be run or is over.
    pub fn forget(&self, forward: &Forward) {
        if let Some(ends) = self.streams().open.remove(&forward.number) {
            shut(&ends);
        }
    }

    /// Closes all streams and lets none begin.
    pub fn close(&self) {
        let mut streams = self.streams();
        streams.closed = true;
        streams.open.values().for_each(shut);
    }

    fn socket(&self, id: &str, kind: &AgentKind, stop: &Stop) -> Result<PathBuf, Denial> {
        let keys = match kind {
            AgentKind::Socket(path) => return Ok(path.clone()),
            AgentKind::Keys(keys) => keys,
        };
        let mut keyrings = self.keyrings.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(keyring) = keyrings.get(id) {
            return Ok(keyring.socket().to_owned());
        }
        let keyring =
            Keyring::start(&self.search_path, keys, stop).map_err(|error| match Denial::failure(&error) {
                Denial::Failure(text) => Denial::Failure(format!("ssh agent {id:?}: {text}")),
                rule => rule,
            })?;
        let socket = keyring.socket().to_owned();
        keyrings.insert(id.to_owned(), keyring);
        Ok(socket)
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn name(id: &str) -> &str {
    if id.is_empty() { DEFAULT_AGENT } else { id }
}

fn shut(ends: &[UnixStream; 2]) {
    for end in ends {
        // An end that is closed already is as it should be.
        let _ = end.shutdown(Shutdown::Both);
    }
}

/// The protocol is one answer for one question, in order, so there is never more than one message on the way.
fn copy(guest: &UnixStream, agent: &UnixStream, book: &Book) -> io::Result<()> {
    while let Some(message) = read(guest)? {
        match message.get(4) {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => {
                write(agent, &message)?;
                let answer = read(agent)?.ok_or(io::ErrorKind::UnexpectedEof)?;
                write(guest, &answer)?;
            }
            other => {
                let number = other.map_or("none".to_owned(), u8::to_string);
                book.refused("ssh agent", &format!("agent message {number}"));
                write(guest, &FAILURE)?;
            }
        }
    }
    Ok(())
}

/// One message with its length in front; `None` at the end of the stream.
fn read(mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let count = u32::from_be_bytes(length) as usize;
    if count > FRAME_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an agent message of {count} bytes")));
    }
    let mut message = vec![0; 4 + count];
    message[..4].copy_from_slice(&length);
    stream.read_exact(&mut message[4..])?;
    Ok(Some(message))
}

fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(stream, bytes, SendFlags::NOSIGNAL))?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
