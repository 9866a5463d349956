//! How long a build waits for its daemon.
//!
//! A daemon that is alive is never silent for long: besides the progress of its steps, it asks every few seconds
//! whether the session still is. So silence means that it hangs, or that the way to it is cut without a word.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

/// The limits of one build; see each field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// For questions that a daemon answers at once.
    pub answer: Duration,
    /// Without a single byte from the daemon, in whole seconds.
    pub silence: Duration,
    /// For progress that goes on after the solve has ended, in whole seconds. Time in which this side is the slow one
    /// does not count.
    pub last_words: Duration,
    /// For the whole build; `None` for as long as it takes.
    pub whole: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            answer: Duration::from_secs(20),
            silence: Duration::from_secs(60),
            last_words: Duration::from_secs(10),
            whole: None,
        }
    }
}

/// Counts what arrives on a connection. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<AtomicU64>);

impl Heard {
    pub(crate) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Done once nothing has arrived for `limit`.
    ///
    /// Counted in ticks and not by the clock: a process that was stopped, with the machine or by itself, has not
    /// listened meanwhile.
    pub(crate) async fn nothing_for(&self, limit: Duration) {
        let mut last = self.0.load(Ordering::Relaxed);
        let mut silent = 0;
        let mut tick = seconds();
        tick.tick().await;
        while silent < limit.as_secs() {
            tick.tick().await;
            let now = self.0.load(Ordering::Relaxed);
            silent = if now == last { silent + 1 } else { 0 };
            last = now;
        }
    }
}

/// Done once `limit` has passed in seconds that count.
pub(crate) async fn counted(limit: Duration, counts: impl Fn() -> bool) {
    let mut passed = 0;
    let mut tick = seconds();
    tick.tick().await;
    while passed < limit.as_secs() {
        tick.tick().await;
        passed += u64::from(counts());
    }
}

/// Done after `limit`; never without one.
pub(crate) async fn at_most(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn seconds() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_starts_anew_with_each_byte() {
        let heard = Heard::default();
        let started = tokio::time::Instant::now();
        let talker = heard.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(3500)).await;
                talker.note();
            }
        });
        heard.nothing_for(Duration::from_secs(5)).await;
        assert!(started.elapsed() >= Duration::from_secs(15), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn seconds_that_do_not_count_do_not_pass() {
        let started = tokio::time::Instant::now();
        counted(Duration::from_secs(3), || started.elapsed() > Duration::from_secs(20)).await;
        assert!(started.elapsed() >= Duration::from_secs(23));
    }
}
