//! Writes byte counts and times the way BuildKit's displays do.

use std::time::Duration;

/// Decimal units with two digits, whole bytes below 1 kB: `120B`, `2.05kB`, `3.64MB`.
pub fn bytes(count: i64) -> String {
    let mut value = count as f64;
    if value.abs() < 1000.0 {
        return format!("{count}B");
    }
    let mut unit = "";
    for next in ["kB", "MB", "GB", "TB", "PB", "EB"] {
        if value.abs() < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    format!("{value:.2}{unit}")
}

/// `current / total`, or what of the two is known.
pub fn transfer(current: i64, total: i64) -> Option<String> {
    match (current, total) {
        (0, 0) => None,
        (current, 0) => Some(bytes(current)),
        (current, total) => Some(format!("{} / {}", bytes(current), bytes(total))),
    }
}

/// The stamp of a log line: fewer digits the longer the step runs.
pub fn stamp(at: Duration) -> String {
    let seconds = at.as_secs_f64();
    let digits = match seconds {
        s if s < 10.0 => 3,
        s if s < 100.0 => 2,
        _ => 1,
    };
    format!("{seconds:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts() {
        for (count, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.00kB"),
            (2048, "2.05kB"),
            (3_642_247, "3.64MB"),
            (29_150_000_000, "29.15GB"),
            (i64::MAX, "9.22EB"),
            (-5, "-5B"),
        ] {
            assert_eq!(bytes(count), want);
        }
        assert_eq!(transfer(0, 0), None);
        assert_eq!(transfer(5, 0).as_deref(), Some("5B"));
        assert_eq!(transfer(0, 2000).as_deref(), Some("0B / 2.00kB"));
    }

    #[test]
    fn stamps() {
        for (ms, want) in [(0, "0.000"), (123, "0.123"), (12_345, "12.35"), (123_456, "123.5")] {
            assert_eq!(stamp(Duration::from_millis(ms)), want);
        }
    }
}
