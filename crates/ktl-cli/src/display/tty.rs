//! Progress on a terminal: a header and a row per step, drawn over itself.
//!
//! What a frame holds is decided by [`frame`], a pure function of the graph and the size of the terminal. Drawing it is
//! cursor movement in plain ANSI, one write per frame: up to the first row, each row and "erase to its end", then "erase
//! below". Running steps always have a row, then come their last lines of output, then finished steps as far as there is
//! room. The last frame holds every step and stays. Looks like the tty mode of moby/buildkit
//! `util/progress/progressui/display.go`.

use std::fmt::Write as _;
use std::time::Duration;

use super::graph::Graph;
use super::inert::{self, Sgr};
use super::intervals::between;
use super::step::{State, Status, Step};
use super::{Outcome, Size, amounts, cells};

/// A build that is over sooner shows its last frame only.
const SILENCE: Duration = Duration::from_millis(250);
/// 15 frames a second.
const REST: Duration = Duration::from_millis(66);
/// Lines of output under a running step.
const LOG_LINES: usize = 6;

/// The drawer of frames.
#[derive(Debug, Default)]
pub struct Tty {
    colour: bool,
    /// Widths of the rows on the screen.
    drawn: Vec<usize>,
    last: Option<Duration>,
}

impl Tty {
    pub fn new(colour: bool) -> Self {
        Self { colour, ..Self::default() }
    }

    /// Draws a frame if it is time for one.
    pub fn draw(&mut self, graph: &Graph, now: Duration, size: Size, out: &mut String) {
        if now >= SILENCE && self.last.is_none_or(|last| now.saturating_sub(last) >= REST) {
            self.last = Some(now);
            let rows = frame(graph, now, size, self.colour, None);
            self.put(&rows, size, out);
        }
    }

    /// Prints a line above the rows.
    pub fn note(&mut self, line: &str, graph: &Graph, now: Duration, size: Size, out: &mut String) {
        let drawn = !self.drawn.is_empty();
        self.erase(size, out);
        out.push_str(line);
        out.push('\n');
        if drawn {
            let rows = frame(graph, now, size, self.colour, None);
            self.put(&rows, size, out);
        }
    }

    /// Draws the frame that stays.
    pub fn finish(&mut self, graph: &Graph, now: Duration, size: Size, outcome: Outcome, out: &mut String) {
        self.erase(size, out);
        for row in frame(graph, now, size, self.colour, Some(outcome)) {
            out.push_str(&row);
            out.push('\n');
        }
    }

    fn erase(&mut self, size: Size, out: &mut String) {
        self.up(size, out);
        if !self.drawn.is_empty() {
            out.push_str("\u{1b}[J");
        }
        self.drawn.clear();
    }

    fn put(&mut self, rows: &[String], size: Size, out: &mut String) {
        out.push_str("\u{1b}[?25l");
        self.up(size, out);
        for row in rows {
            out.push_str(row);
            out.push_str("\u{1b}[K\n");
        }
        out.push_str("\u{1b}[J\u{1b}[?25h");
        self.drawn = rows.iter().map(|row| cells::width(row)).collect();
    }

    /// To the first row of the last frame. A terminal that has become narrower has wrapped the rows that no longer fit.
    fn up(&self, size: Size, out: &mut String) {
        let columns = usize::from(size.columns.max(1));
        let lines: usize = self.drawn.iter().map(|width| width.div_ceil(columns).max(1)).sum();
        let lines = lines.min(usize::from(size.rows.max(2)) - 1);
        if lines > 0 {
            let _ = write!(out, "\u{1b}[{lines}A\r");
        }
    }
}

/// How much of a step a frame shows.
#[derive(Debug, Default, Clone, Copy)]
struct Share {
    heading: bool,
    statuses: usize,
    warnings: usize,
    logs: usize,
}

/// The rows of one frame, none wider than the terminal, and unless it is the last one no more than it has lines.
fn frame(graph: &Graph, now: Duration, size: Size, colour: bool, outcome: Option<Outcome>) -> Vec<String> {
    let counts = graph.counts();
    let paint = Painter { columns: usize::from(size.columns.max(2)) - 1, colour };
    let state = match outcome {
        None => "",
        Some(Outcome::Done) => " FINISHED",
        Some(Outcome::Failed) => " FAILED",
        Some(Outcome::Cancelled) => " CANCELED",
    };
    let seconds = now.as_secs_f64();
    let header = format!("[+] Building {seconds:.1}s ({}/{}){state}", counts.completed, counts.total);
    let mut rows = vec![cells::fit(&header, paint.columns)];

    let steps: Vec<&Step> = graph.started().collect();
    let (shares, unseen) = match outcome {
        Some(_) => (steps.iter().map(|s| whole(s)).collect(), 0),
        None => divide(&steps, usize::from(size.rows).saturating_sub(2)),
    };
    if outcome.is_some() && graph.forgotten() > 0 {
        rows.push(paint.row(&format!(" => … {} earlier steps", graph.forgotten()), "", Some(BLUE)));
    }
    let daemon_now = graph.daemon_now(now);
    for (step, share) in steps.iter().zip(shares) {
        if !share.heading {
            continue;
        }
        let (mark, style) = match step.state() {
            State::Waiting | State::Running => ("", None),
            State::Done => ("", Some(BLUE)),
            State::Cached => ("CACHED ", Some(BLUE)),
            State::Failed => ("ERROR ", Some(RED)),
            State::Cancelled => ("CANCELED ", Some(YELLOW)),
        };
        let time = seconds_of(step.intervals.spent(daemon_now));
        rows.push(paint.row(&format!(" => {mark}{}", inert::text(&step.name)), &time, style));
        for status in chosen(step, share.statuses) {
            let start = status.started.unwrap_or(status.timestamp);
            let end = status.completed.or(daemon_now).unwrap_or(status.timestamp);
            let amount = amounts::transfer(status.current, status.total).map(|a| format!(" {a}"));
            let left = format!(" => => {}{}", inert::text(&status.id), amount.unwrap_or_default());
            let style = status.completed.and(Some(BLUE));
            rows.push(paint.row(&left, &seconds_of(between(start, end)), style));
        }
        for warning in step.warnings.iter().take(share.warnings) {
            rows.push(paint.row(&format!(" => => WARN: {}", inert::text(warning)), "", Some(YELLOW)));
        }
        for line in last_lines(step, share.logs) {
            rows.push(paint.log(line));
        }
    }
    if unseen > 0 {
        rows.push(paint.row(&format!(" => … and {unseen} more running"), "", None));
    }
    rows
}

fn whole(step: &Step) -> Share {
    Share { heading: true, statuses: step.statuses.len(), warnings: step.warnings.len(), logs: 0 }
}

/// Divides the rows among the steps; also the number of running steps that got none.
fn divide(steps: &[&Step], rows: usize) -> (Vec<Share>, usize) {
    let mut shares = vec![Share::default(); steps.len()];
    let mut free = rows;
    let running: Vec<usize> = (0..steps.len()).filter(|&n| steps[n].state() == State::Running).collect();
    let mut unseen = 0;
    let mut seen = running.as_slice();
    if running.len() > free {
        // One row tells of the others. The steps that run longest are the ones to wait for.
        let shown = free.saturating_sub(1);
        (seen, unseen) = (&running[..shown], running.len() - shown);
        unseen *= usize::from(free > 0);
        free -= free.min(1);
    }
    for &n in seen {
        shares[n].heading = true;
        free -= 1;
    }
    for &n in seen {
        let open = steps[n].statuses.iter().filter(|s| s.completed.is_none()).count();
        shares[n].statuses = open.min(free);
        free -= shares[n].statuses;
    }
    // Output of those that started last: they are what is new.
    for &n in seen.iter().rev() {
        let lines = last_lines(steps[n], LOG_LINES).count();
        if lines > 0 && free >= lines {
            shares[n].logs = lines;
            free -= lines;
        }
    }
    for n in (0..steps.len()).rev().filter(|n| steps[*n].is_completed()) {
        if free == 0 {
            break;
        }
        shares[n].heading = true;
        free -= 1;
    }
    for n in (0..steps.len()).rev().filter(|&n| steps[n].is_completed()) {
        if !shares[n].heading {
            break;
        }
        shares[n].warnings = steps[n].warnings.len().min(free);
        free -= shares[n].warnings;
        shares[n].statuses = steps[n].statuses.len().min(free);
        free -= shares[n].statuses;
    }
    (shares, unseen)
}

/// The counters of a step to show when there is room for so many: the open ones first, in the daemon's order.
fn chosen(step: &Step, room: usize) -> impl Iterator<Item = &Status> {
    let all = step.statuses.len() <= room;
    step.statuses.iter().filter(move |s| all || step.is_completed() || s.completed.is_none()).take(room)
}

/// The last lines of output, with the one that is being written.
fn last_lines(step: &Step, most: usize) -> impl Iterator<Item = &[u8]> {
    let lines = step.tail.iter().chain(step.open_line.open()).map(|line| line.text.as_slice());
    let lines = lines.filter(|text| !text.iter().all(u8::is_ascii_whitespace));
    let count = lines.clone().count();
    lines.skip(count.saturating_sub(most))
}

fn seconds_of(spent: Duration) -> String {
    let seconds = spent.as_secs_f64();
    format!("{:.1}s", if seconds < 0.05 { 0.0 } else { seconds })
}

const RED: u8 = 31;
const YELLOW: u8 = 33;
const BLUE: u8 = 34;

/// Lays out rows for a width, with colour if wanted.
#[derive(Debug)]
struct Painter {
    columns: usize,
    colour: bool,
}

impl Painter {
    /// A text at the left and one at the right edge, if there is room for both.
    fn row(&self, left: &str, right: &str, style: Option<u8>) -> String {
        let room = self.columns.saturating_sub(right.len() + 1);
        let text = if right.is_empty() || room < 12 {
            cells::fit(left, self.columns)
        } else {
            let left = cells::fit(left, room);
            let gap = self.columns - cells::width(&left) - right.len();
            format!("{left}{:gap$}{right}", "")
        };
        match style.filter(|_| self.colour) {
            Some(style) => format!("\u{1b}[{style}m{text}\u{1b}[0m"),
            None => text,
        }
    }

    /// A line of a program's output, which may have brought its own colours.
    fn log(&self, line: &[u8]) -> String {
        let sgr = if self.colour { Sgr::Keep } else { Sgr::Drop };
        let text = cells::fit(&format!(" => => # {}", inert::line(line, sgr)), self.columns);
        if self.colour { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text }
    }
}
