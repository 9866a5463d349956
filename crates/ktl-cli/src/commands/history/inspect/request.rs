//! What a build was asked for, read from its frontend's attributes as docker buildx reads them.

use std::collections::BTreeMap;

use buildsvc::platform::Platform;
use serde_json::{Value, json};

/// Fields by docker buildx's names; those that say nothing are empty.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) about: Vec<(&'static str, Value)>,
    pub(super) config: Vec<(&'static str, Value)>,
    /// What could not be read.
    pub(super) errors: Vec<String>,
}

/// Texts of the configuration, by attribute.
const TEXTS: [(&str, &str); 17] = [
    ("force-network-mode", "Network"),
    ("hostname", "Hostname"),
    ("cgroup-parent", "CgroupParent"),
    ("image-resolve-mode", "ImageResolveMode"),
    ("shm-size", "ShmSize"),
    ("ulimit", "Ulimit"),
    ("memory", "Memory"),
    ("memswap", "MemorySwap"),
    ("cpushares", "CPUShares"),
    ("cpuperiod", "CPUPeriod"),
    ("cpuquota", "CPUQuota"),
    ("cpusetcpus", "CPUSetCPUs"),
    ("cpusetmems", "CPUSetMems"),
    ("build-arg:BUILDKIT_CACHE_MOUNT_NS", "CacheMountNS"),
    ("build-arg:BUILDKIT_DOCKERFILE_CHECK", "DockerfileCheckConfig"),
    ("build-arg:SOURCE_DATE_EPOCH", "SourceDateEpoch"),
    ("build-arg:SANDBOX_HOSTNAME", "SandboxHostname"),
];
/// Told elsewhere, or of no interest.
const KNOWN: [&str; 5] = ["vcs:", "build-arg:", "label:", "context:", "attest:"];

impl Request {
    pub(super) fn of(attrs: &BTreeMap<String, String>) -> Request {
        let mut attrs = attrs.clone();
        let mut errors = Vec::new();
        let dockerfile = attrs.remove("filename").map(|file| match attrs.get("vcs:localdir:dockerfile") {
            Some(dir) if dir != "." => format!("{dir}/{file}"),
            _ => file,
        });
        let context = attrs.remove("context");
        let repository = attrs.get("vcs:source").cloned();
        let revision = attrs.get("vcs:revision").cloned();
        let target = attrs.remove("target");
        let platform = attrs.remove("platform").map(|list| platforms(&list, &mut errors));
        let keeps = attrs.remove("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR");
        let keeps = keeps.is_some_and(|value| truth(&value, &mut errors));
        let about = vec![
            ("Context", context.into()),
            ("Dockerfile", dockerfile.into()),
            ("VCSRepository", repository.into()),
            ("VCSRevision", revision.into()),
            ("Target", target.into()),
            ("Platform", platform.into()),
            ("KeepGitDir", keeps.into()),
            ("NamedContexts", pairs(&attrs, "context:")),
            ("BuildArgs", pairs(&attrs, "build-arg:")),
            ("Labels", pairs(&attrs, "label:")),
        ];
        let mut config: Vec<(&'static str, Value)> =
            TEXTS.iter().map(|(attr, key)| (*key, attrs.remove(*attr).into())).collect();
        let several = ["build-arg:BUILDKIT_MULTI_PLATFORM", "multi-platform"];
        let several = several.map(|key| attrs.remove(key).map(|value| truth(&value, &mut errors)));
        config.push(("MultiPlatform", several.into_iter().flatten().next_back().into()));
        match attrs.remove("no-cache") {
            Some(stages) if stages.is_empty() => config.push(("NoCache", true.into())),
            Some(stages) => config.push(("NoCacheFilter", stages.split(',').collect())),
            None => {}
        }
        let hosts = attrs.remove("add-hosts");
        config.push(("ExtraHosts", hosts.map(|hosts| hosts.split(',').collect::<Value>()).into()));
        let rest = attrs.iter().filter(|(key, _)| !KNOWN.iter().any(|known| key.starts_with(known)));
        config.push(("RestRaw", rest.map(|(key, value)| pair(key, value)).collect()));
        Request { about, config, errors }
    }
}

fn platforms(list: &str, errors: &mut Vec<String>) -> Vec<String> {
    match list.split(',').map(|one| one.parse::<Platform>()).collect::<Result<Vec<_>, _>>() {
        Ok(platforms) => platforms.iter().map(ToString::to_string).collect(),
        Err(error) => {
            errors.push(format!("failed to parse {list}: ({error})"));
            Vec::new()
        }
    }
}

/// As Go reads it.
fn truth(value: &str, errors: &mut Vec<String>) -> bool {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
        _ => {
            errors.push(format!("failed to parse {value}: (neither true nor false)"));
            false
        }
    }
}

fn pairs(attrs: &BTreeMap<String, String>, prefix: &str) -> Value {
    attrs.iter().filter_map(|(key, value)| Some(pair(key.strip_prefix(prefix)?, value))).collect()
}

fn pair(name: &str, value: &str) -> Value {
    if value.is_empty() { json!({ "Name": name }) } else { json!({ "Name": name, "Value": value }) }
}
