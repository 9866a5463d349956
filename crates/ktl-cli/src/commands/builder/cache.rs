//! `ktl builder du` and `prune`: what a builder keeps, and having it keep less. Flags and output are docker buildx's.

use std::io::{self, BufRead, Write as _};
use std::time::{Duration, SystemTime};

use buildsvc::usage::{Pruning, Record, Usage};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::ask::{ask, astray};
use super::{columns, filter, size, target};
use crate::cli::BuilderFlags;
use crate::commands::sandbox::{print, print_json};
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::look::{Question, Said};
use crate::ui::Ui;

/// Show what a builder keeps on its disk
#[derive(Debug, Args)]
pub(super) struct DuArgs {
    /// Address or private builder's name [default: the builder that a build would use]
    #[arg(value_name = "ADDRESS|NAME", conflicts_with = "builder")]
    named: Option<String>,
    #[command(flatten)]
    shown: ShownFlags,
    #[command(flatten)]
    builder: BuilderFlags,
}

/// Remove what a builder keeps for later builds
///
/// Without filters and limits, all that no build uses now and that is no internal or frontend record.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ktl builder prune --filter until=168h        what nobody has used for a week
  ktl builder prune --max-used-space 20g -f    the oldest, until 20 GiB are left
  ktl builder prune jail://fork -a -f          all of a private builder, for each of its networks")]
pub(super) struct PruneArgs {
    /// Address or private builder's name [default: the builder that a build would use]
    #[arg(value_name = "ADDRESS|NAME", conflicts_with = "builder")]
    named: Option<String>,
    /// Internal and frontend records too
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Keep what was used within this time, as --filter until=DURATION
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    keep_duration: Option<Duration>,
    /// Space that the cache may always take
    #[arg(long, value_name = "SIZE", value_parser = size::parse, alias = "keep-storage")]
    reserved_space: Option<u64>,
    /// Most space that the cache may take (BuildKit 0.17)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_used_space: Option<u64>,
    /// Space of the disk that should be free afterwards (BuildKit 0.17)
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    min_free_space: Option<u64>,
    #[command(flatten)]
    shown: ShownFlags,
    #[command(flatten)]
    builder: BuilderFlags,
}

#[derive(Debug, Args)]
struct ShownFlags {
    /// Only records that fit, such as type=regular, description~=apt, shared or until=24h; all must hold (repeatable)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// How records are shown; -v is pretty, and json is one object a line
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// As one JSON document with exact sizes and times
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Pretty,
    Json,
}

/// What is printed, of which daemon.
type Found = Vec<(String, Usage)>;

pub(super) fn du(args: &DuArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let selection = filter::selection(&args.shown.filter, None).map_err(Failure::usage)?;
    let summed = args.shown.filter.is_empty();
    let mut found = Found::new();
    for target in target::of(args.named.as_deref(), &args.builder, env, ui)? {
        let name = target.name.clone();
        match ask(target, Question::DiskUsage(selection.clone()), env, ui)? {
            Said::Usage(usage) => found.push((name, usage)),
            _ => return Err(astray()),
        }
    }
    show(&found, &args.shown, ui, |usage| if summed { summary(usage) } else { String::new() })?;
    Ok(Exit::Ok)
}

pub(super) fn prune(args: &PruneArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let selection = filter::selection(&args.shown.filter, args.keep_duration).map_err(Failure::usage)?;
    let pruning = Pruning {
        selection,
        all: args.all,
        reserved_space: args.reserved_space.unwrap_or(0),
        max_used_space: args.max_used_space.unwrap_or(0),
        min_free_space: args.min_free_space.unwrap_or(0),
    };
    if !args.force && !confirmed(args.all)? {
        ui.line(format_args!("Nothing was removed."));
        return Ok(Exit::Ok);
    }
    let mut found = Found::new();
    for target in target::of(args.named.as_deref(), &args.builder, env, ui)? {
        let name = target.name.clone();
        match ask(target, Question::Prune(pruning.clone()), env, ui)? {
            Said::Usage(usage) => found.push((name, usage)),
            _ => return Err(astray()),
        }
    }
    show(&found, &args.shown, ui, |usage| {
        columns(&[vec!["Total:".to_owned(), size::decimal(total(usage, |_| true))]])
    })?;
    Ok(Exit::Ok)
}

fn confirmed(all: bool) -> Result<bool, Failure> {
    let what = if all { "all build cache" } else { "all dangling build cache" };
    let mut stderr = io::stderr().lock();
    let _ = write!(stderr, "WARNING! This will remove {what}. Are you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    match io::stdin().lock().read_line(&mut answer) {
        Ok(0) | Err(_) => {
            let _ = writeln!(stderr);
            Err(Failure::usage("nothing was removed: there is nobody to ask").hint("--force does not ask."))
        }
        Ok(_) => Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")),
    }
}

fn show(found: &Found, flags: &ShownFlags, ui: &Ui, end: impl Fn(&Usage) -> String) -> Result<(), Failure> {
    if flags.json {
        let object = |(name, usage): &(String, Usage)| {
            json!({
                "builder": name,
                "records": usage.records.iter().map(exact).collect::<Vec<_>>(),
                "others": { "count": usage.others.0, "size": usage.others.1 },
            })
        };
        return print_json(&found.iter().map(object).collect());
    }
    let format = flags.format.unwrap_or(if ui.verbose { Format::Pretty } else { Format::Table });
    let now = SystemTime::now();
    let mut text = String::new();
    for (name, usage) in found {
        if found.len() > 1 && format != Format::Json {
            text += &format!("{}{name}:\n", if text.is_empty() { "" } else { "\n" });
        }
        match format {
            Format::Json => {
                text.extend(usage.records.iter().map(|record| format!("{}\n", line(record, now))))
            }
            Format::Pretty => text.extend(usage.records.iter().map(|record| pretty(record, now))),
            Format::Table => {
                let head = ["ID", "RECLAIMABLE", "SIZE", "LAST ACCESSED"].map(str::to_owned).to_vec();
                let rows = usage.records.iter().map(|record| row(record, now));
                text += &columns(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
            }
        }
        if usage.others.0 > 0 && format != Format::Json {
            text += &format!("and {} more of {}\n", usage.others.0, size::decimal(usage.others.1));
        }
        if format != Format::Json {
            text += &end(usage);
        }
    }
    print(&text)
}

fn row(record: &Record, now: SystemTime) -> Vec<String> {
    let star = |marked| if marked { "*" } else { "" };
    vec![
        format!("{}{}", inert::text(&record.id), star(record.mutable)),
        (!record.in_use).to_string(),
        format!("{}{}", size::decimal(record.size), star(record.shared)),
        ago(record.last_used, now),
    ]
}

fn ago(time: Option<SystemTime>, now: SystemTime) -> String {
    let Some(time) = time else { return String::new() };
    format!("{} ago", size::age(now.duration_since(time).unwrap_or_default()))
}

fn stamp(time: Option<SystemTime>) -> String {
    time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

fn pretty(record: &Record, now: SystemTime) -> String {
    let mut rows = vec![vec!["ID:".to_owned(), inert::text(&record.id).into_owned()]];
    let mut add = |key: &str, value: String| {
        if !value.is_empty() {
            rows.push(vec![key.to_owned(), value]);
        }
    };
    for parent in &record.parents {
        add("Parent:", inert::text(parent).into_owned());
    }
    add("Created at:", stamp(record.created));
    add("Mutable:", record.mutable.to_string());
    add("Reclaimable:", (!record.in_use).to_string());
    add("Shared:", record.shared.to_string());
    add("Size:", size::decimal(record.size));
    add("Description:", inert::text(&record.description).into_owned());
    add("Usage count:", record.usage_count.to_string());
    add("Last used:", ago(record.last_used, now));
    add("Type:", inert::text(&record.kind).into_owned());
    columns(&rows) + "\n"
}

/// The keys that docker buildx's `--format json` has.
fn line(record: &Record, now: SystemTime) -> serde_json::Value {
    json!({
        "ID": record.id,
        "Parents": record.parents,
        "CreatedAt": stamp(record.created),
        "Mutable": record.mutable,
        "Reclaimable": !record.in_use,
        "Shared": record.shared,
        "Size": size::decimal(record.size),
        "Description": record.description,
        "UsageCount": record.usage_count,
        "LastUsedAt": ago(record.last_used, now),
        "Type": record.kind,
    })
}

/// The keys of BuildKit's own client.
fn exact(record: &Record) -> serde_json::Value {
    let time = |time| Some(stamp(time)).filter(|text| !text.is_empty());
    json!({
        "id": record.id,
        "mutable": record.mutable,
        "inUse": record.in_use,
        "size": record.size,
        "createdAt": time(record.created),
        "lastUsedAt": time(record.last_used),
        "usageCount": record.usage_count,
        "parents": record.parents,
        "description": record.description,
        "recordType": record.kind,
        "shared": record.shared,
    })
}

fn total(usage: &Usage, counts: impl Fn(&Record) -> bool) -> u64 {
    let sizes = usage.records.iter().filter(|record| counts(record)).map(|record| record.size);
    sizes.fold(usage.others.1, u64::saturating_add)
}

fn summary(usage: &Usage) -> String {
    let all = total(usage, |_| true);
    let shared: u64 = usage
        .records
        .iter()
        .filter(|record| record.shared)
        .map(|record| record.size)
        .fold(0, u64::saturating_add);
    let mut rows = Vec::new();
    let mut add = |key: &str, bytes| rows.push(vec![key.to_owned(), size::decimal(bytes)]);
    if shared > 0 {
        add("Shared:", shared);
        add("Private:", all.saturating_sub(shared));
    }
    add("Reclaimable:", total(usage, |record| !record.in_use));
    add("Total:", all);
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_builder_says_is_shown_inert() {
        let record = Record {
            id: "a\u{1b}[2J".to_owned(),
            description: "\r##[group]".to_owned(),
            size: 8192,
            mutable: true,
            shared: true,
            last_used: Some(SystemTime::UNIX_EPOCH),
            ..Record::default()
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(7200);
        let shown = row(&record, now).join("|") + &pretty(&record, now);
        assert!(!shown.contains(['\u{1b}', '\r']) && !shown.contains("##["), "{shown:?}");
        assert!(shown.contains("*|true|8.192kB*|2 hours ago"), "{shown}");
        let usage = Usage { records: vec![record], others: (1, 1000) };
        assert!(summary(&usage).contains("Total:        9.192kB"), "{}", summary(&usage));
    }
}
