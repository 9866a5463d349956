//! One entry of the list of hosts that a build may reach.
//!
//! `[SCHEME://]HOST[:PORT][/PATH]`. A host alone means https at its usual port; `http://HOST` means http at its usual one; a port
//! without a scheme means either there. `*.example.org` means every name below example.org, and not example.org. A path means
//! itself and what lies below it.

use std::fmt;
use std::str::FromStr;

use super::address::special;
use super::host::{Host, HostError};
use super::target::{Scheme, Target};

/// A server, or a part of one, that may be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    host: Pattern,
    port: u16,
    /// `None` where a port was given without one.
    scheme: Option<Scheme>,
    /// Begins with `/`.
    path: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pattern {
    Is(Host),
    /// Every name that ends in this, which begins with a dot.
    Below(String),
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("`{0}` is no scheme that a rule may have; there are http, https, git and ssh")]
    Scheme(String),
    #[error("`{0}` is no port")]
    Port(String),
    #[error("a rule names a host, not who logs in there")]
    User,
    #[error(
        "`*` stands for the first parts of a name, as in *.example.org, and never for all of a top-level domain"
    )]
    Wildcard,
    #[error("a path of a rule has neither `?`, `#`, `%`, `\\`, empty parts nor parts of dots alone")]
    Path,
}

impl Rule {
    /// The rule by which exactly the server of `target` may be reached.
    pub fn of(target: &Target) -> Rule {
        let scheme = match target.scheme {
            Scheme::Registry => (target.port == 443).then_some(Scheme::Https),
            other => Some(other),
        };
        Rule { host: Pattern::Is(target.host.clone()), port: target.port, scheme, path: None }
    }

    pub fn admits(&self, target: &Target) -> bool {
        let scheme = match self.scheme {
            None => true,
            // Whether a registry is spoken to in plain http is for the daemon's configuration to say.
            Some(Scheme::Http | Scheme::Https) if target.scheme == Scheme::Registry => true,
            Some(scheme) => scheme == target.scheme,
        };
        let path = self.path.as_deref();
        scheme && self.reaches(&target.host, target.port) && path.is_none_or(|path| target.is_within(path))
    }

    /// Whether it admits anything at that server.
    pub fn reaches(&self, host: &Host, port: u16) -> bool {
        port == self.port
            && match (&self.host, host) {
                (Pattern::Is(named), host) => named == host,
                (Pattern::Below(end), Host::Name(name)) => name.len() > end.len() && name.ends_with(end),
                (Pattern::Below(_), Host::Address(_)) => false,
            }
    }

    /// The host, where it is a single one.
    pub fn host(&self) -> Option<&Host> {
        match &self.host {
            Pattern::Is(host) => Some(host),
            Pattern::Below(_) => None,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What both rules admit; nothing where that is nothing.
    pub fn meet(&self, other: &Rule) -> Option<Rule> {
        let scheme = match (self.scheme, other.scheme) {
            (None, scheme) | (scheme, None) => scheme,
            (one, other) if one == other => one,
            _ => return None,
        };
        let path = match (&self.path, &other.path) {
            (None, path) | (path, None) => path.clone(),
            (Some(one), Some(other)) if is_below(one, other) => Some(one.clone()),
            (Some(one), Some(other)) if is_below(other, one) => Some(other.clone()),
            _ => return None,
        };
        let host = self.host.meet(&other.host).filter(|_| self.port == other.port)?;
        Some(Rule { host: host.clone(), port: self.port, scheme, path })
    }

    /// What it admits besides public servers: an address that is not public, or a name of loopback's.
    pub fn special(&self) -> Option<&'static str> {
        let name = match &self.host {
            Pattern::Is(Host::Address(address)) => return special(*address),
            Pattern::Is(Host::Name(name)) | Pattern::Below(name) => name,
        };
        (name == "localhost" || name.ends_with(".localhost")).then_some("loopback")
    }
}

impl Pattern {
    fn meet<'a>(&'a self, other: &'a Pattern) -> Option<&'a Pattern> {
        match (self, other) {
            (Pattern::Is(one), Pattern::Is(other)) => (one == other).then_some(self),
            (Pattern::Below(one), Pattern::Below(end)) if one.ends_with(end.as_str()) => Some(self),
            (Pattern::Below(end), Pattern::Below(one)) if one.ends_with(end.as_str()) => Some(other),
            (Pattern::Is(Host::Name(name)), Pattern::Below(end)) if name.ends_with(end.as_str()) => {
                Some(self)
            }
            (Pattern::Below(end), Pattern::Is(Host::Name(name))) if name.ends_with(end.as_str()) => {
                Some(other)
            }
            _ => None,
        }
    }
}

/// Whether the path `inner` is `outer` or lies below it.
fn is_below(inner: &str, outer: &str) -> bool {
    inner
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || outer.ends_with('/') || rest.starts_with('/'))
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rule, RuleError> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => {
                let known = Scheme::parse(&scheme.to_ascii_lowercase());
                (Some(known.ok_or_else(|| RuleError::Scheme(scheme.to_owned()))?), rest)
            }
            None => (None, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(RuleError::User);
        }
        let (host, port) = split_port(authority);
        let port = port.map(|port| parse_port(port).ok_or_else(|| RuleError::Port(port.to_owned())));
        let port = port.transpose()?;
        let scheme = if port.is_none() { Some(scheme.unwrap_or(Scheme::Https)) } else { scheme };
        let port = port.or(scheme.map(Scheme::port)).unwrap_or_default();
        let host = match host.strip_prefix("*.") {
            Some(parent) => match Host::parse(parent)? {
                Host::Name(name) if name.contains('.') => Pattern::Below(format!(".{name}")),
                _ => return Err(RuleError::Wildcard),
            },
            None if host.contains('*') => return Err(RuleError::Wildcard),
            None => Pattern::Is(Host::parse(host)?),
        };
        Ok(Rule { host, port, scheme, path: parse_path(path)? })
    }
}

/// A rule's path is compared with what was written in a request, so it is written in the plainest way itself.
fn parse_path(path: &str) -> Result<Option<String>, RuleError> {
    if matches!(path, "" | "/") {
        return Ok(None);
    }
    let plain = |c: u8| c.is_ascii_graphic() && !matches!(c, b'?' | b'#' | b'%' | b'\\');
    let inner = path.strip_prefix('/').unwrap_or(path);
    let parts = inner.strip_suffix('/').unwrap_or(inner);
    let good = path.bytes().all(plain) && parts.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if good { Ok(Some(path.to_owned())) } else { Err(RuleError::Path) }
}

/// The host and, where there is one, the port of an authority.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => {
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        _ => (authority, None),
    }
}

pub(super) fn parse_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Some(Scheme::Https) if self.port == Scheme::Https.port() => {}
            Some(scheme) => write!(f, "{}://", scheme.name())?,
            None => {}
        }
        match &self.host {
            Pattern::Is(host) => write!(f, "{host}")?,
            Pattern::Below(end) => write!(f, "*{end}")?,
        }
        if self.scheme.is_none_or(|scheme| scheme.port() != self.port) {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(self.path.as_deref().unwrap_or_default())
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Rule, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn rules_are_printed_as_they_are_read() {
        for (text, shown) in [
            ("deb.debian.org", "deb.debian.org"),
            ("https://DEB.debian.org./", "deb.debian.org"),
            ("http://deb.debian.org", "http://deb.debian.org"),
            ("http://deb.debian.org:80/debian", "http://deb.debian.org/debian"),
            ("mirror:3142", "mirror:3142"),
            ("mirror:443", "mirror:443"),
            ("https://mirror:8443", "https://mirror:8443"),
            ("*.example.org/x/", "*.example.org/x/"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]:80"),
            ("git://example.org", "git://example.org"),
            ("ssh://example.org:2222", "ssh://example.org:2222"),
        ] {
            assert_eq!(rule(text).to_string(), shown, "{text}");
            assert_eq!(rule(shown), rule(text), "{text} printed and read again");
        }
        for (text, why) in [
            ("", "no host"),
            ("ftp://x", "no scheme"),
            ("registry://x", "no scheme"),
            ("user@x", "logs in"),
            ("x:", "no port"),
            ("x:0", "no port"),
            ("x:+1", "no port"),
            ("x:65536", "no port"),
            ("*", "`*` stands"),
            ("*.org", "`*` stands"),
            ("*.1.2.3.4", "`*` stands"),
            ("a.*.org", "`*` stands"),
            ("127.1", "four decimal"),
            ("x/a/../b", "path"),
            ("x//", "path"),
            ("x/%41", "path"),
            ("x/a?b", "path"),
            ("x/ä", "path"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn two_rules_meet_in_what_both_admit() {
        for (one, other, both) in [
            ("example.org", "example.org", Some("example.org")),
            ("example.org", "http://example.org", None),
            ("example.org", "example.org:443", Some("example.org")),
            ("m:5000", "http://m:5000", Some("http://m:5000")),
            ("http://m:5000", "https://m:5000", None),
            ("*.example.org", "a.b.example.org", Some("a.b.example.org")),
            ("*.example.org", "example.org", None),
            ("*.example.org", "*.b.example.org", Some("*.b.example.org")),
            ("*.example.org", "*.bexample.org", None),
            ("example.org/a", "example.org", Some("example.org/a")),
            ("example.org/a", "example.org/a/b", Some("example.org/a/b")),
            ("example.org/a", "example.org/a/", Some("example.org/a/")),
            ("example.org/a", "example.org/ab", None),
            ("*.example.org/a", "x.example.org", Some("x.example.org/a")),
            ("10.0.0.1:80", "10.0.0.1:81", None),
            ("10.0.0.1:80", "http://10.0.0.1", Some("http://10.0.0.1")),
        ] {
            let want = both.map(rule);
            assert_eq!(rule(one).meet(&rule(other)), want, "{one} {other}");
            assert_eq!(rule(other).meet(&rule(one)), want, "{other} {one}");
        }
        for (text, special) in [
            ("example.org", false),
            ("8.8.8.8", false),
            ("10.0.0.1", true),
            ("169.254.169.254", true),
            ("[::ffff:127.0.0.1]", true),
            ("[fd00::1]", true),
            ("localhost:5000", true),
            ("*.a.localhost", true),
            ("LOCALHOST.", true),
        ] {
            assert_eq!(rule(text).special().is_some(), special, "{text}");
        }
    }

    #[test]
    fn what_a_rule_admits() {
        let attrs = BTreeMap::new();
        let admits = |rule: &Rule, url: &str| {
            Target::of(url, &attrs).ok().flatten().is_some_and(|target| rule.admits(&target))
        };
        for (text, yes, no) in [
            (
                "example.org",
                &[
                    "https://example.org/",
                    "https://example.org:443/x?y",
                    "https://EXAMPLE.org./",
                    "https://example.org",
                    "docker-image://example.org/a/b:1",
                    "git://example.org/a.git",
                ][..],
                &[
                    "http://example.org/",
                    "https://example.org:8443/",
                    "https://www.example.org/",
                    "https://example.org.evil.example/",
                    "https://evilexample.org/",
                    "https://user@example.org/",
                    "https://user:xxxxx@example.org/",
                    "https://evil.example/@example.org",
                    "https://evil.example\\@example.org/",
                    "https://example.org%2eevil.example/",
                    "https://example.org:443@evil.example/",
                    "https://example.org:/",
                    "https:///example.org/",
                ][..],
            ),
            (
                "http://example.org",
                &["http://example.org/", "http://example.org:80"],
                &["https://example.org/", "http://example.org:443/"],
            ),
            (
                "example.org:8080",
                &[
                    "http://example.org:8080/",
                    "https://example.org:8080/",
                    "docker-image://example.org:8080/a",
                ],
                &["http://example.org/", "https://example.org/"],
            ),
            (
                "*.example.org",
                &["https://a.example.org/", "https://a.b.example.org/"],
                &["https://example.org/", "https://aexample.org/", "https://.example.org/"],
            ),
            (
                "127.0.0.1:80",
                &["http://127.0.0.1/", "http://[::ffff:127.0.0.1]/"],
                &[
                    "http://127.1/",
                    "http://2130706433/",
                    "http://0x7f000001/",
                    "http://0177.0.0.1/",
                    "http://localhost/",
                    "http://127.0.0.2/",
                    "http://[::1]/",
                ],
            ),
            (
                "example.org/simple",
                &[
                    "https://example.org/simple",
                    "https://example.org/simple?x=/../y",
                    "https://example.org/simple/a",
                    "https://example.org/s%69mple/a",
                    "https://example.org/simple/a%20b",
                    "https://example.org/simple/./x",
                ],
                &[
                    "https://example.org/simpler",
                    "https://example.org/",
                    "https://example.org/?/simple",
                    "https://example.org/x/simple",
                    "https://example.org//simple",
                    "https://example.org/./simple",
                    "https://example.org/simple/../secret",
                    "https://example.org/simple/..",
                    "https://example.org/simple/%2e%2e/secret",
                    "https://example.org/simple/.%2E/secret",
                    "https://example.org/simple/%252e%252e/secret",
                    "https://example.org/simple/%25252e%25252e/secret",
                    "https://example.org/simple/..%2fsecret",
                    "https://example.org/simple/..%5csecret",
                    "https://example.org/simple/..;x/secret",
                    "https://example.org/simple/%",
                    "https://example.org/simple/%zz",
                    "https://example.org/simple%2fa",
                    "https://example.org/simple/%00",
                ],
            ),
            ("example.org/simple/", &["https://example.org/simple/a"], &["https://example.org/simple"]),
            (
                "registry-1.docker.io/v2/library",
                &[
                    "docker-image://docker.io/library/busybox:latest@sha256:0000000000000000000000000000000000000000000000000000000000000000",
                ],
                &["docker-image://docker.io/evil/busybox:latest", "docker-image://evil.example/library/x:1"],
            ),
        ] {
            let rule = rule(text);
            for url in yes {
                assert!(admits(&rule, url), "{text} must admit {url}");
            }
            for url in no {
                assert!(!admits(&rule, url), "{text} must not admit {url}");
            }
        }
    }
}
