//! What a daemon can do, told by its version.
//!
//! BuildKit ignores request fields that it does not know. A build that depends on one must therefore ask first, or it
//! would be done differently without a word. Versions and their features: moby/buildkit's release history.

use std::fmt;

use crate::client::{DaemonInfo, Worker};
use crate::error::BuildError;

/// The numbers of a BuildKit version: `v0.13.0-rc1`, `0.8+unknown`, `v0.31.0-moby`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl Version {
    pub const fn new(major: u32, minor: u32, patch: u32) -> Version {
        Version { major, minor, patch }
    }

    /// `None` for what is no version, such as a commit's hash.
    pub fn parse(text: &str) -> Option<Version> {
        let text = text.trim().strip_prefix('v').unwrap_or(text.trim());
        let numbers = text.split(['-', '+']).next()?;
        let mut parts = numbers
            .split('.')
            .map(|part| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<u32>().ok()).flatten());
        let (major, minor) = (parts.next()??, parts.next()??);
        let patch = match parts.next() {
            Some(patch) => patch?,
            None => 0,
        };
        parts.next().is_none().then_some(Version { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Whether the daemon's own Dockerfile frontend honours `force-network-mode`, which takes the network from RUN steps.
///
/// The attribute is as old as v0.3.0 and unchanged in effect since; what is older than v0.8 speaks another session
/// protocol and is refused. Only the builtin frontend is covered: see
/// [`Build::without_network`](crate::build::Build::without_network).
pub fn supports_forced_network(info: &DaemonInfo, workers: &[Worker]) -> Result<(), BuildError> {
    promised_since(Version::new(0, 8, 0), "take the network from RUN steps", info, workers)
}

/// Whether the daemon heeds the source policy of a request.
pub fn supports_source_policy(info: &DaemonInfo, workers: &[Worker]) -> Result<(), BuildError> {
    promised_since(Version::new(0, 11, 0), "keep to a source policy", info, workers)
}

/// Whether the daemon can give steps its own proxy for a network, and asks the session about each source and each request.
pub fn supports_proxy_network(info: &DaemonInfo, workers: &[Worker]) -> Result<(), BuildError> {
    promised_since(Version::new(0, 31, 0), "put steps behind its proxy", info, workers)
}

/// Whether the daemon can be held to a [hermetic](crate::sourcepolicy::Pinned) build: it keeps to both of the above, and asks the
/// policy before it looks for an image, where older ones asked after it.
pub fn supports_hermetic(info: &DaemonInfo, workers: &[Worker]) -> Result<(), BuildError> {
    supports_forced_network(info, workers)?;
    promised_since(Version::new(0, 13, 0), "keep a build to what is pinned", info, workers)
}

/// These are security promises, so a daemon whose version cannot be read is refused too, and so is one of several workers
/// that does not say the same.
fn promised_since(
    since: Version,
    what: &str,
    info: &DaemonInfo,
    workers: &[Worker],
) -> Result<(), BuildError> {
    let refused = |version: &str| {
        let shown = if version.is_empty() { "of unknown version" } else { version };
        let what = format!("be trusted to {what}: that needs {since} or newer, by its own word");
        Err(BuildError::Unenforceable { version: shown.to_owned(), what })
    };
    let holds = |version: &str| Version::parse(version).is_some_and(|version| version >= since);
    let mut words =
        workers.iter().map(|worker| worker.version.as_str()).filter(|version| !version.is_empty());
    if let Some(bad) = words.clone().find(|version| !holds(version)) {
        return refused(bad);
    }
    let word = if info.version.is_empty() { words.next().unwrap_or_default() } else { info.version.as_str() };
    if holds(word) { Ok(()) } else { refused(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (text, want) in [
            ("v0.32.2", Some((0, 32, 2))),
            ("v0.13.0-rc1", Some((0, 13, 0))),
            ("0.8+unknown", Some((0, 8, 0))),
            ("v0.0.0+unknown", Some((0, 0, 0))),
            ("v0.31.0-moby", Some((0, 31, 0))),
            ("v0.11.7-0.20230525183624-798ad6b0ce9f", Some((0, 11, 7))),
            ("", None),
            ("5a9ea6c31b4c", None),
            ("v0.x.1", None),
            ("v0.1.2.3", None),
            ("v1", None),
            ("v0.+1", None),
            ("v0.99999999999", None),
        ] {
            assert_eq!(Version::parse(text), want.map(|(a, b, c)| Version::new(a, b, c)), "{text}");
        }
    }

    #[test]
    fn forced_network() {
        let worker = |version: &str| Worker { version: version.to_owned(), ..Worker::default() };
        for (daemon, workers, ok) in [
            ("v0.32.2", &["v0.32.2"][..], true),
            ("v0.8.3", &[], true),
            ("", &["v0.11.0-moby"], true),
            ("", &[""], false),
            ("v0.7.2", &[], false),
            ("v0.0.0+unknown", &[], false),
            ("5a9ea6c31b4c", &["v0.32.2"], false),
            ("v0.32.2", &["v0.32.2", "5a9ea6c31b4c"], false),
        ] {
            let workers: Vec<Worker> = workers.iter().map(|version| worker(version)).collect();
            let verdict = supports_forced_network(&DaemonInfo { version: daemon.to_owned() }, &workers);
            assert_eq!(verdict.is_ok(), ok, "{daemon} {workers:?}");
        }
    }

    #[test]
    fn proxy_networks() {
        for (daemon, ok) in [("v0.31.0", true), ("v0.30.9", false), ("", false), ("5a9ea6c31b4c", false)] {
            let verdict = supports_proxy_network(&DaemonInfo { version: daemon.to_owned() }, &[]);
            assert_eq!(verdict.is_ok(), ok, "{daemon}");
            assert!(matches!(verdict, Ok(()) | Err(BuildError::Unenforceable { .. })));
        }
    }

    #[test]
    fn hermetic_builds() {
        for (daemon, ok) in [("v0.13.0", true), ("v0.12.5", false), ("", false), ("5a9ea6c31b4c", false)] {
            let verdict = supports_hermetic(&DaemonInfo { version: daemon.to_owned() }, &[]);
            assert_eq!(verdict.is_ok(), ok, "{daemon}");
        }
    }

    #[test]
    fn source_policies() {
        for (daemon, ok) in [("v0.11.0", true), ("v0.10.6", false), ("", false), ("5a9ea6c31b4c", false)] {
            let verdict = supports_source_policy(&DaemonInfo { version: daemon.to_owned() }, &[]);
            assert_eq!(verdict.is_ok(), ok, "{daemon}");
            assert!(matches!(verdict, Ok(()) | Err(BuildError::Unenforceable { .. })));
        }
    }
}
