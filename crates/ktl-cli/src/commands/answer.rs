//! What a frontend answered, as docker buildx prints it (`commands/build.go`; moby/buildkit `frontend/subrequests`).
//!
//! Answers come from the frontend: text is made inert, JSON is passed on as data when it is JSON.

mod tables;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buildsvc::event::{Position, SourceInfo, SourceRange};
use serde::Deserialize;

use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::Call;
use crate::report;
use tables::{Request, outline_text, requests_text, targets_text};

/// The newest form of answers that is known here.
const VERSION: [u64; 3] = [1, 0, 0];

/// What goes to stdout, and how ktl ends by it.
#[derive(Debug)]
pub struct Shown {
    pub text: String,
    pub end: Result<Exit, Failure>,
}

/// Shows the answer to `call`.
pub fn show(call: &Call, answer: &BTreeMap<String, String>) -> Shown {
    let json = answer.get("result.json").map(String::as_str).unwrap_or_default();
    let status = answer.get("result.statuscode").and_then(|code| code.parse::<i64>().ok()).unwrap_or(0);
    let end = if status != 0 && !call.ignore_status { Exit::Unmet } else { Exit::Ok };
    let broken = |error: serde_json::Error| Shown {
        text: String::new(),
        end: Err(Failure::new(Exit::BuildFailed, format!("the frontend's answer cannot be read: {error}"))),
    };
    if call.json {
        return match serde_json::from_str::<serde::de::IgnoredAny>(json) {
            Ok(_) => Shown { text: format!("{json}\n"), end: lint_end(call, json, end) },
            Err(error) => broken(error),
        };
    }
    if let Some(text) = answer.get("result.txt").filter(|_| is_newer(answer.get("version"))) {
        return Shown { text: inert::paragraph(text), end: Ok(end) };
    }
    let shown = match call.method.as_str() {
        "outline" => serde_json::from_str(json).map(|outline| (outline_text(&outline), Ok(end))),
        "targets" => serde_json::from_str(json).map(|list| (targets_text(&list), Ok(end))),
        "subrequests.describe" => {
            serde_json::from_str(json).map(|list: Vec<Request>| (requests_text(&list), Ok(end)))
        }
        _ => serde_json::from_str(json).map(|lint| lint_text(lint, &call.dockerfile, end)),
    };
    shown.map_or_else(broken, |(text, end)| Shown { text, end })
}

/// An error in the Dockerfile is one of ktl's as well, whatever the form.
fn lint_end(call: &Call, json: &str, end: Exit) -> Result<Exit, Failure> {
    match serde_json::from_str::<Lint>(json) {
        Ok(lint) if call.method == "lint" && lint.build_error.is_some() => {
            lint_text(lint, &call.dockerfile, end).1
        }
        _ => Ok(end),
    }
}

fn is_newer(version: Option<&String>) -> bool {
    let numbers: Option<Vec<u64>> = version
        .filter(|text| !text.is_empty())
        .map(|text| text.split('.').map(|n| n.parse().unwrap_or(0)).collect());
    numbers.is_some_and(|numbers| numbers.as_slice() > VERSION.as_slice())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Lint {
    warnings: Option<Vec<Warning>>,
    sources: Option<Vec<Source>>,
    build_error: Option<BuildError>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Warning {
    rule_name: String,
    url: String,
    detail: String,
    location: Location,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BuildError {
    message: String,
    location: Location,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    filename: String,
    data: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Location {
    source_index: i32,
    ranges: Vec<Range>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Range {
    start: Place,
    end: Place,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Place {
    line: i32,
    character: i32,
}

impl Location {
    fn excerpt(&self, sources: &[Source], dockerfile: &str) -> String {
        let Some(source) = usize::try_from(self.source_index).ok().and_then(|index| sources.get(index))
        else {
            return String::new();
        };
        let place = |place: &Place| Position { line: place.line, character: place.character };
        let range = |range: &Range| SourceRange { start: place(&range.start), end: place(&range.end) };
        let source = SourceInfo {
            filename: dockerfile.to_owned(),
            data: STANDARD.decode(&source.data).unwrap_or_default(),
            language: String::new(),
        };
        report::excerpt(&source, &self.ranges.iter().map(range).collect::<Vec<_>>())
    }
}

fn lint_text(lint: Lint, dockerfile: &str, end: Exit) -> (String, Result<Exit, Failure>) {
    let (mut warnings, sources) = (lint.warnings.unwrap_or_default(), lint.sources.unwrap_or_default());
    let name = |location: &Location| {
        usize::try_from(location.source_index)
            .ok()
            .and_then(|index| sources.get(index))
            .map(|s| s.filename.clone())
    };
    warnings.sort_by_cached_key(|warning| {
        let line = warning.location.ranges.first().map(|range| range.start.line);
        let rule = if line.is_none() { warning.rule_name.clone() } else { String::new() };
        (name(&warning.location), line, rule)
    });
    let mut text = match warnings.len() {
        0 => String::new(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        count => format!("Check complete, {count} warnings have been found!\n"),
    };
    for warning in &warnings {
        let _ = write!(text, "\nWARNING: {}", inert::text(&warning.rule_name));
        if !warning.url.is_empty() {
            let _ = write!(text, " - {}", inert::text(&warning.url));
        }
        let _ = writeln!(text, "\n{}", inert::paragraph(&warning.detail));
        text.push_str(&warning.location.excerpt(&sources, dockerfile));
    }
    match lint.build_error {
        Some(error) => {
            if !warnings.is_empty() {
                text.push('\n');
            }
            let excerpt = error.location.excerpt(&sources, dockerfile);
            let title = format!("{}\n{excerpt}", inert::paragraph(&error.message));
            (text, Err(Failure::new(Exit::BuildFailed, title.trim_end())))
        }
        None => {
            if warnings.is_empty() {
                text.push_str("Check complete, no warnings found.\n");
            }
            (text, Ok(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, json: bool) -> Call {
        Call {
            method: method.to_owned(),
            json,
            ignore_status: false,
            dockerfile: "ctx/Dockerfile".to_owned(),
        }
    }

    fn shown(call: &Call, pairs: &[(&str, &str)]) -> Shown {
        show(call, &pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn findings() {
        let data = STANDARD.encode("from scratch\nFROM x\n");
        let lint = format!(
            r#"{{"warnings":[{{"ruleName":"Casing","url":"https://u","detail":"d\u001b[2J","location":{{"ranges":[{{"start":{{"line":1}},"end":{{"line":1}}}}]}}}}],
            "sources":[{{"filename":"Dockerfile","data":"{data}"}}]}}"#
        );
        let found = [("result.json", lint.as_str()), ("result.statuscode", "1"), ("version", "1.0.0")];
        let Shown { text, end } = shown(&call("lint", false), &found);
        assert_eq!(end.unwrap(), Exit::Unmet);
        insta::assert_snapshot!(text, @r"
        Check complete, 1 warning has been found!

        WARNING: Casing - https://u
        d␛[2J
        ctx/Dockerfile:1
        --------------------
           1 | >>> from scratch
           2 |     FROM x
        --------------------
        ");
        let ignoring = Call { ignore_status: true, ..call("lint", true) };
        let Shown { text, end } = shown(&ignoring, &found);
        assert_eq!((text, end.unwrap()), (format!("{lint}\n"), Exit::Ok));
        let none = shown(&call("lint", false), &[("result.json", r#"{"warnings":null,"sources":null}"#)]);
        assert_eq!(
            (none.text.as_str(), none.end.unwrap()),
            ("Check complete, no warnings found.\n", Exit::Ok)
        );
        let error = r#"{"buildError":{"message":"unknown","location":{"sourceIndex":7}}}"#;
        for json in [false, true] {
            let failure = shown(&call("lint", json), &[("result.json", error)]).end.unwrap_err();
            assert_eq!((failure.title.as_str(), failure.exit), ("unknown", Exit::BuildFailed));
        }
    }

    #[test]
    fn answers_that_are_none() {
        for (method, json) in
            [("lint", false), ("outline", false), ("targets", true), ("subrequests.describe", false)]
        {
            let shown = shown(&call(method, json), &[("result.json", "{\u{1b}")]);
            assert!(shown.text.is_empty() && shown.end.is_err(), "{method}");
        }
        let newer = shown(
            &call("outline", false),
            &[("result.json", "?"), ("version", "2.0.0"), ("result.txt", "new")],
        );
        assert_eq!(newer.text, "new");
    }

    #[test]
    fn tables() {
        let outline = r#"{"name":"b","args":[{"name":"A","value":"1"},{"name":"LONGER","description":"d"}],"secrets":[{"name":"s","required":true}]}"#;
        insta::assert_snapshot!(shown(&call("outline", false), &[("result.json", outline)]).text.replace(' ', "·"), @r"
        TARGET:·b

        BUILD·ARG···VALUE···DESCRIPTION
        A···········1·······
        LONGER··············d

        SECRET···REQUIRED
        s········true

        ");
        let targets = r#"{"targets":[{"name":"a","description":"first"},{"name":"last","default":true},{"default":true}]}"#;
        insta::assert_snapshot!(shown(&call("targets", false), &[("result.json", targets)]).text.replace(' ', "·"), @r"
        TARGET·········DESCRIPTION
        a··············first
        last·(default)·
        (default)······
        ");
    }
}
