//! Files that are not for the daemon.

use std::fs;

use tonic::{Code, Status};

use crate::hostile::case::{Case, End, over};
use crate::hostile::ground::Ground;
use crate::hostile::visit::{Ask, Visit, mode};
use crate::hostile::wire::fsutil::types::packet::PacketType;
use crate::hostile::wire::moby::filesync::v1::file_sync_client::FileSyncClient;

pub const CASES: &[Case] = &[
    Case::new("files/unknown-names", "asks for directories that the build does not have", |visit| {
        Box::pin(unknown_names(visit))
    }),
    Case::new("files/dot-dot-names", "asks for directories called .., ../outside and /", |visit| {
        Box::pin(names(visit, &["..", "../outside", "/", "/etc", ".", "context/../../outside", "context/.."]))
    }),
    Case::new("files/dot-dot-paths", "follows paths that lead out of the context", |visit| {
        Box::pin(asks(
            visit,
            vec![
                Ask::of("context").follow(&["../outside/file"]),
                Ask::of("context").follow(&["sub/../../outside/file"]),
                Ask::of("context").follow(&["./../outside"]),
                Ask::of("context").include(&["../outside/**"]),
            ],
        ))
    }),
    Case::new("files/absolute-paths", "follows absolute paths", |visit| Box::pin(absolute_paths(visit))),
    Case::new("files/symlink-out", "follows symlinks of the context that lead out of it", |visit| {
        Box::pin(asks(
            visit,
            vec![
                Ask::of("context").follow(&["way-out"]),
                Ask::of("context").follow(&["dir-out/file"]),
                Ask::of("context").follow(&["absolute-out"]),
                Ask::of("context").include(&["dir-out/**"]),
                Ask::of("context").include(&["way-out"]),
            ],
        ))
    }),
    Case::new("files/no-excludes", "leaves out the excludes", |visit| {
        Box::pin(asks(visit, vec![Ask::of("context")]))
    })
    .granted(nothing_ignored),
    Case::new("files/ignored-by-name", "asks for ignored files by their names", |visit| {
        Box::pin(asks(
            visit,
            vec![
                Ask::of("context").include(&["secret.env"]),
                Ask::of("context").follow(&["secret.env"]),
                Ask::of("context").follow(&["private/CANARY-name"]),
                Ask::of("context").include(&["private", "private/**"]),
            ],
        ))
    })
    .granted(nothing_ignored),
    Case::new("files/excludes-taken-back", "takes the ignore file back with negated patterns", |visit| {
        Box::pin(asks(
            visit,
            vec![
                Ask::of("context").exclude(&["*", "!secret.env", "!private"]),
                Ask::of("context").exclude(&["!**"]),
                Ask::of("context").exclude(&["secret.env", "!secret.env"]),
            ],
        ))
    })
    .granted(nothing_ignored),
    Case::new("files/dockerfile-directory", "asks for all of the Dockerfile's directory", |visit| {
        Box::pin(asks(
            visit,
            vec![
                Ask::of("dockerfile"),
                Ask::of("dockerfile").follow(&["secret.env"]),
                Ask::of("dockerfile").include(&["**"]),
            ],
        ))
    }),
    Case::new("files/unknown-ids", "requests contents by numbers that were not listed", |visit| {
        Box::pin(unknown_ids(visit))
    }),
    Case::new("files/directory-ids", "requests the contents of directories, links and fifos", |visit| {
        Box::pin(odd_ids(visit))
    }),
    Case::new("files/ids-twice", "requests one file again and again", |visit| Box::pin(ids_twice(visit))),
    Case::new("files/request-flood", "sends a million requests", |visit| Box::pin(request_flood(visit))),
    Case::new("files/many-patterns", "asks with 100 000 patterns", |visit| Box::pin(many_patterns(visit))),
    Case::new("files/huge-pattern", "asks with patterns of 512 KiB", |visit| Box::pin(huge_pattern(visit))),
    Case::new("files/slow-patterns", "asks with patterns that take long to match", |visit| {
        Box::pin(slow_patterns(visit))
    }),
    Case::new("files/many-streams", "opens 1000 transfers of the context at once", |visit| {
        Box::pin(many_streams(visit))
    }),
    Case::new("files/tar-stream", "asks for the context by a method that no daemon uses", |visit| {
        Box::pin(tar_stream(visit))
    }),
    Case::new("files/late-stream", "asks for the context after the build's end", |visit| {
        Box::pin(late_stream(visit))
    }),
    Case::new("files/fifo", "reads a fifo in the context, which nobody writes", |visit| {
        Box::pin(asks(
            visit,
            vec![Ask::of("context").follow(&["fifo"]), Ask::of("context").include(&["fifo"])],
        ))
    }),
];

/// The user wants all of it sent.
fn nothing_ignored(ground: &Ground) {
    fs::remove_file(ground.path("ctx/.dockerignore")).expect("an ignore file");
}

async fn asks(visit: Visit, asks: Vec<Ask>) -> End {
    for ask in &asks {
        let _ = visit.grab(ask).await;
    }
    visit.honest().await;
    over()
}

async fn names(visit: Visit, names: &[&str]) -> End {
    asks(visit, names.iter().map(|name| Ask::of(name)).collect()).await
}

async fn unknown_names(visit: Visit) -> End {
    let outside = visit.ground.path("outside").display().to_string();
    let known = ["", "home", "outside", "context2", "Context", "context\u{e9}", "dockerfile/", &outside];
    names(visit, &known).await
}

async fn absolute_paths(visit: Visit) -> End {
    let path = visit.ground.path("outside/file").display().to_string();
    let list = vec![
        Ask::of("context").follow(&[&path]),
        Ask::of("context").follow(&[&format!("/{path}")]),
        Ask::of("context").include(&[&path]),
        Ask::of("dockerfile").follow(&[&path]),
    ];
    asks(visit, list).await
}

/// What a client says to something that it must refuse.
fn refused(visit: &Visit, what: &str, answer: &Result<Vec<u8>, Status>) {
    match answer {
        Ok(content) => visit.record().got(what, content),
        Err(status) => visit.record().told(format!("{what}: {:?} {}", status.code(), status.message())),
    }
}

async fn unknown_ids(visit: Visit) -> End {
    for id in [9999, u32::MAX, u32::MAX / 2] {
        if let Ok(mut transfer) = visit.list(&Ask::of("context")).await {
            refused(&visit, &format!("id {id}"), &transfer.fetch(id).await);
        }
    }
    visit.honest().await;
    over()
}

async fn odd_ids(visit: Visit) -> End {
    let Ok(first) = visit.list(&Ask::of("context")).await else { return over() };
    let odd: Vec<u32> =
        (0u32..).zip(&first.entries).filter(|(_, e)| e.mode & mode::TYPE != 0).map(|(id, _)| id).collect();
    for id in odd {
        if let Ok(mut transfer) = visit.list(&Ask::of("context")).await {
            refused(&visit, &format!("id {id}"), &transfer.fetch(id).await);
        }
    }
    visit.honest().await;
    over()
}

async fn ids_twice(visit: Visit) -> End {
    let Ok(mut transfer) = visit.list(&Ask::of("context").follow(&["open.txt"])).await else { return over() };
    let id = transfer.entries.iter().position(|entry| &*entry.path == b"open.txt").unwrap_or_default();
    let id = u32::try_from(id).unwrap_or_default();
    let first = transfer.fetch(id).await;
    refused(&visit, "once", &first);
    if transfer.fetch(id).await.is_ok() {
        visit.record().told("a second time, too");
    }
    over()
}

async fn request_flood(visit: Visit) -> End {
    if let Ok(transfer) = visit.list(&Ask::of("context")).await {
        for id in 0..1_000_000 {
            if !transfer.send(PacketType::PacketReq, id % 64).await {
                break;
            }
        }
    }
    visit.honest().await;
    over()
}

async fn many_patterns(visit: Visit) -> End {
    let patterns: Vec<String> = (0..100_000).map(|number| format!("*/{number}*/**")).collect();
    for ask in [
        Ask { include: patterns.clone(), ..Ask::of("context") },
        Ask { follow: patterns.clone(), ..Ask::of("context") },
        Ask { exclude: patterns, ..Ask::of("context") },
    ] {
        let _ = visit.grab(&ask).await;
    }
    visit.honest().await;
    over()
}

async fn huge_pattern(visit: Visit) -> End {
    for unit in ["a", "*", "?", "[a-z]", "a/", "**/", "\\\\"] {
        let pattern = unit.repeat((512 << 10) / unit.len());
        let _ = visit.grab(&Ask { include: vec![pattern.clone()], ..Ask::of("context") }).await;
        let _ = visit.grab(&Ask { follow: vec![pattern], ..Ask::of("context") }).await;
    }
    visit.honest().await;
    over()
}

async fn slow_patterns(visit: Visit) -> End {
    let (stars, deep) = (format!("{}b", "*a".repeat(1000)), format!("{}b", "**/".repeat(1000)));
    for pattern in [stars, deep] {
        let _ = visit.grab(&Ask { exclude: vec![pattern.clone(); 200], ..Ask::of("context") }).await;
        let _ = visit.grab(&Ask { include: vec![pattern; 200], ..Ask::of("context") }).await;
    }
    visit.honest().await;
    over()
}

async fn many_streams(visit: Visit) -> End {
    let mut transfers = Vec::new();
    let lists = (0..1000).map(|_| async { visit.list(&Ask::of("context")).await });
    for list in lists {
        // What is kept stays open.
        match tokio::time::timeout(std::time::Duration::from_secs(1), list).await {
            Ok(Ok(transfer)) => transfers.push(transfer),
            Ok(Err(status)) => visit.record().told(status.message()),
            Err(_) => break,
        }
    }
    visit.record().told(format!("{} transfers at once", transfers.len()));
    drop(transfers);
    visit.honest().await;
    over()
}

async fn tar_stream(visit: Visit) -> End {
    let mut client = FileSyncClient::new(visit.session("FileSync").await);
    let mut request = tonic::Request::new(tokio_stream::pending());
    request.metadata_mut().insert("dir-name", tonic::metadata::AsciiMetadataValue::from_static("context"));
    match client.tar_stream(request).await {
        Ok(answer) => {
            let mut packets = answer.into_inner();
            while let Ok(Some(packet)) = packets.message().await {
                visit.record().got("TarStream", &packet.data);
            }
        }
        Err(status) => {
            if status.code() != Code::Unimplemented {
                visit.record().told(format!("TarStream: {status}"));
            }
        }
    }
    visit.honest().await;
    over()
}

async fn late_stream(visit: Visit) -> End {
    visit.honest().await;
    // The solve ends here; the rest goes on behind it.
    tokio::spawn(async move {
        for _ in 0..100 {
            if visit.list(&Ask::of("context")).await.is_err() {
                return;
            }
        }
    });
    over()
}
