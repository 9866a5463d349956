//! Text that gives orders to a terminal, to a person's eyes or to a CI runner.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use tonic::{Code, Status};

use crate::hostile::case::{Case, End, Honest, Script};
use crate::hostile::progress::{Update, ended, log, now, step};
use crate::hostile::visit::Visit;
use crate::hostile::wire::google::rpc;
use crate::hostile::wire::moby::buildkit::v1::{Vertex, VertexStatus, VertexWarning};
use crate::hostile::wire::pb::{Position, ProgressGroup, Range, SourceInfo};

const MARK: &str = "HONEST-MARK";

const fn shown(name: &'static str, about: &'static str, script: Script) -> Case {
    Case::new(name, about, script).honest(Honest::Shown(MARK))
}

macro_rules! everywhere {
    ($mode:literal) => {
        shown(
            concat!("screen/all-", $mode),
            concat!("gives orders in every text, to --progress=", $mode),
            |visit| Box::pin(everything(visit)),
        )
        .progress($mode)
    };
}

pub const CASES: &[Case] = &[
    everywhere!("plain"),
    everywhere!("tty"),
    everywhere!("quiet"),
    everywhere!("rawjson"),
    shown("screen/names", "gives orders in the names of steps", |visit| Box::pin(names(visit))),
    shown("screen/names-tty", "gives orders in the names of steps, to a terminal", |visit| {
        Box::pin(names(visit))
    })
    .progress("tty"),
    shown("screen/logs", "gives orders in the output of steps", |visit| Box::pin(logs(visit))),
    shown("screen/logs-tty", "gives orders in the output of steps, to a terminal", |visit| {
        Box::pin(logs(visit))
    })
    .progress("tty"),
    shown("screen/statuses", "gives orders in the names of counters", |visit| Box::pin(statuses(visit))),
    shown("screen/groups", "gives orders in the names of groups", |visit| Box::pin(groups(visit))),
    shown("screen/warnings", "gives orders in warnings, their sources and addresses", |visit| {
        Box::pin(warnings(visit))
    })
    .ends(&[0]),
    shown("screen/errors", "gives orders in the errors of steps and what they said last", |visit| {
        Box::pin(errors(visit))
    }),
    shown("screen/reason", "gives orders in the reason why the build failed", |visit| {
        Box::pin(reason(visit))
    }),
    shown("screen/snippets", "gives orders in the lines of a Dockerfile that it quotes", |visit| {
        Box::pin(snippets(visit))
    }),
    shown("screen/answers", "gives orders in what the exporters answer", |visit| Box::pin(answers(visit)))
        .ends(&[3]),
];

/// One order for each kind of reader.
fn orders() -> Vec<String> {
    [
        "\u{1b}]0;CANARY\u{7}",
        "\u{1b}]52;c;Q0FOQVJZ\u{7}",
        "\u{1b}]8;;http://CANARY\u{1b}\\here\u{1b}]8;;\u{1b}\\",
        "\u{1b}[2J\u{1b}[H",
        "\u{1b}[8mhidden",
        "\u{1b}c",
        "\u{1b}P+q\u{1b}\\",
        "\u{9b}2J",
        "over\rwritten ::set-output name=x::CANARY",
        "back\u{8}\u{8}\u{8}space",
        "\u{202e}desrever",
        "\u{2066}isolated\u{2069}",
        "\n::add-mask::CANARY",
        "\n  ::set-output name=x::CANARY",
        "\r\n::error::CANARY",
        "##[set-output]CANARY",
        "##vso[task.setvariable variable=x]CANARY",
    ]
    .map(|order| format!("{order} {MARK}"))
    .to_vec()
}

fn failed(message: &str) -> Status {
    Status::unknown(message)
}

async fn names(visit: Visit) -> End {
    for (number, order) in orders().into_iter().enumerate() {
        let vertex = step(&format!("sha256:{number}"), &order);
        visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
        visit.say(Update::of_vertexes(vec![ended(&vertex, "")])).await;
    }
    Err(failed("over"))
}

async fn logs(visit: Visit) -> End {
    let vertex = step("sha256:a", "[1/1] RUN something");
    visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
    for order in orders() {
        visit.say(Update::of_logs(vec![log("sha256:a", format!("{order}\n"))])).await;
        // In pieces, too.
        for byte in order.bytes() {
            visit.say(Update::of_logs(vec![log("sha256:a", vec![byte])])).await;
        }
        visit.say(Update::of_logs(vec![log("sha256:a", "\n")])).await;
    }
    visit.say(Update::of_vertexes(vec![ended(&vertex, "exit code: 1")])).await;
    Err(failed("over"))
}

async fn statuses(visit: Visit) -> End {
    let vertex = step("sha256:a", "[1/1] RUN something");
    visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
    for order in orders() {
        let status = VertexStatus {
            id: order.clone(),
            vertex: "sha256:a".to_owned(),
            name: order,
            current: 1,
            total: 2,
            timestamp: now(),
            started: now(),
            completed: now(),
        };
        visit.say(Update { statuses: vec![status], ..Update::default() }.raw()).await;
    }
    visit.say(Update::of_vertexes(vec![ended(&vertex, "")])).await;
    Err(failed("over"))
}

async fn groups(visit: Visit) -> End {
    for (number, order) in orders().into_iter().enumerate() {
        let group = ProgressGroup { id: order.clone(), name: order.clone(), weak: false };
        let vertex = Vertex { progress_group: Some(group), ..step(&format!("sha256:{number}"), &order) };
        visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
        visit.say(Update::of_vertexes(vec![ended(&vertex, "")])).await;
    }
    Err(failed("over"))
}

async fn warnings(visit: Visit) -> End {
    let vertex = step("sha256:a", "[1/1] RUN something");
    visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
    for order in orders() {
        let warning = VertexWarning {
            vertex: "sha256:a".to_owned(),
            level: 1,
            short: order.clone().into(),
            detail: vec![order.clone().into()],
            url: order.clone(),
            info: Some(source(&order)),
            ranges: vec![first_line()],
        };
        visit.say(Update { warnings: vec![warning], ..Update::default() }.raw()).await;
    }
    visit.say(Update::of_vertexes(vec![ended(&vertex, "")])).await;
    Ok(Default::default())
}

async fn errors(visit: Visit) -> End {
    for (number, order) in orders().into_iter().enumerate() {
        let digest = format!("sha256:{number}");
        let vertex = step(&digest, &order);
        visit.say(Update::of_vertexes(vec![vertex.clone()])).await;
        visit.say(Update::of_logs(vec![log(&digest, format!("{order}\n{order}"))])).await;
        visit.say(Update::of_vertexes(vec![ended(&vertex, &order)])).await;
    }
    Err(failed("process \"/bin/sh\" did not complete successfully: exit code: 1"))
}

async fn reason(_: Visit) -> End {
    Err(failed(&format!("failed to solve: {MARK} {}", orders().join("\n"))))
}

async fn snippets(_: Visit) -> End {
    let details: Vec<_> = orders().iter().take(4).map(|order| quoted(order)).collect();
    Err(with_details("it failed", details))
}

async fn answers(visit: Visit) -> End {
    names(visit).await.ok();
    let keys = ["containerimage.digest", "containerimage.config.digest", "image.name", "\u{1b}[2J"];
    Ok(keys.into_iter().map(|key| (key.to_owned(), orders().concat())).collect())
}

async fn everything(visit: Visit) -> End {
    let mut raw = Update::default();
    for (number, order) in orders().into_iter().enumerate() {
        let digest = format!("sha256:{number}");
        let group = ProgressGroup { id: order.clone(), name: order.clone(), weak: true };
        raw.vertexes.push(step(&digest, &order));
        raw.vertexes.push(Vertex { progress_group: Some(group), ..step(&format!("{digest}g"), &order) });
        raw.logs.push(log(&digest, format!("{order}\n")));
        raw.statuses.push(VertexStatus {
            id: order.clone(),
            vertex: digest.clone(),
            name: order.clone(),
            timestamp: now(),
            ..VertexStatus::default()
        });
        raw.warnings.push(VertexWarning {
            vertex: digest.clone(),
            short: order.clone().into(),
            info: Some(source(&order)),
            ranges: vec![first_line()],
            ..VertexWarning::default()
        });
    }
    visit.say(raw.raw()).await;
    let ends = raw.vertexes.iter().map(|vertex| ended(vertex, &vertex.name)).collect();
    visit.say(Update::of_vertexes(ends)).await;
    let message = format!("failed to solve: {MARK} {}", orders().join("\n"));
    Err(with_details(&message, orders().iter().take(2).map(|order| quoted(order)).collect()))
}

fn source(text: &str) -> SourceInfo {
    SourceInfo {
        filename: text.to_owned(),
        data: format!("{text}\nsecond\n").into(),
        language: text.to_owned(),
        ..SourceInfo::default()
    }
}

fn first_line() -> Range {
    let line = Some(Position { line: 1, character: 0 });
    Range { start: line, end: line }
}

/// A Dockerfile's line as the daemon attaches it to an error.
fn quoted(text: &str) -> prost_types::Any {
    let json = serde_json::json!({
        "info": { "filename": text, "data": STANDARD.encode(format!("{text}\nsecond\n")), "language": text },
        "ranges": [{ "start": { "line": 1 }, "end": { "line": 2 } }],
    });
    prost_types::Any {
        type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
        value: json.to_string().into(),
    }
}

fn with_details(message: &str, details: Vec<prost_types::Any>) -> Status {
    let status = rpc::Status { code: 2, message: message.to_owned(), details };
    Status::with_details(Code::Unknown, message, status.encode_to_vec().into())
}
