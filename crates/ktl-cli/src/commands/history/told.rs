//! How a time that a build took is told, as docker buildx does.

use std::time::{Duration, SystemTime};

use buildsvc::history::Record;

/// So far, of a build that runs; marked with a plus then.
pub(super) fn took(record: &Record, now: SystemTime) -> String {
    let Some(time) = time(record, now) else { return String::new() };
    let text = match time.as_secs() {
        seconds if seconds < 60 => format!("{:.1}s", time.as_secs_f64()),
        seconds => format!("{}m {:>2}s", seconds / 60, seconds % 60),
    };
    format!("{text}{}", if record.completed.is_none() { "+" } else { "" })
}

pub(super) fn time(record: &Record, now: SystemTime) -> Option<Duration> {
    let created = record.created?;
    Some(record.completed.unwrap_or(now).duration_since(created).unwrap_or_default())
}
