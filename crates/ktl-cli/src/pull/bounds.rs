//! Which addresses `ktl stage` goes to on a Dockerfile's behalf.
//!
//! It runs on the user's machine and in the user's network, and a Dockerfile may be anybody's: without bounds its `ADD
//! http://169.254.169.254/…` would read a cloud's metadata, and another one whatever listens on loopback. So addresses that are
//! not public are out of bounds unless the user names them. What counts is the address that is connected to: of redirects as
//! well, and of names, whoever runs their zones. Behind a proxy of the user's, names are the proxy's to resolve, and only what is
//! an address itself is looked at.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use buildsvc::egress::{Host, HostError, special};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout};

/// What lies beyond, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place} is at {address}, which is {what}, and no --allow-host names it")]
pub struct OutOfBounds {
    /// `HOST:PORT`, as it can be named.
    pub place: String,
    address: IpAddr,
    what: &'static str,
}

#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("`{0}` is no port")]
    Port(String),
}

/// The places that the user names, each with one port or all of them.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    named: Vec<(Host, Option<u16>)>,
}

impl Bounds {
    /// Also lets this place in: `HOST` or `HOST:PORT`.
    pub fn name(&mut self, text: &str) -> Result<(), PlaceError> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                let number = port.parse().ok().filter(|number| *number > 0 && !port.starts_with('+'));
                (host, Some(number.ok_or_else(|| PlaceError::Port(port.to_owned()))?))
            }
            _ => (text, None),
        };
        self.named.push((Host::parse(host)?, port));
        Ok(())
    }

    pub fn names(&self, host: &Host, port: u16) -> bool {
        self.named.iter().any(|(named, only)| named == host && only.is_none_or(|only| only == port))
    }

    /// Whether the address that `host` has been found at may be gone to.
    pub fn admit(&self, host: &str, address: SocketAddr) -> Result<(), OutOfBounds> {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        let Some(what) = special(ip) else { return Ok(()) };
        let host = Host::parse(host).unwrap_or(Host::Address(ip));
        if self.names(&host, port) || self.names(&Host::Address(ip), port) {
            return Ok(());
        }
        Err(OutOfBounds { place: format!("{host}:{port}"), address: ip, what })
    }

    /// Whether a proxy may be asked for `host`: only what is an address, or loopback by its very name, is known here.
    pub fn admit_unresolved(&self, host: &str, port: u16) -> Result<(), OutOfBounds> {
        let address = match Host::parse(host) {
            Ok(Host::Address(address)) => address,
            Ok(Host::Name(name)) if name == "localhost" || name.ends_with(".localhost") => {
                std::net::Ipv4Addr::LOCALHOST.into()
            }
            Ok(Host::Name(_)) => return Ok(()),
            // Written in a way that programs read differently.
            Err(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        };
        self.admit(host, SocketAddr::new(address, port))
    }

    /// The addresses of a name, all of which may be gone to.
    pub fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = (bare, port).to_socket_addrs();
        let found: Vec<_> =
            found.map_err(|source| ResolveError::Unknown { host: host.to_owned(), source })?.collect();
        for address in &found {
            self.admit(host, *address)?;
        }
        Ok(found)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    #[error("failed to resolve {host}")]
    Unknown {
        host: String,
        #[source]
        source: std::io::Error,
    },
}

/// Bounds as they are kept to for each connection of an agent.
#[derive(Debug, Clone)]
pub struct Guard {
    pub bounds: Arc<Bounds>,
    /// Host and port of the user's proxy.
    pub proxy: Option<(String, u16)>,
}

fn refused(error: OutOfBounds) -> ureq::Error {
    ureq::Error::Other(Box::new(error))
}

fn place(uri: &Uri) -> (&str, u16) {
    let usual = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    (uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(usual))
}

impl Resolver for Guard {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        let (host, port) = place(uri);
        if self.proxy.as_ref().is_some_and(|(proxy, at)| (proxy.as_str(), *at) == (host, port)) {
            return Ok(found);
        }
        for address in &*found {
            self.bounds.admit(host, *address).map_err(refused)?;
        }
        Ok(found)
    }
}

impl Connector for Guard {
    type Out = ();

    fn connect(&self, details: &ConnectionDetails, chained: Option<()>) -> Result<Option<()>, ureq::Error> {
        // The proxy will be asked for it by name.
        if details.addrs.is_empty() {
            let (host, port) = place(details.uri);
            self.bounds.admit_unresolved(host, port).map_err(refused)?;
        }
        Ok(chained)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_has_to_be_named() {
        let mut bounds = Bounds::default();
        for place in ["localhost:5000", "10.0.0.7", "[fd00::1]:80"] {
            bounds.name(place).unwrap();
        }
        for (host, address, ok) in [
            ("example.org", "93.184.215.14:443", true),
            ("example.org", "169.254.169.254:80", false),
            ("example.org", "[::ffff:127.0.0.1]:80", false),
            ("localhost", "127.0.0.1:5000", true),
            ("LOCALHOST.", "[::1]:5000", true),
            ("localhost", "127.0.0.1:5001", false),
            ("127.0.0.1", "127.0.0.1:5000", false),
            ("rebound.example", "10.0.0.7:1234", true),
            ("rebound.example", "10.0.0.8:1234", false),
            ("[fd00::1]", "[fd00::1]:80", true),
            ("[fd00::1]", "[fd00::1]:81", false),
            ("2130706433", "127.0.0.1:80", false),
        ] {
            let found = bounds.admit(host, address.parse().unwrap());
            assert_eq!(found.is_ok(), ok, "{host} {address}: {found:?}");
        }
        for (host, ok) in [
            ("example.org", true),
            ("a.localhost", false),
            ("169.254.169.254", false),
            ("0x7f.1", false),
            ("8.8.8.8", true),
        ] {
            assert_eq!(bounds.admit_unresolved(host, 80).is_ok(), ok, "{host}");
        }
        for bad in ["", "a:b", "a:0", "a:+1", "a:99999", "127.1", "http://a", "::1"] {
            assert!(Bounds::default().name(bad).is_err(), "{bad}");
        }
    }
}
