//! The bench's result for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::Row;
use super::cases::Case;
use super::clients::Client;
use super::measure::min_and_median;

/// A row's numbers: smallest and middle.
#[derive(Debug, Clone, Copy)]
struct Figures {
    wall: (Duration, Duration),
    cpu: (Duration, Duration),
    rss: (u64, u64),
}

fn figures(row: &Row) -> Option<Figures> {
    Some(Figures {
        wall: min_and_median(row.samples.iter().map(|sample| sample.wall))?,
        cpu: min_and_median(row.samples.iter().map(|sample| sample.cpu))?,
        rss: min_and_median(row.samples.iter().map(|sample| sample.peak_rss_kib))?,
    })
}

/// Middle values of wall, CPU and RSS, each divided by buildctl's in the same case.
fn ratios(rows: &[Row], row: &Row, own: Figures) -> Option<[f64; 3]> {
    let other =
        figures(rows.iter().find(|other| other.case == row.case && other.client == Client::Buildctl)?)?;
    let divide = |own: f64, other: f64| if other > 0.0 { own / other } else { f64::NAN };
    Some([
        divide(own.wall.1.as_secs_f64(), other.wall.1.as_secs_f64()),
        divide(own.cpu.1.as_secs_f64(), other.cpu.1.as_secs_f64()),
        divide(own.rss.1 as f64, other.rss.1 as f64),
    ])
}

/// One table; ratios are of middle values, to buildctl.
pub fn text(rows: &[Row], about: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in about {
        let _fits = writeln!(text, "{name}: {value}");
    }
    let _fits = writeln!(
        text,
        "\n{:<17} {:<13} {:>4} {:>10} {:>10} {:>6} {:>10} {:>10} {:>6} {:>9} {:>6}",
        "case", "client", "runs", "wall min", "wall med", "x", "cpu min", "cpu med", "x", "rss MiB", "x"
    );
    let mut last = None;
    for row in rows {
        let Some(own) = figures(row) else { continue };
        if last.is_some_and(|last| last != row.case) {
            text.push('\n');
        }
        let name = if last == Some(row.case) { "" } else { row.case.name() };
        last = Some(row.case);
        let [wall, cpu, rss] = ratios(rows, row, own)
            .map_or_else(|| ["-"; 3].map(String::from), |ratios| ratios.map(|ratio| format!("{ratio:.2}")));
        let _fits = writeln!(
            text,
            "{name:<17} {:<13} {:>4} {:>10} {:>10} {wall:>6} {:>10} {:>10} {cpu:>6} {:>9.1} {rss:>6}",
            row.client.name(),
            row.samples.len(),
            milliseconds(own.wall.0),
            milliseconds(own.wall.1),
            milliseconds(own.cpu.0),
            milliseconds(own.cpu.1),
            own.rss.1 as f64 / 1024.0,
        );
    }
    for (case, added) in jail_adds(rows) {
        let _fits = writeln!(
            text,
            "{}the jail adds {:.1} ms to {}",
            if last.take().is_some() { "\n" } else { "" },
            added * 1000.0,
            case.name()
        );
    }
    text
}

/// What the jail costs in wall time, in seconds: the difference of ktl's two middle values, per case.
fn jail_adds(rows: &[Row]) -> Vec<(Case, f64)> {
    let wall = |case, client| {
        let row = rows.iter().find(|row: &&Row| row.case == case && row.client == client)?;
        Some(figures(row)?.wall.1.as_secs_f64())
    };
    Case::ALL
        .into_iter()
        .filter(|case| *case != Case::Version)
        .filter_map(|case| Some((case, wall(case, Client::Ktl)? - wall(case, Client::KtlUnjailed)?)))
        .collect()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// The same as one JSON document; times in seconds, sizes in KiB.
pub fn json(rows: &[Row], about: &[(&str, String)]) -> String {
    let pair = |(min, median): (Duration, Duration)| json!({"min": min.as_secs_f64(), "median": median.as_secs_f64()});
    let results: Vec<Value> = rows
        .iter()
        .filter_map(|row| {
            let own = figures(row)?;
            let ratios =
                ratios(rows, row, own).map(|[wall, cpu, rss]| json!({"wall": wall, "cpu": cpu, "rss": rss}));
            Some(json!({
                "case": row.case.name(),
                "client": row.client.name(),
                "runs": row.samples.len(),
                "wall_s": pair(own.wall),
                "cpu_s": pair(own.cpu),
                "peak_rss_kib": {"min": own.rss.0, "median": own.rss.1},
                "ratio_to_buildctl": ratios,
            }))
        })
        .collect();
    let jail: serde_json::Map<String, Value> =
        jail_adds(rows).into_iter().map(|(case, added)| (case.name().to_owned(), json!(added))).collect();
    let about: serde_json::Map<String, Value> =
        about.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    format!("{:#}\n", json!({"about": about, "results": results, "jail_adds_s": jail}))
}

#[cfg(test)]
mod tests {
    use super::super::measure::Sample;
    use super::*;

    fn row(case: Case, client: Client, milliseconds: u64) -> Row {
        let wall = Duration::from_millis(milliseconds);
        Row { case, client, samples: vec![Sample { wall, cpu: wall / 2, peak_rss_kib: 1024 * milliseconds }] }
    }

    #[test]
    fn ratios_are_to_buildctl() {
        let rows = [row(Case::Version, Client::Buildctl, 40), row(Case::Version, Client::Ktl, 10)];
        let table = text(&rows, &[("cpus", "2".into())]);
        let expected = "cpus: 2\n\n\
case              client        runs   wall min   wall med      x    cpu min    cpu med      x   rss MiB      x
version           buildctl         1    40.0 ms    40.0 ms   1.00    20.0 ms    20.0 ms   1.00      40.0   1.00
                  ktl              1    10.0 ms    10.0 ms   0.25     5.0 ms     5.0 ms   0.25      10.0   0.25
";
        assert_eq!(table, expected);
        let value: Value = serde_json::from_str(&json(&rows, &[])).expect("valid JSON");
        assert_eq!(value["results"][1]["ratio_to_buildctl"]["wall"], 0.25);
        assert_eq!(value["results"][1]["wall_s"]["min"], 0.01);
    }

    #[test]
    fn without_buildctl_there_is_no_ratio() {
        let rows = [row(Case::Version, Client::Ktl, 10)];
        assert!(text(&rows, &[]).contains("     -"));
        let value: Value = serde_json::from_str(&json(&rows, &[])).expect("valid JSON");
        assert!(value["results"][0]["ratio_to_buildctl"].is_null());
    }

    #[test]
    fn the_price_of_the_jail_is_the_difference_of_ktl_and_ktl() {
        let rows = [row(Case::SmallNoop, Client::Ktl, 30), row(Case::SmallNoop, Client::KtlUnjailed, 20)];
        assert!(text(&rows, &[]).ends_with("\n\nthe jail adds 10.0 ms to small-noop\n"));
        let value: Value = serde_json::from_str(&json(&rows, &[])).expect("valid JSON");
        assert!((value["jail_adds_s"]["small-noop"].as_f64().unwrap_or_default() - 0.01).abs() < 1e-9);
    }
}
