//! What a build needs of its daemon.
//!
//! BuildKit ignores what it does not know, in requests and in attributes alike: an old daemon would build something else without
//! a word. Since when there is what, is told by moby/buildkit's history.

use crate::build::Build;
use crate::client::DaemonInfo;
use crate::error::BuildError;
use crate::version::Version;

/// Attributes, by their beginning, that older frontends leave out without a word.
const SINCE: &[(&str, Version, &str)] = &[
    ("shm-size", Version::new(0, 10, 0), "set the shared memory of steps"),
    ("ulimit", Version::new(0, 10, 0), "set limits of steps"),
    ("cgroup-parent", Version::new(0, 10, 0), "set the control group of steps"),
    ("context:", Version::new(0, 10, 0), "take named contexts"),
    ("attest:", ATTESTATIONS, "make attestations"),
    ("memory", Version::new(0, 31, 0), RESOURCES),
    ("memswap", Version::new(0, 31, 0), RESOURCES),
    ("cpu", Version::new(0, 31, 0), RESOURCES),
];
pub(crate) const ATTESTATIONS: Version = Version::new(0, 11, 0);
const RESOURCES: &str = "limit the memory and the processors of steps";

impl Build {
    /// What an older daemon would leave out without saying so.
    pub(crate) fn requirements(&self) -> Vec<(Version, &'static str)> {
        let mut needs = Vec::new();
        if self.exports.len() > 1 {
            needs.push((Version::new(0, 13, 0), "write several outputs in one build"));
        }
        for (prefix, since, what) in SINCE {
            if self.frontend_attrs.keys().any(|key| key.starts_with(prefix)) {
                needs.push((*since, *what));
            }
        }
        if self.reproducible {
            needs.push((Version::new(0, 13, 0), "rewrite the times of files in images"));
        }
        if self.frontend_attrs.get("build-arg:SOURCE_DATE_EPOCH").is_some_and(|epoch| epoch == "context") {
            needs
                .push((Version::new(0, 30, 0), "take SOURCE_DATE_EPOCH from the commit of a remote context"));
        }
        if self.question.is_some() {
            needs.push((Version::new(0, 10, 0), "be asked about a Dockerfile"));
        }
        if self.frontend_attrs.values().any(|value| value.starts_with("oci-layout://")) {
            needs.push((Version::new(0, 11, 0), "take images from directories"));
        }
        if self.exports.iter().any(|export| export.attrs.keys().any(|key| key.starts_with("annotation"))) {
            needs.push((Version::new(0, 11, 0), "annotate images"));
        }
        if self.entitlements.iter().any(|entitlement| entitlement.starts_with("device")) {
            needs.push((Version::new(0, 20, 0), "give devices to a build"));
        }
        needs
    }

    /// Refuses what `info` cannot do.
    pub(crate) fn check(&self, info: &DaemonInfo) -> Result<(), BuildError> {
        demand(info, self.requirements())
    }
}

/// Refuses what `info` cannot do. None of it is a matter of security, so a version that cannot be read, which is somebody's
/// own build of the daemon, passes for the newest. A daemon that cannot tell its version is an old one.
pub(crate) fn demand(info: &DaemonInfo, needs: Vec<(Version, &'static str)>) -> Result<(), BuildError> {
    let version = match info.parsed() {
        Some(version) if version > Version::new(0, 0, 0) => version,
        _ if info.version.is_empty() => Version::new(0, 8, 0),
        _ => return Ok(()),
    };
    match needs.into_iter().find(|(since, _)| version < *since) {
        None => Ok(()),
        Some((since, what)) => {
            let shown = if info.version.is_empty() { "before v0.11" } else { info.version.as_str() };
            Err(BuildError::Unsupported {
                version: shown.to_owned(),
                what: format!("{what}: that needs {since}"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::Export;

    fn export(kind: &str) -> Export {
        Export { kind: kind.to_owned(), ..Export::default() }
    }

    #[test]
    fn old_daemons_are_asked_first() {
        let several = Build { exports: vec![export("oci"), export("local")], ..Build::default() };
        for (version, ok) in [
            ("v0.13.0", true),
            ("v0.12.5", false),
            ("", false),
            ("v0.0.0+unknown", true),
            ("5a9ea6c31b4c", true),
        ] {
            let info = DaemonInfo { version: version.to_owned() };
            assert_eq!(several.check(&info).is_ok(), ok, "{version}");
            assert!(Build::default().check(&info).is_ok());
        }
    }

    #[test]
    fn reproducible_results_need_their_daemon() {
        let mut build = Build { reproducible: true, ..Build::default() };
        let on = |version: &str, build: &Build| {
            build.check(&DaemonInfo { version: version.to_owned() }).map_err(|error| error.to_string())
        };
        assert!(on("v0.12.5", &build).unwrap_err().contains("v0.13.0"));
        assert!(on("v0.13.0", &build).is_ok());
        build.frontend_attrs.insert("build-arg:SOURCE_DATE_EPOCH".to_owned(), "context".to_owned());
        assert!(on("v0.29.0", &build).unwrap_err().contains("v0.30.0"));
        assert!(on("v0.30.0", &build).is_ok());
    }

    #[test]
    fn what_old_daemons_leave_out() {
        for (attr, since) in [
            ("shm-size", "v0.10.0"),
            ("ulimit", "v0.10.0"),
            ("cgroup-parent", "v0.10.0"),
            ("context:alpine", "v0.10.0"),
            ("attest:sbom", "v0.11.0"),
            ("memory", "v0.31.0"),
            ("cpusetcpus", "v0.31.0"),
        ] {
            let build =
                Build { frontend_attrs: [(attr.to_owned(), String::new())].into(), ..Build::default() };
            let error = build.check(&DaemonInfo { version: "v0.8.3".to_owned() }).unwrap_err().to_string();
            assert!(error.contains(since), "{attr}: {error}");
            assert!(build.check(&DaemonInfo { version: "v0.32.2".to_owned() }).is_ok());
        }
    }
}
