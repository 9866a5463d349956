//! The figures of the starts, and what the project has set itself.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::Row;
use super::starters::Starter;

/// Targets for the native runtime on a machine with load.
const RATIO: f64 = 0.6;
const P99: Duration = Duration::from_millis(25);
const WORST: Duration = Duration::from_millis(200);

/// Of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Figures {
    min: Duration,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

/// By nearest rank: of 1 000 values p99 is the 990th.
fn figures(times: &[Duration]) -> Option<Figures> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
    Some(Figures { min: *sorted.first()?, p50: rank(50)?, p99: rank(99)?, max: *sorted.last()? })
}

fn find(rows: &[Row], loaded: bool, starter: Starter) -> Option<Figures> {
    figures(&rows.iter().find(|row| row.loaded == loaded && row.starter == starter)?.times)
}

/// Middle value to nsjail's under the same load.
fn ratio(rows: &[Row], row: &Row) -> Option<f64> {
    let own = figures(&row.times)?.p50.as_secs_f64();
    let other = find(rows, row.loaded, Starter::Nsjail)?.p50.as_secs_f64();
    (other > 0.0).then(|| own / other)
}

/// What was wanted, what was found, and whether that is good enough.
struct Target {
    what: String,
    found: String,
    met: bool,
}

fn targets(rows: &[Row]) -> Vec<Target> {
    let (Some(native), Some(nsjail)) = (find(rows, true, Starter::Native), find(rows, true, Starter::Nsjail))
    else {
        return Vec::new();
    };
    let ratio = native.p50.as_secs_f64() / nsjail.p50.as_secs_f64();
    let target = |what: String, found: String, met| Target { what, found, met };
    vec![
        target(format!("p50 at most {RATIO} of nsjail's"), format!("{ratio:.2}"), ratio <= RATIO),
        target(format!("p99 below {}", millis(P99)), millis(native.p99), native.p99 < P99),
        target(format!("none above {}", millis(WORST)), millis(native.max), native.max <= WORST),
    ]
}

pub fn load_name(loaded: bool) -> &'static str {
    if loaded { "with load" } else { "quiet" }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Two tables and the targets.
pub fn text(rows: &[Row], about: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in about {
        let _fits = writeln!(text, "{name}: {value}");
    }
    for loaded in [false, true] {
        let _fits = writeln!(
            text,
            "\n{:<16} {:>9} {:>9} {:>9} {:>9} {:>9} {:>7}",
            load_name(loaded),
            "min",
            "p50",
            "p99",
            "max",
            "x nsjail",
            "failed"
        );
        for row in rows.iter().filter(|row| row.loaded == loaded) {
            let Some(own) = figures(&row.times) else { continue };
            let ratio = ratio(rows, row).map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
            let _fits = writeln!(
                text,
                "{:<16} {:>9} {:>9} {:>9} {:>9} {ratio:>9} {:>7}",
                row.starter.name(),
                millis(own.min),
                millis(own.p50),
                millis(own.p99),
                millis(own.max),
                row.failed,
            );
        }
    }
    text.push('\n');
    for target in targets(rows) {
        let word = if target.met { "met" } else { "missed" };
        let _fits = writeln!(text, "native with load, {}: {}, {word}", target.what, target.found);
    }
    text
}

/// The same as one JSON document; times in seconds.
pub fn json(rows: &[Row], about: &[(&str, String)]) -> String {
    let results: Vec<Value> = rows
        .iter()
        .filter_map(|row| {
            let own = figures(&row.times)?;
            Some(json!({
                "starter": row.starter.name(),
                "loaded": row.loaded,
                "runs": row.times.len(),
                "min_s": own.min.as_secs_f64(),
                "p50_s": own.p50.as_secs_f64(),
                "p99_s": own.p99.as_secs_f64(),
                "max_s": own.max.as_secs_f64(),
                "p50_ratio_to_nsjail": ratio(rows, row),
                "failed": row.failed,
            }))
        })
        .collect();
    let targets: Vec<Value> = targets(rows)
        .into_iter()
        .map(|target| json!({"target": target.what, "found": target.found, "met": target.met}))
        .collect();
    let about: serde_json::Map<String, Value> =
        about.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    format!("{:#}\n", json!({"about": about, "results": results, "targets": targets}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(starter: Starter, millis: &[u64]) -> Row {
        let times = millis.iter().map(|ms| Duration::from_millis(*ms)).collect();
        Row { loaded: true, starter, times, failed: 0 }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let millis = Duration::from_millis;
        let times: Vec<Duration> = (1..=1000).rev().map(millis).collect();
        let want = Figures { min: millis(1), p50: millis(500), p99: millis(990), max: millis(1000) };
        assert_eq!(figures(&times), Some(want));
        let one = Figures { min: millis(7), p50: millis(7), p99: millis(7), max: millis(7) };
        assert_eq!(figures(&[millis(7)]), Some(one));
        assert_eq!(figures(&[]), None);
    }

    #[test]
    fn targets_are_met_or_missed() {
        for (native, nsjail, met) in [
            (&[6, 6, 6][..], &[10, 10, 10][..], [true, true, true]),
            (&[7, 7, 7], &[10, 10, 10], [false, true, true]),
            (&[1, 1, 25], &[10, 10, 10], [true, false, true]),
            (&[1, 1, 201], &[10, 10, 10], [true, false, false]),
        ] {
            let rows = [row(Starter::Native, native), row(Starter::Nsjail, nsjail)];
            let found: Vec<bool> = targets(&rows).iter().map(|target| target.met).collect();
            assert_eq!(found, met, "{native:?}");
            let value: Value = serde_json::from_str(&json(&rows, &[])).expect("valid JSON");
            assert_eq!(value["targets"][0]["met"], met[0]);
        }
        assert!(targets(&[row(Starter::Native, &[1])]).is_empty());
        let rows = [row(Starter::Native, &[5]), row(Starter::Nsjail, &[10])];
        let table = text(&rows, &[("cpus", "2".to_owned())]);
        assert!(table.starts_with("cpus: 2\n\nquiet "), "{table}");
        assert!(
            table.contains("\nnative              5.0 ms    5.0 ms    5.0 ms    5.0 ms      0.50       0\n"),
            "{table}"
        );
        assert!(table.ends_with("none above 200.0 ms: 5.0 ms, met\n"), "{table}");
    }
}
