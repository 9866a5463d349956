//! The policy of a private daemon: sandbox/daemon.cfg, and what differs from host to host.

use sandbox_linux::{Policy, PolicyError};

use super::Network;
use super::ids::Ids;

const TEXT: &str = include_str!("../../../../sandbox/daemon.cfg");

/// What a daemon with the host's network needs besides. The kernel gives no fresh `/sys` to somebody else's network.
const HOST_NETWORK: &str = r#"
clone_newnet: false
mount { src: "/sys" dst: "/sys" is_bind: true nosuid: true nodev: true noexec: true }
mount { src: "/etc/resolv.conf" dst: "/etc/resolv.conf" is_bind: true mandatory: false }
mount { src: "/etc/hosts" dst: "/etc/hosts" is_bind: true mandatory: false }
mount { src: "/etc/ssl/certs" dst: "/etc/ssl/certs" is_bind: true mandatory: false }
"#;
const OWN_NETWORK: &str = r#"
clone_newnet: true
mount { dst: "/sys" fstype: "sysfs" nosuid: true nodev: true noexec: true }
"#;
/// Names are asked for at the outlet, and servers are known by the certificates that the host trusts.
const OUTLET: &str = r#"
mount { src_content: "nameserver 127.0.0.1\n" dst: "/etc/resolv.conf" }
mount { src: "/etc/ssl/certs" dst: "/etc/ssl/certs" is_bind: true mandatory: false }
"#;
/// The daemon's own branch of the hierarchy; runc refuses to start a container without one.
const CGROUP: &str = r#"
mount { dst: "/sys/fs/cgroup" fstype: "cgroup2" rw: true nosuid: true nodev: true noexec: true }
"#;

/// What is the same on every machine.
pub fn common(network: Network) -> Result<Policy, PolicyError> {
    Policy::parse("ktl-daemon", text(network).as_bytes())
}

/// `limits` are lines of a policy.
pub fn of(network: Network, ids: &Ids, limits: &str) -> Result<Policy, PolicyError> {
    Policy::parse("ktl-daemon", format!("{}{limits}{}", text(network), ids.policy()).as_bytes())
}

fn text(network: Network) -> String {
    let (view, way) = match network {
        Network::None => (OWN_NETWORK, ""),
        Network::Host => (HOST_NETWORK, ""),
        Network::Egress(_) => (OWN_NETWORK, OUTLET),
    };
    format!("{TEXT}{view}{way}{CGROUP}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_networks_parse() {
        let ids = Ids { uids: vec![(0, 7, 1), (1, 100_000, 65_535)], gids: vec![(0, 7, 1)], by_helper: true };
        let egress = "egress-00000007".parse().unwrap();
        for (network, own) in [(Network::None, true), (Network::Host, false), (egress, true)] {
            let json = of(network, &ids, "cgroup_pids_max: 7\n").unwrap().to_json();
            let field = |camel: &str, snake: &str| json.get(camel).or_else(|| json.get(snake)).cloned();
            assert_eq!(field("cloneNewnet", "clone_newnet"), Some(own.into()), "{network}");
        }
    }
}
