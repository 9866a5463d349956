//! `ktl builder inspect`: what a builder says of itself, in docker buildx's layout.

use std::fmt::Write as _;
use std::time::Duration;

use buildsvc::client::{Device, GcRule, Worker};
use clap::Args;
use serde_json::json;

use super::ask::{ask, astray};
use super::{columns, size, target};
use crate::cli::BuilderFlags;
use crate::commands::sandbox::{print, print_json};
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::look::{Question, Said};
use crate::ui::Ui;

/// Show a builder's version, workers, platforms, labels, devices and garbage collection
#[derive(Debug, Args)]
pub(super) struct InspectArgs {
    /// Address or private builder's name [default: the builder that a build would use]
    #[arg(value_name = "ADDRESS|NAME", conflicts_with = "builder")]
    named: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    builder: BuilderFlags,
}

pub(super) fn run(args: &InspectArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let mut objects = Vec::new();
    let mut text = String::new();
    for target in target::of(args.named.as_deref(), &args.builder, env, ui)? {
        let name = target.name.clone();
        let endpoint = target.connection.address.to_string();
        let Said::Inspected { version, workers } = ask(target, Question::Inspect, env, ui)? else {
            return Err(astray());
        };
        let _always_fits = write!(text, "{}{}", if text.is_empty() { "" } else { "\n" }, {
            let mut rows = vec![pair("Name:", &name), pair("Endpoint:", &endpoint)];
            rows.push(pair("BuildKit version:", if version.is_empty() { "before v0.11" } else { &version }));
            columns(&rows) + &workers.iter().map(worker).collect::<String>()
        });
        objects.push(json!({ "name": name, "endpoint": endpoint, "version": version, "workers": workers }));
    }
    if args.json {
        print_json(&objects.into())?
    } else {
        print(&text)?
    }
    Ok(Exit::Ok)
}

fn pair(key: &str, value: &str) -> Vec<String> {
    vec![key.to_owned(), inert::text(value).into_owned()]
}

fn worker(worker: &Worker) -> String {
    let platforms: Vec<String> = worker.platforms.iter().map(ToString::to_string).collect();
    let mut rows = vec![pair("ID:", &worker.id)];
    if !worker.version.is_empty() {
        rows.push(pair("Version:", &worker.version));
    }
    rows.push(pair("Platforms:", &platforms.join(", ")));
    let mut text = format!("\nWorker:\n{}", indented(&rows));
    if !worker.labels.is_empty() {
        let labels = worker.labels.iter().map(|(key, value)| pair(&format!("{}:", inert::text(key)), value));
        text += &format!("Labels:\n{}", indented(&labels.collect::<Vec<_>>()));
    }
    for device in &worker.devices {
        text += &format!("Device:\n{}", indented(&device_rows(device)));
    }
    for (number, rule) in worker.gc.iter().enumerate() {
        text += &format!("GC policy rule#{number}:\n{}", indented(&rule_rows(rule)));
    }
    text
}

fn device_rows(device: &Device) -> Vec<Vec<String>> {
    let mut rows = vec![pair("Name:", &device.name)];
    rows.push(if device.on_demand {
        pair("On-demand:", "true")
    } else {
        pair("Automatically allowed:", &device.auto_allow.to_string())
    });
    rows.extend(device.annotations.iter().map(|(key, value)| pair(&format!("{}:", inert::text(key)), value)));
    rows
}

fn rule_rows(rule: &GcRule) -> Vec<Vec<String>> {
    let mut rows = vec![pair("All:", &rule.all.to_string())];
    if !rule.filters.is_empty() {
        rows.push(pair("Filters:", &rule.filters.join(" ")));
    }
    if !rule.keep.is_zero() {
        rows.push(pair("Keep duration:", &hours(rule.keep)));
    }
    let sizes = [
        ("Reserved space:", rule.reserved_space),
        ("Max used space:", rule.max_used_space),
        ("Min free space:", rule.min_free_space),
    ];
    rows.extend(
        sizes.iter().filter(|(_, bytes)| *bytes > 0).map(|(key, bytes)| pair(key, &size::binary(*bytes))),
    );
    rows
}

/// Days and months of a library's choice would be harder to compare with a configuration.
fn hours(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        _ => humantime::format_duration(time).to_string(),
    }
}

fn indented(rows: &[Vec<String>]) -> String {
    columns(rows).lines().map(|line| format!(" {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_worker_is_shown_inert() {
        let shown = worker(&Worker {
            id: "w1".into(),
            labels: [("k\u{202e}ey".to_owned(), "v\u{1b}]0;x".to_owned())].into(),
            devices: vec![Device { name: "vendor.com/gpu=0".into(), auto_allow: true, ..Device::default() }],
            gc: vec![GcRule {
                filters: vec!["type==regular".into()],
                keep: Duration::from_secs(172_800),
                max_used_space: 5 << 30,
                ..GcRule::default()
            }],
            ..Worker::default()
        });
        assert!(!shown.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
        for part in
            ["Automatically allowed:  true", "Keep duration:   48h", "Max used space:  5GiB", "rule#0"]
        {
            assert!(shown.contains(part), "no {part} in\n{shown}");
        }
    }
}
