//! What a program finds around it: variables, and the record that tells buildx of the builder.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sandbox_linux::Policy;
use serde_json::{Value, json};

use crate::env::Env;
use crate::failure::Failure;
use crate::plan::guest_path;

/// The builder's door inside, where clients look by themselves.
pub const BUILDER_SOCKET: &str = "/run/buildkit/buildkitd.sock";
/// The gate to a Docker Engine inside, where docker looks by itself.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";
/// Where containerd's clients look by themselves.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// buildx's name for the builder behind the door.
const BUILDX_NAME: &str = "ktl";

/// What was brought in.
#[derive(Debug, Clone, Copy)]
pub struct Brought {
    pub door: bool,
    pub gate: bool,
    /// buildx builds with the builder behind the door, not with the Engine.
    pub buildx: bool,
}

/// The variables besides those of every jail. What the user gives wins, then what the policy says, then these.
pub fn variables(
    path: String,
    brought: Brought,
    given: &[String],
    policy: &Policy,
    env: &Env,
) -> Result<Vec<(String, String)>, Failure> {
    let home = guest_path::CLIENT_CACHE;
    let mut own = vec![
        ("PATH", path),
        ("HOME", home.to_owned()),
        ("TMPDIR", "/tmp".to_owned()),
        ("DOCKER_CONFIG", format!("{home}/docker")),
        ("XDG_CACHE_HOME", format!("{home}/cache")),
        ("XDG_CONFIG_HOME", format!("{home}/config")),
        ("XDG_DATA_HOME", format!("{home}/data")),
    ];
    if brought.door {
        own.push(("BUILDKIT_HOST", format!("unix://{BUILDER_SOCKET}")));
    }
    if brought.gate {
        own.push(("DOCKER_HOST", format!("unix://{DOCKER_SOCKET}")));
    }
    if brought.buildx {
        own.push(("BUILDX_BUILDER", BUILDX_NAME.to_owned()));
    }
    let named = policys_variables(policy);
    let mut all: Vec<(String, String)> = own
        .into_iter()
        .filter(|(name, _)| !named.contains(*name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    for spec in given {
        let (name, value) = match spec.split_once('=') {
            Some((name, value)) => (name.to_owned(), value.to_owned()),
            None => {
                let value = env
                    .text(spec)
                    .ok_or_else(|| Failure::usage(format!("--env {spec}: the variable is not set")))?;
                (spec.clone(), value)
            }
        };
        if name.is_empty() || name.starts_with("KTL_SANDBOX_") {
            return Err(Failure::usage(format!("--env {spec}: `{name}` is no name that can be given")));
        }
        all.retain(|(other, _)| *other != name);
        all.push((name, value));
    }
    Ok(all)
}

/// The record of a builder in buildx's store (`store/nodegroup.go`), as `buildx create --driver remote` writes it.
pub fn buildx_record() -> (PathBuf, String) {
    let path = format!("{}/docker/buildx/instances/{BUILDX_NAME}", guest_path::CLIENT_CACHE);
    let record = json!({
        "Name": BUILDX_NAME,
        "Driver": "remote",
        "Nodes": [{
            "Name": format!("{BUILDX_NAME}0"),
            "Endpoint": format!("unix://{BUILDER_SOCKET}"),
            "Platforms": null,
            "DriverOpts": null,
            "Flags": null,
            "Files": null,
        }],
        "Dynamic": false,
    });
    (path.into(), record.to_string())
}

/// Names that the policy gives a value to.
fn policys_variables(policy: &Policy) -> BTreeSet<String> {
    let json = policy.to_json();
    let entries = json.get("envar").and_then(Value::as_array).cloned().unwrap_or_default();
    entries
        .iter()
        .filter_map(|entry| entry.as_str()?.split_once('=').map(|(name, _)| name.to_owned()))
        .collect()
}

/// Directories that the policy shows at the path that they have on the host.
pub fn shown(policy: &Policy) -> Vec<PathBuf> {
    let json = policy.to_json();
    let entries = json.get("mount").and_then(Value::as_array).cloned().unwrap_or_default();
    let text =
        |entry: &Value, name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    entries
        .iter()
        .filter(|entry| {
            let bound = ["isBind", "is_bind"].iter().any(|key| entry.get(key) == Some(&Value::Bool(true)));
            bound && text(entry, "src") == text(entry, "dst")
        })
        .map(|entry| PathBuf::from(text(entry, "dst")))
        .filter(|dir| dir.is_dir())
        .collect()
}

#[cfg(test)]
mod tests {
    use sandbox_linux::Builtin;

    use super::*;

    #[test]
    fn what_is_given_wins_over_the_policy_and_that_over_ktl() {
        let policy = Policy::parse("p", b"envar: \"HOME=/p\" envar: \"TMPDIR=/p\" envar: \"TERM\"").unwrap();
        let brought = Brought { door: true, gate: false, buildx: true };
        let env = Env::of(&[("TOKEN", "t")]);
        let given = ["TMPDIR=/mine".to_owned(), "TOKEN".to_owned()];
        let all = variables("/usr/bin".to_owned(), brought, &given, &policy, &env).unwrap();
        let value = |name: &str| {
            let mut found = all.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
            let first = found.next();
            assert_eq!(found.next(), None, "{name} twice");
            first
        };
        assert_eq!(value("HOME"), None, "the policy's own");
        assert_eq!(value("TMPDIR"), Some("/mine"));
        assert_eq!(value("TOKEN"), Some("t"));
        assert_eq!(value("BUILDKIT_HOST"), Some("unix:///run/buildkit/buildkitd.sock"));
        assert_eq!(value("BUILDX_BUILDER"), Some("ktl"));
        assert_eq!(value("DOCKER_HOST"), None);
        for wrong in ["=x", "UNSET", "KTL_SANDBOX_NONCE=1", ""] {
            let refused = variables(String::new(), brought, &[wrong.to_owned()], &policy, &env).unwrap_err();
            assert_eq!(refused.exit.code(), 2, "{wrong}");
        }
    }

    #[test]
    fn finds_what_a_policy_shows_in_place() {
        let policy = Policy::parse(
            "p",
            b"mount { src: \"/usr\" dst: \"/usr\" is_bind: true } mount { src: \"/etc\" dst: \"/e\" is_bind: true } \
              mount { dst: \"/tmp\" fstype: \"tmpfs\" } mount { src: \"/dev/null\" dst: \"/dev/null\" is_bind: true }",
        )
        .unwrap();
        assert_eq!(shown(&policy), [PathBuf::from("/usr")]);
        assert!(shown(&Policy::builtin(Builtin::Strict)).is_empty());
    }
}
