//! What a source is fetched from, read as strictly as a guard has to.
//!
//! The daemon names a source by a URL of its own making, and it is that URL's server that must be on the list. What two programs
//! may read differently (credentials, backslashes, escapes in the host, odd numbers) is not read at all. Follows the source
//! schemes of moby/buildkit `source/types` and `source/{git,http,containerimage}`.

use std::collections::BTreeMap;
use std::fmt;

use super::host::{Host, HostError};
use super::rule::{parse_port, split_port};
use crate::reference::ImageRef;

/// Of a URL; longer ones are not decided about.
const MAX_URL: usize = 8 << 10;
const HUB: &str = "docker.io";
/// Where the images of docker.io come from.
const HUB_REGISTRY: &str = "registry-1.docker.io";
/// How often escapes of escapes are undone.
const MAX_ROUNDS: usize = 8;

/// The full URL of a git source.
const GIT_URL: &str = "git.fullurl";
/// A blob that a git source is unpacked from instead.
const GIT_BUNDLE: &str = "git.bundle";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
    Git,
    Ssh,
    /// Images: https, or http where the daemon is configured so.
    Registry,
}

impl Scheme {
    /// Of a rule.
    pub fn parse(name: &str) -> Option<Scheme> {
        [Scheme::Http, Scheme::Https, Scheme::Git, Scheme::Ssh].into_iter().find(|known| known.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Git => "git",
            Scheme::Ssh => "ssh",
            Scheme::Registry => "image",
        }
    }

    pub fn port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https | Scheme::Registry => 443,
            Scheme::Git => 9418,
            Scheme::Ssh => 22,
        }
    }
}

/// A request to a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    /// As it was written, with `/` for none.
    path: String,
    /// With its `?`.
    query: String,
}

/// Why a source is refused before any list is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("it is longer than {MAX_URL} bytes")]
    Long,
    #[error("it has characters that no URL has")]
    Characters,
    #[error("it names a login, and programs differ in where the host begins then")]
    User,
    #[error("its port is no number")]
    Port,
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("it names no image")]
    Image,
    #[error("sources of this kind are not known")]
    Kind,
}

impl Target {
    /// Where a source comes from; `None` for one that comes from the client or from what the daemon holds.
    pub fn of(identifier: &str, attrs: &BTreeMap<String, String>) -> Result<Option<Target>, TargetError> {
        let (kind, rest) = identifier.split_once("://").ok_or(TargetError::Kind)?;
        match kind {
            "local" | "oci-layout" | "oci-layout+blob" => Ok(None),
            "docker-image" | "docker-image+blob" => image(rest).map(Some),
            "http" => url(Scheme::Http, rest, false).map(Some),
            "https" => url(Scheme::Https, rest, false).map(Some),
            "git" => match attrs.get(GIT_BUNDLE) {
                Some(bundle) => Target::of(bundle, &BTreeMap::new()),
                None => git(attrs.get(GIT_URL).map_or(rest, String::as_str)).map(Some),
            },
            _ => Err(TargetError::Kind),
        }
    }

    /// Whether the path is `prefix` or lies below it. One that some server might take for another place is not.
    pub(super) fn is_within(&self, prefix: &str) -> bool {
        let Some(path) = plain(&self.path) else { return false };
        match path.strip_prefix(prefix) {
            Some(rest) => rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/'),
            None => false,
        }
    }
}

/// A path without escapes; `None` where undoing them once more, or going up by `..`, would make it another.
fn plain(path: &str) -> Option<String> {
    let mut text = path.to_owned();
    for _ in 0..MAX_ROUNDS {
        let up = |part: &str| part.split(';').next() == Some("..");
        if text.contains(['\\', '\0']) || text.split('/').any(up) {
            return None;
        }
        let next = unescape(&text)?;
        if next.matches('/').count() != text.matches('/').count() {
            return None;
        }
        if next == text {
            return Some(text);
        }
        text = next;
    }
    None
}

/// Undoes `%41`; `None` for what is no escape or no text.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn readable(text: &str) -> Result<(), TargetError> {
    if text.len() > MAX_URL {
        return Err(TargetError::Long);
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
        return Err(TargetError::Characters);
    }
    Ok(())
}

fn url(scheme: Scheme, rest: &str, may_log_in: bool) -> Result<Target, TargetError> {
    readable(rest)?;
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (path, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    let authority = match authority.split_once('@') {
        Some((_, authority)) if may_log_in && !authority.contains('@') => authority,
        Some(_) => return Err(TargetError::User),
        None => authority,
    };
    let (host, port) = split_port(authority);
    let port = match port {
        Some(port) => parse_port(port).ok_or(TargetError::Port)?,
        None => scheme.port(),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target { scheme, host: Host::parse(host)?, port, path: path.to_owned(), query: query.to_owned() })
}

/// `example.org/a.git`, a URL, or `user@host:path` as ssh clients have it.
fn git(text: &str) -> Result<Target, TargetError> {
    readable(text)?;
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let scheme = Scheme::parse(scheme).ok_or(TargetError::Kind)?;
            url(scheme, rest, scheme == Scheme::Ssh)
        }
        None => match text.split_once('@') {
            Some((user, rest)) if !user.contains(['/', ':']) => {
                let (host, path) = rest.split_once(':').ok_or(TargetError::User)?;
                let path = path.split('#').next().unwrap_or_default();
                let path = format!("/{}", path.strip_prefix('/').unwrap_or(path));
                let port = Scheme::Ssh.port();
                Ok(Target { scheme: Scheme::Ssh, host: Host::parse(host)?, port, path, query: String::new() })
            }
            _ => url(Scheme::Https, text, false),
        },
    }
}

fn image(text: &str) -> Result<Target, TargetError> {
    readable(text)?;
    let image: ImageRef = text.parse().map_err(|_| TargetError::Image)?;
    let domain = if image.domain() == HUB { HUB_REGISTRY } else { image.domain() };
    let (host, port) = split_port(domain);
    let port = match port {
        Some(port) => parse_port(port).ok_or(TargetError::Port)?,
        None => Scheme::Registry.port(),
    };
    let path = format!("/v2/{}/", image.path());
    Ok(Target { scheme: Scheme::Registry, host: Host::parse(host)?, port, path, query: String::new() })
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { scheme, host, port, path, query } = self;
        write!(f, "{}://{host}", scheme.name())?;
        if *port != scheme.port() {
            write!(f, ":{port}")?;
        }
        write!(f, "{path}{query}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_in_one_form() {
        let none = BTreeMap::new();
        for (identifier, shown) in [
            ("https://Example.org:443/a?b#c", "https://example.org/a?b"),
            ("http://example.org", "http://example.org/"),
            ("http://example.org?x", "http://example.org/?x"),
            (
                "docker-image://docker.io/library/busybox:latest",
                "image://registry-1.docker.io/v2/library/busybox/",
            ),
            ("docker-image://127.0.0.1:5000/a/b:1", "image://127.0.0.1:5000/v2/a/b/"),
            ("git://example.org/a.git#main", "https://example.org/a.git"),
        ] {
            assert_eq!(Target::of(identifier, &none).unwrap().unwrap().to_string(), shown, "{identifier}");
        }
        for (url, shown) in [
            ("https://example.org/a.git#main:sub", "https://example.org/a.git"),
            ("git://example.org/a.git", "git://example.org/a.git"),
            ("ssh://git@example.org:2222/a.git", "ssh://example.org:2222/a.git"),
            ("git@example.org:a/b.git#main", "ssh://example.org/a/b.git"),
            ("example.org/a.git", "https://example.org/a.git"),
        ] {
            let attrs = [(GIT_URL.to_owned(), url.to_owned())].into();
            assert_eq!(
                Target::of("git://elsewhere.example/a.git", &attrs).unwrap().unwrap().to_string(),
                shown,
                "{url}"
            );
        }
        let bundle = [(GIT_BUNDLE.to_owned(), "docker-image+blob://r.example/a@sha256:x".to_owned())].into();
        assert_eq!(Target::of("git://example.org/a.git", &bundle), Err(TargetError::Image));
        for local in ["local://context", "oci-layout://x/y@sha256:00", "oci-layout+blob://x"] {
            assert_eq!(Target::of(local, &none), Ok(None), "{local}");
        }
    }

    #[test]
    fn what_is_not_read() {
        let long = format!("https://example.org/{}", "a".repeat(MAX_URL));
        for (identifier, why) in [
            ("nonsense", TargetError::Kind),
            ("ftp://example.org/", TargetError::Kind),
            ("HTTPS://example.org/", TargetError::Kind),
            (&long, TargetError::Long),
            ("https://example.org/a b", TargetError::Characters),
            ("https://example.org/\u{7f}", TargetError::Characters),
            ("https://example.org\\@evil.example/", TargetError::Characters),
            ("https://a@example.org/", TargetError::User),
            ("https://example.org:80a/", TargetError::Port),
            ("https://example.org:/", TargetError::Port),
            ("https:///x", TargetError::Host(HostError::Empty)),
            ("https://?x", TargetError::Host(HostError::Empty)),
            ("docker-image://", TargetError::Image),
            ("docker-image://UPPER/Case", TargetError::Image),
            ("git://a@b@example.org:x", TargetError::Host(HostError::Letters)),
            ("git://https://a@example.org/x", TargetError::User),
        ] {
            assert_eq!(Target::of(identifier, &BTreeMap::new()), Err(why), "{identifier}");
        }
    }
}
