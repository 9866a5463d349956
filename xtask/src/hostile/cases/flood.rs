//! More than anybody can take.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Status};

use crate::hostile::case::{Case, End, Honest, Script, over};
use crate::hostile::progress::{Raw, Update, ended, log, now, step};
use crate::hostile::visit::Visit;
use crate::hostile::wire::grpc::health::v1::HealthCheckRequest;
use crate::hostile::wire::grpc::health::v1::health_client::HealthClient;
use crate::hostile::wire::moby::buildkit::v1::{Vertex, VertexStatus, VertexWarning};
use crate::hostile::wire::moby::filesync::v1::CredentialsRequest;
use crate::hostile::wire::moby::filesync::v1::auth_client::AuthClient;
use crate::hostile::wire::moby::filesync::v1::file_sync_client::FileSyncClient;
use crate::hostile::wire::pb::{ProgressGroup, SourceInfo};

const MARK: &str = "HONEST-MARK";
const DROPPED: &str = "dropped";
/// Just below what gRPC takes in one message here and there.
const MESSAGE: usize = 15 << 20;
/// 15 of them are just below 1 MiB.
const LONG_VALUE: usize = 64 << 10;

/// A case in which much is read in builds of ktl that are not optimized.
const fn slow(name: &'static str, about: &'static str, script: Script) -> Case {
    Case { limit: Duration::from_secs(600), ..Case::new(name, about, script) }
}

const fn shown(name: &'static str, about: &'static str, script: Script) -> Case {
    slow(name, about, script).honest(Honest::Shown(MARK))
}

pub const CASES: &[Case] = &[
    shown("flood/steps", "reports a million steps that run at once", |visit| Box::pin(steps(visit, 1000)))
        .says(&[DROPPED]),
    shown("flood/steps-rawjson", "reports 100 000 steps, to --progress=rawjson", |visit| {
        Box::pin(steps(visit, 100))
    })
    .progress("rawjson"),
    // The build may end before the last of these is read, and what is dropped told.
    shown("flood/empty-parts", "sends updates of 7 million parts with nothing in them", |visit| {
        Box::pin(empty_parts(visit))
    }),
    shown("flood/inputs", "reports steps with 7 million inputs", |visit| Box::pin(inputs(visit))),
    shown("flood/groups", "reports half a million groups", |visit| Box::pin(groups(visit))).says(&[DROPPED]),
    shown("flood/statuses", "reports a million counters of one step", |visit| Box::pin(statuses(visit)))
        .says(&[DROPPED]),
    shown("flood/warnings", "warns a million times", |visit| Box::pin(warnings(visit)))
        .says(&["more"])
        .ends(&[0]),
    shown("flood/sources", "warns with sources of 15 MiB", |visit| Box::pin(sources(visit))),
    shown("flood/names", "reports steps with names of 15 MiB", |visit| Box::pin(long_names(visit)))
        .says(&[DROPPED]),
    shown("flood/errors", "reports steps that failed with errors of 15 MiB", |visit| {
        Box::pin(long_errors(visit))
    })
    .says(&[DROPPED]),
    shown("flood/fat-steps", "reports 8000 steps with 100 counters, warnings and long lines each", |visit| {
        Box::pin(fat_steps(visit))
    }),
    shown("flood/log-line", "prints one line of 800 MB", |visit| Box::pin(log_line(visit)))
        .says(&["bytes cut"]),
    shown("flood/log-lines", "prints 200 000 lines", |visit| Box::pin(log_lines(visit))),
    shown("flood/log-messages", "prints lines in messages of 15 MiB", |visit| Box::pin(log_messages(visit)))
        // So much may be on its way when the build ends that a slow client gives up on it.
        .ends(&[1, 3])
        .honest(Honest::Visited),
    shown("flood/reason", "gives a reason of 3 MiB with 12 MiB of details", |visit| Box::pin(reason(visit)))
        // Too large for a header: the connection may end by it.
        .ends(&[1, 3])
        .honest(Honest::Visited),
    Case::new("flood/answers", "answers with a million keys", |visit| Box::pin(answers(visit)))
        .ends(&[0, 1, 3])
        .honest(Honest::Visited),
    Case::new("flood/answer", "answers with values of 15 MiB", |visit| Box::pin(answer(visit)))
        .ends(&[0, 1, 3])
        .honest(Honest::Visited),
    Case::new("flood/session-calls", "makes 5000 calls of the session at once", |visit| {
        Box::pin(session_calls(visit))
    }),
    slow(
        "flood/session-heads",
        "asks 300 times for a directory with 960 KiB of headers, 150 at once",
        |visit| Box::pin(session_heads(visit, 15)),
    ),
    slow("flood/session-long-heads", "asks 300 times for a directory with 3.9 MiB of headers", |visit| {
        // Such heads end the session, so what is given comes first.
        Box::pin(async move {
            visit.honest().await;
            session_heads(visit, 62).await
        })
    }),
    Case::new("flood/session-streams", "opens 5000 streams in the session and leaves them", |visit| {
        Box::pin(session_streams(visit))
    }),
];

/// The end that a flooded client still shows.
async fn mark(visit: &Visit) -> End {
    let vertex = step("sha256:mark", MARK);
    visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
    visit.say(Update::of_vertexes(vec![ended(&vertex, "")])).await;
    Err(Status::unknown(format!("{MARK}: the flood is over")))
}

async fn steps(visit: Visit, batches: usize) -> End {
    for batch in 0..batches {
        let vertexes = (0..1000)
            .map(|number| step(&format!("sha256:{batch}-{number}"), &format!("[{batch}/{number}] RUN x")))
            .collect();
        visit.say(Update::of_vertexes(vertexes)).await;
    }
    mark(&visit).await
}

async fn empty_parts(visit: Visit) -> End {
    for tag in [0x0a, 0x12, 0x1a, 0x22] {
        let message: Bytes = [tag, 0].repeat(MESSAGE / 2).into();
        visit.say(Raw(message)).await;
    }
    mark(&visit).await
}

async fn inputs(visit: Visit) -> End {
    // Field 2 of a vertex, empty, as often as fits.
    let inputs = [0x12, 0].repeat(MESSAGE / 2);
    let length = inputs.len();
    let coded = [0x0a, 0x80 | (length & 0x7f) as u8, 0x80 | (length >> 7 & 0x7f) as u8];
    let rest = [0x80 | (length >> 14 & 0x7f) as u8, (length >> 21 & 0x7f) as u8];
    let message: Bytes = [&coded[..], &rest, &inputs].concat().into();
    for _ in 0..4 {
        visit.say(Raw(message.clone())).await;
    }
    mark(&visit).await
}

async fn groups(visit: Visit) -> End {
    for batch in 0..500 {
        let vertexes = (0..1000)
            .map(|number| {
                let id = format!("group {batch}-{number}");
                let group = ProgressGroup { id: id.clone(), name: id.clone(), weak: false };
                Vertex { progress_group: Some(group), ..step(&format!("sha256:{id}"), &id) }
            })
            .collect();
        visit.say(Update::of_vertexes(vertexes)).await;
    }
    mark(&visit).await
}

async fn statuses(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    for batch in 0..1000 {
        let statuses = (0..1000)
            .map(|number| VertexStatus {
                id: format!("layer {batch}-{number}"),
                vertex: "sha256:a".to_owned(),
                current: number,
                total: 1000,
                timestamp: now(),
                ..VertexStatus::default()
            })
            .collect();
        visit.say(Update { statuses, ..Update::default() }.raw()).await;
    }
    mark(&visit).await
}

async fn warnings(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    for batch in 0..1000 {
        let warnings = (0..1000)
            .map(|number| VertexWarning {
                vertex: "sha256:a".to_owned(),
                short: format!("warning {batch}-{number}").into(),
                ..VertexWarning::default()
            })
            .collect();
        visit.say(Update { warnings, ..Update::default() }.raw()).await;
    }
    // What was dropped of warnings is told at the end of a build that succeeds.
    let _ = mark(&visit).await;
    Ok(HashMap::new())
}

async fn sources(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    let data: Bytes = b"a line of a Dockerfile\n".repeat(MESSAGE / 23).into();
    for _ in 0..30 {
        let warning = VertexWarning {
            vertex: "sha256:a".to_owned(),
            short: "a warning".into(),
            info: Some(SourceInfo { data: data.clone(), ..SourceInfo::default() }),
            ..VertexWarning::default()
        };
        visit.say(Update { warnings: vec![warning], ..Update::default() }.raw()).await;
    }
    mark(&visit).await
}

async fn long_names(visit: Visit) -> End {
    let name = "n".repeat(MESSAGE);
    for number in 0..20 {
        visit.say(Update::of_vertexes(vec![step(&format!("sha256:{number}"), &name)])).await;
    }
    mark(&visit).await
}

async fn long_errors(visit: Visit) -> End {
    let error = "e".repeat(MESSAGE);
    for number in 0..20 {
        let vertex = step(&format!("sha256:{number}"), "[1/1] RUN x");
        visit.say(Update::of_vertexes(vec![ended(&vertex, &error)])).await;
    }
    mark(&visit).await
}

async fn fat_steps(visit: Visit) -> End {
    for number in 0..8000 {
        let digest = format!("sha256:{number}");
        let long = |what: &str, length| format!("{what} {number} {}", "x".repeat(length));
        let update = Update {
            vertexes: vec![Vertex { error: long("error", 8000), ..step(&digest, &long("step", 2000)) }],
            statuses: (0..100)
                .map(|counter| VertexStatus {
                    id: long(&format!("counter {counter}"), 450),
                    vertex: digest.clone(),
                    timestamp: now(),
                    ..VertexStatus::default()
                })
                .collect(),
            warnings: (0..10)
                .map(|_| VertexWarning {
                    vertex: digest.clone(),
                    short: long("warning", 1000).into(),
                    ..VertexWarning::default()
                })
                .collect(),
            logs: vec![log(
                &digest,
                format!("{}{}", (long("line", 2000) + "\n").repeat(10), long("open", 8000)),
            )],
        };
        visit.say(update.raw()).await;
    }
    mark(&visit).await
}

async fn log_line(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    let piece = Bytes::from(vec![b'x'; 1_000_000]);
    for _ in 0..800 {
        visit.say(Update::of_logs(vec![log("sha256:a", piece.clone())])).await;
    }
    visit.say(Update::of_logs(vec![log("sha256:a", "\n")])).await;
    mark(&visit).await
}

async fn log_lines(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    for batch in 0..200 {
        let text: String = (0..1000).map(|number| format!("line {batch}-{number}\n")).collect();
        visit.say(Update::of_logs(vec![log("sha256:a", text)])).await;
    }
    mark(&visit).await
}

async fn log_messages(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    let line = format!("{}\n", "x".repeat(4000));
    let text: Bytes = line.repeat(MESSAGE / line.len()).into();
    for _ in 0..20 {
        visit.say(Update::of_logs(vec![log("sha256:a", text.clone())])).await;
    }
    mark(&visit).await
}

async fn reason(_: Visit) -> End {
    let details = Bytes::from(vec![0; 8 << 20]);
    Err(Status::with_details(Code::Unknown, "r".repeat(3 << 20), details))
}

async fn answers(_: Visit) -> End {
    Ok((0..1_000_000).map(|number| (format!("k{number}"), String::new())).collect())
}

async fn answer(_: Visit) -> End {
    Ok(HashMap::from([("containerimage.digest".to_owned(), "d".repeat(MESSAGE))]))
}

async fn session_calls(visit: Visit) -> End {
    let session = visit.session("Auth").await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..5000 {
        let mut client = AuthClient::new(session.clone());
        let host = format!("host{number}.example");
        calls.spawn(async move { drop(client.credentials(CredentialsRequest { host }).await) });
    }
    calls.join_all().await;
    visit.honest().await;
    Err(Status::unknown("over"))
}

/// Asks for a directory again and again with heads of `values` long values, and keeps the answers.
async fn session_heads(visit: Visit, values: usize) -> End {
    let session = visit.session("FileSync").await;
    let value: AsciiMetadataValue = "v".repeat(LONG_VALUE).parse().expect("plain text");
    for round in 0..2 {
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..150 {
            let (open, requests) = tokio::sync::mpsc::channel(1);
            let mut request = Request::new(ReceiverStream::new(requests));
            let metadata = request.metadata_mut();
            metadata.append("dir-name", AsciiMetadataValue::from_static("context"));
            for _ in 0..values {
                metadata.append("x-long", value.clone());
            }
            // Short and new, so that the table of known headers takes it, and with it what it came in.
            metadata.append("x-mark", AsciiMetadataValue::from(round * 1000 + number));
            let mut client = FileSyncClient::new(session.clone());
            calls.spawn(async move { (client.diff_copy(request).await, open) });
        }
        let kept = calls.join_all().await;
        let answered = kept.iter().filter(|(answer, _)| answer.is_ok()).count();
        visit.record().told(format!("{answered} of 150 calls were answered"));
    }
    visit.honest().await;
    over()
}

async fn session_streams(visit: Visit) -> End {
    let session = visit.session("Auth").await;
    let mut streams = tokio::task::JoinSet::new();
    for _ in 0..5000 {
        let mut client = HealthClient::new(session.clone());
        // The client answers and then says nothing; dropping the set ends those that still wait.
        streams.spawn(async move { client.check(HealthCheckRequest::default()).await.is_ok() });
    }
    while let Some(answered) = streams.join_next().await {
        if !matches!(answered, Ok(true)) {
            visit.record().told("a call of the session was not answered");
        }
    }
    visit.honest().await;
    Err(Status::unknown("over"))
}
