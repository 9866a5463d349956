//! Whatever arrives: damaged messages by the hundred thousand, and never a panic, a wait or growth.
//!
//! There is no coverage to guide them; what guides them is a good message of each kind, of which every damaged one is a
//! descendant. The order is the same in each run, so a failure can be had again by its number. The suite runs a part,
//! `cargo xtask fuzz` a million.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost::Message as _;
use sha2::Digest as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::context::{LocalDir, Selection, send::send};
use crate::digest::Digest;
use crate::dockerconfig::DockerConfig;
use crate::export::archive::Inspector;
use crate::export::{Receiver, receive};
use crate::proto::fsutil::types::{Packet, Stat, Xattr, packet::PacketType};
use crate::proto::moby::buildkit::v1 as control;
use crate::updates::Updates;

/// Of all kinds together.
const SOME: u64 = 20_000;
const MANY: u64 = 1_000_000;
/// Longer than any of these takes on a machine that is busy with something else.
const HANG: Duration = Duration::from_secs(60);

/// Numbers in a fixed disorder (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }

    /// `good` with up to eight mistakes in it.
    fn damaged(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        for _ in 0..self.roll(9) {
            let at = self.roll(bytes.len() + 1);
            match self.roll(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
                1 if at < bytes.len() => {
                    bytes[at] = [0, 0xff, 0x7f, 0x80, b'"', b'/', b'.', b'%'][self.roll(8)]
                }
                2 => bytes.insert(at, self.roll(256) as u8),
                3 => bytes.truncate(at),
                4 => {
                    let end = at + self.roll(bytes.len() - at + 1);
                    bytes.drain(at..end);
                }
                _ => {
                    let end = at + self.roll((bytes.len() - at + 1).min(64));
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
            }
        }
        bytes
    }
}

/// Bytes of memory that this process has had at the most.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn stat(path: &str, mode: u32, link: &str) -> Packet {
    let xattrs = vec![Xattr { key: b"user.a".to_vec().into(), value: b"b".to_vec().into() }];
    let stat = Stat {
        path: path.to_owned().into(),
        mode,
        linkname: link.to_owned().into(),
        mod_time: 1_700_000_000_000_000_000,
        xattrs,
        ..Stat::default()
    };
    Packet { stat: Some(stat), ..Packet::default() }
}

/// A tree as a daemon sends it, packet by packet.
fn tree() -> Vec<Packet> {
    let data = |id, data: &'static [u8]| Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data: data.into(),
        ..Packet::default()
    };
    vec![
        stat("dir", 1 << 31 | 0o755, ""),
        stat("dir/file", 0o644, ""),
        stat("dir/hard", 0o644, "dir/file"),
        stat("link", 1 << 27 | 0o777, "dir/file"),
        stat("pipe", 1 << 25 | 0o600, ""),
        Packet::default(),
        data(1, b"content"),
        data(1, b""),
        Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() },
    ]
}

/// What a daemon sends as a result, written to a directory; the packets come one at a time, as on a wire.
fn results(dice: &mut Dice, count: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("out");
    let tree: Vec<Vec<u8>> = tree().iter().map(Packet::encode_to_vec).collect();
    let mut sent = 0;
    while sent < count {
        std::fs::create_dir_all(&target).unwrap();
        let packets: Vec<Vec<u8>> = tree
            .iter()
            .filter_map(|packet| match dice.roll(12) {
                0 => Some(dice.damaged(packet)),
                1 => Some(tree[dice.roll(tree.len())].clone()),
                2 => None,
                _ => Some(packet.clone()),
            })
            .collect();
        sent += packets.len() as u64;
        let incoming = tokio_stream::iter(packets)
            .filter_map(|bytes| Packet::decode(bytes.as_slice()).ok())
            .map(Ok::<_, Status>);
        let root: std::os::fd::OwnedFd = std::fs::File::open(&target).unwrap().into();
        let (out, mut back) = mpsc::channel(1000);
        let done = runtime.block_on(async {
            let receiver = Arc::new(Receiver::new(root).bounded(1 << 20));
            tokio::time::timeout(HANG, receive(receiver, incoming, out)).await
        });
        assert!(done.is_ok(), "a hang after {sent} packets");
        while back.try_recv().is_ok() {}
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1, "something lies beside the output");
        // A mode of the result may keep its owner out.
        let _ = std::fs::remove_dir_all(&target);
    }
}

/// What a daemon asks of a context.
fn requests(dice: &mut Dice, count: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let context = tempfile::tempdir().unwrap();
    for name in 0..8 {
        std::fs::write(context.path().join(name.to_string()), "content").unwrap();
    }
    let words = ["*", "**", "!a", "[", "a/../b", "\\", "..", "/", "0", "[^]", "a**b", ""];
    let mut sent = 0;
    while sent < count {
        let mut list =
            || (0..dice.roll(4)).map(|_| words[dice.roll(words.len())].to_owned()).collect::<Vec<_>>();
        let selection = Selection { include: list(), exclude: list(), followpaths: list() };
        let asked: Vec<Packet> = (0..16)
            .filter_map(|_| {
                let kind =
                    [PacketType::PacketReq, PacketType::PacketReq, PacketType::PacketData][dice.roll(3)];
                let packet = Packet { r#type: kind.into(), id: dice.roll(12) as u32, ..Packet::default() };
                Packet::decode(dice.damaged(&packet.encode_to_vec()).as_slice()).ok()
            })
            .collect();
        sent += asked.len().max(1) as u64;
        let done = runtime.block_on(async {
            let (requests, queue) = mpsc::channel(64);
            for packet in asked {
                let _ = requests.send(packet).await;
            }
            drop(requests);
            let dir = LocalDir::open("context", context.path()).unwrap();
            let mut packets = send(dir, selection, ReceiverStream::new(queue).map(Ok));
            tokio::time::timeout(HANG, async { while packets.next().await.is_some() {} }).await
        });
        assert!(done.is_ok(), "a hang after {sent} requests");
    }
}

/// An image's archive.
fn archives(dice: &mut Dice, count: u64) {
    let manifest = b"{}";
    let digest = Digest::sha256(&sha2::Sha256::digest(manifest).into());
    let index = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    let mut builder = tar::Builder::new(Vec::new());
    let blob = format!("blobs/sha256/{}", digest.hex());
    for (name, bytes) in [(blob.as_str(), &manifest[..]), ("index.json", index.as_bytes())] {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_path(name).unwrap();
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    let good = builder.into_inner().unwrap();
    for _ in 0..count {
        let mut inspector = Inspector::default();
        let archive = dice.damaged(&good);
        let piece = dice.roll(2000) + 1;
        if archive.chunks(piece).try_for_each(|piece| inspector.feed(piece)).is_ok()
            && let Ok(contents) = inspector.finish()
        {
            assert!(contents.images.contains(&digest), "another image was vouched for");
        }
    }
}

/// The progress of a build, as bytes of its messages.
fn progress(dice: &mut Dice, count: u64) {
    let vertex = |digest: &str| control::Vertex {
        digest: digest.to_owned(),
        name: "[1/2] RUN something".to_owned(),
        inputs: vec!["sha256:b".to_owned()],
        ..control::Vertex::default()
    };
    let good = control::StatusResponse {
        vertexes: vec![vertex("sha256:a"), vertex("sha256:b")],
        logs: vec![control::VertexLog {
            vertex: "sha256:a".into(),
            msg: b"a line\n".to_vec().into(),
            ..Default::default()
        }],
        ..Default::default()
    }
    .encode_to_vec();
    for _ in 0..count {
        Updates::of(dice.damaged(&good).into()).for_each(drop);
    }
}

fn texts(dice: &mut Dice, count: u64) {
    let config = br#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6aHVudGVyMg=="},"r:5000":{"identitytoken":"x"}},"credHelpers":{"a":"b"},"credsStore":"c"}"#;
    let references =
        ["docker.io/library/a:1@sha256:0000", "localhost:5000/a/b:tag", "a_b/c-d.e", "[::1]:5000/x"];
    for round in 0..count {
        match round % 4 {
            0 => {
                let text = dice.damaged(config);
                if let Ok(config) = DockerConfig::parse(&text, std::path::Path::new("config.json")) {
                    for host in ["r:5000", "docker.io", "a"] {
                        let _ = (config.stored(host), config.helper(host));
                    }
                }
            }
            1 => {
                let good = references[dice.roll(references.len())];
                let text = String::from_utf8_lossy(&dice.damaged(good.as_bytes())).into_owned();
                if let Ok(reference) = text.parse::<crate::reference::ImageRef>() {
                    let again = reference.to_string().parse().ok();
                    assert_eq!(again.as_ref(), Some(&reference), "{text:?}");
                }
            }
            2 => {
                let text = dice.damaged(b"oci-layout://path/to:tag@sha256:00");
                let _ = crate::ocilayout::LayoutRef::parse(&String::from_utf8_lossy(&text));
                let _ =
                    crate::ocilayout::LayoutIndex::parse(&dice.damaged(br#"{"manifests":[{"digest":"a"}]}"#));
            }
            _ => {
                let text = dice.damaged(b"https://user:pass@host/x.git?ref=a#b:c ssh://git@host:22/x");
                let text = String::from_utf8_lossy(&text);
                let _ = (crate::remote::is_remote(&text), crate::remote::is_repository(&text));
                let _ = (crate::csv::fields(&text), crate::output::OutputSpec::parse(&text));
            }
        }
    }
}

fn fuzz(count: u64) {
    let began = Instant::now();
    type Target = fn(&mut Dice, u64);
    // Shares of a hundred: what touches the disk is slow, what parses is not.
    let targets: [(&str, u64, Target); 5] = [
        ("results", 15, results),
        ("requests", 15, requests),
        ("archives", 25, archives),
        ("progress", 20, progress),
        ("texts", 25, texts),
    ];
    for (seed, (name, share, target)) in targets.into_iter().enumerate() {
        let before = peak();
        target(&mut Dice(seed as u64 + 1), count * share / 100);
        let grown = peak().saturating_sub(before) >> 20;
        println!(
            "{name}: {} messages, grown by {grown} MiB, after {:?}",
            count * share / 100,
            began.elapsed()
        );
        assert!(grown < 64, "{name} grew by {grown} MiB");
    }
}

#[test]
fn damaged_messages_are_survived() {
    fuzz(SOME);
}

#[test]
#[ignore = "minutes; `cargo xtask fuzz`"]
fn a_million_damaged_messages_are_survived() {
    fuzz(MANY);
}
