//! What RUN steps run with: host names, limits, shared memory.
//!
//! All of it is asked of the daemon's Dockerfile frontend as text in attributes; a mistake found here is told before anything
//! is built. Grammars follow docker buildx (`build/utils.go`, docker/cli `opts`) and the values that moby/buildkit
//! `frontend/dockerui/attr.go` reads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::csv::{self, CsvError};

/// What stands for the address of the machine that the daemon runs on.
const HOST_GATEWAY: &str = "host-gateway";

/// The limits that the kernel has, by the names of `setrlimit(2)`.
const ULIMITS: &[&str] = &[
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Why a value for the steps of a build is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Csv(#[from] CsvError),
    #[error("{0:?} is not of the form HOST=ADDRESS with an IP address or host-gateway")]
    Host(String),
    #[error("{0:?} is no size in bytes, such as 64m or 2g")]
    Size(String),
    #[error("{0:?} is not of the form NAME=SOFT[:HARD] with whole numbers")]
    Ulimit(String),
    #[error(
        "there is no limit called {0:?}; there are core, cpu, data, fsize, locks, memlock, nofile, nproc, stack and others"
    )]
    UnknownUlimit(String),
    #[error("the soft limit of {0:?} is above its hard limit")]
    SoftAboveHard(String),
    #[error("{0:?} is not of the form KEY=VALUE")]
    NotAPair(String),
    #[error(
        "there is no resource {0:?}; there are memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and cpuset-mems"
    )]
    UnknownResource(String),
    #[error("{value:?} is no value for {key}")]
    Resource { key: &'static str, value: String },
}

/// `--add-host`: names that steps find in `/etc/hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraHosts {
    /// The attribute's value, `name=address` for each; empty when there are none.
    pub attr: String,
    /// Names of the daemon's own machine, whose address the daemon has to be asked for.
    pub gateways: Vec<String>,
}

impl ExtraHosts {
    pub fn parse<S: AsRef<str>>(values: &[S]) -> Result<ExtraHosts, StepError> {
        let mut hosts = ExtraHosts::default();
        let mut pairs = Vec::new();
        for value in values.iter().map(AsRef::as_ref).filter(|value| !value.is_empty()) {
            for field in csv::fields(value)? {
                let bad = || StepError::Host(field.clone());
                let (name, addresses) =
                    field.split_once('=').or_else(|| field.split_once(':')).ok_or_else(bad)?;
                if name.is_empty() || name.contains(|c: char| c.is_whitespace() || matches!(c, ',' | '"')) {
                    return Err(bad());
                }
                if addresses == HOST_GATEWAY {
                    hosts.gateways.push(name.to_owned());
                    continue;
                }
                for address in addresses.split(',') {
                    let bare =
                        address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
                    bare.parse::<IpAddr>().map_err(|_| bad())?;
                    pairs.push(format!("{name}={bare}"));
                }
            }
        }
        hosts.attr = pairs.join(",");
        Ok(hosts)
    }
}

/// A size with an optional unit, `64m`, `1.5 GiB`; units are powers of 1024, as docker reads them.
pub fn bytes(text: &str) -> Result<i64, StepError> {
    let bad = || StepError::Size(text.to_owned());
    let end = text.rfind(|c: char| c.is_ascii_digit() || matches!(c, '.' | ' ')).ok_or_else(bad)? + 1;
    let (number, unit) = text.split_at(end);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(bad());
    }
    let number: f64 = number.parse().map_err(|_| bad())?;
    let unit = unit.to_ascii_lowercase();
    let power = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit.len() < 2 => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let bytes = number * 1024_f64.powi(power);
    // Beyond 2^53 a fraction of a byte is no matter; what does not fit at all is.
    if bytes < 9.2e18 { Ok(bytes as i64) } else { Err(bad()) }
}

/// `--ulimit`: the attribute's value. Of several with one name the last counts.
pub fn ulimits<S: AsRef<str>>(values: &[S]) -> Result<String, StepError> {
    let mut limits = BTreeMap::new();
    for value in values.iter().map(AsRef::as_ref) {
        let bad = || StepError::Ulimit(value.to_owned());
        let (name, limit) = value.split_once('=').ok_or_else(bad)?;
        if !ULIMITS.contains(&name) {
            return Err(StepError::UnknownUlimit(name.to_owned()));
        }
        let number = |text: &str| text.parse::<i64>().map_err(|_| bad());
        let (soft, hard) = match limit.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(limit)?, number(limit)?),
        };
        // -1 is without limit.
        if hard != -1 && (soft == -1 || soft > hard) {
            return Err(StepError::SoftAboveHard(value.to_owned()));
        }
        limits.insert(name, format!("{name}={soft}:{hard}"));
    }
    Ok(limits.into_values().collect::<Vec<_>>().join(","))
}

/// `--resource`: attributes and their values. Of several with one key the last counts; zero stands for no limit.
pub fn resources<S: AsRef<str>>(values: &[S]) -> Result<BTreeMap<&'static str, String>, StepError> {
    let mut limits = BTreeMap::new();
    for entry in values.iter().map(AsRef::as_ref) {
        let (key, value) = entry.split_once('=').ok_or_else(|| StepError::NotAPair(entry.to_owned()))?;
        let (key, value) = (key.trim(), value.trim());
        let (attr, number) = match key {
            "memory" => ("memory", Some(bytes(value)?)),
            "memory-swap" => ("memswap", Some(if value == "-1" { -1 } else { bytes(value)? })),
            "cpu-shares" => ("cpushares", Some(whole("cpu-shares", value)?)),
            "cpu-period" => ("cpuperiod", Some(whole("cpu-period", value)?)),
            "cpu-quota" => ("cpuquota", Some(whole("cpu-quota", value)?)),
            "cpuset-cpus" => ("cpusetcpus", None),
            "cpuset-mems" => ("cpusetmems", None),
            _ => return Err(StepError::UnknownResource(key.to_owned())),
        };
        match number {
            Some(0) => drop(limits.remove(attr)),
            Some(number) => drop(limits.insert(attr, number.to_string())),
            None => drop(limits.insert(attr, value.to_owned())),
        }
    }
    limits.retain(|_, value| !value.is_empty());
    Ok(limits)
}

fn whole(key: &'static str, value: &str) -> Result<i64, StepError> {
    value
        .parse()
        .ok()
        .filter(|number| *number >= 0)
        .ok_or_else(|| StepError::Resource { key, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (values, attr, gateways) in [
            (&[][..], "", &[][..]),
            (&["a:1.2.3.4"], "a=1.2.3.4", &[]),
            (&["a=1.2.3.4,b=::1"], "a=1.2.3.4,b=::1", &[]),
            (&["a:[::1]", "b:fe80::1"], "a=::1,b=fe80::1", &[]),
            (&["\"a=1.2.3.4,5.6.7.8\""], "a=1.2.3.4,a=5.6.7.8", &[]),
            (&["here=host-gateway", "a=1.2.3.4"], "a=1.2.3.4", &["here"]),
        ] {
            let hosts = ExtraHosts::parse(values).unwrap();
            assert_eq!(
                (hosts.attr.as_str(), hosts.gateways),
                (attr, gateways.iter().map(|g| g.to_string()).collect())
            );
        }
        for bad in ["a", "=1.2.3.4", "a=", "a=b", "a=1.2.3", "a b=1.2.3.4", "a=1.2.3.4,"] {
            assert!(ExtraHosts::parse(&[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("64", Some(64)),
            ("64m", Some(64 << 20)),
            ("64M", Some(64 << 20)),
            ("64mb", Some(64 << 20)),
            ("64MiB", Some(64 << 20)),
            ("1.5k", Some(1536)),
            ("2 g", Some(2 << 30)),
            ("7b", Some(7)),
            ("0", Some(0)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1ib", None),
            ("1.2.3", None),
            ("1mbb", None),
            ("99999999p", None),
            ("1 000", None),
        ] {
            assert_eq!(bytes(text).ok(), want, "{text:?}");
        }
    }

    #[test]
    fn limits() {
        for (values, want) in [
            (&["nofile=1024"][..], Ok("nofile=1024:1024")),
            (&["nofile=1024:2048", "core=0", "nofile=5:-1"], Ok("core=0:0,nofile=5:-1")),
            (&["cpu=-1:5"], Err(StepError::SoftAboveHard("cpu=-1:5".into()))),
            (&["cpu=6:5"], Err(StepError::SoftAboveHard("cpu=6:5".into()))),
            (&["files=5"], Err(StepError::UnknownUlimit("files".into()))),
            (&["cpu"], Err(StepError::Ulimit("cpu".into()))),
            (&["cpu=1:2:3"], Err(StepError::Ulimit("cpu=1:2:3".into()))),
        ] {
            assert_eq!(ulimits(values), want.map(str::to_owned), "{values:?}");
        }
    }

    #[test]
    fn resource_limits() {
        let given = [
            "memory=2g",
            "memory-swap=-1",
            "cpu-quota= 50000",
            "cpuset-cpus=0-3",
            "cpuset-mems=0",
            "cpu-shares=0",
            "memory=1k",
        ];
        let want = [
            ("cpuquota", "50000"),
            ("cpusetcpus", "0-3"),
            ("cpusetmems", "0"),
            ("memory", "1024"),
            ("memswap", "-1"),
        ];
        assert_eq!(resources(&given).unwrap(), want.map(|(k, v)| (k, v.to_owned())).into());
        for bad in ["memory", "disk=1", "cpu-shares=x", "cpu-period=-1", "memory=x"] {
            assert!(resources(&[bad]).is_err(), "{bad}");
        }
    }
}
