//! The host side of the broker: one thread that reads questions, and short-lived ones that answer them.
//!
//! Files are opened by the reading thread itself: there may be thousands, and they do not wait. All else gets a thread
//! of its own, since a credential helper may wait for a person and a token server for the network. When the guest's end
//! closes, helpers are ended, agents' streams shut, and all threads joined; a token server that does not answer is left
//! to a thread that nobody waits for, which its own time ends.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Scope};

use buildsvc::session::host::{Secret, TokenRequest};
use serde_json::json;

use super::agent::{Agents, Forward};
use super::message::{Answer, Ask, Envelope, REQUEST_TAIL_LIMIT, Reply, VERSION};
use super::opening::Locals;
use super::record::{Book, Denial, Record};
use super::registry::Registry;
use super::rules::Rules;
use super::secret::Secrets;
use super::seed::Seeds;
use super::stop::Stop;
use super::wire::{self, Descriptors, Frame};
use crate::audit::Audit;

/// Questions that may be under way at once. A guest that keeps to its own limit never meets this one.
const UNDER_WAY: usize = 64;
/// Ids, hosts and names in questions.
const NAME_LIMIT: usize = 512;

/// Who answers. Made before the build starts, serves one guest.
#[derive(Debug)]
pub struct Desk {
    registry: Registry,
    secrets: Secrets,
    agents: Agents,
    locals: Locals,
    audit: Audit,
}

/// An answer with what travels beside its header.
struct Full {
    answer: Answer,
    tail: Vec<u8>,
    descriptor: Option<OwnedFd>,
    /// A stream that must be run once the guest has its end.
    forward: Option<Forward>,
}

impl From<Answer> for Full {
    fn from(answer: Answer) -> Full {
        Full { answer, tail: Vec::new(), descriptor: None, forward: None }
    }
}

impl Full {
    fn with(answer: Answer, secret: Secret) -> Full {
        Full { tail: secret.0, ..Full::from(answer) }
    }

    fn bytes(bytes: Option<Vec<u8>>) -> Full {
        bytes.map_or(Answer::Nothing.into(), |bytes| Full::with(Answer::Bytes, Secret(bytes)))
    }

    fn descriptor(descriptor: OwnedFd, forward: Option<Forward>) -> Full {
        Full { descriptor: Some(descriptor), forward, ..Full::from(Answer::Descriptor) }
    }
}

impl Desk {
    /// A desk that answers by `rules`. Each local is cloned into a detached mount when the kernel allows it (that takes
    /// `CAP_SYS_ADMIN`), so that a guest cannot climb out of a directory it is handed; without that, and unless the
    /// caller's descriptor is such a mount already, directories are not handed out and only files are.
    pub fn new(rules: Rules) -> Desk {
        let path = rules.program_search_path;
        Desk {
            registry: Registry::new(
                rules.docker_config,
                path.clone(),
                rules.token_seeds.map(Seeds::new),
                rules.names,
            ),
            secrets: Secrets::new(rules.secrets),
            agents: Agents::new(rules.agents, path, rules.max_signatures),
            locals: Locals::new(rules.locals),
            audit: rules.audit,
        }
    }

    /// Answers on a thread until the other end of `socket` closes. To be called after the jail was forked.
    pub fn serve(self, socket: UnixStream) -> io::Result<JoinHandle<Record>> {
        let stop = Stop::new()?;
        let replies = Mutex::new(socket.try_clone()?);
        thread::Builder::new().name("broker".into()).spawn(move || {
            let book = Book::default();
            let under_way = AtomicUsize::new(0);
            let sitting =
                Sitting { desk: &self, book: &book, stop: &stop, replies: &replies, under_way: &under_way };
            thread::scope(|scope| {
                // Other errors are a guest that went away in the middle of something.
                if let Err(error) = sitting.read(scope, &socket)
                    && error.kind() == io::ErrorKind::InvalidData
                {
                    book.refused("broker", &error.to_string());
                }
                // Nobody reads answers any more; a thread that writes one must not wait.
                let _ = socket.shutdown(Shutdown::Both);
                stop.tell();
                self.agents.close();
            });
            book.close()
        })
    }
}

/// The time between the guest's first question and its last.
#[derive(Clone, Copy)]
struct Sitting<'a> {
    desk: &'a Desk,
    book: &'a Book,
    stop: &'a Stop,
    replies: &'a Mutex<UnixStream>,
    under_way: &'a AtomicUsize,
}

impl<'a> Sitting<'a> {
    /// Reads until the end; an error is a guest that does not speak the protocol, and ends it as well.
    fn read<'scope>(self, scope: &'scope Scope<'scope, '_>, socket: &UnixStream) -> io::Result<()>
    where
        'a: 'scope,
    {
        while let Some(Frame { header, tail, .. }) = wire::receive(socket, Descriptors::Drop)? {
            let envelope: Envelope = serde_json::from_slice(&header)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let id = envelope.id;
            let ask = match understand(envelope, &tail) {
                Ok(ask) => ask,
                Err(reason) => {
                    self.book.asked("unknown");
                    self.deny(id, "unknown", &Denial::Rule(reason))?;
                    continue;
                }
            };
            if self.note(&ask) {
                continue;
            }
            self.book.asked(ask.kind());
            if let Ask::Open { local, access } = &ask {
                let full = match self.desk.locals.open(local, &tail, *access) {
                    Ok(file) => Full::descriptor(file, None),
                    Err(errno) => Answer::Errno(errno.raw_os_error()).into(),
                };
                self.write_down(&ask, &tail, ("ok", ""));
                self.reply(id, full)?;
                continue;
            }
            if self.under_way.fetch_add(1, Ordering::SeqCst) >= UNDER_WAY {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                self.deny(id, ask.kind(), &Denial::Rule(format!("more than {UNDER_WAY} questions at once")))?;
                continue;
            }
            let kind = ask.kind();
            let answering = move || {
                self.answer(id, &ask, &tail);
            };
            if let Err(error) =
                thread::Builder::new().name("broker answer".into()).spawn_scoped(scope, answering)
            {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                self.deny(id, kind, &Denial::Failure(format!("the host side has no thread left: {error}")))?;
            }
        }
        Ok(())
    }

    /// Answers one question, and runs the agent's stream that may come of it.
    fn answer(self, id: u64, ask: &Ask, tail: &[u8]) {
        let result = self.find(ask, tail);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        // A reply that cannot be written means that the guest is gone, which the reading thread sees as well.
        self.write_down(ask, tail, outcome(&result));
        match result {
            Ok(mut full) => {
                let forward = full.forward.take();
                let sent = self.reply(id, full);
                match (sent, forward) {
                    (Ok(()), Some(forward)) => self.desk.agents.run(&forward, self.book),
                    (Err(_), Some(forward)) => self.desk.agents.forget(&forward),
                    (_, None) => {}
                }
            }
            Err(denial) => {
                let _ = self.deny(id, ask.kind(), &denial);
            }
        }
    }

    fn find(self, ask: &Ask, tail: &[u8]) -> Result<Full, Denial> {
        let Desk { registry, secrets, agents, .. } = self.desk;
        Ok(match ask {
            Ask::Credentials { host } => {
                let credentials = registry.credentials(host, self.stop, self.book)?;
                Full::with(Answer::Credentials { username: credentials.username }, credentials.secret)
            }
            Ask::TokenAuthority { host } => {
                Full::bytes(registry.authority(host, tail, self.stop, self.book)?.map(|key| key.to_vec()))
            }
            Ask::SignChallenge { host, salt } => {
                let split = tail.split_at_checked(*salt);
                let (salt, challenge) =
                    split.ok_or_else(|| Denial::Rule("a salt that is not there".into()))?;
                Full::bytes(registry.sign(host, salt, challenge, self.stop, self.book)?)
            }
            Ask::FetchToken(request) => {
                let token = registry.fetch(request, self.stop, self.book)?;
                let (expires_in, issued_at) = (token.expires_in, token.issued_at);
                Full::with(Answer::Token { expires_in, issued_at }, token.token)
            }
            Ask::Secret { id } => match secrets.get(id, self.stop, self.book)? {
                Some(secret) => {
                    let file = sandbox_linux::sealed_memfd("ktl-secret", &secret.0).map_err(|error| {
                        Denial::Failure(format!("secret {id:?} cannot be sealed: {error}"))
                    })?;
                    Full { descriptor: Some(file), ..Full::from(Answer::Sealed) }
                }
                None => Answer::Nothing.into(),
            },
            Ask::HasAgent { id } => Answer::Exists(agents.has(id)).into(),
            Ask::Agent { id } => match agents.connect(id, self.stop)? {
                Some((end, forward)) => Full::descriptor(end, Some(forward)),
                None => Answer::Nothing.into(),
            },
            Ask::Open { .. } | Ask::Saw(_) | Ask::Found { .. } => {
                return Err(Denial::Rule("this is answered in turn".into()));
            }
        })
    }

    /// Takes a report, which is no question, and says whether it was one.
    fn note(self, ask: &Ask) -> bool {
        let audit = &self.desk.audit;
        match ask {
            Ask::Saw(seen) => {
                let refused = seen.end == "refused";
                let mut event = serde_json::to_value(seen).unwrap_or_default();
                event["event"] = "request".into();
                audit.tell(&seen.method, refused, &event);
            }
            Ask::Found { local, path, rule } => {
                let event = json!({ "event": "finding", "local": local, "path": path, "rule": rule });
                audit.tell("finding", false, &event);
            }
            _ => return false,
        }
        true
    }

    /// What was asked and how it ended, without anything that was given.
    fn write_down(self, ask: &Ask, tail: &[u8], (end, why): (&str, &str)) {
        if !self.desk.audit.is_on() {
            return;
        }
        let about = match ask {
            Ask::Credentials { host } | Ask::TokenAuthority { host } | Ask::SignChallenge { host, .. } => {
                json!({ "host": host })
            }
            Ask::FetchToken(request) => {
                let TokenRequest { host, realm, service, scopes, .. } = request;
                json!({ "host": host, "realm": realm, "service": service, "scopes": scopes })
            }
            Ask::Secret { id } | Ask::Agent { id } | Ask::HasAgent { id } => json!({ "id": id }),
            Ask::Open { local, access } => {
                json!({ "local": local, "path": String::from_utf8_lossy(tail), "access": access })
            }
            Ask::Saw(_) | Ask::Found { .. } => return,
        };
        let event = json!({ "event": "broker", "kind": ask.kind(), "about": about, "end": end, "why": why });
        self.desk.audit.tell(ask.kind(), end == "refused", &event);
    }

    fn deny(self, id: u64, kind: &'static str, denial: &Denial) -> io::Result<()> {
        self.book.denied(kind, denial);
        self.reply(id, Answer::Refused(denial.text().chars().take(4096).collect()).into())
    }

    fn reply(self, id: u64, full: Full) -> io::Result<()> {
        let header = |answer| serde_json::to_vec(&Reply { id, answer });
        let socket = self.replies.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let descriptor = full.descriptor.as_ref().map(|descriptor| descriptor.as_fd());
        match wire::send(&socket, &header(full.answer)?, &full.tail, descriptor) {
            // The kernel bounds the descriptors on their way; that is told in the place of this one.
            Err(error) if descriptor.is_some() && error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                wire::send(&socket, &header(Answer::Errno(libc::EMFILE))?, &[], None)
            }
            // As is an answer that does not fit.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                wire::send(&socket, &header(Answer::Refused("the answer is too long".into()))?, &[], None)
            }
            other => other,
        }
    }
}

/// How a question ended, for the audit.
fn outcome(result: &Result<Full, Denial>) -> (&'static str, &str) {
    match result {
        Ok(Full { answer: Answer::Nothing | Answer::Exists(false), .. }) => ("none", ""),
        Ok(_) => ("ok", ""),
        Err(denial @ (Denial::Rule(_) | Denial::Usual(_))) => ("refused", denial.text()),
        Err(denial @ Denial::Failure(_)) => ("failed", denial.text()),
    }
}

/// The question in `envelope`, or why there is none.
fn understand(envelope: Envelope, tail: &[u8]) -> Result<Ask, String> {
    if envelope.version != VERSION {
        return Err(format!("version {} of the broker's protocol", envelope.version));
    }
    let ask: Ask =
        serde_json::from_value(envelope.ask).map_err(|_| "a question of no known kind".to_owned())?;
    let name = match &ask {
        Ask::Credentials { host } | Ask::TokenAuthority { host } | Ask::SignChallenge { host, .. } => host,
        Ask::FetchToken(request) => &request.host,
        Ask::Secret { id } | Ask::Agent { id } | Ask::HasAgent { id } => id,
        Ask::Open { local, .. } | Ask::Found { local, .. } => local,
        Ask::Saw(seen) => &seen.method,
    };
    if name.len() > NAME_LIMIT || tail.len() > REQUEST_TAIL_LIMIT {
        return Err("a question with a name that is too long".into());
    }
    Ok(ask)
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
