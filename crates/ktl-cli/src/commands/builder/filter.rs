//! `--filter` of `du` and `prune`, as docker buildx has it: `KEY=VALUE` becomes a condition in containerd's syntax, which the
//! daemon reads, and `until` a time. Follows buildx's commands/prune.go; buildctl's `KEY==VALUE` means the same.

use std::collections::BTreeMap;
use std::time::Duration;

use buildsvc::usage::Selection;

/// All conditions must hold together.
pub(super) fn selection(filters: &[String], keep: Option<Duration>) -> Result<Selection, String> {
    let mut conditions = BTreeMap::new();
    let mut unused_for = keep;
    for filter in filters {
        let (key, value) = match filter.split_once('=') {
            Some((key, value)) => (key.trim(), Some(value.trim())),
            None => (filter.trim(), None),
        };
        if key.is_empty() || key.contains(',') {
            return Err(format!("`{filter}` is no filter, as in type=regular or until=24h"));
        }
        if key == "until" || key == "unused-for" {
            if unused_for.is_some() {
                return Err(format!("`{filter}`: there is another time already"));
            }
            let time = humantime::parse_duration(value.unwrap_or_default());
            unused_for =
                Some(time.map_err(|error| format!("`{filter}` names no time, such as 24h: {error}"))?);
            continue;
        }
        let condition = match value {
            None => key.to_owned(),
            Some(value) if key == "id" => format!("id~={value}"),
            Some(value) if key.ends_with(['!', '~']) => format!("{key}={value}"),
            Some(value) => format!("{key}=={}", value.strip_prefix('=').unwrap_or(value)),
        };
        if conditions.insert(key, condition.clone()).is_some_and(|other| other != condition) {
            return Err(format!("the filter {key} has several values"));
        }
    }
    let all = conditions.into_values().collect::<Vec<_>>().join(",");
    Ok(Selection {
        filters: if all.is_empty() { Vec::new() } else { vec![all] },
        unused_for: unused_for.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_conditions() {
        for (filters, want, hours) in [
            (&[][..], None, 0),
            (&["type=regular"], Some("type==regular"), 0),
            (&["type==regular"], Some("type==regular"), 0),
            (&["type!=internal", "shared"], Some("shared,type!=internal"), 0),
            (&["description~=apt"], Some("description~=apt"), 0),
            (&["id=abc"], Some("id~=abc"), 0),
            (&["until=24h"], None, 24),
            (&["unused-for=1h", "inuse=false"], Some("inuse==false"), 1),
        ] {
            let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
            let found = selection(&filters, None).unwrap();
            assert_eq!(found.filters.first().map(String::as_str), want, "{filters:?}");
            assert_eq!(found.unused_for, Duration::from_secs(hours * 3600), "{filters:?}");
        }
        let day = Some(Duration::from_secs(86_400));
        for (filters, keep) in [
            (&["until=soon"][..], None),
            (&["until=1h", "unused-for=2h"], None),
            (&["until=1h"], day),
            (&["type=a", "type=b"], None),
            (&["=x"], None),
            (&["a,b=x"], None),
        ] {
            let filters: Vec<String> = filters.iter().map(|&filter| filter.to_owned()).collect();
            assert!(selection(&filters, keep).is_err(), "{filters:?}");
        }
    }
}
