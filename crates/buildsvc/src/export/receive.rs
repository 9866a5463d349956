//! The receiving side of fsutil's DiffCopy.
//!
//! Packets are handed in batches to one blocking thread per stream, which checks them, writes, and requests contents. It
//! never has more requests open than the daemon is ready to queue: a daemon that waits for us to read while we wait for
//! it to take a request would be the end of both. Follows fsutil `receive.go` in its merging mode, as
//! moby/buildkit `session/filesync/diffcopy.go` uses it for `local` exports.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::listing::{Kind, Listing};
use super::tree::Tree;
use crate::context::stat::{MODE_DEVICE, MODE_DIR, MODE_NAMED_PIPE, MODE_SYMLINK, MODE_TYPE};
use crate::context::with_causes;
use crate::proto::fsutil::types::{self, Packet, Xattr, packet::PacketType};

/// Requests that are not yet answered in full. Upstream's sender queues this many before it stops reading.
const REQUESTS: usize = 128;
/// A batch is passed on when it holds this much, or when no more packets are there.
const BATCH_PACKETS: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
const BATCHES: usize = 2;
/// Extended attributes of one entry, and of all files that are not written yet.
const MAX_XATTRS: usize = 1 << 18;
const MAX_WAITING_XATTRS: usize = 64 << 20;
/// How much of a daemon's error text is kept.
const MAX_ERROR_TEXT: usize = 4096;

/// A directory into which the daemon may write; shared by the streams of one export.
#[derive(Debug)]
pub struct Receiver {
    root: OwnedFd,
    most: u64,
    left: AtomicU64,
    devices: bool,
}

impl Receiver {
    /// `dir` is a directory open for reading. What is in it already stays, unless something else of that name arrives.
    pub fn new(dir: OwnedFd) -> Receiver {
        Receiver { root: dir, most: u64::MAX, left: AtomicU64::new(u64::MAX), devices: false }
    }

    /// Takes so many bytes of files and no more.
    pub fn bounded(self, bytes: u64) -> Receiver {
        Receiver { most: bytes, left: AtomicU64::new(bytes), ..self }
    }

    /// Takes devices as well.
    pub fn with_devices(self) -> Receiver {
        Receiver { devices: true, ..self }
    }

    fn spend(&self, bytes: usize) -> io::Result<()> {
        let spent = |left: u64| left.checked_sub(bytes as u64);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent) {
            Ok(_) => Ok(()),
            Err(_) => Err(too_large(self.most)),
        }
    }
}

/// What a result is told that would take more room than it may have.
pub(crate) fn too_large(most: u64) -> io::Error {
    let text = format!("the result is larger than the {most} bytes that it may have");
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

/// Why a tree could not be received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The file system of this side refused.
    #[error("failed to {operation} {path}")]
    Write {
        operation: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    /// What the daemon sent is no proper tree.
    #[error("the daemon sent an invalid entry {path:?}: {reason}")]
    Entry { path: String, reason: &'static str },
    /// What the daemon sent makes no sense where it came.
    #[error("the daemon sent an unexpected packet: {0}")]
    Packet(&'static str),
    /// The daemon gave up and said why.
    #[error("error from sender: {0}")]
    Sender(String),
    /// The stream broke.
    #[error("the daemon's transfer of the result failed: {}", .0.message())]
    Status(Box<Status>),
    /// The stream ended before the tree was complete.
    #[error("the daemon ended the transfer of the result early")]
    Ended,
    /// Nobody takes our packets any more.
    #[error("the transfer was cancelled")]
    Cancelled,
}

/// Receives one tree into `root`. `outgoing` carries what goes back to the daemon and must be drained. Returns after
/// everything is written and the daemon has confirmed the end or closed the stream.
pub async fn receive(
    root: Arc<Receiver>,
    mut incoming: impl Stream<Item = Result<Packet, Status>> + Send + Unpin,
    outgoing: mpsc::Sender<Packet>,
) -> Result<(), ReceiveError> {
    let (batches, queue) = mpsc::channel(BATCHES);
    // The clone that stays here keeps our half of the stream open until the daemon has answered our FIN: its answer would
    // fail otherwise, and with it the export.
    let out = outgoing.clone();
    let mut writing = spawn_blocking(move || write(&root, queue, &out));
    let joined = |outcome: Result<Result<(), ReceiveError>, tokio::task::JoinError>| {
        outcome.unwrap_or(Err(ReceiveError::Cancelled))
    };
    loop {
        let (packets, end) = tokio::select! {
            biased;
            outcome = &mut writing => {
                joined(outcome)?;
                break;
            }
            batch = next_batch(&mut incoming) => batch,
        };
        if !packets.is_empty() && batches.send(packets).await.is_err() {
            joined(writing.await)?;
            break;
        }
        if let Some(end) = end {
            drop(batches);
            return match (joined(writing.await), end) {
                (Err(ReceiveError::Ended), Some(status)) => Err(ReceiveError::Status(Box::new(status))),
                (outcome, _) => outcome,
            };
        }
    }
    // Our FIN is on its way. The daemon answers with its own, but may as well just close.
    while let Some(Ok(packet)) = incoming.next().await {
        if packet.r#type == i32::from(PacketType::PacketFin) {
            break;
        }
    }
    drop(outgoing);
    Ok(())
}

/// The packets that are there, at least one; and how the stream ended, if it did.
async fn next_batch(
    incoming: &mut (impl Stream<Item = Result<Packet, Status>> + Unpin),
) -> (Vec<Packet>, Option<Option<Status>>) {
    poll_fn(|context| {
        let (mut packets, mut bytes) = (Vec::new(), 0);
        loop {
            match Pin::new(&mut *incoming).poll_next(context) {
                Poll::Pending if packets.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready((packets, None)),
                Poll::Ready(None) => return Poll::Ready((packets, Some(None))),
                Poll::Ready(Some(Err(status))) => return Poll::Ready((packets, Some(Some(status)))),
                Poll::Ready(Some(Ok(packet))) => {
                    bytes += packet.data.len();
                    packets.push(packet);
                    if packets.len() >= BATCH_PACKETS || bytes >= BATCH_BYTES {
                        return Poll::Ready((packets, None));
                    }
                }
            }
        }
    })
    .await
}

/// Runs on its own thread: applies all packets, then says FIN, or ERR with the reason.
fn write(
    root: &Receiver,
    mut queue: mpsc::Receiver<Vec<Packet>>,
    outgoing: &mpsc::Sender<Packet>,
) -> Result<(), ReceiveError> {
    let mut writer = Writer::new(root, outgoing);
    let mut apply = || {
        while let Some(batch) = queue.blocking_recv() {
            for packet in batch {
                writer.apply(packet)?;
            }
            writer.request_more()?;
            if writer.is_complete() {
                return writer.finish();
            }
        }
        Err(ReceiveError::Ended)
    };
    let outcome = apply();
    if let Err(error) = &outcome
        && !matches!(error, ReceiveError::Ended | ReceiveError::Cancelled | ReceiveError::Sender(_))
    {
        // No receiver: the daemon is gone and needs no reason.
        let _ = outgoing.blocking_send(Packet {
            r#type: PacketType::PacketErr.into(),
            data: with_causes(error).into_bytes().into(),
            ..Packet::default()
        });
    }
    outcome
}

struct Writer<'a> {
    receiver: &'a Receiver,
    tree: Tree<'a>,
    outgoing: &'a mpsc::Sender<Packet>,
    listing: Listing,
    /// The listing is complete.
    listed: bool,
    /// Files that are to be requested.
    waiting: VecDeque<File>,
    /// Extended attributes of files that have some, until they are written.
    xattrs: HashMap<u32, Vec<Xattr>>,
    xattr_bytes: usize,
    /// Files that were requested, with a descriptor once something of them arrived.
    requested: HashMap<u32, (File, Option<OwnedFd>)>,
    /// Hard links and what they refer to. Made last, when all files are there.
    links: Vec<(u32, u32)>,
    dirs: Vec<File>,
}

/// What is needed to finish a file or a directory.
#[derive(Debug, Clone, Copy)]
struct File {
    id: u32,
    mode: u32,
    mtime: i64,
}

impl<'a> Writer<'a> {
    fn new(receiver: &'a Receiver, outgoing: &'a mpsc::Sender<Packet>) -> Writer<'a> {
        Writer {
            receiver,
            tree: Tree::new(&receiver.root),
            outgoing,
            listing: Listing::new(),
            listed: false,
            waiting: VecDeque::new(),
            xattrs: HashMap::new(),
            xattr_bytes: 0,
            requested: HashMap::new(),
            links: Vec::new(),
            dirs: Vec::new(),
        }
    }

    fn apply(&mut self, packet: Packet) -> Result<(), ReceiveError> {
        match (PacketType::try_from(packet.r#type), packet.stat) {
            (Ok(PacketType::PacketStat), _) if self.listed => {
                Err(ReceiveError::Packet("an entry after the end of the listing"))
            }
            (Ok(PacketType::PacketStat), Some(entry)) => self.add(entry),
            (Ok(PacketType::PacketStat), None) => {
                self.listed = true;
                Ok(())
            }
            (Ok(PacketType::PacketData), _) => self.data(packet.id, &packet.data),
            (Ok(PacketType::PacketErr), _) => {
                let text = &packet.data[..packet.data.len().min(MAX_ERROR_TEXT)];
                Err(ReceiveError::Sender(String::from_utf8_lossy(text).into_owned()))
            }
            (Ok(PacketType::PacketFin), _) => Err(ReceiveError::Packet("the end before its time")),
            (Ok(PacketType::PacketReq), _) => Err(ReceiveError::Packet("a request")),
            (Err(_), _) => Ok(()),
        }
    }

    fn add(&mut self, entry: types::Stat) -> Result<(), ReceiveError> {
        let (path, mode, mtime) = (&*entry.path, entry.mode, entry.mod_time);
        let invalid =
            |reason| ReceiveError::Entry { path: String::from_utf8_lossy(path).into_owned(), reason };
        if entry.xattrs.iter().map(|xattr| xattr.key.len() + xattr.value.len()).sum::<usize>() > MAX_XATTRS {
            return Err(invalid("too large extended attributes"));
        }
        let is_dir = mode & MODE_DIR != 0;
        let is_symlink = !is_dir && mode & MODE_SYMLINK != 0;
        let is_special = !is_dir && !is_symlink && mode & (MODE_DEVICE | MODE_NAMED_PIPE) != 0;
        let is_link = !is_dir && !is_symlink && !entry.linkname.is_empty();
        if is_special && mode & MODE_DEVICE != 0 && !self.receiver.devices {
            return Err(invalid("a device, which this output does not take"));
        }
        let kind = match (is_dir, is_symlink || is_link) {
            (true, _) => Kind::Dir,
            (_, true) => Kind::Link,
            _ => Kind::File,
        };
        let id = self.listing.add(path, kind).map_err(invalid)?;
        let (operation, done) = if is_dir {
            self.dirs.push(File { id, mode, mtime });
            ("create directory", self.tree.create_dir(path, &entry.xattrs))
        } else if is_symlink {
            ("create symlink", self.tree.create_symlink(path, &entry.linkname, mtime))
        } else if is_special && !is_link {
            let operation = if mode & MODE_DEVICE != 0 { "create device" } else { "create fifo" };
            (operation, self.tree.create_special(path, mode, (entry.devmajor, entry.devminor), mtime))
        } else if is_link {
            let target = self.listing.find_file(&entry.linkname).ok_or(invalid("link to unknown path"))?;
            self.links.push((id, target));
            return Ok(());
        } else if mode & MODE_TYPE != 0 {
            return Err(invalid("unknown type of file"));
        } else {
            if !entry.xattrs.is_empty() {
                self.xattr_bytes += entry.xattrs.iter().map(|x| x.key.len() + x.value.len()).sum::<usize>();
                if self.xattr_bytes > MAX_WAITING_XATTRS {
                    return Err(invalid("too large extended attributes"));
                }
                self.xattrs.insert(id, entry.xattrs);
            }
            self.waiting.push_back(File { id, mode, mtime });
            return Ok(());
        };
        done.map_err(|source| ReceiveError::write(operation, path, source))
    }

    /// A piece of a requested file, or its end.
    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), ReceiveError> {
        let (file, open) =
            self.requested.get_mut(&id).ok_or(ReceiveError::Packet("content that was not requested"))?;
        let fail = |operation, path: &[u8], source: io::Error| ReceiveError::write(operation, path, source);
        if open.is_none() {
            let path = self.listing.path(id);
            *open = Some(self.tree.create_file(&path).map_err(|source| fail("create", &path, source))?);
        }
        let Some(fd) = open else { return Ok(()) };
        if data.is_empty() {
            let xattrs = self.xattrs.remove(&id).unwrap_or_default();
            self.xattr_bytes -= xattrs.iter().map(|x| x.key.len() + x.value.len()).sum::<usize>();
            Tree::finish_file(fd, file.mode, file.mtime, &xattrs)
                .map_err(|source| fail("set attributes of", &self.listing.path(id), source))?;
            self.requested.remove(&id);
            return Ok(());
        }
        self.receiver
            .spend(data.len())
            .and_then(|()| write_all(fd, data))
            .map_err(|source| fail("write", &self.listing.path(id), source))
    }

    fn request_more(&mut self) -> Result<(), ReceiveError> {
        while self.requested.len() < REQUESTS
            && let Some(file) = self.waiting.pop_front()
        {
            self.requested.insert(file.id, (file, None));
            self.send(PacketType::PacketReq, file.id)?;
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.listed && self.waiting.is_empty() && self.requested.is_empty()
    }

    fn finish(&mut self) -> Result<(), ReceiveError> {
        for (id, target) in std::mem::take(&mut self.links) {
            let path = self.listing.path(id);
            self.tree
                .create_link(&path, &self.listing.path(target))
                .map_err(|source| ReceiveError::write("link", &path, source))?;
        }
        // Innermost first: the mode of an outer one may shut us out.
        for dir in std::mem::take(&mut self.dirs).into_iter().rev() {
            let path = self.listing.path(dir.id);
            self.tree
                .finish_dir(&path, dir.mode, dir.mtime)
                .map_err(|source| ReceiveError::write("set attributes of", &path, source))?;
        }
        self.send(PacketType::PacketFin, 0)
    }

    fn send(&self, kind: PacketType, id: u32) -> Result<(), ReceiveError> {
        let packet = Packet { r#type: kind.into(), id, ..Packet::default() };
        self.outgoing.blocking_send(packet).map_err(|_| ReceiveError::Cancelled)
    }
}

impl ReceiveError {
    fn write(operation: &'static str, path: &[u8], source: io::Error) -> ReceiveError {
        ReceiveError::Write { operation, path: String::from_utf8_lossy(path).into_owned(), source }
    }
}

fn write_all(fd: &OwnedFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd, data) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => data = &data[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
