//! How git gets to a server whose address was looked at before: to that address and to no other.
//!
//! git resolves names by itself, and follows where a server sends it. So it is told the addresses that were found to be within
//! bounds, where it can be told (curl's for http, the URL for git), and it follows no redirect. ssh connects to a name, by the user's own
//! configuration; what that name leads to is looked at, and may change until ssh asks as well.

use ureq::Proxy;

use super::bounds::{Bounds, ResolveError};
use super::{PullError, Puller};

/// What git is started with for one remote.
#[derive(Debug, PartialEq, Eq)]
pub struct Way {
    /// What it is given as the remote.
    pub remote: String,
    pub settings: Vec<String>,
    /// A variable: the name that a git server is asked under.
    pub host: Option<(&'static str, String)>,
}

impl Puller<'_> {
    pub(super) fn way(&self, remote: &str) -> Result<Way, PullError> {
        let found = way(remote, &self.bounds, Proxy::try_from_env().is_some());
        found.map_err(|source| PullError::Resolve { remote: remote.to_owned(), source })
    }
}

fn way(remote: &str, bounds: &Bounds, proxied: bool) -> Result<Way, ResolveError> {
    let mut way = Way {
        remote: remote.to_owned(),
        settings: vec!["http.followRedirects=false".to_owned()],
        host: None,
    };
    let (scheme, authority, path) = match remote.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            (scheme.to_ascii_lowercase(), &rest[..end], &rest[end..])
        }
        // user@host:path
        None => ("ssh".to_owned(), remote.split_once(':').map_or(remote, |(authority, _)| authority), ""),
    };
    let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
    let usual = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        "git" => 9418,
        _ => 22,
    };
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().unwrap_or(usual)),
        _ => (place, usual),
    };
    if proxied && matches!(scheme.as_str(), "http" | "https") {
        bounds.admit_unresolved(host, port)?;
        return Ok(way);
    }
    let addresses = bounds.resolve(host, port)?;
    let bracketed = |address: &std::net::SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    };
    match scheme.as_str() {
        "http" | "https" => {
            let listed: Vec<String> = addresses.iter().map(bracketed).collect();
            way.settings.push(format!("http.curloptResolve={host}:{port}:{}", listed.join(",")));
        }
        "git" => {
            if let Some(address) = addresses.first() {
                way.remote = format!("git://{}:{port}{path}", bracketed(address));
                way.host = Some(("GIT_OVERRIDE_VIRTUAL_HOST", place.to_owned()));
            }
        }
        _ => {}
    }
    Ok(way)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_goes_where_was_looked() {
        let mut bounds = Bounds::default();
        bounds.name("localhost").unwrap();
        let go = |remote: &str, proxied| way(remote, &bounds, proxied);
        let by_curl = go("http://u:p@localhost:81/r.git", false).unwrap();
        assert_eq!(by_curl.remote, "http://u:p@localhost:81/r.git");
        assert_eq!(by_curl.settings[0], "http.followRedirects=false");
        let pinned = &by_curl.settings[1];
        assert!(pinned.starts_with("http.curloptResolve=localhost:81:") && pinned.contains("127.0.0.1"));
        let by_git = go("git://localhost/r", false).unwrap();
        assert_eq!(by_git.host, Some(("GIT_OVERRIDE_VIRTUAL_HOST", "localhost".to_owned())));
        assert!(by_git.remote.ends_with(":9418/r") && !by_git.remote.contains("localhost"));
        assert!(go("git@localhost:r.git", false).is_ok());
        for (remote, proxied) in [
            ("https://127.0.0.1/r.git", false),
            ("https://169.254.169.254/r.git", true),
            ("http://2130706433/r.git", false),
            ("http://[::1]/r.git", false),
            ("git://10.0.0.1/r", true),
            ("ssh://git@[fe80::1]:2222/r", false),
            ("git@192.168.0.1:r.git", false),
        ] {
            assert!(matches!(go(remote, proxied), Err(ResolveError::OutOfBounds(_))), "{remote}");
        }
    }
}
