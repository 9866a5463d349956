//! Quotes the lines of a source file that an error is about.
//!
//! The form is the one buildx and buildctl print, which people who build know by sight. Follows
//! moby/buildkit `solver/errdefs/source.go`: `file:line`, a rule, numbered lines with `>>>` before those meant.

use std::fmt::Write as _;

use buildsvc::event::{SourceInfo, SourceRange};

use crate::display::inert::{self, Sgr};

const RULE: &str = "--------------------";
/// A range may cover a whole file, and a line may be a whole program.
const LINES_MAX: usize = 40;
const LINE_MAX: usize = 500;

/// The excerpt with a newline at its end; nothing if the ranges lie outside of the source.
pub fn render(source: &SourceInfo, ranges: &[SourceRange], colour: bool) -> String {
    let marked: Vec<(usize, usize)> = ranges
        .iter()
        .filter_map(|range| {
            let start = usize::try_from(range.start.line).ok()?;
            Some((start, usize::try_from(range.end.line).ok()?.max(start)))
        })
        .collect();
    let lines: Vec<&[u8]> =
        source.data.strip_suffix(b"\n").unwrap_or(&source.data).split(|&b| b == b'\n').collect();
    let Some(start) = marked.iter().map(|m| m.0).min().filter(|start| (1..=lines.len()).contains(start))
    else {
        return String::new();
    };
    let end = marked.iter().map(|m| m.1).max().unwrap_or(start).min(lines.len());
    let (first, last) = with_context(start, end, lines.len());

    let mut out =
        format!("{}:{start}\n{RULE}\n", inert::paragraph(&inert::bounded(&source.filename, LINE_MAX)));
    for number in (first..=last).take(LINES_MAX) {
        let meant = marked.iter().any(|m| (m.0..=m.1).contains(&number));
        let line = lines[number - 1];
        let mut text = inert::line(&line[..line.len().min(LINE_MAX)], Sgr::Drop).replace('␍', "");
        if line.len() > LINE_MAX {
            text.push('…');
        }
        let mark = if meant { ">>>" } else { "   " };
        let row = format!(" {number:>3} | {mark} {text}");
        let row = row.trim_end();
        if meant && colour {
            let _ = writeln!(out, "\u{1b}[31m{row}\u{1b}[0m");
        } else {
            let _ = writeln!(out, "{row}");
        }
    }
    if last - first >= LINES_MAX {
        let _ = writeln!(out, "     | … {} more lines", last - first + 1 - LINES_MAX);
    }
    let _ = writeln!(out, "{RULE}");
    out
}

/// Two lines around the range, or four if it is a single one; what one side lacks the other side gets.
fn with_context(start: usize, end: usize, count: usize) -> (usize, usize) {
    let wanted = if start == end { 4 } else { 2 };
    let (mut first, mut last, mut added) = (start, end, 0);
    // Each round counts one more than the lines it adds, so that a range at an edge does not get all on one side.
    while added < wanted {
        if first > 1 {
            first -= 1;
            added += 1;
        }
        if last < count {
            last += 1;
            added += 1;
        }
        added += 1;
    }
    (first, last)
}
