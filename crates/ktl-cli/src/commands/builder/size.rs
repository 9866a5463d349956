//! Sizes and ages as docker's commands read and print them. Follows docker/go-units.

use std::time::Duration;

/// Reads `512`, `64k`, `1.5g`, `10GB`, `2GiB`; units are powers of 1024, as docker has them for memory and cache sizes.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size, as in 512m or 10g");
    let lower = text.trim().to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let unit = unit.trim();
    let letter = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit);
    let power = match letter {
        "" if !unit.ends_with("ib") => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * 1024_f64.powi(power);
    if bytes.is_finite() && bytes < i64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// With powers of 1000 and four digits: `0B`, `8.192kB`, `1.234GB`.
pub(super) fn decimal(bytes: u64) -> String {
    scaled(bytes, 1000.0, ["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// With powers of 1024: `512MiB`.
pub(super) fn binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

fn scaled(bytes: u64, base: f64, units: [&str; 7]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= base && unit < units.len() - 1 {
        value /= base;
        unit += 1;
    }
    let digits = match value {
        v if v < 10.0 => 3,
        v if v < 100.0 => 2,
        v if v < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", units[unit])
}

/// Coarsely: `About a minute`, `3 hours`, `2 weeks`.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match (seconds, minutes, hours) {
        (0, ..) => "Less than a second".to_owned(),
        (1, ..) => "1 second".to_owned(),
        (_, 0, _) => format!("{seconds} seconds"),
        (_, 1, _) => "About a minute".to_owned(),
        (_, 2..=45, _) => format!("{minutes} minutes"),
        (_, _, 0 | 1) => "About an hour".to_owned(),
        (_, _, 2..=47) => format!("{hours} hours"),
        (_, _, 48..=335) => format!("{} days", hours / 24),
        (_, _, 336..=1439) => format!("{} weeks", hours / 24 / 7),
        (_, _, 1440..=17519) => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64k", 64 << 10),
            ("1.5g", 3 << 29),
            ("10GB", 10 << 30),
            ("2GiB", 2 << 30),
            ("7 mb", 7 << 20),
            ("5b", 5),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "g", "1x", "-1", "1.2.3", "1ib", "99999999999p", "1 2"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for (bytes, text) in [(0, "0B"), (8192, "8.192kB"), (12_345_678, "12.35MB"), (5_000_000_000, "5GB")] {
            assert_eq!(decimal(bytes), text);
        }
        for (bytes, text) in [(512 << 20, "512MiB"), (1023, "1023B"), (1 << 60, "1EiB")] {
            assert_eq!(binary(bytes), text);
        }
    }

    #[test]
    fn ages_are_coarse() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3000, "About an hour"),
            (7200, "2 hours"),
            (200_000, "2 days"),
            (2_000_000, "3 weeks"),
            (9_000_000, "3 months"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
