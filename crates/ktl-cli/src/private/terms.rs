//! What the builders of a trust may not exceed: `trust/NAME.cfg` in ktl's configuration directory.
//!
//! In the form of all policies, but of few fields, each of which can only take something away: so a file that grants is
//! refused, and nobody has to ask which of two policies counts.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::limits::{self, Limits};
use super::{Network, trust};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::launch;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Never the host's network.
    own_network: bool,
    pub limits: Limits,
}

impl Terms {
    /// Those of the private builder `name`; none where its trust has no such file, or it is of no trust.
    pub fn of(name: &str, env: &Env) -> Result<Terms, Failure> {
        let Some((_, trust)) = name.split_once(trust::MARK) else { return Ok(Terms::default()) };
        let Some(dir) = env.config_dir() else { return Ok(Terms::default()) };
        let path = dir.join("trust").join(format!("{trust}.cfg"));
        match fs::symlink_metadata(&path) {
            // Only that nothing is there means no terms; what cannot be looked at is refused by the reading.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Terms::default()),
            _ => Terms::read(&path),
        }
    }

    /// The network that a builder under these terms gets, which may be less than was wanted.
    pub fn network(self, wanted: Network) -> Network {
        match wanted {
            Network::Host if self.own_network => Network::None,
            other => other,
        }
    }

    fn read(path: &Path) -> Result<Terms, Failure> {
        let refused = |what: String| {
            Failure::new(Exit::Policy, format!("{}: {what}", path.display())).hint(
                "A trust's policy can say: clone_newnet: true, cgroup_mem_max, cgroup_pids_max, cgroup_cpu_ms_per_sec.",
            )
        };
        let fields = launch::read_policy(path)?.to_json();
        let mut terms = Terms::default();
        for (field, value) in fields.as_object().into_iter().flatten() {
            let number = |parse: fn(&str) -> Result<u64, String>| {
                // 64 bits are a text in JSON.
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                parse(&text).map(Some).map_err(|why| refused(format!("{field}: {why}")))
            };
            match field.as_str() {
                "name" | "description" => {}
                "cloneNewnet" if *value == Value::Bool(true) => terms.own_network = true,
                "cgroupMemMax" => terms.limits.memory = number(limits::memory)?,
                "cgroupPidsMax" => terms.limits.pids = number(limits::pids)?,
                "cgroupCpuMsPerSec" => {
                    terms.limits.cpu = number(|text| text.parse().map_err(|_| "is no number".to_owned()))?;
                }
                _ => return Err(refused(format!("{field}: {value} takes nothing away that ktl knows of"))),
            }
        }
        Ok(terms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_only_take_away() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::of(&[("XDG_CONFIG_HOME", dir.path().to_str().unwrap())]);
        let file = dir.path().join("ktl/trust/fork.cfg");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let read = |text: &str| {
            fs::write(&file, text).unwrap();
            Terms::of("default@fork", &env)
        };
        let terms = read(
            "clone_newnet: true cgroup_mem_max: 1073741824 cgroup_pids_max: 500 cgroup_cpu_ms_per_sec: 1500",
        )
        .unwrap();
        assert_eq!(terms.limits, Limits { memory: Some(1 << 30), cpu: Some(1500), pids: Some(500) });
        assert_eq!(terms.network(Network::Host), Network::None);
        assert_eq!(read("name: \"fork\"").unwrap().network(Network::Host), Network::Host);
        for (wrong, exit) in [
            ("keep_caps: false", Exit::Policy),
            ("clone_newnet: false", Exit::Policy),
            ("mount { dst: \"/x\" fstype: \"tmpfs\" }", Exit::Policy),
            ("cgroup_mem_max: 1", Exit::Policy),
            ("no_such_field: 1", Exit::Sandbox),
        ] {
            assert_eq!(read(wrong).unwrap_err().exit, exit, "{wrong}");
        }
        // A file that leads nowhere is not the same as none.
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("nowhere", &file).unwrap();
        assert!(Terms::of("default@fork", &env).is_err());
        // Other builders are not of that trust.
        for name in ["default", "default@vendor", "fork"] {
            assert_eq!(Terms::of(name, &env).unwrap(), Terms::default(), "{name}");
        }
    }
}
