//! Answers that are lists: the arguments and mounts of a target, the targets of a Dockerfile, the questions that can be asked.

use std::fmt::Write as _;

use serde::Deserialize;

use crate::display::inert;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Outline {
    name: String,
    description: String,
    args: Vec<Argument>,
    secrets: Vec<Mount>,
    ssh: Vec<Mount>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Argument {
    name: String,
    value: String,
    description: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mount {
    name: String,
    required: bool,
}

pub fn outline_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    if !outline.name.is_empty() || !outline.description.is_empty() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let mut rows = vec![vec!["TARGET:", name]];
        if !outline.description.is_empty() {
            rows.push(vec!["DESCRIPTION:", &outline.description]);
        }
        parts.push(table(&rows, 1));
    }
    if !outline.args.is_empty() {
        let mut rows = vec![vec!["BUILD ARG", "VALUE", "DESCRIPTION"]];
        rows.extend(outline.args.iter().map(|arg| vec![arg.name.as_str(), &arg.value, &arg.description]));
        parts.push(table(&rows, 3));
    }
    for (title, mounts) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !mounts.is_empty() {
            let mut rows = vec![vec![title, "REQUIRED"]];
            rows.extend(mounts.iter().map(|m| vec![m.name.as_str(), if m.required { "true" } else { "" }]));
            parts.push(table(&rows, 3));
        }
    }
    parts.iter().map(|part| format!("{part}\n")).collect()
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Targets {
    targets: Option<Vec<Target>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Target {
    name: String,
    default: bool,
    description: String,
}

pub fn targets_text(list: &Targets) -> String {
    let targets = list.targets.as_deref().unwrap_or_default();
    let name = |target: &Target| match (target.name.as_str(), target.default) {
        ("", true) => "(default)".to_owned(),
        (name, true) => format!("{name} (default)"),
        (name, false) => name.to_owned(),
    };
    let names: Vec<String> = targets.iter().map(name).collect();
    let mut rows = vec![vec!["TARGET", "DESCRIPTION"]];
    rows.extend(names.iter().zip(targets).map(|(name, target)| vec![name.as_str(), &target.description]));
    table(&rows, 1)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Request {
    name: String,
    version: String,
    description: String,
}

pub fn requests_text(list: &[Request]) -> String {
    let mut rows = vec![vec!["NAME", "VERSION", "DESCRIPTION"]];
    rows.extend(list.iter().map(|request| {
        vec![
            request.name.strip_prefix("frontend.").unwrap_or(&request.name),
            &request.version,
            &request.description,
        ]
    }));
    table(&rows, 1)
}

/// Columns as wide as their widest cell and `padding` more; the last one as it is. Go's `text/tabwriter`.
fn table(rows: &[Vec<&str>], padding: usize) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| inert::text(cell).into_owned()).collect()).collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0) + padding;
    let widths: Vec<usize> = (0..columns.saturating_sub(1)).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(text, "{cell:<width$}");
        }
        let _ = writeln!(text, "{}", row.last().map_or("", String::as_str));
    }
    text
}
