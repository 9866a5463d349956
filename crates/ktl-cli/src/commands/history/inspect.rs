//! `ktl history inspect`, in docker buildx's layout and with its keys.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildsvc::history::{Details, Which};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::{ask, astray, of_one, told};
use crate::cli::BuilderFlags;
use crate::commands::builder::columns;
use crate::commands::sandbox::{print, print_json};
use crate::display::inert;
use crate::display::rawjson::rfc3339;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::look::{Question, Said};
use crate::report;
use crate::ui::Ui;

use request::Request;

mod request;

/// Show what a build was asked for, how it ended, why it failed, what went into it and what came of it
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// The build, as REF or ^N [default: the latest]
    #[arg(value_name = "REF", value_parser = Which::parse)]
    reference: Option<Which>,
    /// How it is shown
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "pretty")]
    format: Format,
    /// The same as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    builder: BuilderFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Pretty,
    Json,
}

pub(super) fn run(args: &InspectArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let details = of_one(args.reference.as_ref(), &args.builder, env, ui, |target, which| {
        match ask(target, Question::Recorded(which), env, ui)? {
            Said::Recorded(details) => Ok(details),
            _ => Err(astray()),
        }
    })?;
    if args.json || args.format == Format::Json {
        print_json(&object(&details, SystemTime::now()))?;
    } else {
        print(&pretty(&details, SystemTime::now()))?;
    }
    Ok(Exit::Ok)
}

/// gRPC's code for a build that was given up.
const CANCELED: i32 = 1;

fn status(details: &Details) -> &'static str {
    match (&details.record.completed, &details.record.error) {
        (_, Some(error)) if error.code == CANCELED => "canceled",
        (_, Some(_)) => "failed",
        (Some(_), None) => "completed",
        (None, None) => "running",
    }
}

/// The places in sources that the failure is about.
fn sources(details: &Details) -> String {
    let failure = details.failure.iter().flat_map(|failure| &failure.sources);
    failure.map(|(source, ranges)| report::excerpt(source, ranges)).collect()
}

fn object(details: &Details, now: SystemTime) -> Value {
    let record = &details.record;
    let request = Request::of(&details.attrs);
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| {
        if !is_empty(&value) {
            out.insert(key.to_owned(), value);
        }
    };
    put("Name", record.name.clone().into());
    for (key, value) in request.about {
        put(key, value);
    }
    put("StartedAt", record.created.map(rfc3339).into());
    put("CompletedAt", record.completed.map(rfc3339).into());
    let nanos = told::time(record, now).map_or(0, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    put("Duration", if nanos > 0 { nanos.into() } else { Value::Null });
    put("Status", status(details).into());
    if let Some(error) = &record.error {
        let (name, logs) = details.step.clone().unwrap_or_default();
        let logs: Vec<_> = logs.iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let sources = sources(details);
        put(
            "Error",
            given(&[
                ("Code", error.code.into()),
                ("Message", error.message.clone().into()),
                ("Name", name.into()),
                ("Logs", logs.into()),
                ("Sources", STANDARD.encode(sources).into()),
            ]),
        );
    }
    let materials = details.materials.iter();
    put(
        "Materials",
        materials
            .map(|material| {
                given(&[("URI", material.uri.clone().into()), ("Digests", material.digests.clone().into())])
            })
            .collect(),
    );
    let attachments = details.attachments.iter();
    put(
        "Attachments",
        attachments
            .map(|found| {
                given(&[
                    ("Digest", found.digest.clone().into()),
                    ("Platform", found.platform.clone().into()),
                    ("Type", found.kind.clone().into()),
                ])
            })
            .collect(),
    );
    put("Errors", request.errors.into());
    // These are there even when they are empty.
    out.insert("Ref".to_owned(), record.reference.clone().into());
    out.insert("NumCompletedSteps".to_owned(), record.completed_steps.into());
    out.insert("NumTotalSteps".to_owned(), record.total_steps.into());
    out.insert("NumCachedSteps".to_owned(), record.cached_steps.into());
    out.insert("Config".to_owned(), given(&request.config));
    out.into()
}

/// Without what is empty, as Go writes it.
fn given(fields: &[(&str, Value)]) -> Value {
    let fields = fields.iter().filter(|(_, value)| !is_empty(value));
    fields.map(|(key, value)| ((*key).to_owned(), value.clone())).collect::<Map<_, _>>().into()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn pretty(details: &Details, now: SystemTime) -> String {
    let record = &details.record;
    let request = Request::of(&details.attrs);
    let mut sections = Vec::new();
    let rows = |fields: &[(&'static str, Value)]| -> Vec<Vec<String>> {
        let single = fields.iter().filter(|(_, value)| !is_empty(value) && !is_table(value));
        single.map(|(key, value)| vec![format!("{}:", spaced(key)), shown(value)]).collect()
    };
    let mut head = vec![("Name", record.name.clone().into()), ("Ref", record.reference.clone().into())];
    let tables = |fields: &[(&'static str, Value)]| -> Vec<String> {
        let tables = fields.iter().filter(|(_, value)| !is_empty(value) && is_table(value));
        tables.map(|(key, value)| table(&spaced(key), value)).collect()
    };
    head.extend(request.about.iter().cloned());
    sections.push(columns(&rows(&head)));

    let stamp = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let mut end = vec![
        ("Started", record.created.map(stamp).into()),
        ("Duration", told::took(record, now).into()),
        ("Status", status(details).into()),
    ];
    if let Some(error) = &record.error {
        end.push(("Error", error.message.clone().into()));
    }
    let cached = 100 * i64::from(record.cached_steps) / i64::from(record.total_steps).max(1);
    let steps = format!("{}/{} ({cached}% cached)", record.completed_steps, record.total_steps);
    end.push(("BuildSteps", steps.into()));
    sections.push(columns(&rows(&end)));
    sections.push(columns(&rows(&request.config)));
    sections.extend(tables(&request.about));
    sections.extend(tables(&request.config));
    let row = |cells: [&str; 3]| cells.map(|cell| inert::text(cell).into_owned()).to_vec();
    let materials = details.materials.iter().map(|found| row([&found.uri, &found.digests.join(", "), ""]));
    let attachments =
        details.attachments.iter().map(|found| row([&found.digest, &found.platform, &found.kind]));
    sections.push(titled("Materials", row(["URI", "DIGEST", ""]), materials.collect()));
    sections.push(titled("Attachments", row(["DIGEST", "PLATFORM", "TYPE"]), attachments.collect()));
    sections.push(sources(details));
    if let Some((name, lines)) = details.step.as_ref().filter(|(_, lines)| !lines.is_empty()) {
        let lines = lines.iter().map(|line| format!("> {}\n", inert::line(line, inert::Sgr::Drop)));
        sections.push(format!("Logs:\n> => {}:\n{}", inert::text(name), lines.collect::<String>()));
    }
    sections.push(format!("Print the log: ktl history logs {}\n", inert::text(&record.reference)));
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn titled(title: &str, head: Vec<String>, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    format!("{title}:\n{}", columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

/// Pairs of names and values.
fn is_table(value: &Value) -> bool {
    value.as_array().is_some_and(|entries| entries.first().is_some_and(Value::is_object))
}

fn table(title: &str, value: &Value) -> String {
    let entries = value.as_array().into_iter().flatten();
    let rows = entries.map(|entry| vec![shown(&entry["Name"]), shown(&entry["Value"])]);
    let head = vec![title.to_uppercase(), "VALUE".to_owned()];
    columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => inert::text(text).into_owned(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => inert::text(&other.to_string()).into_owned(),
    }
}

/// `NoCacheFilter` as `No Cache Filter`; abbreviations stay whole.
fn spaced(key: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = key.chars().collect();
    for (at, letter) in chars.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| chars[at]);
        let after = chars.get(at + 1);
        let begins = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || after.is_some_and(|after| after.is_lowercase())
            });
        if begins {
            out.push(' ');
        }
        out.push(*letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildsvc::history::{Attachment, Failed, Record};
    use serde_json::json;

    #[test]
    fn a_record_is_shown_inert() {
        let evil = "x\u{1b}[2J\u{202e}";
        let attrs = [("target", evil), ("label:a", evil), ("odd", evil)];
        let details = Details {
            record: Record {
                name: evil.into(),
                error: Some(Failed { code: 2, message: evil.into() }),
                completed: Some(SystemTime::UNIX_EPOCH),
                ..Record::default()
            },
            attrs: attrs.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            step: Some((evil.into(), vec![evil.into()])),
            attachments: vec![Attachment { kind: evil.into(), ..Attachment::default() }],
            ..Details::default()
        };
        let shown = pretty(&details, SystemTime::UNIX_EPOCH);
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        for part in ["Name:", "Target:", "failed", "LABELS", "Logs:", "odd", "0/0 (0% cached)"] {
            assert!(shown.contains(part), "no {part} in\n{shown}");
        }
        let object = object(&details, SystemTime::UNIX_EPOCH);
        assert_eq!(object["Error"]["Logs"], json!([evil]));
        assert_eq!(object["Config"]["RestRaw"], json!([{"Name": "odd", "Value": evil}]));
    }

    #[test]
    fn keys_become_words() {
        for (key, want) in
            [("Name", "Name"), ("NoCacheFilter", "No Cache Filter"), ("VCSRevision", "VCS Revision")]
        {
            assert_eq!(spaced(key), want);
        }
    }
}
