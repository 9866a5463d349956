//! The sending side of fsutil's DiffCopy.
//!
//! One blocking thread walks and lists, up to four read the files that were requested, and one task answers the daemon;
//! what they produce meets in a bounded channel, so a slow daemon slows them down and nothing piles up. Requests are
//! taken while the walk runs and never wait for room to send: otherwise both sides could end up waiting for each other.
//! Follows fsutil `send.go`.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use rustix::buffer::spare_capacity;
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::entries::{Entries, Requested};
use super::filter::Filter;
use super::walk::{lock, walk};
use super::{ContextError, LocalDir, Selection, with_causes};
use crate::proto::fsutil::types::{Packet, packet::PacketType};

/// Files that are read at the same time, as upstream.
const READERS: usize = 4;
/// Largest piece of a file in one packet.
const CHUNK: usize = 256 << 10;
/// A batch is passed on when it holds this much.
const BATCH_PACKETS: usize = 128;
const BATCH_BYTES: usize = 256 << 10;
/// Batches in the channel.
const BATCHES: usize = 6;
/// How much of a daemon's error text is kept.
const MAX_ERROR_TEXT: usize = 4096;

/// Answers one DiffCopy call: streams the listing of what `selection` keeps of `dir`, and the files that `requests` ask
/// for. The stream ends after the daemon's FIN was answered, or with a status. Dropping it stops everything.
///
/// Must be called from within a tokio runtime.
pub fn send(
    dir: LocalDir,
    selection: Selection,
    requests: impl Stream<Item = Result<Packet, Status>> + Send + Unpin + 'static,
) -> impl Stream<Item = Result<Packet, Status>> + Send + 'static {
    let (out, batches) = mpsc::channel(BATCHES);
    let shared = Arc::new(Shared {
        dir,
        entries: Mutex::new(Entries::new()),
        queue: Mutex::new(Queue::default()),
        stopped: AtomicBool::new(false),
    });
    spawn_blocking({
        let (shared, out) = (shared.clone(), out.clone());
        move || {
            if let Err(error) = list(&shared, &selection, &out) {
                fail(&out, error);
            }
        }
    });
    let answering = tokio::spawn(answer(shared.clone(), out, requests)).abort_handle();
    Transfer { batches, current: Vec::new().into_iter(), end: None, ended: false, shared, answering }
}

/// What the threads and the task have in common.
#[derive(Debug)]
struct Shared {
    dir: LocalDir,
    entries: Mutex<Entries>,
    queue: Mutex<Queue>,
    /// The transfer is over, one way or the other.
    stopped: AtomicBool,
}

/// Files that were requested and not yet begun.
#[derive(Debug, Default)]
struct Queue {
    files: VecDeque<(u32, Requested)>,
    readers: usize,
}

enum Batch {
    Packets(Vec<Packet>),
    /// The daemon said FIN.
    Finish,
    Fail(Status, Option<Packet>),
}

/// Collects packets into batches.
struct Sink<'a> {
    shared: &'a Shared,
    out: &'a mpsc::Sender<Batch>,
    packets: Vec<Packet>,
    bytes: usize,
}

impl<'a> Sink<'a> {
    fn new(shared: &'a Shared, out: &'a mpsc::Sender<Batch>) -> Sink<'a> {
        Sink { shared, out, packets: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, packet: Packet) -> Result<(), ContextError> {
        if self.packets.is_empty() {
            self.packets.reserve(BATCH_PACKETS);
        }
        self.bytes += packet.data.len();
        self.packets.push(packet);
        if self.packets.len() >= BATCH_PACKETS || self.bytes >= BATCH_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ContextError> {
        if self.shared.stopped.load(Ordering::Relaxed) {
            return Err(ContextError::Cancelled);
        }
        if self.packets.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let batch = Batch::Packets(std::mem::take(&mut self.packets));
        self.out.blocking_send(batch).map_err(|_| ContextError::Cancelled)
    }
}

/// Walks and sends the listing.
fn list(shared: &Shared, selection: &Selection, out: &mpsc::Sender<Batch>) -> Result<(), ContextError> {
    let filter = Filter::new(&shared.dir, selection)?;
    let mut sink = Sink::new(shared, out);
    walk(&shared.dir, &filter, &shared.entries, &mut |entry| match entry {
        Some(entry) => sink.push(Packet { stat: Some(entry), ..Packet::default() }),
        // Nothing to send, but the walk may be in a large tree of which nothing is kept.
        None if shared.stopped.load(Ordering::Relaxed) => Err(ContextError::Cancelled),
        None => Ok(()),
    })?;
    // A STAT packet without an entry ends the listing.
    sink.push(Packet::default())?;
    sink.flush()
}

/// Takes the daemon's requests until it has everything.
async fn answer(
    shared: Arc<Shared>,
    out: mpsc::Sender<Batch>,
    mut requests: impl Stream<Item = Result<Packet, Status>> + Unpin,
) {
    let last = loop {
        let packet = match requests.next().await {
            Some(Ok(packet)) => packet,
            Some(Err(status)) => break Batch::Fail(status, None),
            None => break Batch::Fail(status(&ContextError::Ended), None),
        };
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketReq) => {
                if let Err(error) = request(&shared, &out, packet.id) {
                    break Batch::Fail(status(&error), None);
                }
            }
            Ok(PacketType::PacketFin) => break Batch::Finish,
            Ok(PacketType::PacketErr) => {
                let text = &packet.data[..packet.data.len().min(MAX_ERROR_TEXT)];
                let error = ContextError::Receiver(String::from_utf8_lossy(text).into_owned());
                break Batch::Fail(status(&error), None);
            }
            _ => {}
        }
    };
    // No receiver: the transfer is over already.
    let _ = out.send(last).await;
}

/// Queues a file and sees to it that enough readers are at work.
fn request(shared: &Arc<Shared>, out: &mpsc::Sender<Batch>, id: u32) -> Result<(), ContextError> {
    let file = lock(&shared.entries).take(id)?;
    let mut queue = lock(&shared.queue);
    queue.files.push_back((id, file));
    if queue.readers < READERS {
        queue.readers += 1;
        let (shared, out) = (shared.clone(), out.clone());
        spawn_blocking(move || {
            if let Err(error) = read_files(&shared, &out) {
                fail(&out, error);
            }
        });
    }
    Ok(())
}

/// Reads requested files until there are none left.
fn read_files(shared: &Shared, out: &mpsc::Sender<Batch>) -> Result<(), ContextError> {
    let mut sink = Sink::new(shared, out);
    loop {
        let next = lock(&shared.queue).files.pop_front();
        let next = match next {
            Some(next) => next,
            None => {
                sink.flush()?;
                let mut queue = lock(&shared.queue);
                let Some(next) = queue.files.pop_front() else {
                    queue.readers -= 1;
                    return Ok(());
                };
                next
            }
        };
        let (id, requested) = next;
        let path = lock(&shared.entries).path(requested.place);
        let is_same = |inode, size| {
            let now = shared.dir.identity(inode, size);
            lock(&shared.entries).is_same(requested, now)
        };
        read_file(&shared.dir, &path, is_same, |data| sink.push(data_packet(id, data)))?;
        sink.push(data_packet(id, Vec::new()))?;
    }
}

/// Passes on the content of the file at `path`. Like upstream, a file that may not be read is empty; unlike it, one that
/// is not what was listed is an error, because nobody can tell what the daemon would be sent instead.
#[allow(clippy::useless_conversion)]
fn read_file(
    dir: &LocalDir,
    path: &[u8],
    is_same: impl Fn((u64, u64), u64) -> bool,
    mut pass: impl FnMut(Vec<u8>) -> Result<(), ContextError>,
) -> Result<(), ContextError> {
    let changed = || ContextError::Changed { path: String::from_utf8_lossy(path).into_owned() };
    // A socket is listed as an empty file, and cannot be opened.
    let (file, kind, empty) = match dir.read(path) {
        Ok(file) => (file, FileType::RegularFile, false),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::ACCESS | Errno::PERM) => return Ok(()),
            Some(Errno::NXIO) => (dir.locate(path).map_err(|_| changed())?, FileType::Socket, true),
            Some(Errno::LOOP | Errno::NOENT | Errno::NOTDIR | Errno::STALE) => return Err(changed()),
            _ => return Err(ContextError::read("open", path, error)),
        },
    };
    let stat = fstat(&file).map_err(|errno| ContextError::read("stat", path, errno))?;
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    if FileType::from_raw_mode(stat.st_mode) != kind
        || !is_same((stat.st_dev.into(), stat.st_ino.into()), size)
    {
        return Err(changed());
    }
    if empty {
        return Ok(());
    }
    let mut left = usize::try_from(size).unwrap_or(usize::MAX);
    loop {
        // One byte more than is expected, so that the end shows without another buffer.
        let mut data = Vec::with_capacity(left.saturating_add(1).clamp(512, CHUNK));
        let mut at_end = false;
        while !at_end && data.len() < data.capacity() {
            match rustix::io::read(&file, spare_capacity(&mut data)) {
                Ok(count) => at_end = count == 0,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(ContextError::read("read", path, errno)),
            }
        }
        left = left.checked_sub(data.len()).ok_or_else(changed)?;
        if at_end && left > 0 {
            return Err(changed());
        }
        if !data.is_empty() {
            pass(data)?;
        }
        if at_end {
            return Ok(());
        }
    }
}

fn data_packet(id: u32, data: Vec<u8>) -> Packet {
    Packet { r#type: PacketType::PacketData.into(), id, data: data.into(), ..Packet::default() }
}

/// Ends the transfer because something on this side went wrong.
fn fail(out: &mpsc::Sender<Batch>, error: ContextError) {
    if matches!(error, ContextError::Cancelled) {
        return;
    }
    let packet = Packet {
        r#type: PacketType::PacketErr.into(),
        data: with_causes(&error).into_bytes().into(),
        ..Packet::default()
    };
    // No receiver: the transfer is over already.
    let _ = out.blocking_send(Batch::Fail(status(&error), Some(packet)));
}

fn status(error: &ContextError) -> Status {
    let text = with_causes(error);
    match error {
        ContextError::Pattern { .. } => Status::invalid_argument(text),
        ContextError::Cancelled => Status::cancelled(text),
        _ => Status::unknown(text),
    }
}

/// The outgoing half of a transfer; owns everything that works for it.
struct Transfer {
    batches: mpsc::Receiver<Batch>,
    current: std::vec::IntoIter<Packet>,
    /// The status to end with.
    end: Option<Status>,
    ended: bool,
    shared: Arc<Shared>,
    answering: AbortHandle,
}

impl Transfer {
    fn stop(&mut self) {
        self.ended = true;
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.batches.close();
        // What is still queued must make room, or its senders would wait on.
        while self.batches.try_recv().is_ok() {}
        self.answering.abort();
    }
}

impl Stream for Transfer {
    type Item = Result<Packet, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(packet) = self.current.next() {
                return Poll::Ready(Some(Ok(packet)));
            }
            if let Some(status) = self.end.take() {
                return Poll::Ready(Some(Err(status)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.batches.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Batch::Packets(packets))) => self.current = packets.into_iter(),
                Poll::Ready(Some(Batch::Finish)) => {
                    let fin = Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() };
                    self.current = vec![fin].into_iter();
                    self.stop();
                }
                Poll::Ready(Some(Batch::Fail(status, packet))) => {
                    self.current = packet.into_iter().collect::<Vec<_>>().into_iter();
                    self.end = Some(status);
                    self.stop();
                }
                Poll::Ready(None) => {
                    self.end = Some(status(&ContextError::Cancelled));
                    self.stop();
                }
            }
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.stop();
    }
}
