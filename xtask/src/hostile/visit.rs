//! One build as the daemon sees it, and what it can ask of the client.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::ground::Ground;
use super::progress::Raw;
use super::record::Record;
use super::wire::fsutil::types::{Packet, Stat, packet::PacketType};
use super::wire::moby::buildkit::v1::SolveRequest;
use super::wire::moby::filesync::v1::file_sync_client::FileSyncClient;

/// Bits of Go's `os.FileMode`.
pub mod mode {
    pub const DIR: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const FIFO: u32 = 1 << 25;
    pub const SETUID: u32 = 1 << 23;
    pub const CHAR_DEVICE: u32 = 1 << 21;
    pub const TYPE: u32 = DIR | SYMLINK | DEVICE | FIFO | 1 << 24 | CHAR_DEVICE | 1 << 19;
}

/// Entries that one walk is followed to.
const ENTRIES: usize = 10_000;
/// Of one file.
const CONTENT: usize = 1 << 20;

/// Of a client that opens one session for its files and another for the rest.
const SECOND_SESSION: Duration = Duration::from_secs(1);

/// A session of a client, and what it offers.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: String,
    pub methods: Vec<String>,
    pub channel: Channel,
}

/// What a script works with.
#[derive(Debug)]
pub struct Visit {
    pub sessions: watch::Receiver<Vec<Session>>,
    pub request: SolveRequest,
    pub updates: mpsc::Sender<Raw>,
    pub ground: Arc<Ground>,
}

/// A question for a directory.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub name: Vec<u8>,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub follow: Vec<String>,
}

impl Ask {
    pub fn of(name: &str) -> Ask {
        Ask { name: name.as_bytes().to_vec(), ..Ask::default() }
    }

    pub fn follow(mut self, paths: &[&str]) -> Ask {
        self.follow = paths.iter().map(|path| (*path).to_owned()).collect();
        self
    }

    pub fn include(mut self, patterns: &[&str]) -> Ask {
        self.include = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        self
    }

    pub fn exclude(mut self, patterns: &[&str]) -> Ask {
        self.exclude = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        self
    }

    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        let names = [String::from_utf8_lossy(&self.name).into_owned()];
        let lists: [(&'static str, &[String]); 4] = [
            ("dir-name", &names),
            ("include-patterns", &self.include),
            ("exclude-patterns", &self.exclude),
            ("followpaths", &self.follow),
        ];
        for (key, values) in lists {
            for value in values {
                if let Ok(value) = AsciiMetadataValue::try_from(value.as_bytes()) {
                    request.metadata_mut().append(key, value);
                }
            }
        }
        request
    }
}

/// A DiffCopy call under way.
#[derive(Debug)]
pub struct Transfer {
    pub entries: Vec<Stat>,
    requests: mpsc::Sender<Packet>,
    packets: Streaming<Packet>,
}

impl Visit {
    pub fn record(&self) -> &Record {
        &self.ground.record
    }

    /// The session that offers `service`: the build's own, or another of the same client.
    pub async fn session(&self, service: &str) -> Channel {
        let offers = |session: &Session| session.methods.iter().any(|method| method.contains(service));
        let mut sessions = self.sessions.clone();
        let known = sessions.wait_for(|sessions| sessions.iter().any(offers));
        let known = tokio::time::timeout(SECOND_SESSION, known).await.ok().and_then(Result::ok);
        let of = |sessions: &[Session]| {
            let (mut own, mut other) = (None, None);
            for session in sessions {
                let place = if session.id == self.request.session { &mut own } else { &mut other };
                if place.is_none() || offers(session) {
                    *place = Some(session.clone());
                }
            }
            match (own, other) {
                (Some(own), Some(other)) if offers(&other) && !offers(&own) => other.channel,
                (Some(session), _) | (None, Some(session)) => session.channel,
                (None, None) => unreachable!("a build begins with its session"),
            }
        };
        match known {
            Some(sessions) => of(&sessions),
            None => of(&self.sessions.borrow()),
        }
    }

    pub async fn say(&self, update: Raw) -> bool {
        self.updates.send(update).await.is_ok()
    }

    /// Lists a directory. What was listed counts as got.
    pub async fn list(&self, ask: &Ask) -> Result<Transfer, Status> {
        let (requests, outgoing) = mpsc::channel(1024);
        let call = ask.request(ReceiverStream::new(outgoing));
        let mut client =
            FileSyncClient::new(self.session("FileSync").await).max_decoding_message_size(64 << 20);
        let mut packets = client.diff_copy(call).await?.into_inner();
        let mut entries = Vec::new();
        while let Some(packet) = packets.message().await? {
            match (PacketType::try_from(packet.r#type), packet.stat) {
                (Ok(PacketType::PacketStat), Some(entry)) if entries.len() < ENTRIES => {
                    self.record().got(&format!("the list of {}", ask.shown()), &entry.path);
                    entries.push(entry);
                }
                (Ok(PacketType::PacketStat), Some(_)) => {}
                (Ok(PacketType::PacketStat), None) => return Ok(Transfer { entries, requests, packets }),
                (Ok(PacketType::PacketErr), _) => {
                    return Err(Status::aborted(String::from_utf8_lossy(&packet.data).into_owned()));
                }
                _ => {}
            }
        }
        Err(Status::aborted("the list has no end"))
    }

    /// Takes all files of a directory that the client gives.
    pub async fn grab(&self, ask: &Ask) -> Result<(), Status> {
        let end = self.grabbed(ask).await;
        if let Err(status) = &end {
            self.record().told(format!("{:?} {}: {}", status.code(), ask.shown(), status.message()));
        }
        end
    }

    async fn grabbed(&self, ask: &Ask) -> Result<(), Status> {
        let mut transfer = self.list(ask).await?;
        let files = (0u32..).zip(&transfer.entries).filter(|(_, entry)| entry.mode & mode::TYPE == 0);
        let files: Vec<(u32, Bytes)> = files.map(|(id, entry)| (id, entry.path.clone())).collect();
        for (id, path) in files {
            let content = transfer.fetch(id).await?;
            self.record().got(&format!("{} of {}", String::from_utf8_lossy(&path), ask.shown()), &content);
        }
        transfer.finish().await
    }

    /// What every build needs, asked as an honest daemon asks.
    pub async fn honest(&self) {
        let ignore = ["secret.env", "private"];
        let _ = self.grab(&Ask::of("context").follow(&["open.txt"]).exclude(&ignore)).await;
    }
}

impl Ask {
    fn shown(&self) -> String {
        let mut text = format!("{:?}", String::from_utf8_lossy(&self.name));
        for (what, list) in [("include", &self.include), ("exclude", &self.exclude), ("follow", &self.follow)]
        {
            if !list.is_empty() {
                text.push_str(&format!(" {what} {:?}", &list[..list.len().min(3)]));
            }
        }
        text.truncate(text.floor_char_boundary(200));
        text
    }
}

impl Transfer {
    pub async fn send(&self, kind: PacketType, id: u32) -> bool {
        let packet = Packet { r#type: kind.into(), id, ..Packet::default() };
        self.requests.send(packet).await.is_ok()
    }

    /// The next packet, an error of the client's included.
    pub async fn next(&mut self) -> Result<Packet, Status> {
        match self.packets.message().await? {
            Some(packet) if packet.r#type == i32::from(PacketType::PacketErr) => {
                Err(Status::aborted(String::from_utf8_lossy(&packet.data).into_owned()))
            }
            Some(packet) => Ok(packet),
            None => Err(Status::aborted("the client ended the transfer")),
        }
    }

    /// Asks for one file and waits for all of it.
    pub async fn fetch(&mut self, id: u32) -> Result<Vec<u8>, Status> {
        self.send(PacketType::PacketReq, id).await;
        let mut content = Vec::new();
        loop {
            let packet = self.next().await?;
            if packet.r#type == i32::from(PacketType::PacketData) && packet.id == id {
                if packet.data.is_empty() {
                    return Ok(content);
                }
                let room = CONTENT.saturating_sub(content.len()).min(packet.data.len());
                content.extend_from_slice(&packet.data[..room]);
            }
        }
    }

    pub async fn finish(mut self) -> Result<(), Status> {
        self.send(PacketType::PacketFin, 0).await;
        while self.next().await?.r#type != i32::from(PacketType::PacketFin) {}
        Ok(())
    }
}
