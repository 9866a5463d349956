//! Trees sent and received in one process: what arrives must be what lay there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::{ReceiveError, Receiver, receive};
use crate::context::send::send;
use crate::context::stat::{MODE_CHAR_DEVICE, MODE_DEVICE, MODE_DIR, MODE_SYMLINK};
use crate::context::{LocalDir, Selection, with_causes};
use crate::proto::fsutil::types::{Packet, Stat, packet::PacketType};

/// Everything of an entry that should survive the way.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
    xattr: Option<Vec<u8>>,
    /// The first path with the same inode.
    same_as: PathBuf,
}

fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    fn visit(
        root: &Path,
        dir: &Path,
        inodes: &mut BTreeMap<u64, PathBuf>,
        seen: &mut BTreeMap<PathBuf, Seen>,
    ) {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names {
            let meta = path.symlink_metadata().unwrap();
            let relative = path.strip_prefix(root).unwrap().to_owned();
            let same_as = inodes.entry(meta.ino()).or_insert_with(|| relative.clone()).clone();
            let content = if meta.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else if meta.is_file() && meta.len() < 10 << 20 {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let mut value = [0; 64];
            let xattr =
                rustix::fs::lgetxattr(&path, "user.ktl", &mut value[..]).ok().map(|n| value[..n].to_vec());
            seen.insert(
                relative,
                Seen { mode: meta.mode(), mtime: (meta.mtime(), meta.mtime_nsec()), content, xattr, same_as },
            );
            if meta.is_dir() {
                visit(root, &path, inodes, seen);
            }
        }
    }
    let mut seen = BTreeMap::new();
    visit(root, root, &mut BTreeMap::new(), &mut seen);
    seen
}

fn open(dir: &Path) -> OwnedFd {
    File::open(dir).unwrap().into()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Sends `source` and receives it in `target`.
async fn transfer(source: &Path, target: &Path, selection: Selection) -> Result<(), ReceiveError> {
    let (requests, queue) = mpsc::channel(4);
    let dir = LocalDir::open("context", source).unwrap();
    let packets = send(dir, selection, ReceiverStream::new(queue).map(Ok));
    receive(Arc::new(Receiver::new(open(target))), packets, requests).await
}

fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn a_tree_arrives_as_it_was() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::create_dir(at("a-b")).unwrap();
    fs::write(at("a/one"), "one").unwrap();
    fs::write(at("a/b/empty"), "").unwrap();
    fs::write(at("a.txt"), vec![7; 1_000_000]).unwrap();
    fs::hard_link(at("a/one"), at("a/b/two")).unwrap();
    fs::hard_link(at("a/one"), at("z")).unwrap();
    symlink("../a/one", at("a-b/link")).unwrap();
    symlink("/etc/passwd", at("a/outside")).unwrap();
    symlink("nowhere", at("a/dangling")).unwrap();
    mknodat(CWD, at("a/fifo"), FileType::Fifo, Mode::RUSR | Mode::WGRP, 0).unwrap();
    fs::write(at(&"n".repeat(255)), "long").unwrap();
    fs::write(source.path().join(std::ffi::OsStr::from_bytes(b"a-b/\xff\xfe")), "bytes").unwrap();
    fs::write(at("a/setuid"), "x").unwrap();
    fs::set_permissions(at("a/setuid"), fs::Permissions::from_mode(0o6751)).unwrap();
    // Not every file system has user attributes; then neither side has this one.
    let _ = lsetxattr(at("a/one"), "user.ktl", b"value", XattrFlags::empty());
    let _ = lsetxattr(at("a"), "user.ktl", b"of a directory", XattrFlags::empty());
    for number in 0..400 {
        fs::write(at(&format!("a/b/c/{number}")), vec![b'x'; number * 50]).unwrap();
    }
    set_mtime(&at("a/one"), 1_000_000_000, 123_456_789);
    set_mtime(&at("a/dangling"), -5, 999_999_999);
    set_mtime(&at("a/fifo"), 7, 0);
    fs::set_permissions(at("a/b"), fs::Permissions::from_mode(0o555)).unwrap();
    set_mtime(&at("a/b"), 3, 1);
    set_mtime(&at("a"), 2, 1);

    runtime().block_on(transfer(source.path(), target.path(), Selection::default())).unwrap();
    let (sent, received) = (see(source.path()), see(target.path()));
    assert_eq!(sent.keys().collect::<Vec<_>>(), received.keys().collect::<Vec<_>>());
    for (path, seen) in &sent {
        assert_eq!(seen, &received[path], "{}", path.display());
    }
    // Let the cleanup of the temporary directories in.
    for root in [source.path(), target.path()] {
        fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_socket_arrives_as_an_empty_file_and_holes_as_zeros() {
    let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _socket = UnixListener::bind(source.path().join("socket")).unwrap();
    let mut sparse = File::create(source.path().join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(40 << 20)).unwrap();
    sparse.write_all(b"end").unwrap();
    runtime().block_on(transfer(source.path(), target.path(), Selection::default())).unwrap();
    let socket = target.path().join("socket").symlink_metadata().unwrap();
    assert!(socket.is_file() && socket.len() == 0);
    let sparse = File::open(target.path().join("sparse")).unwrap();
    let mut tail = [1; 8];
    sparse.read_exact_at(&mut tail, (40 << 20) - 5).unwrap();
    assert_eq!(&tail, b"\0\0\0\0\0end");
}

#[test]
fn a_device_needs_privileges_and_says_so() {
    let target = tempfile::tempdir().unwrap();
    let mut device = entry("null", MODE_DEVICE | MODE_CHAR_DEVICE | 0o640, "");
    let stat = device.stat.get_or_insert_default();
    (stat.devmajor, stat.devminor) = (1, 3);
    let (outcome, _) = play(target.path(), vec![device, Packet::default()]);
    let path = target.path().join("null");
    match outcome {
        Ok(()) => {
            let meta = path.symlink_metadata().unwrap();
            assert_eq!((meta.mode(), meta.rdev()), (0o020640, rustix::fs::makedev(1, 3)));
        }
        Err(error) => {
            assert!(!path.exists());
            assert_eq!(error.to_string(), "failed to create device null");
        }
    }
}

#[test]
fn what_is_there_is_merged_and_what_is_in_the_way_replaced() {
    let (source, target, elsewhere) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (source.path(), target.path());
    for dir in ["dir", "was-file", "was-link"] {
        fs::create_dir(from.join(dir)).unwrap();
        fs::write(from.join(dir).join("new"), "new").unwrap();
    }
    for file in ["was-dir", "was-file-link", "file"] {
        fs::write(from.join(file), "new").unwrap();
    }
    symlink("file", from.join("was-anything")).unwrap();
    fs::hard_link(from.join("file"), from.join("was-other")).unwrap();

    fs::create_dir(to.join("dir")).unwrap();
    fs::write(to.join("dir/old"), "old").unwrap();
    fs::write(to.join("was-file"), "old").unwrap();
    symlink(elsewhere.path(), to.join("was-link")).unwrap();
    fs::create_dir_all(to.join("was-dir/deep/er")).unwrap();
    fs::write(to.join("was-dir/deep/file"), "old").unwrap();
    fs::write(elsewhere.path().join("precious"), "precious").unwrap();
    symlink(elsewhere.path().join("precious"), to.join("was-file-link")).unwrap();
    fs::create_dir(to.join("was-anything")).unwrap();
    fs::write(to.join("was-other"), "old").unwrap();
    symlink(elsewhere.path(), to.join("was-dir/link")).unwrap();

    runtime().block_on(transfer(from, to, Selection::default())).unwrap();
    let mut received = see(to);
    let kept = received.remove(Path::new("dir/old")).unwrap();
    assert_eq!(kept.content, b"old");
    let mut sent = see(from);
    for seen in [&mut received, &mut sent] {
        // Different temporary names, same trees.
        assert_eq!(seen[Path::new("was-other")].same_as, Path::new("file"));
    }
    assert_eq!(sent, received);
    assert_eq!(fs::read(elsewhere.path().join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
}

fn entry(path: &str, mode: u32, linkname: &str) -> Packet {
    let stat =
        Stat { path: path.to_owned().into(), mode, linkname: linkname.to_owned().into(), ..Stat::default() };
    Packet { stat: Some(stat), ..Packet::default() }
}

fn packet(kind: PacketType, id: u32, data: &'static [u8]) -> Packet {
    Packet { r#type: kind.into(), id, data: data.into(), ..Packet::default() }
}

/// Plays `packets` as a daemon that does not care for requests, and gives the outcome and what came back.
fn play(target: &Path, packets: Vec<Packet>) -> (Result<(), ReceiveError>, Vec<Packet>) {
    play_to(Receiver::new(open(target)).with_devices(), packets)
}

fn play_to(receiver: Receiver, packets: Vec<Packet>) -> (Result<(), ReceiveError>, Vec<Packet>) {
    runtime().block_on(async {
        let (out, mut back) = mpsc::channel(1000);
        let incoming = tokio_stream::iter(packets.into_iter().map(Ok::<_, Status>));
        let outcome = receive(Arc::new(receiver), incoming, out).await;
        let mut answers = Vec::new();
        while let Some(packet) = back.recv().await {
            answers.push(packet);
        }
        (outcome, answers)
    })
}

#[test]
fn what_an_output_does_not_take_ends_it() {
    let (devices, large) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let device = vec![entry("null", MODE_DEVICE | MODE_CHAR_DEVICE | 0o640, "")];
    let (outcome, _) = play_to(Receiver::new(open(devices.path())), device);
    assert!(outcome.unwrap_err().to_string().contains("a device, which this output does not take"));

    fs::write(large.path().join("a"), "1234").unwrap();
    fs::write(large.path().join("b"), "12345").unwrap();
    for (bytes, fits) in [(9, true), (8, false)] {
        let target = tempfile::tempdir().unwrap();
        let outcome = runtime().block_on(async {
            let (requests, queue) = mpsc::channel(4);
            let dir = LocalDir::open("context", large.path()).unwrap();
            let packets = send(dir, Selection::default(), ReceiverStream::new(queue).map(Ok));
            let receiver = Receiver::new(open(target.path())).bounded(bytes);
            receive(Arc::new(receiver), packets, requests).await
        });
        match outcome {
            Ok(()) => assert!(fits),
            Err(error) => {
                let error = with_causes(&error);
                assert!(!fits && error.ends_with("is larger than the 8 bytes that it may have"), "{error}");
            }
        }
    }
}

#[test]
fn a_daemon_cannot_write_elsewhere_or_out_of_turn() {
    let file = || entry("file", 0o644, "");
    let cases: Vec<(Vec<Packet>, &str)> = vec![
        (vec![entry("../x", 0o644, "")], "path outside of the destination"),
        (vec![entry("/x", 0o644, "")], "path outside of the destination"),
        (vec![entry("a/../../x", 0o644, "")], "unclean path"),
        (vec![entry("l", MODE_SYMLINK | 0o777, ".."), entry("l/x", 0o644, "")], "changes out of order"),
        (vec![entry("a", 0o644, ""), entry("b", 0o644, "../../etc/passwd")], "link to unknown path"),
        (vec![entry("a", MODE_SYMLINK | 0o777, "x"), entry("b", 0o644, "a")], "link to unknown path"),
        (vec![file(), file()], "changes out of order"),
        (vec![entry("odd", 1 << 19, "")], "unknown type of file"),
        (vec![file(), packet(PacketType::PacketData, 7, b"x")], "content that was not requested"),
        (vec![packet(PacketType::PacketFin, 0, b"")], "the end before its time"),
        (vec![packet(PacketType::PacketReq, 0, b"")], "a request"),
        (vec![Packet::default(), file()], "an entry after the end"),
        (vec![packet(PacketType::PacketErr, 0, b"no space")], "error from sender: no space"),
        (vec![file()], "ended the transfer of the result early"),
    ];
    for (packets, reason) in cases {
        let target = tempfile::tempdir().unwrap();
        let (outcome, answers) = play(target.path(), packets);
        let error = outcome.expect_err(reason).to_string();
        assert!(error.contains(reason), "{error} / {reason}");
        let told = answers.iter().any(|packet| packet.r#type == i32::from(PacketType::PacketErr));
        let ours = !error.contains("sender") && !error.contains("early");
        assert_eq!(told, ours, "{error}");
    }
}

#[test]
fn a_symlink_that_appears_meanwhile_is_not_followed() {
    let (target, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let to = target.path().to_owned();
    let outcome = runtime().block_on(async {
        let (out, mut back) = mpsc::channel(1000);
        let (feed, incoming) = mpsc::channel(10);
        let receiving = tokio::spawn(receive(
            Arc::new(Receiver::new(open(&to))),
            ReceiverStream::new(incoming).map(Ok::<_, Status>),
            out,
        ));
        feed.send(entry("dir", MODE_DIR | 0o755, "")).await.unwrap();
        feed.send(entry("dir/file", 0o644, "")).await.unwrap();
        feed.send(Packet::default()).await.unwrap();
        assert_eq!(back.recv().await.unwrap().id, 1);
        fs::remove_dir(to.join("dir")).unwrap();
        symlink(elsewhere.path(), to.join("dir")).unwrap();
        feed.send(packet(PacketType::PacketData, 1, b"content")).await.unwrap();
        receiving.await.unwrap()
    });
    assert!(outcome.is_err());
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn several_streams_fill_one_destination() {
    let target = tempfile::tempdir().unwrap();
    let sources: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    for (number, source) in sources.iter().enumerate() {
        let dir = source.path().join(format!("linux_{number}"));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(source.path().join("shared")).unwrap();
        for file in 0..50 {
            fs::write(dir.join(file.to_string()), vec![number as u8; 1000]).unwrap();
            fs::write(source.path().join(format!("shared/{file}")), vec![0; 1000]).unwrap();
        }
    }
    runtime().block_on(async {
        let root = Arc::new(Receiver::new(open(target.path())));
        let transfers: Vec<_> = sources
            .iter()
            .map(|source| {
                let (requests, queue) = mpsc::channel(4);
                let dir = LocalDir::open("context", source.path()).unwrap();
                let packets = send(dir, Selection::default(), ReceiverStream::new(queue).map(Ok));
                tokio::spawn(receive(root.clone(), packets, requests))
            })
            .collect();
        for transfer in transfers {
            transfer.await.unwrap().unwrap();
        }
    });
    for (number, _) in sources.iter().enumerate() {
        for file in 0..50 {
            let dir = target.path().join(format!("linux_{number}"));
            assert_eq!(fs::read(dir.join(file.to_string())).unwrap(), vec![number as u8; 1000]);
        }
    }
    assert_eq!(fs::read_dir(target.path().join("shared")).unwrap().count(), 50);
}

/// Takes packets until the listing is over.
async fn listing(packets: &mut (impl Stream<Item = Result<Packet, Status>> + Unpin)) -> Vec<Stat> {
    let mut entries = Vec::new();
    while let Some(packet) = packets.next().await {
        match packet.unwrap().stat {
            Some(entry) => entries.push(entry),
            None => break,
        }
    }
    entries
}

#[test]
fn requests_are_answered_once_and_fin_with_fin() {
    let source = tempfile::tempdir().unwrap();
    fs::create_dir(source.path().join("dir")).unwrap();
    fs::write(source.path().join("dir/file"), "content").unwrap();
    fs::write(source.path().join("gone"), "content").unwrap();
    fs::write(source.path().join("link"), "content").unwrap();
    let start = || {
        let (requests, queue) = mpsc::channel(4);
        let dir = LocalDir::open("context", source.path()).unwrap();
        (requests, send(dir, Selection::default(), ReceiverStream::new(queue).map(Ok)))
    };
    runtime().block_on(async {
        // In order: dir, dir/file, gone, link.
        let (requests, mut packets) = start();
        assert_eq!(listing(&mut packets).await.len(), 4);
        requests.send(packet(PacketType::PacketReq, 1, b"")).await.unwrap();
        assert_eq!(packets.next().await.unwrap().unwrap(), packet(PacketType::PacketData, 1, b"content"));
        assert_eq!(packets.next().await.unwrap().unwrap(), packet(PacketType::PacketData, 1, b""));
        requests.send(packet(PacketType::PacketFin, 0, b"")).await.unwrap();
        assert_eq!(packets.next().await.unwrap().unwrap(), packet(PacketType::PacketFin, 0, b""));
        assert!(packets.next().await.is_none());

        for (wrong, reason) in [
            (vec![packet(PacketType::PacketReq, 0, b"")], "invalid file id 0"),
            (vec![packet(PacketType::PacketReq, 4, b"")], "invalid file id 4"),
            (
                vec![packet(PacketType::PacketReq, 1, b""), packet(PacketType::PacketReq, 1, b"")],
                "invalid file id 1",
            ),
            (vec![packet(PacketType::PacketErr, 0, b"disk full")], "error from receiver: disk full"),
        ] {
            let (requests, mut packets) = start();
            listing(&mut packets).await;
            for packet in wrong {
                requests.send(packet).await.unwrap();
            }
            let status = loop {
                match packets.next().await.unwrap() {
                    Ok(packet) => assert_eq!(packet.r#type, i32::from(PacketType::PacketData)),
                    Err(status) => break status,
                }
            };
            assert_eq!(status.message(), reason);
        }

        // What is not the file that was listed is named, and a fifo keeps nobody waiting.
        for change in ["removed", "fifo", "symlink", "other", "longer", "shorter"] {
            let (requests, mut packets) = start();
            listing(&mut packets).await;
            let path = source.path().join("link");
            let other = source.path().join("other");
            match change {
                "removed" => fs::remove_file(&path).unwrap(),
                "fifo" => {
                    fs::remove_file(&path).unwrap();
                    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
                }
                "symlink" => {
                    fs::remove_file(&path).unwrap();
                    symlink("/etc/passwd", &path).unwrap();
                }
                "other" => {
                    fs::write(&other, "CONTENT").unwrap();
                    fs::rename(&other, &path).unwrap();
                }
                "longer" => fs::write(&path, "content and more").unwrap(),
                _ => fs::write(&path, "cont").unwrap(),
            }
            requests.send(packet(PacketType::PacketReq, 3, b"")).await.unwrap();
            let told = packets.next().await.unwrap().unwrap();
            assert_eq!(told.r#type, i32::from(PacketType::PacketErr), "{change}");
            let status = packets.next().await.unwrap().unwrap_err();
            assert!(status.message().starts_with("link changed while it was sent"), "{status}");
            let _ = fs::remove_file(&path);
            fs::write(&path, "content").unwrap();
        }

        let (requests, mut packets) = start();
        drop(requests);
        let last = loop {
            if let Err(status) = packets.next().await.unwrap() {
                break status;
            }
        };
        assert_eq!(last.message(), "the daemon ended the transfer of a local directory early");
    });
}

#[test]
fn a_bad_pattern_is_an_error_and_no_listing() {
    let source = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (_requests, queue) = mpsc::channel(4);
        let dir = LocalDir::open("context", source.path()).unwrap();
        let selection = Selection { exclude: vec!["a[".into()], ..Selection::default() };
        let mut packets = send(dir, selection, ReceiverStream::new(queue).map(Ok));
        assert_eq!(packets.next().await.unwrap().unwrap().r#type, i32::from(PacketType::PacketErr));
        let status = packets.next().await.unwrap().unwrap_err();
        assert_eq!(status.message(), "invalid exclude pattern: \"a[\": syntax error in pattern");
        assert!(packets.next().await.is_none());
    });
}

#[test]
fn a_dropped_transfer_leaves_no_thread_waiting() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..5000 {
        File::create(source.path().join(number.to_string())).unwrap();
    }
    let runtime = runtime();
    runtime.block_on(async {
        let (_requests, queue) = mpsc::channel(4);
        let dir = LocalDir::open("context", source.path()).unwrap();
        let mut packets = send(dir, Selection::default(), ReceiverStream::new(queue).map(Ok));
        packets.next().await.unwrap().unwrap();
    });
    // Waits for blocking threads: would hang if one still waited for room in the channel.
    drop(runtime);
}
