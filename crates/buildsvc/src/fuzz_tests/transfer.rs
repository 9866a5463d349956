//! Streams: files in both directions, archives, progress.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sha2::Digest as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use xtask::fuzz::Messages;

use crate::context::pattern::Matcher;
use crate::context::{LocalDir, Selection, send::send};
use crate::digest::Digest;
use crate::export::archive::Inspector;
use crate::export::{Receiver, receive};
use crate::proto::fsutil::types::{Packet, Stat, Xattr, packet::PacketType};
use crate::proto::google::rpc;
use crate::proto::moby::buildkit::v1 as control;
use crate::updates::Updates;

/// Longer than any transfer of a few packets takes on a machine that is busy with something else.
const HANG: Duration = Duration::from_secs(120);

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
fn tree() -> Vec<Vec<u8>> {
    let data = |id, data: &'static [u8]| Packet {
        r#type: PacketType::PacketData.into(),
        id,
        data: data.into(),
        ..Packet::default()
    };
    let packets = [
        stat("dir", 1 << 31 | 0o755, ""),
        stat("dir/file", 0o644, ""),
        stat("dir/hard", 0o644, "dir/file"),
        stat("link", 1 << 27 | 0o777, "dir/file"),
        stat("pipe", 1 << 25 | 0o600, ""),
        Packet::default(),
        data(1, b"content"),
        data(1, b""),
        Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() },
    ];
    packets.iter().map(Packet::encode_to_vec).collect()
}

/// What a daemon sends as a result, written to a directory; the packets come one at a time, as on a wire.
pub fn results(messages: &mut Messages) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outer = tempfile::tempdir().unwrap();
    let target = outer.path().join("out");
    let tree = tree();
    while messages.more() {
        std::fs::create_dir_all(&target).unwrap();
        let mut packets = Vec::new();
        for packet in &tree {
            match messages.roll(12) {
                0 => packets.extend(messages.next(&tree)),
                1 => {}
                2..6 => packets.extend(messages.next(&[packet])),
                _ => packets.push(packet.clone()),
            }
        }
        let incoming = tokio_stream::iter(packets)
            .filter_map(|bytes| Packet::decode(bytes.as_slice()).ok())
            .map(Ok::<_, Status>);
        let root: std::os::fd::OwnedFd = std::fs::File::open(&target).unwrap().into();
        let (out, mut back) = mpsc::channel(1000);
        let done = runtime.block_on(async {
            let receiver = Arc::new(Receiver::new(root).bounded(1 << 20));
            tokio::time::timeout(HANG, receive(receiver, incoming, out)).await
        });
        assert!(done.is_ok(), "a hang");
        while back.try_recv().is_ok() {}
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1, "something lies beside the output");
        // A mode of the result may keep its owner out.
        let _ = std::fs::remove_dir_all(&target);
    }
}

/// What a daemon asks of a context: patterns, then packets.
pub fn requests(messages: &mut Messages) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let context = tempfile::tempdir().unwrap();
    for name in 0..8 {
        std::fs::write(context.path().join(name.to_string()), "content").unwrap();
    }
    let words = ["*", "**", "!a", "[", "a/../b", "\\", "..", "/", "0", "[^]", "a**b", ""];
    let packets: Vec<Vec<u8>> = [PacketType::PacketReq, PacketType::PacketData, PacketType::PacketFin]
        .iter()
        .flat_map(|kind| (0..9).map(|id| Packet { r#type: (*kind).into(), id, ..Packet::default() }))
        .map(|packet| packet.encode_to_vec())
        .collect();
    while messages.more() {
        let mut list =
            || (0..messages.roll(4)).map(|_| words[messages.roll(words.len())].to_owned()).collect();
        let selection: [Vec<String>; 3] = [list(), list(), list()];
        let [include, exclude, followpaths] = selection;
        let selection = Selection { include, exclude, followpaths };
        let asked: Vec<Packet> = (0..16)
            .map_while(|_| messages.next(&packets))
            .filter_map(|bytes| Packet::decode(bytes.as_slice()).ok())
            .collect();
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
        assert!(done.is_ok(), "a hang");
    }
}

/// Patterns of daemons and ignore files, held against paths.
pub fn patterns(messages: &mut Messages) {
    let good = [
        "**/node_modules/**/*.js",
        "!src/[a-z]?/\\*",
        "a/b/../c",
        "[^\\]a-]*",
        "*.{a,b}",
        "**",
        "/a/*/",
        "a|b(.*/)?[[:alpha:]]{2}",
        "\u{e9}*\u{e9}",
    ];
    let path =
        ["src/node_modules/a/b/c/x.js", "a\n\u{e9}/b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "a/b/c"];
    let mut results = Vec::new();
    while let Some(pattern) = messages.next(&good) {
        if let Ok(matcher) = Matcher::new(pattern.split(|byte| *byte == b'\n').take(100)) {
            for path in path {
                matcher.matches(path.as_bytes(), None, &mut results);
            }
        }
    }
}

/// An image's archive.
pub fn archives(messages: &mut Messages) {
    let manifest = b"{}";
    let digest = Digest::sha256(&sha2::Sha256::digest(manifest).into());
    let index = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    let archive = |pax: bool| {
        let mut builder = tar::Builder::new(Vec::new());
        let blob = format!("blobs/sha256/{}", digest.hex());
        if pax {
            builder.append_pax_extensions([("comment", &b"x"[..]), ("size", b"2")]).unwrap();
        }
        for (name, bytes) in [(blob.as_str(), &manifest[..]), ("index.json", index.as_bytes())] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_path(name).unwrap();
            header.set_cksum();
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let good = [archive(false), archive(true)];
    while let Some(mut archive) = messages.next(&good) {
        // A header that was damaged is read only when its sum says that it was not.
        if messages.roll(2) == 0 {
            for header in archive.chunks_exact_mut(512) {
                if &header[257..262] == b"ustar" {
                    header[148..156].fill(b' ');
                    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
                    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let mut inspector = Inspector::default();
        let piece = messages.roll(2000) + 1;
        if archive.chunks(piece).try_for_each(|piece| inspector.feed(piece)).is_ok()
            && let Ok(contents) = inspector.finish()
        {
            assert!(contents.images.contains(&digest), "another image was vouched for");
        }
    }
}

/// The progress of a build, as bytes of its messages.
pub fn progress(messages: &mut Messages) {
    let vertex = |digest: &str| control::Vertex {
        digest: digest.to_owned(),
        name: "[1/2] RUN something".to_owned(),
        inputs: vec!["sha256:b".to_owned()],
        started: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        ..control::Vertex::default()
    };
    let steps = control::StatusResponse {
        vertexes: vec![vertex("sha256:a"), vertex("sha256:b")],
        ..Default::default()
    };
    let output = control::StatusResponse {
        logs: vec![control::VertexLog {
            vertex: "sha256:a".into(),
            msg: b"a line\n".to_vec().into(),
            ..Default::default()
        }],
        statuses: vec![control::VertexStatus {
            id: "layer".into(),
            vertex: "sha256:a".into(),
            current: 7,
            total: 9,
            ..Default::default()
        }],
        warnings: vec![control::VertexWarning {
            vertex: "sha256:b".into(),
            short: b"careful".to_vec().into(),
            detail: vec![b"more".to_vec().into()],
            ..Default::default()
        }],
        ..Default::default()
    };
    let good = [steps.encode_to_vec(), output.encode_to_vec()];
    while let Some(bytes) = messages.next(&good) {
        Updates::of(bytes.into()).for_each(drop);
    }
}

/// The details of an error.
pub fn failures(messages: &mut Messages) {
    let detail = |kind: &str, json: &str| prost_types::Any {
        type_url: format!("github.com/moby/buildkit/{kind}"),
        value: json.to_owned().into(),
    };
    let details = rpc::Status {
        details: vec![
            detail("errdefs.Vertex+json", r#"{"digest":"sha256:ab"}"#),
            detail(
                "errdefs.Source+json",
                r#"{"info":{"filename":"Dockerfile","data":"RlJPTSB4"},"ranges":[{"start":{"line":3},"end":{"line":4}}]}"#,
            ),
            detail("gatewayapi.ExitMessage+json", r#"{"Code":42}"#),
        ],
        ..rpc::Status::default()
    };
    let good = [details.encode_to_vec()];
    while let Some(bytes) = messages.next(&good) {
        let status = Status::with_details(tonic::Code::Unknown, "it failed", bytes.into());
        assert_eq!(crate::failure::read(&status).message, "it failed");
    }
}
