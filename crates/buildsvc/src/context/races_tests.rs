//! Entries that turn into others while they are sent.
//!
//! A step of the same pipeline, or a program that the user was talked into, may exchange a file for a symlink just when the
//! daemon asks for it. One thread exchanges names as fast as the kernel lets it; another plays a daemon that asks for
//! everything, again and again. Nothing from outside may ever arrive, and no transfer may wait.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, RenameFlags, mknodat, renameat_with};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::send::send;
use super::{LocalDir, Selection};
use crate::proto::fsutil::types::{Packet, packet::PacketType};

/// What the issue asks for, of each kind.
const SWAPS: usize = 100_000;
const NAMES: usize = 16;
/// As long as what is inside, so that sizes alone tell nothing.
const OUTSIDE: &[u8] = b"from outside";
const INSIDE: &[u8] = b"from within!";
/// A transfer of a few files that takes this long waits for something.
const HANG: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    FileAndSymlink,
    FolderAndSymlink,
    FileAndFifo,
}

/// What became of all transfers of one kind.
#[derive(Debug, Default)]
struct Tally {
    transfers: usize,
    /// Ended with an error that names a changed file.
    refused: usize,
    contents: usize,
    leaks: usize,
    hangs: usize,
}

/// A context, and beside it what its names are exchanged for.
fn lay(root: &Path, kind: Kind) {
    for dir in ["ctx", "spare", "outside"] {
        fs::create_dir(root.join(dir)).unwrap();
    }
    fs::write(root.join("outside/file"), OUTSIDE).unwrap();
    for name in 0..NAMES {
        let (here, there) = (root.join(format!("ctx/{name}")), root.join(format!("spare/{name}")));
        match kind {
            Kind::FileAndSymlink => {
                fs::write(here, INSIDE).unwrap();
                symlink(root.join("outside/file"), there).unwrap();
            }
            Kind::FolderAndSymlink => {
                fs::create_dir(&here).unwrap();
                fs::write(here.join("file"), INSIDE).unwrap();
                symlink(root.join("outside"), there).unwrap();
            }
            Kind::FileAndFifo => {
                fs::write(here, INSIDE).unwrap();
                mknodat(CWD, &there, FileType::Fifo, Mode::RWXU, 0).unwrap();
            }
        }
    }
}

/// Exchanges names in a fixed disorder until it has done so `swaps` times.
fn exchange(root: &Path, swaps: usize) {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    for _ in 0..swaps {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = (state >> 33) as usize % NAMES;
        let (here, there) = (root.join(format!("ctx/{name}")), root.join(format!("spare/{name}")));
        renameat_with(CWD, &here, CWD, &there, RenameFlags::EXCHANGE).unwrap();
    }
}

/// One transfer in which everything that is listed is asked for at once.
async fn transfer(root: &Path, tally: &mut Tally) {
    let (requests, queue) = mpsc::channel(64);
    let dir = LocalDir::open("context", &root.join("ctx")).unwrap();
    let mut packets = std::pin::pin!(send(dir, Selection::default(), ReceiverStream::new(queue).map(Ok)));
    let request = |kind: PacketType, id| Packet { r#type: kind.into(), id, ..Packet::default() };
    let (mut id, mut open, mut listed) = (0, 0, false);
    tally.transfers += 1;
    while let Some(packet) = packets.next().await {
        let Ok(packet) = packet else {
            tally.refused += 1;
            return;
        };
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketStat) => match packet.stat {
                Some(entry) => {
                    if entry.mode & super::stat::MODE_TYPE == 0 {
                        open += 1;
                        let _ = requests.send(request(PacketType::PacketReq, id)).await;
                    }
                    id += 1;
                }
                None => listed = true,
            },
            Ok(PacketType::PacketData) => {
                tally.leaks += usize::from(packet.data.windows(OUTSIDE.len()).any(|part| part == OUTSIDE));
                tally.contents += usize::from(!packet.data.is_empty());
                open -= usize::from(packet.data.is_empty());
            }
            _ => {}
        }
        if listed && open == 0 {
            let _ = requests.send(request(PacketType::PacketFin, 0)).await;
            listed = false;
        }
    }
}

fn race(kind: Kind) -> Tally {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    lay(&root, kind);
    let over = Arc::new(AtomicBool::new(false));
    let swapping = std::thread::spawn({
        let (root, over) = (root.clone(), over.clone());
        move || {
            exchange(&root, SWAPS);
            over.store(true, Ordering::Relaxed);
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut tally = Tally::default();
    runtime.block_on(async {
        while !over.load(Ordering::Relaxed) || tally.transfers < 20 {
            if tokio::time::timeout(HANG, transfer(&root, &mut tally)).await.is_err() {
                tally.hangs += 1;
                break;
            }
        }
    });
    swapping.join().unwrap();
    runtime.shutdown_timeout(Duration::from_secs(1));
    println!("{kind:?}: {SWAPS} swaps, {tally:?}");
    tally
}

#[test]
fn nothing_from_outside_arrives_and_nobody_waits() {
    for kind in [Kind::FileAndSymlink, Kind::FolderAndSymlink, Kind::FileAndFifo] {
        let tally = race(kind);
        assert_eq!((tally.leaks, tally.hangs), (0, 0), "{kind:?}: {tally:?}");
        assert!(tally.contents > 0, "{kind:?}: nothing was ever sent: {tally:?}");
    }
}

/// The control: who opens by name, as others do, brings out what lies outside.
#[test]
fn who_follows_names_would_leak() {
    for (kind, tail) in [(Kind::FileAndSymlink, ""), (Kind::FolderAndSymlink, "/file")] {
        let dir = tempfile::tempdir().unwrap();
        lay(dir.path(), kind);
        let mut leaks = 0;
        for round in 0..4 {
            exchange(dir.path(), 100 + round);
            for name in 0..NAMES {
                let read = fs::read(dir.path().join(format!("ctx/{name}{tail}"))).unwrap_or_default();
                leaks += usize::from(read == OUTSIDE);
            }
        }
        assert!(leaks > 0, "{kind:?}");
    }
}
