//! `--filter` of `ktl history ls`, as docker buildx has it (`commands/history/utils.go`).

use std::time::{Duration, SystemTime};

use buildsvc::history::Record;

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// A part of it, or with `is` false all but this one.
    Reference {
        value: String,
        is: bool,
    },
    Repository {
        value: String,
        is: bool,
    },
    Status {
        value: Status,
        is: bool,
    },
    Started(Compare, SystemTime),
    Completed(Compare, SystemTime),
    /// Of a build that runs there is none yet.
    Took(Compare, Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Running,
    Completed,
    Error,
    Canceled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// The longer of two that begin alike comes first.
const SIGNS: [&str; 6] = ["!=", "<=", ">=", "=", "<", ">"];

pub(super) fn parse(text: &str) -> Result<Condition, String> {
    let wrong = || format!("`{text}` is no filter, as in status=error or startedAt>24h");
    let at = text.find(['!', '<', '>', '=']).ok_or_else(wrong)?;
    let (key, rest) = text.split_at(at);
    let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign)).ok_or_else(wrong)?;
    let value = &rest[sign.len()..];
    let is = || match sign {
        "=" => Ok(true),
        "!=" => Ok(false),
        _ => Err(format!("`{text}`: {key} takes = or !=")),
    };
    let compare = || match sign {
        "<" => Ok(Compare::Less),
        "<=" => Ok(Compare::AtMost),
        ">" => Ok(Compare::More),
        ">=" => Ok(Compare::AtLeast),
        _ => Err(format!("`{text}`: {key} takes <, <=, > or >=")),
    };
    let duration = || humantime::parse_duration(value).map_err(|error| format!("`{text}`: {error}"));
    let time = || match humantime::parse_rfc3339(value) {
        Ok(time) => Ok(time),
        Err(_) => {
            SystemTime::now().checked_sub(duration()?).ok_or_else(|| format!("`{text}` is before all times"))
        }
    };
    Ok(match key {
        "ref" => Condition::Reference { value: value.to_owned(), is: is()? },
        "repository" => Condition::Repository { value: value.to_owned(), is: is()? },
        "status" => Condition::Status {
            value: match value {
                "running" => Status::Running,
                "completed" => Status::Completed,
                "error" => Status::Error,
                "canceled" => Status::Canceled,
                _ => return Err(format!("`{text}`: expected running, completed, error or canceled")),
            },
            is: is()?,
        },
        "startedAt" => Condition::Started(compare()?, time()?),
        "completedAt" => Condition::Completed(compare()?, time()?),
        "duration" => Condition::Took(compare()?, duration()?),
        _ => return Err(wrong()),
    })
}

impl Condition {
    pub(super) fn holds(&self, record: &Record, now: SystemTime) -> bool {
        let text = |told: &str, value: &str, is| if is { told.contains(value) } else { told != value };
        match self {
            Condition::Reference { value, is } => text(&record.reference, value, *is),
            Condition::Repository { value, is } => text(&record.repository, value, *is),
            Condition::Status { value, is } => (Status::of(record) == *value) == *is,
            Condition::Started(compare, time) => record.created.is_some_and(|at| compare.holds(at, *time)),
            Condition::Completed(compare, time) => {
                record.completed.is_some_and(|at| compare.holds(at, *time))
            }
            Condition::Took(compare, most) => {
                let took = record.completed.and(super::told::time(record, now));
                took.is_some_and(|took| compare.holds(took, *most))
            }
        }
    }
}

impl Status {
    pub(super) fn of(record: &Record) -> Status {
        match (&record.completed, &record.error) {
            (None, _) => Status::Running,
            (_, None) => Status::Completed,
            (_, Some(error)) if error.message.contains("context canceled") => Status::Canceled,
            _ => Status::Error,
        }
    }
}

impl Compare {
    fn holds<T: PartialOrd>(self, a: T, b: T) -> bool {
        match self {
            Compare::Less => a < b,
            Compare::AtMost => a <= b,
            Compare::More => a > b,
            Compare::AtLeast => a >= b,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildsvc::history::Failed;

    #[test]
    fn conditions_hold_or_do_not() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let failed = |message: &str| Some(Failed { code: 2, message: message.into() });
        let record = Record {
            reference: "abcdef".into(),
            repository: "https://host/a.git".into(),
            created: at(1000),
            completed: at(1060),
            error: failed("it broke"),
            ..Record::default()
        };
        let running = Record { completed: None, error: None, ..record.clone() };
        let canceled = Record { error: failed("x: context canceled"), ..record.clone() };
        let now = SystemTime::now();
        for (filter, record, want) in [
            ("ref=bcd", &record, true),
            ("ref=x", &record, false),
            ("ref!=abcdef", &record, false),
            ("repository=host/a", &record, true),
            ("status=error", &record, true),
            ("status!=error", &record, false),
            ("status=running", &running, true),
            ("status=canceled", &canceled, true),
            ("status=error", &canceled, false),
            ("startedAt<24h", &record, true),
            ("startedAt>=24h", &record, false),
            ("startedAt<=1970-01-01T00:16:40Z", &record, true),
            ("startedAt<1970-01-01T00:16:40Z", &record, false),
            ("completedAt>1970-01-01T00:17:00Z", &record, true),
            ("completedAt>1970-01-01T00:17:00Z", &running, false),
            ("duration>=1m", &record, true),
            ("duration>1m", &record, false),
            ("duration<1m", &running, false),
        ] {
            assert_eq!(parse(filter).unwrap().holds(record, now), want, "{filter}");
        }
        for wrong in
            ["", "status", "status=odd", "status>error", "startedAt=24h", "duration<soon", "x=y", "ref!x"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
