//! `ktl history ls`.

use std::time::SystemTime;

use buildsvc::history::{Listing, Record};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::filter::{self, Condition, Status};
use super::{ask, astray, target, told};
use crate::cli::BuilderFlags;
use crate::commands::builder::{columns, size};
use crate::commands::sandbox::{print, print_json};
use crate::display::inert;
use crate::display::rawjson::rfc3339;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::look::{Question, Said};
use crate::repository::Repository;
use crate::ui::Ui;

/// Of a name in the table, as docker buildx has it.
const NAME_WIDTH: usize = 36;

/// List past builds and those that run, newest first
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ktl history ls --filter status=error                      builds that have failed
  ktl history ls --filter 'startedAt>24h' --local           of the last day and of this repository
  ktl history ls --filter 'duration>=10m' --format json     the slow ones, an object a line")]
pub(super) struct LsArgs {
    /// Only builds that fit: ref=, repository= and status= (error, completed, canceled, running), also with !=; startedAt,
    /// completedAt and duration with <, <=, > or >=. All must hold (repeatable)
    #[arg(long, value_name = "FILTER", value_parser = filter::parse)]
    filter: Vec<Condition>,
    /// Only builds of the repository that the current directory is in
    #[arg(long)]
    local: bool,
    /// How they are shown; json is one object a line
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "table")]
    format: Format,
    /// Long names whole
    #[arg(long)]
    no_trunc: bool,
    /// As one JSON document
    #[arg(long, conflicts_with = "format")]
    json: bool,
    #[command(flatten)]
    builder: BuilderFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn run(args: &LsArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let mut conditions = args.filter.clone();
    if args.local {
        conditions.push(Condition::Repository { value: here(env)?, is: true });
    }
    let now = SystemTime::now();
    let mut found: Vec<(String, Listing)> = Vec::new();
    for target in target::of(None, &args.builder, env, ui)? {
        let name = target.name.clone();
        let Said::History(mut listing) = ask(target, Question::History, env, ui)? else {
            return Err(astray());
        };
        listing.records.retain(|record| conditions.iter().all(|condition| condition.holds(record, now)));
        listing.records.sort_by_key(|record| record.completed.is_some());
        found.push((name, listing));
    }
    if args.json {
        let objects = found.iter().map(|(name, listing)| {
            let records: Vec<Value> = listing.records.iter().map(object).collect();
            json!({ "builder": name, "records": records, "others": listing.others })
        });
        print_json(&objects.collect())?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    for (name, listing) in &found {
        if args.format == Format::Json {
            text.extend(listing.records.iter().map(|record| format!("{}\n", object(record))));
            continue;
        }
        if found.len() > 1 {
            text += &format!("{}{name}:\n", if text.is_empty() { "" } else { "\n" });
        }
        let head = ["BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION"].map(str::to_owned).to_vec();
        let rows = listing.records.iter().map(|record| row(record, now, !args.no_trunc));
        text += &columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
        if listing.others > 0 {
            text += &format!("and {} older ones, not looked at\n", listing.others);
        }
    }
    print(&text)?;
    Ok(Exit::Ok)
}

fn here(env: &Env) -> Result<String, Failure> {
    let failed = |why: String| Failure::usage(format!("--local: {why}"));
    let dir = std::env::current_dir().map_err(|error| failed(error.to_string()))?;
    let repository = Repository::around(&dir).map_err(|error| failed(error.to_string()))?;
    let repository =
        repository.ok_or_else(|| failed(format!("{} is in no git repository", dir.display())))?;
    let source = repository.source(&env.get("PATH").unwrap_or_default());
    source.ok_or_else(|| failed(format!("{} has no remote", repository.root.display())))
}

fn row(record: &Record, now: SystemTime, cut: bool) -> Vec<String> {
    let mut name = inert::text(&record.name).into_owned();
    let length = name.chars().count();
    if cut && length > NAME_WIDTH {
        name = format!("..{}", name.chars().skip(length - NAME_WIDTH + 2).collect::<String>());
    }
    let since = |time: SystemTime| now.duration_since(time).unwrap_or_default();
    vec![
        inert::text(&record.reference).into_owned(),
        name,
        word(record).to_owned(),
        record.created.map_or_else(String::new, |created| format!("{} ago", size::age(since(created)))),
        told::took(record, now),
    ]
}

fn word(record: &Record) -> &'static str {
    match Status::of(record) {
        Status::Running => "Running",
        Status::Completed => "Completed",
        Status::Error | Status::Canceled => "Error",
    }
}

/// The keys that docker buildx's `--format json` has.
fn object(record: &Record) -> Value {
    let mut object = json!({
        "ref": format!("ktl/ktl/{}", record.reference),
        "name": record.name,
        "status": word(record),
        "created_at": rfc3339(record.created.unwrap_or(SystemTime::UNIX_EPOCH)),
        "total_steps": record.total_steps,
        "completed_steps": record.completed_steps,
        "cached_steps": record.cached_steps,
    });
    if let Some(completed) = record.completed {
        object["completed_at"] = rfc3339(completed).into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn rows_are_inert_and_of_one_width() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let record = Record {
            reference: "r\u{1b}[2J".into(),
            name: "n\u{202e}".repeat(40),
            created: Some(SystemTime::UNIX_EPOCH),
            ..Record::default()
        };
        let shown = row(&record, now, true);
        assert!(!shown.concat().contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        assert_eq!(shown[1].chars().count(), NAME_WIDTH);
        assert_eq!(shown[2..], ["Running", "About a minute ago", "1m 40s+"]);
        assert!(row(&record, now, false)[1].chars().count() > NAME_WIDTH);
    }
}
