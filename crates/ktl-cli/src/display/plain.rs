//! Progress as plain text, for logs, CI and pipes.
//!
//! Steps run side by side but text has one line at a time, so the display writes blocks: one step is current and keeps
//! its turn while it has most to say; the others wait, and finished ones go first. Each line begins with its step's
//! number, so that a reader can follow one step by searching for `#5`, and no line of a program's output can begin with
//! something that a CI runner would take for an order. Looks like moby/buildkit `util/progress/progressui/printer.go`.

use std::fmt::Write as _;
use std::time::Duration;

use super::amounts;
use super::graph::{Graph, StepId};
use super::inert::{self, Sgr};
use super::intervals::between;
use super::step::{State, Status, Step};

/// Between two looks at what is new; events in between are written together.
const REST: Duration = Duration::from_millis(100);
/// Waiting text that is written at once instead of being kept.
const PENDING_MAX: usize = 4 * 1024 * 1024;
const UPDATED_MAX: usize = 1024;
/// A step keeps its turn about that long.
const TURN: Duration = Duration::from_secs(5);
/// A step that waits longer gets the turn.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// The writer of blocks.
#[derive(Debug, Default)]
pub struct Plain {
    current: Option<StepId>,
    numbers: u32,
    begun: bool,
    last: Option<Duration>,
}

impl Plain {
    /// Writes what is new, unless something was written a moment ago and more can wait.
    pub fn draw(&mut self, graph: &mut Graph, now: Duration, out: &mut String) {
        if graph.pending_bytes() > PENDING_MAX || graph.updated_count() > UPDATED_MAX {
            self.last = Some(now);
            self.write_all(graph, out);
        } else if self.last.is_none_or(|last| now.saturating_sub(last) >= REST) {
            self.last = Some(now);
            self.write_turns(graph, now, out);
        }
    }

    /// A line between the steps.
    pub fn note(&mut self, line: &str, out: &mut String) {
        out.push_str(line);
        out.push('\n');
    }

    /// Writes everything that is left.
    pub fn finish(&mut self, graph: &mut Graph, out: &mut String) {
        graph.end();
        self.write_all(graph, out);
    }

    fn write_turns(&mut self, graph: &mut Graph, now: Duration, out: &mut String) {
        self.write_completed(graph, out);
        let waiting: Vec<StepId> = graph
            .updated()
            .filter(|(_, s)| !s.is_completed() && (s.intervals.is_started() || s.has_news()))
            .map(|(id, _)| id)
            .collect();
        let current_runs =
            self.current.filter(|&id| graph.step(id).is_some_and(|s| s.state() == State::Running));
        if waiting.is_empty() {
            if current_runs.is_none()
                && let Some(id) = graph.first_running()
            {
                self.write(graph, id, out);
            }
            return;
        }
        // Decided on how much each has to say before the current one is written, which starts its count again.
        let next = self.next_turn(graph, &waiting, now);
        if let Some(current) = self.current.filter(|id| waiting.contains(id)) {
            self.write(graph, current, out);
        }
        if let Some(next) = next
            && self.current != Some(next)
        {
            self.write(graph, next, out);
        }
    }

    /// The step that gets the turn now; none while the current one keeps it.
    fn next_turn(&self, graph: &Graph, waiting: &[StepId], now: Duration) -> Option<StepId> {
        let waited = |step: &Step| now.saturating_sub(step.waiting_since);
        // Updates per second, at a resolution that tells steps apart which have all just begun.
        let speed = |step: &Step| f64::from(step.updates) / waited(step).as_secs_f64().max(0.001);
        let others = waiting.iter().filter(|id| Some(**id) != self.current);
        let others: Vec<(StepId, &Step)> = others.filter_map(|id| Some((*id, graph.step(*id)?))).collect();
        if let Some((id, _)) = others.iter().find(|(_, s)| waited(s) > WAIT_MAX) {
            return Some(*id);
        }
        // Of equals the one that started first.
        let busiest = others.iter().rev().max_by(|a, b| speed(a.1).total_cmp(&speed(b.1)));
        let busiest = busiest.map(|(id, _)| *id);
        let current = self.current.and_then(|id| graph.step(id)).filter(|s| !s.is_completed());
        let Some(current) = current else { return busiest };
        let own = speed(current);
        let all: f64 = own + others.iter().map(|(_, s)| speed(s)).sum::<f64>();
        let share = if all > 0.0 { own / all } else { 0.0 };
        // The larger the current step's share, the longer its turn; alone it keeps it.
        let turn = TURN.as_secs_f64() / (1.0 - share).max(f64::EPSILON);
        (waited(current).as_secs_f64() > turn).then_some(busiest).flatten()
    }

    fn write_completed(&mut self, graph: &mut Graph, out: &mut String) {
        let mut completed: Vec<_> = graph
            .updated()
            .filter(|(_, s)| s.is_completed())
            .map(|(id, s)| (self.current != Some(id), s.intervals.latest_stop(), id))
            .collect();
        completed.sort();
        for (_, _, id) in completed {
            self.write(graph, id, out);
        }
    }

    fn write_all(&mut self, graph: &mut Graph, out: &mut String) {
        self.write_completed(graph, out);
        let rest: Vec<StepId> = graph
            .updated()
            .filter(|(_, s)| s.intervals.is_started() || s.has_news())
            .map(|(id, _)| id)
            .collect();
        for id in rest {
            self.write(graph, id, out);
        }
    }

    /// Writes what is new of a step, under its heading if the turn changes, and how it ended if it did.
    fn write(&mut self, graph: &mut Graph, id: StepId, out: &mut String) {
        if let Some(old) = self.current.filter(|old| *old != id)
            && let Some(old) = graph.step_mut(old)
        {
            old.updates = 0;
            let _ = writeln!(out, "#{} ...", old.number.unwrap_or_default());
        }
        let Some(step) = graph.take(id) else { return };
        let number = *step.number.get_or_insert_with(|| {
            self.numbers += 1;
            self.numbers
        });
        if self.current != Some(id) {
            if std::mem::replace(&mut self.begun, true) {
                out.push('\n');
            }
            let _ = writeln!(out, "#{number} {}", inert::text(&step.name));
        }
        self.current = Some(id);
        let open = write_statuses(step, number, out);
        for warning in &step.warnings[step.warnings_shown..] {
            let _ = writeln!(out, "#{number} WARN: {}", inert::text(warning));
        }
        step.warnings_shown = step.warnings.len();
        for line in step.pending.drain(..) {
            let text = inert::line(&line.text, Sgr::Drop);
            let _ = writeln!(out, "#{number} {} {text}", amounts::stamp(line.at));
        }
        if !step.is_completed() || open {
            return;
        }
        self.current = None;
        step.updates = 0;
        match step.state() {
            State::Cancelled => {
                let _ = writeln!(out, "#{number} CANCELED");
            }
            State::Failed => {
                for (n, line) in step.error.lines().enumerate() {
                    let mark = if n == 0 { "ERROR: " } else { "" };
                    let _ = writeln!(out, "#{number} {mark}{}", inert::text(line));
                }
            }
            State::Cached => {
                let _ = writeln!(out, "#{number} CACHED");
            }
            _ => {
                let _ = writeln!(out, "#{number} DONE {:.1}s", step.intervals.spent(None).as_secs_f64());
            }
        }
    }
}

/// Writes the counters that moved enough; true if one of them is still counting.
fn write_statuses(step: &mut Step, number: u32, out: &mut String) -> bool {
    let mut open = false;
    for status in step.statuses.iter_mut().filter(|s| s.fresh) {
        status.fresh = false;
        if !moved(status) {
            continue;
        }
        status.shown = Some((status.current, status.timestamp));
        let _ = write!(out, "#{number} {}", inert::text(&status.id));
        if let Some(amount) = amounts::transfer(status.current, status.total) {
            let _ = write!(out, " {amount}");
        }
        let end = status.completed.unwrap_or(status.timestamp);
        let spent = status.started.map_or(Duration::ZERO, |start| between(start, end)).as_secs_f64();
        if spent > 0.01 {
            let _ = write!(out, " {spent:.1}s");
        }
        if status.completed.is_some() {
            out.push_str(" done");
        }
        out.push('\n');
        open |= status.completed.is_none();
    }
    open
}

/// Whether a counter is worth a line again: it ended, went on by a twentieth, or five seconds have passed.
fn moved(status: &Status) -> bool {
    let Some((current, at)) = status.shown.filter(|_| status.completed.is_none()) else { return true };
    let part = match status.total {
        total if total > 0 => status.current.saturating_sub(current) as f64 / total as f64,
        _ => 0.0,
    };
    part >= 0.05 || between(at, status.timestamp) >= Duration::from_secs(5)
}
