//! Reads recordings of `--progress rawjson` back into events.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildsvc::event::*;
use serde_json::Value;

pub fn events(recording: &str) -> Vec<Event> {
    recording.lines().map(|line| event(&serde_json::from_str(line).unwrap())).collect()
}

fn event(v: &Value) -> Event {
    Event {
        dropped: 0,
        vertexes: list(&v["vertexes"], |v| Vertex {
            digest: text(&v["digest"]),
            inputs: list(&v["inputs"], text),
            name: text(&v["name"]),
            cached: v["cached"].as_bool().unwrap_or_default(),
            started: time(&v["started"]),
            completed: time(&v["completed"]),
            error: text(&v["error"]),
            progress_group: None,
        }),
        statuses: list(&v["statuses"], |v| VertexStatus {
            id: text(&v["id"]),
            vertex: text(&v["vertex"]),
            name: text(&v["name"]),
            current: v["current"].as_i64().unwrap_or_default(),
            total: v["total"].as_i64().unwrap_or_default(),
            timestamp: time(&v["timestamp"]).unwrap(),
            started: time(&v["started"]),
            completed: time(&v["completed"]),
        }),
        logs: list(&v["logs"], |v| VertexLog {
            vertex: text(&v["vertex"]),
            stream: if v["stream"] == 2 { LogStream::Stderr } else { LogStream::Stdout },
            data: bytes(&v["data"]),
            timestamp: time(&v["timestamp"]).unwrap(),
        }),
        warnings: list(&v["warnings"], |v| VertexWarning {
            vertex: text(&v["vertex"]),
            level: v["level"].as_i64().unwrap_or_default(),
            short: bytes(&v["short"]),
            detail: list(&v["detail"], bytes),
            url: text(&v["url"]),
            source: v.get("sourceInfo").map(|v| SourceInfo {
                filename: text(&v["filename"]),
                data: bytes(&v["data"]),
                language: text(&v["language"]),
            }),
            ranges: list(&v["range"], |v| SourceRange {
                start: position(&v["start"]),
                end: position(&v["end"]),
            }),
        }),
    }
}

fn list<T>(v: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    v.as_array().into_iter().flatten().map(read).collect()
}

fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

fn bytes(v: &Value) -> Vec<u8> {
    STANDARD.decode(v.as_str().unwrap_or_default()).unwrap()
}

fn position(v: &Value) -> Position {
    let number = |v: &Value| v.as_i64().unwrap_or_default() as i32;
    Position { line: number(&v["line"]), character: number(&v["character"]) }
}

/// The recordings were all made on one day; what counts is the time between them.
fn time(v: &Value) -> Option<SystemTime> {
    let clock = v.as_str()?.strip_prefix("2026-11-24T")?.strip_suffix('Z')?;
    let mut fields = clock.split(':');
    let mut next = || fields.next().unwrap();
    let minutes = next().parse::<u64>().unwrap() * 60 + next().parse::<u64>().unwrap();
    let (seconds, fraction) = next().split_once('.').unwrap();
    let nanos = format!("{fraction:0<9}").parse().unwrap();
    let midnight = Duration::from_secs(1_795_478_400);
    let since = Duration::new(minutes * 60 + seconds.parse::<u64>().unwrap(), nanos);
    Some(SystemTime::UNIX_EPOCH + midnight + since)
}
