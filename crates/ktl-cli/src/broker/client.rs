//! The guest's side of the broker: questions with numbers, and one thread that sorts the answers.
//!
//! The build's services are asynchronous and ask through [`Host`]; the walk over context files is blocking and asks
//! through [`Opener`]. Both share one socket. A question is a few hundred bytes and the desk always reads, so writing
//! one blocks for no time worth a task of its own; answers may take a minute and are waited for.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread::JoinHandle;

use buildsvc::session::host::{Access, Credentials, Host, HostError, Opener, Secret, Token, TokenRequest};
use buildsvc::session::{Seen, Witness};
use tokio::sync::{Semaphore, oneshot};

use super::message::{Answer, Ask, REQUEST_TAIL_LIMIT, Reply, Request, VERSION};
use super::secret;
use super::wire::{self, Descriptors};

/// Reports of one method; a desk keeps no more of them.
const REPORTS: u64 = 2000;

/// Questions at once that are not for files. Below the desk's own limit.
const UNDER_WAY: usize = 32;

pub struct BrokerClient {
    socket: Mutex<UnixStream>,
    next: AtomicU64,
    waiting: Arc<Waiting>,
    turns: Arc<Semaphore>,
    reports: Mutex<HashMap<String, u64>>,
    reader: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for BrokerClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerClient").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// An answer with what travelled beside its header.
struct Full {
    answer: Answer,
    tail: Vec<u8>,
    descriptor: Option<OwnedFd>,
}

/// Where to bring an answer; dropped when there will be none.
type Waiter = Box<dyn FnOnce(Full) + Send>;

/// `None` once the desk is gone.
struct Waiting(Mutex<Option<HashMap<u64, Waiter>>>);

impl Waiting {
    fn table(&self) -> MutexGuard<'_, Option<HashMap<u64, Waiter>>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl BrokerClient {
    /// A client on `socket`, the guest's end of the pair. Starts its reading thread.
    pub fn new(socket: OwnedFd) -> io::Result<Arc<BrokerClient>> {
        let socket = UnixStream::from(socket);
        let source = socket.try_clone()?;
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        let table = waiting.clone();
        let reader = std::thread::Builder::new().name("broker answers".into()).spawn(move || {
            // How it ended does not matter: whoever still waits is told that the desk is gone.
            let _ = sort(&source, &table);
            let _ = source.shutdown(Shutdown::Both);
            table.table().take();
        })?;
        Ok(Arc::new(BrokerClient {
            socket: Mutex::new(socket),
            next: AtomicU64::new(1),
            waiting,
            turns: Arc::new(Semaphore::new(UNDER_WAY)),
            reports: Mutex::default(),
            reader: Some(reader),
        }))
    }

    fn post(&self, ask: &Ask, tail: &[u8], waiter: Waiter) -> io::Result<()> {
        if tail.len() > REQUEST_TAIL_LIMIT {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let header = serde_json::to_vec(&Request { version: VERSION, id, ask })?;
        match self.waiting.table().as_mut() {
            Some(table) => table.insert(id, waiter),
            None => return Err(gone()),
        };
        let socket = self.socket.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        wire::send(&socket, &header, tail, None).inspect_err(|_| {
            if let Some(table) = self.waiting.table().as_mut() {
                table.remove(&id);
            }
        })
    }

    /// Tells the desk something that it does not answer. A desk that is gone has nobody to tell.
    pub fn report(&self, ask: &Ask) {
        let Ok(header) = serde_json::to_vec(&Request { version: VERSION, id: 0, ask }) else { return };
        let socket = self.socket.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = wire::send(&socket, &header, &[], None);
    }

    async fn ask(&self, ask: Ask, tail: &[u8]) -> Result<Full, HostError> {
        // The turn goes with the question and not with the caller, who may give up before the desk does.
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| HostError::Gone(gone()))?;
        let (tell, told) = oneshot::channel();
        let waiter = Box::new(move |full| {
            drop(turn);
            // A caller who gave up does not want the answer.
            let _ = tell.send(full);
        });
        self.post(&ask, tail, waiter).map_err(HostError::Gone)?;
        let full = told.await.map_err(|_| HostError::Gone(gone()))?;
        match full.answer {
            Answer::Refused(text) => Err(HostError::Refused(text)),
            Answer::Errno(number) => {
                Err(HostError::Refused(io::Error::from_raw_os_error(number).to_string()))
            }
            _ => Ok(full),
        }
    }
}

impl Drop for BrokerClient {
    fn drop(&mut self) {
        let socket = self.socket.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = socket.shutdown(Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn sort(socket: &UnixStream, waiting: &Waiting) -> io::Result<()> {
    while let Some(frame) = wire::receive(socket, Descriptors::Take)? {
        let Reply { id, answer } = serde_json::from_slice(&frame.header)?;
        let waiter = waiting.table().as_mut().and_then(|table| table.remove(&id));
        match waiter {
            Some(waiter) => waiter(Full { answer, tail: frame.tail, descriptor: frame.descriptor }),
            None => return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to no question")),
        }
    }
    Ok(())
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the connection is closed")
}

/// An answer that does not fit its question.
fn wrong() -> HostError {
    HostError::Gone(io::Error::new(io::ErrorKind::InvalidData, "the answer is of another kind"))
}

#[tonic::async_trait]
impl Host for BrokerClient {
    async fn credentials(&self, host: &str) -> Result<Credentials, HostError> {
        match self.ask(Ask::Credentials { host: host.into() }, &[]).await? {
            Full { answer: Answer::Credentials { username }, tail, .. } => {
                Ok(Credentials { username, secret: Secret(tail) })
            }
            _ => Err(wrong()),
        }
    }

    async fn token_authority(&self, host: &str, salt: &[u8]) -> Result<Option<[u8; 32]>, HostError> {
        match self.ask(Ask::TokenAuthority { host: host.into() }, salt).await? {
            Full { answer: Answer::Nothing, .. } => Ok(None),
            Full { answer: Answer::Bytes, tail, .. } => tail.try_into().map(Some).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    async fn sign_token_challenge(
        &self,
        host: &str,
        salt: &[u8],
        payload: &[u8],
    ) -> Result<Vec<u8>, HostError> {
        let ask = Ask::SignChallenge { host: host.into(), salt: salt.len() };
        match self.ask(ask, &[salt, payload].concat()).await? {
            Full { answer: Answer::Bytes, tail, .. } => Ok(tail),
            Full { answer: Answer::Nothing, .. } => Err(HostError::NotOffered("a token authority")),
            _ => Err(wrong()),
        }
    }

    async fn fetch_token(&self, request: TokenRequest) -> Result<Token, HostError> {
        match self.ask(Ask::FetchToken(request), &[]).await? {
            Full { answer: Answer::Token { expires_in, issued_at }, tail, .. } => {
                Ok(Token { token: Secret(tail), expires_in, issued_at })
            }
            _ => Err(wrong()),
        }
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, HostError> {
        match self.ask(Ask::Secret { id: id.into() }, &[]).await? {
            Full { answer: Answer::Nothing, .. } => Ok(None),
            Full { answer: Answer::Sealed, descriptor: Some(file), .. } => {
                let limit = secret::LENGTH_LIMIT as usize;
                let bytes = sandbox_linux::read_sealed_memfd(file, limit).map_err(HostError::Gone)?;
                Ok(Some(Secret(bytes)))
            }
            _ => Err(wrong()),
        }
    }

    async fn agent(&self, id: &str) -> Result<Option<OwnedFd>, HostError> {
        match self.ask(Ask::Agent { id: id.into() }, &[]).await? {
            Full { answer: Answer::Nothing, .. } => Ok(None),
            Full { answer: Answer::Descriptor, descriptor: Some(stream), .. } => Ok(Some(stream)),
            _ => Err(wrong()),
        }
    }

    async fn has_agent(&self, id: &str) -> Result<bool, HostError> {
        match self.ask(Ask::HasAgent { id: id.into() }, &[]).await?.answer {
            Answer::Exists(exists) => Ok(exists),
            _ => Err(wrong()),
        }
    }
}

impl Witness for BrokerClient {
    fn saw(&self, request: Seen) {
        let mut reports = self.reports.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = reports.contains_key(&request.method);
        let method = if known || reports.len() < 100 { request.method.clone() } else { String::new() };
        let count = reports.entry(method).or_default();
        *count += 1;
        let tell = *count <= REPORTS;
        drop(reports);
        if tell {
            self.report(&Ask::Saw(request));
        }
    }
}

impl Opener for BrokerClient {
    fn open(&self, local: &str, path: &Path, access: Access) -> io::Result<OwnedFd> {
        let (tell, told) = mpsc::channel();
        let waiter = Box::new(move |full| {
            let _ = tell.send(full);
        });
        self.post(&Ask::Open { local: local.into(), access }, path.as_os_str().as_bytes(), waiter)?;
        let full = told.recv().map_err(|_| gone())?;
        match (full.answer, full.descriptor) {
            (Answer::Descriptor, Some(file)) => Ok(file),
            // It came, and this process had no room for it.
            (Answer::Descriptor, None) => Err(io::Error::from_raw_os_error(libc::EMFILE)),
            (Answer::Errno(number), _) => Err(io::Error::from_raw_os_error(number)),
            (Answer::Refused(text), _) => Err(io::Error::new(io::ErrorKind::PermissionDenied, text)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is of another kind")),
        }
    }
}
