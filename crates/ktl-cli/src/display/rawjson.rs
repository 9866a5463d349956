//! Progress for programs: one JSON object per event and line.
//!
//! The same objects as `buildctl build --progress rawjson`, so that what reads the one can read the other: fields as in
//! moby/buildkit `client/graph.go`, bytes in base64, times in RFC 3339. A line of ktl's own becomes a step that is done
//! at once.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildsvc::event::{Event, LogStream, SourceInfo, SourceRange, Vertex, VertexWarning};
use serde::Serialize;

use super::inert;

#[derive(Debug, Serialize)]
struct StatusLine<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vertexes: Vec<VertexLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    statuses: Vec<CounterLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logs: Vec<LogLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<WarningLine<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VertexLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    digest: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    inputs: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    cached: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress_group: Option<GroupLine<'a>>,
}

#[derive(Debug, Serialize)]
struct GroupLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    weak: bool,
}

#[derive(Debug, Serialize)]
struct CounterLine<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    total: i64,
    current: i64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed: Option<String>,
}

#[derive(Debug, Serialize)]
struct LogLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    stream: u8,
    data: String,
    timestamp: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct WarningLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    vertex: &'a str,
    #[serde(skip_serializing_if = "is_default")]
    level: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    short: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    detail: Vec<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<SourceLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    range: Vec<RangeLine>,
}

#[derive(Debug, Serialize)]
struct SourceLine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    filename: &'a str,
    #[serde(skip_serializing_if = "String::is_empty")]
    data: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    language: &'a str,
}

#[derive(Debug, Serialize)]
struct RangeLine {
    start: PositionLine,
    end: PositionLine,
}

#[derive(Debug, Serialize)]
struct PositionLine {
    #[serde(skip_serializing_if = "is_default")]
    line: i32,
    #[serde(skip_serializing_if = "is_default")]
    character: i32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One event as a line, with its newline.
pub fn line(event: &Event) -> String {
    let line = StatusLine {
        vertexes: event.vertexes.iter().map(vertex_line).collect(),
        statuses: event
            .statuses
            .iter()
            .map(|s| CounterLine {
                id: &s.id,
                vertex: &s.vertex,
                name: &s.name,
                total: s.total,
                current: s.current,
                timestamp: rfc3339(s.timestamp),
                started: s.started.map(rfc3339),
                completed: s.completed.map(rfc3339),
            })
            .collect(),
        logs: event
            .logs
            .iter()
            .map(|l| LogLine {
                vertex: &l.vertex,
                stream: match l.stream {
                    LogStream::Stdout => 1,
                    LogStream::Stderr => 2,
                },
                data: STANDARD.encode(&l.data),
                timestamp: rfc3339(l.timestamp),
            })
            .collect(),
        warnings: event.warnings.iter().map(warning_line).collect(),
    };
    let mut text = serde_json::to_string(&line).expect("strings and numbers only");
    // Some CI runners look for this anywhere in a line. It can only stand within a JSON string.
    if text.contains("##") {
        text = text.replace("##", "#\\u0023");
    }
    // So can what a terminal or an eye is misled by, if somebody looks at the lines.
    if text.contains(misleads) {
        text = escaped(&text);
    }
    text.push('\n');
    text
}

/// Of JSON, which has escaped the rest already.
fn misleads(c: char) -> bool {
    c == '\u{7f}' || inert::deceives(c)
}

fn escaped(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if misleads(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// A warning as docker buildx writes it into metadata files.
pub fn warning(warning: &VertexWarning) -> serde_json::Value {
    serde_json::to_value(warning_line(warning)).unwrap_or_default()
}

fn warning_line(warning: &VertexWarning) -> WarningLine<'_> {
    WarningLine {
        vertex: &warning.vertex,
        level: warning.level,
        short: STANDARD.encode(&warning.short),
        detail: warning.detail.iter().map(|detail| STANDARD.encode(detail)).collect(),
        url: &warning.url,
        source_info: warning.source.as_ref().map(source_line),
        range: warning.ranges.iter().map(range_line).collect(),
    }
}

/// A line of ktl's own as a step.
pub fn note(number: u64, text: &str, at: SystemTime) -> String {
    let vertex = Vertex {
        digest: format!("ktl:note:{number}"),
        name: text.to_owned(),
        started: Some(at),
        completed: Some(at),
        ..Vertex::default()
    };
    line(&Event { vertexes: vec![vertex], ..Event::default() })
}

fn vertex_line(v: &Vertex) -> VertexLine<'_> {
    VertexLine {
        digest: &v.digest,
        inputs: &v.inputs,
        name: &v.name,
        started: v.started.map(rfc3339),
        completed: v.completed.map(rfc3339),
        cached: v.cached,
        error: &v.error,
        progress_group: v.progress_group.as_ref().map(|g| GroupLine {
            id: &g.id,
            name: &g.name,
            weak: g.weak,
        }),
    }
}

fn source_line(source: &SourceInfo) -> SourceLine<'_> {
    SourceLine { filename: &source.filename, data: STANDARD.encode(&source.data), language: &source.language }
}

fn range_line(range: &SourceRange) -> RangeLine {
    let position = |line, character| PositionLine { line, character };
    RangeLine {
        start: position(range.start.line, range.start.character),
        end: position(range.end.line, range.end.character),
    }
}

/// UTC with as many digits of the second as it has. Years that RFC 3339 cannot write become its first or last moment.
pub fn rfc3339(time: SystemTime) -> String {
    const LAST: u64 = 253_402_300_799;
    let (days, rest, nanos) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => {
            let since = since.min(Duration::from_secs(LAST));
            ((since.as_secs() / 86_400) as i64, since.as_secs() % 86_400, since.subsec_nanos())
        }
        Err(before) => {
            // Whole seconds before the epoch, rounded away from it; nothing real is that old.
            let before = before.duration().as_secs().saturating_add(1).min(62_135_596_800);
            let days = before.div_ceil(86_400);
            (-(days as i64), days * 86_400 - before, 0)
        }
    };
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos > 0 {
        text.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Days since 1970-01-01 to a date of the Gregorian calendar, counted in eras of 400 years that begin in March.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildsvc::event::{Position, ProgressGroup, VertexLog, VertexStatus, VertexWarning};

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn times() {
        for (time, want) in [
            (at(0, 0), "1970-01-01T00:00:00Z"),
            (at(951_782_400, 500_000_000), "2000-02-29T00:00:00.5Z"),
            (at(1_709_251_199, 999_999_999), "2024-02-29T23:59:59.999999999Z"),
            (at(1_795_501_556, 19_997_480), "2026-11-24T06:25:56.01999748Z"),
            (at(4_102_444_800, 0), "2100-01-01T00:00:00Z"),
            (at(1 << 60, 0), "9999-12-31T23:59:59Z"),
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), "1969-12-31T23:59:58Z"),
        ] {
            assert_eq!(rfc3339(time), want);
        }
    }

    #[test]
    fn what_misleads_is_escaped_and_stays_json() {
        let name = "a\u{202e}b\u{9b}2J\u{7f}\u{e0041}é漢 ##[x]";
        let vertex = Vertex { name: name.to_owned(), ..Vertex::default() };
        let text = line(&Event { vertexes: vec![vertex], ..Event::default() });
        assert!(!text.contains(misleads) && text.contains("é漢") && !text.contains("##"), "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["vertexes"][0]["name"], name);
    }

    #[test]
    fn a_full_event() {
        let event = Event {
            vertexes: vec![Vertex {
                digest: "sha256:aa".into(),
                inputs: vec!["sha256:bb".into()],
                name: "[1/2] RUN echo \"##[x]\" > \x1b".into(),
                cached: true,
                started: Some(at(1, 0)),
                completed: Some(at(2, 1_000)),
                error: "boom".into(),
                progress_group: Some(ProgressGroup { id: "g".into(), name: "group".into(), weak: true }),
            }],
            statuses: vec![VertexStatus {
                id: "transferring context:".into(),
                vertex: "sha256:aa".into(),
                name: String::new(),
                current: 0,
                total: 7,
                timestamp: at(1, 0),
                started: None,
                completed: None,
            }],
            logs: vec![VertexLog {
                vertex: "sha256:aa".into(),
                stream: LogStream::Stderr,
                data: b"hi\xff\n".to_vec(),
                timestamp: at(1, 0),
            }],
            warnings: vec![VertexWarning {
                vertex: "sha256:aa".into(),
                level: 1,
                short: b"short".to_vec(),
                detail: vec![b"detail".to_vec()],
                url: "https://example.com".into(),
                source: Some(SourceInfo {
                    filename: "Dockerfile".into(),
                    data: b"FROM x".to_vec(),
                    language: String::new(),
                }),
                ranges: vec![SourceRange {
                    start: Position { line: 1, character: 0 },
                    end: Position::default(),
                }],
            }],
            dropped: 0,
        };
        insta::assert_snapshot!(line(&event), @r##"{"vertexes":[{"digest":"sha256:aa","inputs":["sha256:bb"],"name":"[1/2] RUN echo \"#\u0023[x]\" > \u001b","started":"1970-01-01T00:00:01Z","completed":"1970-01-01T00:00:02.000001Z","cached":true,"error":"boom","progressGroup":{"id":"g","name":"group","weak":true}}],"statuses":[{"id":"transferring context:","vertex":"sha256:aa","total":7,"current":0,"timestamp":"1970-01-01T00:00:01Z"}],"logs":[{"vertex":"sha256:aa","stream":2,"data":"aGn/Cg==","timestamp":"1970-01-01T00:00:01Z"}],"warnings":[{"vertex":"sha256:aa","level":1,"short":"c2hvcnQ=","detail":["ZGV0YWls"],"url":"https://example.com","sourceInfo":{"filename":"Dockerfile","data":"RlJPTSB4"},"range":[{"start":{"line":1},"end":{}}]}]}"##);
        insta::assert_snapshot!(line(&Event::default()), @"{}");
        insta::assert_snapshot!(note(1, "[sandbox] on", at(1, 0)), @r#"{"vertexes":[{"digest":"ktl:note:1","name":"[sandbox] on","started":"1970-01-01T00:00:01Z","completed":"1970-01-01T00:00:01Z"}]}"#);
    }
}
