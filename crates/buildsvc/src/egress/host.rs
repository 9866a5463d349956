//! Names and addresses of servers, in one spelling each.
//!
//! A list of hosts is only as good as its comparison: a program that reads `0x7f.1`, `example.org.` or `EXAMPLE.ORG` differently
//! from the list would get where the list does not lead. So there is one spelling of each, and what programs are known to read
//! differently is no host at all. Follows RFC 1123 for names, RFC 3986 for addresses, and the WHATWG URL standard in what
//! else an IPv4 address might look like.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A server as a URL or a rule names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// Lower case, without a final dot.
    Name(String),
    /// An IPv4 address that is written as IPv6 is an IPv4 address.
    Address(IpAddr),
}

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("there is no host")]
    Empty,
    #[error("host names have letters, digits, `-`, `_` and dots; others are written in their `xn--` form")]
    Letters,
    #[error("a part of the host name is empty or longer than {MAX_LABEL} bytes")]
    Label,
    #[error("the host name is longer than {MAX_NAME} bytes")]
    Long,
    #[error(
        "programs read this number differently; an IPv4 address is four decimal numbers without leading zeros"
    )]
    Number,
    #[error("`[…]` holds an IPv6 address, without a zone")]
    Ipv6,
}

impl Host {
    /// Reads `example.org`, `192.0.2.7` or `[2001:db8::7]`.
    pub fn parse(text: &str) -> Result<Host, HostError> {
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']').ok_or(HostError::Ipv6)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| HostError::Ipv6)?;
            return Ok(Host::Address(IpAddr::V6(address).to_canonical()));
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(HostError::Long);
        }
        if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(HostError::Letters);
        }
        if !text.split('.').all(|label| (1..=MAX_LABEL).contains(&label.len())) {
            return Err(HostError::Label);
        }
        let name = text.to_ascii_lowercase();
        let last = name.rsplit('.').next().unwrap_or_default();
        if is_number(last) {
            let address: Ipv4Addr = name.parse().map_err(|_| HostError::Number)?;
            return Ok(Host::Address(address.into()));
        }
        Ok(Host::Name(name))
    }
}

/// Whether a name that ends so is taken for an IPv4 address by some program.
fn is_number(label: &str) -> bool {
    label.bytes().all(|b| b.is_ascii_digit())
        || label.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_each() {
        for (text, shown) in [
            ("Example.ORG", "example.org"),
            ("example.org.", "example.org"),
            ("a_b.example", "a_b.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("localhost", "localhost"),
            ("7.example", "7.example"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7.", "192.0.2.7"),
            ("[2001:DB8:0::7]", "[2001:db8::7]"),
            ("[::ffff:127.0.0.1]", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_programs_read_differently_is_no_host() {
        let long = format!("{}.org", "a".repeat(64));
        for (text, why) in [
            ("", HostError::Empty),
            (".", HostError::Empty),
            ("a..b", HostError::Label),
            (".a", HostError::Label),
            ("a.b..", HostError::Label),
            (&long, HostError::Label),
            (&"a.".repeat(140), HostError::Long),
            ("2130706433", HostError::Number),
            ("0x7f000001", HostError::Number),
            ("0x7f.1", HostError::Number),
            ("127.1", HostError::Number),
            ("0177.0.0.1", HostError::Number),
            ("127.0.0.0x1", HostError::Number),
            ("1.2.3.4.5", HostError::Number),
            ("a.0x", HostError::Number),
            ("bücher.example", HostError::Letters),
            ("ex%61mple.org", HostError::Letters),
            ("a b", HostError::Letters),
            ("a,b", HostError::Letters),
            ("127。0。0。1", HostError::Letters),
            ("[::1%25lo]", HostError::Ipv6),
            ("[fe80::1%lo]", HostError::Ipv6),
            ("[::1", HostError::Ipv6),
            ("[127.0.0.1]", HostError::Ipv6),
            ("::1", HostError::Letters),
        ] {
            assert_eq!(Host::parse(text), Err(why), "{text}");
        }
    }
}
