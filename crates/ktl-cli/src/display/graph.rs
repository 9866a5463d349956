//! The state of a build, reduced from its events.
//!
//! All displays look at this one reducer. It is pure: time comes in with each event, as the time since the display
//! began, and nothing is printed here. The daemon is not trusted to be reasonable: what is kept is bounded, a finished
//! step may be forgotten for a new one, and what found no room is counted. Times within steps are in the daemon's
//! clock; [`Graph::daemon_now`] continues it with ours, so that the two need not agree.
//! Follows the merging of moby/buildkit `util/progress/progressui/display.go`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use buildsvc::event::{Event, ProgressGroup, Vertex, VertexLog, VertexStatus, VertexWarning};

use super::inert::bounded;
use super::intervals::between;
use super::step::{ID_MAX, NAME_MAX, State, Step, weight};

/// Steps kept at once.
pub const STEPS_MAX: usize = 2048;
/// Counters and warnings of all steps together.
const STATUSES_MAX: usize = 16 * 1024;
const NOTES_MAX: usize = 4096;
const MEMBERS_MAX: usize = 4 * STEPS_MAX;
const WARNINGS_MAX: usize = 256;
/// Bytes kept of all warnings together; each may bring its whole source file.
const WARNING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Names a step within its graph, in the order in which the daemon announced them.
pub type StepId = u64;

/// How many steps there are, in whatever state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub total: u64,
    pub completed: u64,
    pub cached: u64,
    /// Updates that were out of bounds, or about steps for which there was no room.
    pub refused: u64,
}

/// The reducer.
#[derive(Debug, Default)]
pub struct Graph {
    /// Keep each line of output until it is taken, and note which steps changed.
    follow: bool,
    steps: BTreeMap<StepId, Step>,
    /// By digest of a vertex; a member of a group leads to its group.
    by_digest: HashMap<String, StepId>,
    groups: HashMap<String, StepId>,
    members: HashMap<String, Member>,
    next_id: StepId,
    /// Steps to be shown, in the order in which they started.
    started: BTreeMap<u64, StepId>,
    next_order: u64,
    running: BTreeSet<StepId>,
    updated: BTreeSet<StepId>,
    /// Finished steps that may be forgotten, oldest first.
    finished: VecDeque<StepId>,
    /// A moment in the daemon's clock, and the same moment since the display began.
    clocks: Option<(SystemTime, Duration)>,
    forgotten: Counts,
    pending_bytes: usize,
    warnings: Vec<VertexWarning>,
    warning_bytes: usize,
    statuses: usize,
    notes: usize,
    warnings_dropped: u64,
}

#[derive(Debug)]
struct Member {
    group: StepId,
    cached: bool,
}

impl Graph {
    /// With `follow`, the display takes every line and every change through [`Self::updated`] and [`Self::take`].
    pub fn new(follow: bool) -> Self {
        Self { follow, ..Self::default() }
    }

    /// Reduces one event that came at `now`.
    pub fn apply(&mut self, event: &Event, now: Duration) {
        let mut touched = BTreeSet::new();
        self.forgotten.refused += event.dropped;
        for vertex in &event.vertexes {
            let id = match &vertex.progress_group {
                Some(group) => self.member(vertex, group, now),
                None => self.vertex(vertex, now),
            };
            if let Some(id) = id {
                self.place(id);
                touched.insert(id);
            }
        }
        for status in &event.statuses {
            self.status(status, now);
        }
        for warning in &event.warnings {
            self.warning(warning, now);
        }
        for log in &event.logs {
            touched.extend(self.log(log, now));
        }
        for id in touched {
            self.close(id);
        }
    }

    pub fn counts(&self) -> Counts {
        let mut counts = self.forgotten;
        for step in self.steps.values().filter(|s| !s.hidden) {
            counts.total += 1;
            counts.completed += u64::from(step.is_completed());
            counts.cached += u64::from(step.state() == State::Cached);
        }
        counts
    }

    /// Steps that were forgotten: they finished long ago.
    pub fn forgotten(&self) -> u64 {
        self.forgotten.total
    }

    /// The steps that have started, in that order.
    pub fn started(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.started.values().filter_map(|id| self.steps.get(id))
    }

    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.get(&id)
    }

    pub fn step_mut(&mut self, id: StepId) -> Option<&mut Step> {
        self.steps.get_mut(&id)
    }

    /// Gives the display access to a step that it is about to show.
    pub fn take(&mut self, id: StepId) -> Option<&mut Step> {
        self.updated.remove(&id);
        let step = self.steps.get_mut(&id)?;
        self.pending_bytes = self.pending_bytes.saturating_sub(step.pending.iter().map(weight).sum());
        Some(step)
    }

    /// Steps that changed since they were last taken.
    pub fn updated(&self) -> impl Iterator<Item = (StepId, &Step)> {
        self.updated.iter().filter_map(|id| Some((*id, self.steps.get(id)?))).filter(|(_, s)| !s.hidden)
    }

    pub fn updated_count(&self) -> usize {
        self.updated.len()
    }

    /// The step that has been running longest.
    pub fn first_running(&self) -> Option<StepId> {
        self.running.iter().copied().find(|id| self.steps.get(id).is_some_and(|s| !s.hidden))
    }

    /// Memory that lines take which the display has not shown yet.
    pub fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    pub fn warnings(&self) -> (&[VertexWarning], u64) {
        (&self.warnings, self.warnings_dropped)
    }

    /// What the daemon's clock shows now, if it has told a time yet.
    pub fn daemon_now(&self, now: Duration) -> Option<SystemTime> {
        let (theirs, ours) = self.clocks?;
        theirs.checked_add(now.saturating_sub(ours))
    }

    /// Ends the lines that are still open: nothing more will come.
    pub fn end(&mut self) {
        let Self { steps, updated, follow, pending_bytes, .. } = self;
        for (id, step) in steps {
            let grown = step.end_line(*follow && !step.hidden);
            if grown > 0 {
                *pending_bytes += grown;
                updated.insert(*id);
            }
        }
    }

    fn vertex(&mut self, vertex: &Vertex, now: Duration) -> Option<StepId> {
        if vertex.digest.len() > ID_MAX {
            self.forgotten.refused += 1;
            return None;
        }
        let known = self.by_digest.get(&vertex.digest).copied().filter(|id| self.steps.contains_key(id));
        let id = match known {
            Some(id) => id,
            None => self.add(Step { digest: vertex.digest.clone(), ..Step::default() })?,
        };
        if known.is_none() {
            self.by_digest.insert(vertex.digest.clone(), id);
        }
        self.started_at(vertex.started, now);
        let step = self.steps.get_mut(&id)?;
        let mut changed = known.is_none() | step.set_name(&vertex.name);
        // An announcement may come again after the start; it does not take the state back.
        if vertex.started.is_some() || !step.intervals.is_started() {
            changed |= step.set_error(&vertex.error);
            changed |= std::mem::replace(&mut step.cached, vertex.cached) != vertex.cached;
        }
        if let Some(start) = vertex.started {
            changed |= step.intervals.set(start, vertex.completed);
        }
        // A step that is only announced is nothing to show yet.
        if changed && step.intervals.is_started() {
            self.changed(id, now);
        }
        Some(id)
    }

    fn member(&mut self, vertex: &Vertex, group: &ProgressGroup, now: Duration) -> Option<StepId> {
        if vertex.digest.len() > ID_MAX || group.id.len() > ID_MAX {
            self.forgotten.refused += 1;
            return None;
        }
        let known = self.groups.get(&group.id).copied().filter(|id| self.steps.contains_key(id));
        let id = match known {
            Some(id) => id,
            None => {
                let name = bounded(&group.name, NAME_MAX);
                let step =
                    Step { digest: group.id.clone(), name, hidden: true, is_group: true, ..Step::default() };
                let id = self.add(step)?;
                self.groups.insert(group.id.clone(), id);
                id
            }
        };
        self.started_at(vertex.started, now);
        let step = self.steps.get_mut(&id)?;
        let (was_uncached, fresh) = match self.members.get_mut(&vertex.digest) {
            Some(member) if member.group == id => {
                (!std::mem::replace(&mut member.cached, vertex.cached), false)
            }
            _ => (false, true),
        };
        if fresh {
            if self.members.len() >= MEMBERS_MAX {
                self.forgotten.refused += 1;
                return None;
            }
            self.members.insert(vertex.digest.clone(), Member { group: id, cached: vertex.cached });
            self.by_digest.insert(vertex.digest.clone(), id);
        }
        step.uncached_members =
            step.uncached_members + usize::from(!vertex.cached) - usize::from(was_uncached);
        let cached = step.uncached_members == 0;
        let was_hidden = step.hidden;
        let mut changed = std::mem::replace(&mut step.cached, cached) != cached;
        if step.error.is_empty() && !vertex.error.is_empty() {
            changed |= step.set_error(&vertex.error);
        }
        if let Some(start) = vertex.started {
            changed |= step.intervals.set(start, vertex.completed);
            step.hidden &= group.weak;
        }
        step.hidden &= step.error.is_empty();
        changed |= was_hidden != step.hidden;
        if changed {
            self.changed(id, now);
        }
        Some(id)
    }

    fn status(&mut self, status: &VertexStatus, now: Duration) {
        let Some(&id) = self.by_digest.get(&status.vertex) else { return };
        let Some(step) = self.steps.get_mut(&id) else { return };
        let before = step.statuses.len();
        let taken = (self.statuses < STATUSES_MAX || step.has_status(&status.id)) && step.set_status(status);
        self.statuses = (self.statuses + step.statuses.len()).saturating_sub(before);
        if taken {
            self.changed(id, now);
        } else {
            self.forgotten.refused += 1;
        }
    }

    fn warning(&mut self, warning: &VertexWarning, now: Duration) {
        let bytes = self.warning_bytes.saturating_add(size_of_warning(warning));
        if self.warnings.len() < WARNINGS_MAX && bytes <= WARNING_BYTES_MAX {
            self.warning_bytes = bytes;
            self.warnings.push(warning.clone());
        } else {
            self.warnings_dropped += 1;
        }
        let Some(&id) = self.by_digest.get(&warning.vertex) else { return };
        if let Some(step) = self.steps.get_mut(&id)
            && self.notes < NOTES_MAX
        {
            self.notes += usize::from(step.warn(&warning.short));
            self.changed(id, now);
        }
    }

    fn log(&mut self, log: &VertexLog, now: Duration) -> Option<StepId> {
        let id = *self.by_digest.get(&log.vertex)?;
        let step = self.steps.get_mut(&id)?;
        let at = step.intervals.latest_start().map_or(Duration::ZERO, |start| between(start, log.timestamp));
        self.pending_bytes += step.log(&log.data, at, self.follow && !step.hidden);
        self.changed(id, now);
        Some(id)
    }

    fn started_at(&mut self, started: Option<SystemTime>, now: Duration) {
        if let (None, Some(started)) = (self.clocks, started) {
            self.clocks = Some((started, now));
        }
    }

    fn changed(&mut self, id: StepId, now: Duration) {
        if let Some(step) = self.steps.get_mut(&id) {
            if step.updates == 0 {
                step.waiting_since = now;
            }
            step.updates = step.updates.saturating_add(1);
            if self.follow && !step.hidden {
                self.updated.insert(id);
            }
        }
    }

    /// Puts a step where its state belongs.
    fn place(&mut self, id: StepId) {
        let Some(step) = self.steps.get_mut(&id) else { return };
        if step.order.is_none() && step.intervals.is_started() && !step.hidden {
            step.order = Some(self.next_order);
            self.started.insert(self.next_order, id);
            self.next_order += 1;
        }
        match step.state() {
            State::Waiting => {}
            State::Running => {
                self.running.insert(id);
            }
            state => {
                self.running.remove(&id);
                if !step.queued && state != State::Failed {
                    step.queued = true;
                    self.finished.push_back(id);
                }
            }
        }
    }

    /// Ends the output of a step that is over, after all that one event says about it.
    fn close(&mut self, id: StepId) {
        let Some(step) = self.steps.get_mut(&id).filter(|s| s.is_completed()) else { return };
        self.pending_bytes += step.end_line(self.follow && !step.hidden);
        if step.state() != State::Failed {
            step.tail = VecDeque::new();
        }
    }

    fn add(&mut self, step: Step) -> Option<StepId> {
        if self.steps.len() >= STEPS_MAX && !self.forget_one() {
            self.forgotten.refused += 1;
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.steps.insert(id, step);
        Some(id)
    }

    /// Makes room by the finished step that is oldest and has been shown.
    fn forget_one(&mut self) -> bool {
        for _ in 0..self.finished.len().min(64) {
            let Some(id) = self.finished.pop_front() else { break };
            let Some(step) = self.steps.get_mut(&id) else { continue };
            step.queued = false;
            if !step.is_completed() {
                continue;
            }
            if self.updated.contains(&id) {
                step.queued = true;
                self.finished.push_back(id);
                continue;
            }
            self.forget(id);
            return true;
        }
        false
    }

    fn forget(&mut self, id: StepId) {
        let Some(step) = self.steps.remove(&id) else { return };
        self.running.remove(&id);
        self.statuses = self.statuses.saturating_sub(step.statuses.len());
        self.notes = self.notes.saturating_sub(step.warnings.len());
        if let Some(order) = step.order {
            self.started.remove(&order);
        }
        if step.is_group {
            self.groups.remove(&step.digest);
            self.members.retain(|_, m| m.group != id);
            self.by_digest.retain(|_, step| *step != id);
        } else {
            self.by_digest.remove(&step.digest);
        }
        if !step.hidden {
            self.forgotten.total += 1;
            self.forgotten.completed += 1;
            self.forgotten.cached += u64::from(step.state() == State::Cached);
        }
    }
}

fn size_of_warning(warning: &VertexWarning) -> usize {
    let source = warning.source.as_ref().map_or(0, |s| s.data.len() + s.filename.len() + s.language.len());
    let detail: usize = warning.detail.iter().map(|d| d.len() + size_of::<Vec<u8>>()).sum();
    let ranges = size_of_val(warning.ranges.as_slice());
    source + detail + ranges + warning.vertex.len() + warning.short.len() + warning.url.len()
}
