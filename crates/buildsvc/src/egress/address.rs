//! Which addresses are everybody's, and which lead into somebody's own network.
//!
//! A name on a list may lead to any address, and whoever runs its zone decides to which. So loopback, link-local (where clouds
//! have their metadata servers), private and otherwise special ranges are out of bounds unless the address itself is named.
//! Follows the IANA registries of special-purpose addresses (RFC 6890 and what was added since).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The range that an address is out of bounds for; `None` for a public one.
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// First address, length of the prefix, what it is.
const V4: &[(Ipv4Addr, u32, &str)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, "of this host"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "shared by a provider"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "special"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "special"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let within = |first: Ipv4Addr, bits: u32| (address.to_bits() ^ first.to_bits()) >> (32 - bits) == 0;
    V4.iter().find(|(first, bits, _)| within(*first, *bits)).map(|(_, _, what)| *what)
}

/// Public are the global unicast addresses, without those that stand for others or carry an IPv4 address.
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let part = address.segments();
    match part {
        _ if address.is_loopback() => Some("loopback"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfc00..=0xfdff, ..] => Some("private"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0x2001, 0x0000..=0x01ff, ..] => Some("special"),
        [0x2001, 0x0db8, ..] | [0x3fff, 0x0000..=0x0fff, ..] => Some("for documentation"),
        [0x2002, ..] => Some("a tunnel"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("special"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, what) in [
            ("127.0.0.1", Some("loopback")),
            ("127.255.255.254", Some("loopback")),
            ("0.0.0.0", Some("of this host")),
            ("10.1.2.3", Some("private")),
            ("172.16.0.1", Some("private")),
            ("172.31.255.255", Some("private")),
            ("172.32.0.0", None),
            ("192.168.1.1", Some("private")),
            ("169.254.169.254", Some("link-local")),
            ("100.64.0.1", Some("shared by a provider")),
            ("100.128.0.0", None),
            ("198.19.255.255", Some("for benchmarks")),
            ("255.255.255.255", Some("reserved")),
            ("224.0.0.251", Some("multicast")),
            ("1.1.1.1", None),
            ("::1", Some("loopback")),
            ("::", Some("special")),
            ("::ffff:10.0.0.1", Some("private")),
            ("::ffff:1.1.1.1", None),
            ("::127.0.0.1", Some("special")),
            ("64:ff9b::7f00:1", Some("special")),
            ("2002:7f00:1::", Some("a tunnel")),
            ("2001::1", Some("special")),
            ("2001:db8::1", Some("for documentation")),
            ("fd00:ec2::254", Some("private")),
            ("fe80::1", Some("link-local")),
            ("fec0::1", Some("special")),
            ("2606:4700::1111", None),
        ] {
            assert_eq!(special(text.parse().unwrap()), what, "{text}");
        }
    }
}
