//! The spans of time in which a step ran.
//!
//! A step may start and stop several times, and a progress group runs whenever one of its members does, so spans overlap
//! and are updated by their start. Follows the merging in moby/buildkit `util/progress/progressui/display.go`.

use std::time::{Duration, SystemTime};

/// Spans kept apart; beyond that the oldest are folded into a sum.
const MAX: usize = 256;

/// Spans by start, in the daemon's clock.
#[derive(Debug, Default, Clone)]
pub struct Intervals {
    spans: Vec<(SystemTime, Option<SystemTime>)>,
    folded: Duration,
    latest_start: Option<SystemTime>,
}

impl Intervals {
    /// Adds a span, or gives the one with this start its end. True if anything changed.
    pub fn set(&mut self, start: SystemTime, stop: Option<SystemTime>) -> bool {
        let changed = match self.spans.binary_search_by_key(&start, |s| s.0) {
            Ok(at) => std::mem::replace(&mut self.spans[at].1, stop) != stop,
            Err(at) => {
                self.spans.insert(at, (start, stop));
                if self.spans.len() > MAX {
                    let (start, stop) = self.spans.remove(0);
                    self.folded += stop.map_or(Duration::ZERO, |stop| between(start, stop));
                }
                true
            }
        };
        if changed {
            self.latest_start = self.merged().last().map(|s| s.0);
        }
        changed
    }

    pub fn is_started(&self) -> bool {
        !self.spans.is_empty()
    }

    /// Started, and no span is open.
    pub fn is_completed(&self) -> bool {
        self.is_started() && self.spans.iter().all(|s| s.1.is_some())
    }

    /// Start of the latest span after merging: where the clock of a step's log lines begins.
    pub fn latest_start(&self) -> Option<SystemTime> {
        self.latest_start
    }

    /// When the last span ended.
    pub fn latest_stop(&self) -> Option<SystemTime> {
        self.spans.iter().filter_map(|s| s.1).max()
    }

    /// Time spent, spans that overlap counted once. `now` ends a span that is open.
    pub fn spent(&self, now: Option<SystemTime>) -> Duration {
        let open = |start| between(start, now.unwrap_or(start));
        self.folded
            + self
                .merged()
                .iter()
                .map(|&(a, b)| b.map_or_else(|| open(a), |b| between(a, b)))
                .sum::<Duration>()
    }

    fn merged(&self) -> Vec<(SystemTime, Option<SystemTime>)> {
        let mut merged: Vec<(SystemTime, Option<SystemTime>)> = Vec::new();
        for &(start, stop) in &self.spans {
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(end))) if start <= *end => {
                    if stop.is_none_or(|stop| stop > *end) {
                        merged.last_mut().expect("just matched").1 = stop;
                    }
                }
                _ => merged.push((start, stop)),
            }
        }
        merged
    }
}

/// From one time to a later one; nothing when a clock ran backwards.
pub fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn merging() {
        // spans, now -> spent, completed, latest start
        for (spans, now, spent, completed, latest) in [
            (&[][..], 9, 0, false, None),
            (&[(1, Some(3))], 9, 2, true, Some(1)),
            (&[(1, None)], 9, 8, false, Some(1)),
            (&[(1, None), (1, Some(2))], 9, 1, true, Some(1)),
            (&[(1, Some(3)), (5, Some(6))], 9, 3, true, Some(5)),
            (&[(5, Some(6)), (1, Some(3))], 9, 3, true, Some(5)),
            (&[(1, Some(3)), (2, Some(6))], 9, 5, true, Some(1)),
            (&[(1, Some(8)), (2, Some(3))], 9, 7, true, Some(1)),
            (&[(1, Some(3)), (2, None), (7, Some(8))], 9, 8, false, Some(1)),
            (&[(1, Some(3)), (5, None)], 9, 6, false, Some(5)),
            (&[(5, Some(1))], 9, 0, true, Some(5)),
        ] {
            let mut intervals = Intervals::default();
            for &(start, stop) in spans {
                intervals.set(at(start), stop.map(at));
            }
            assert_eq!(intervals.spent(Some(at(now))), Duration::from_secs(spent), "{spans:?}");
            assert_eq!(intervals.is_completed(), completed, "{spans:?}");
            assert_eq!(intervals.latest_start(), latest.map(at), "{spans:?}");
        }
    }

    #[test]
    fn many_spans_fold() {
        let mut intervals = Intervals::default();
        for n in 0..10_000 {
            intervals.set(at(n * 10), Some(at(n * 10 + 1)));
        }
        assert_eq!(intervals.spans.len(), MAX);
        assert_eq!(intervals.spent(None), Duration::from_secs(10_000));
    }
}
