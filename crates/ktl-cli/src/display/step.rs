//! What is remembered of one step of the build.
//!
//! A step is a vertex of the daemon's graph, or a progress group that stands for several. Everything in it is bounded:
//! the daemon decides how much it sends, not how much we keep.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use buildsvc::event::VertexStatus;

use super::inert::bounded;
use super::intervals::Intervals;
use super::lines::{Line, LineBuffer};

/// Lines of output kept for the report of a failure.
pub const TAIL_LINES: usize = 10;
/// Bytes kept of each line of the tail.
const TAIL_LINE_MAX: usize = 1024;
const STATUSES_MAX: usize = 128;
const WARNINGS_MAX: usize = 64;
pub const ID_MAX: usize = 512;
const WARNING_MAX: usize = 1024;
pub const NAME_MAX: usize = 2 * 1024;
pub const ERROR_MAX: usize = 8 * 1024;

/// A step as the displays see it. Names, errors and lines are untrusted.
#[derive(Debug, Default)]
pub struct Step {
    /// The vertex's digest, or the id of the progress group.
    pub digest: String,
    pub name: String,
    pub cached: bool,
    pub error: String,
    pub intervals: Intervals,
    pub statuses: Vec<Status>,
    /// First lines of its warnings.
    pub warnings: Vec<String>,
    /// The last lines of output, oldest first.
    pub tail: VecDeque<Line>,
    /// The line that is still being written.
    pub open_line: LineBuffer,
    /// All lines since the last time they were taken, if the display wants them all.
    pub pending: Vec<Line>,
    /// Of a progress group none of whose strong members has started; of its output only the tail is kept.
    pub hidden: bool,
    pub is_group: bool,
    /// Number in the plain display, given when it is first shown.
    pub number: Option<u32>,
    /// Warnings that the plain display has shown.
    pub warnings_shown: usize,
    /// Updates since it was last shown, and when the first of them came.
    pub updates: u32,
    pub waiting_since: Duration,
    /// Position among the steps that have started.
    pub(super) order: Option<u64>,
    /// Waits among the finished for being forgotten.
    pub(super) queued: bool,
    /// Members of a group that are not cached.
    pub(super) uncached_members: usize,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waiting,
    Running,
    Done,
    Cached,
    Failed,
    Cancelled,
}

impl Step {
    pub fn state(&self) -> State {
        match (self.intervals.is_started(), self.intervals.is_completed()) {
            (_, true) if self.error.ends_with("context canceled") => State::Cancelled,
            (_, true) if !self.error.is_empty() => State::Failed,
            (_, true) if self.cached => State::Cached,
            (_, true) => State::Done,
            (true, false) => State::Running,
            (false, false) => State::Waiting,
        }
    }

    pub fn is_completed(&self) -> bool {
        self.intervals.is_completed()
    }

    /// Something to show although it may not have started.
    pub fn has_news(&self) -> bool {
        !self.pending.is_empty()
            || self.warnings_shown < self.warnings.len()
            || self.statuses.iter().any(|s| s.fresh)
    }

    pub(super) fn set_name(&mut self, name: &str) -> bool {
        let changed = !name.is_empty() && !same_bounded(&self.name, name, NAME_MAX);
        if changed {
            self.name = bounded(name, NAME_MAX);
        }
        changed
    }

    pub(super) fn set_error(&mut self, error: &str) -> bool {
        let changed = !same_bounded(&self.error, error, ERROR_MAX);
        if changed {
            // What tells a cancellation from a failure stands at the end.
            self.error = match error.ends_with("context canceled") && error.len() > ERROR_MAX {
                true => "context canceled".to_owned(),
                false => bounded(error, ERROR_MAX),
            };
        }
        changed
    }

    pub(super) fn has_status(&self, id: &str) -> bool {
        let id = bounded(id, ID_MAX);
        self.statuses.iter().any(|status| status.id == id)
    }

    /// True if it was taken: a step has room for so many counters only.
    pub(super) fn set_status(&mut self, status: &VertexStatus) -> bool {
        let id = bounded(&status.id, ID_MAX);
        let known = self.statuses.iter().position(|s| s.id == id);
        let at = match known {
            Some(at) => at,
            None => {
                if self.statuses.len() >= STATUSES_MAX {
                    let Some(old) = self.statuses.iter().position(|s| s.completed.is_some() && !s.fresh)
                    else {
                        return false;
                    };
                    self.statuses.remove(old);
                }
                self.statuses.push(Status::new(id, status.timestamp));
                self.statuses.len() - 1
            }
        };
        let slot = &mut self.statuses[at];
        slot.current = status.current;
        slot.total = status.total;
        slot.timestamp = status.timestamp;
        slot.started = status.started;
        slot.completed = status.completed;
        slot.fresh = true;
        true
    }

    /// True if it was taken.
    pub(super) fn warn(&mut self, short: &[u8]) -> bool {
        let has_room = self.warnings.len() < WARNINGS_MAX;
        if has_room {
            self.warnings
                .push(bounded(&String::from_utf8_lossy(&short[..short.len().min(WARNING_MAX)]), WARNING_MAX));
        }
        has_room
    }

    /// Takes a chunk of output; the bytes that `pending` grew by.
    pub(super) fn log(&mut self, chunk: &[u8], at: Duration, keep: bool) -> usize {
        let Self { open_line, tail, pending, .. } = self;
        let mut grown = 0;
        open_line.push(chunk, at, |line| grown += add_line(tail, pending, line, keep));
        grown
    }

    /// Ends the open line of a step that is over; the bytes that `pending` grew by.
    pub(super) fn end_line(&mut self, keep: bool) -> usize {
        match self.open_line.end() {
            Some(line) => add_line(&mut self.tail, &mut self.pending, line, keep),
            None => 0,
        }
    }
}

/// What a line weighs in memory, roughly.
pub(super) fn weight(line: &Line) -> usize {
    line.text.len() + size_of::<Line>()
}

fn add_line(tail: &mut VecDeque<Line>, pending: &mut Vec<Line>, line: Line, keep: bool) -> usize {
    let mut slot =
        if tail.len() >= TAIL_LINES { tail.pop_front().unwrap_or_default() } else { Line::default() };
    slot.at = line.at;
    slot.text.clear();
    slot.text.extend_from_slice(&line.text[..line.text.len().min(TAIL_LINE_MAX)]);
    if line.text.len() > TAIL_LINE_MAX {
        slot.text.extend_from_slice("…".as_bytes());
    }
    tail.push_back(slot);
    if !keep {
        return 0;
    }
    let grown = weight(&line);
    pending.push(line);
    grown
}

fn same_bounded(kept: &str, new: &str, max: usize) -> bool {
    if new.len() <= max { kept == new } else { kept == bounded(new, max) }
}

/// A counter of a step.
#[derive(Debug, Clone)]
pub struct Status {
    pub id: String,
    pub current: i64,
    pub total: i64,
    pub timestamp: SystemTime,
    pub started: Option<SystemTime>,
    pub completed: Option<SystemTime>,
    /// Changed since it was last shown.
    pub fresh: bool,
    /// What the plain display showed last.
    pub shown: Option<(i64, SystemTime)>,
}

impl Status {
    fn new(id: String, timestamp: SystemTime) -> Self {
        Self { id, current: 0, total: 0, timestamp, started: None, completed: None, fresh: true, shown: None }
    }
}
