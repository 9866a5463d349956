//! The ssh agent as a build sees it: it may list keys and have things signed.
//!
//! A build that clones over ssh needs to log in with the user's keys and nothing else. So the guest gets one end of a
//! socket pair, and a thread here passes on the few messages that are needed: to list keys, to sign a login (what that
//! is, says [`super::signature`]), so many times and each noted, and to bind a stream to a session, by which an agent
//! knows where a key is used. All else that an agent can do (take and drop keys, lock itself, load providers) is answered
//! with a failure in its stead.
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
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustix::net::SendFlags;
use sha2::Digest as _;

use super::keyring::Keyring;
use super::record::{Book, Denial};
use super::rules::{AgentKind, AgentSource, DEFAULT_AGENT};
use super::signature::{self, string};
use super::stop::Stop;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
/// What OpenSSH's ssh asks beyond that.
const EXTENSIONS: [&[u8]; 2] = [b"session-bind@openssh.com", b"query"];
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
    max_signatures: u32,
    /// Asked for so far.
    signatures: AtomicU32,
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
    id: String,
    guest: UnixStream,
    agent: UnixStream,
}

impl Agents {
    pub fn new(sources: Vec<AgentSource>, search_path: OsString, max_signatures: u32) -> Agents {
        let sources = sources.into_iter().map(|source| (source.id, source.kind)).collect();
        Agents {
            sources,
            search_path,
            keyrings: Mutex::default(),
            streams: Mutex::default(),
            max_signatures,
            signatures: AtomicU32::new(0),
        }
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
        Ok(Some((far.into(), Forward { number, id: name(id).to_owned(), guest: near, agent })))
    }

    /// Passes messages until either end closes.
    pub fn run(&self, forward: &Forward, book: &Book) {
        // Whatever went wrong with one end is told to both by closing them.
        let _ = self.copy(forward, book);
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

    /// The protocol is one answer for one question, in order, so there is never more than one message on the way.
    fn copy(&self, Forward { id, guest, agent, .. }: &Forward, book: &Book) -> io::Result<()> {
        let mut comments = BTreeMap::new();
        while let Some(message) = read(guest)? {
            let refusal = match message.get(4..).and_then(<[u8]>::split_first) {
                Some((&REQUEST_IDENTITIES, [])) => {
                    let answer = pass(&message, guest, agent)?;
                    comments = identities(&answer);
                    None
                }
                Some((&SIGN_REQUEST, body)) => match self.admit(body) {
                    Ok(login) => {
                        let answer = pass(&message, guest, agent)?;
                        if answer.get(4) == Some(&SIGN_RESPONSE) {
                            let fingerprint = fingerprint(login.key);
                            let comment = comments.get(&fingerprint).map_or("", String::as_str);
                            book.signed(id, &fingerprint, comment, login.user);
                        }
                        None
                    }
                    Err(reason) => Some(Denial::Rule(reason)),
                },
                Some((&EXTENSION, body)) => match string(&mut { body }) {
                    Some(name) if EXTENSIONS.contains(&name) => {
                        pass(&message, guest, agent)?;
                        None
                    }
                    // Clients try what they know.
                    _ => Some(Denial::Usual("an extension of the agent".to_owned())),
                },
                other => {
                    let number = other.map_or("none".to_owned(), |(kind, _)| kind.to_string());
                    Some(Denial::Rule(format!("agent message {number}")))
                }
            };
            if let Some(denial) = refusal {
                book.denied("ssh agent", &denial);
                write(guest, &FAILURE)?;
            }
        }
        Ok(())
    }

    /// The login that a request to sign is for, counted; or why it is not signed.
    fn admit<'a>(&self, body: &'a [u8]) -> Result<signature::Login<'a>, String> {
        let login = signature::login(body).map_err(|error| error.to_string())?;
        let one_more = |count: u32| (count < self.max_signatures).then(|| count + 1);
        match self.signatures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more) {
            Ok(_) => Ok(login),
            Err(_) => {
                Err(format!("more than {} signatures; --ssh-max-signatures allows more", self.max_signatures))
            }
        }
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

/// Asks the agent and hands its answer on.
fn pass(message: &[u8], guest: &UnixStream, agent: &UnixStream) -> io::Result<Vec<u8>> {
    write(agent, message)?;
    let answer = read(agent)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    write(guest, &answer)?;
    Ok(answer)
}

/// The comments of the keys in an agent's list, by the keys' fingerprints.
pub(super) fn identities(answer: &[u8]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let Some((&IDENTITIES_ANSWER, body)) = answer.get(4..).and_then(<[u8]>::split_first) else {
        return found;
    };
    let mut rest = body.get(4..).unwrap_or_default();
    while let (Some(key), Some(comment)) = (string(&mut rest), string(&mut rest)) {
        found.insert(fingerprint(key), String::from_utf8_lossy(comment).into_owned());
    }
    found
}

/// As `ssh-keygen -l` prints it.
fn fingerprint(key: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(sha2::Sha256::digest(key)))
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
