//! The network: none, the host's, or one in user space with rules.

use super::Report;
use crate::proto::NsJailConfig;
use crate::proto::ns_jail_config::UserNet;
use crate::proto::ns_jail_config::user_net::nstun_rule::{Action, Direction, Protocol};
use crate::proto::ns_jail_config::user_net::{Backend, NstunRule};

pub(super) fn look(config: &NsJailConfig, report: &mut Report<'_>) {
    if !config.clone_newnet() {
        report.open(
            "clone_newnet",
            "false",
            "the program has the host's network: services that listen on loopback, abstract unix sockets that no mount hides, \
             the cloud's metadata address, the internet",
            "clone_newnet: true, with user_net and rules where the program needs an address",
        );
    }
    if !config.macvlan_iface().is_empty() {
        report.weak(
            "macvlan_iface",
            config.macvlan_iface(),
            "the program is a machine of its own on that network, with no rule between",
            "user_net with rules",
        );
    }
    if !config.iface_own.is_empty() {
        report.weak(
            "iface_own",
            config.iface_own.join(" "),
            "the host's interface moves into the jail, and away from the host",
            "user_net with rules",
        );
    }
    let Some(net) = &config.user_net else { return };
    if net.backend() == Backend::Pasta {
        match &net.pasta {
            None => report.note(
                "user_net",
                "backend PASTA without pasta {}",
                "nsjail starts no pasta then, and the jail has a loopback only",
                "add pasta {}",
            ),
            Some(pasta) => {
                report.open(
                    "user_net",
                    "pasta",
                    "it has no rules: every address that the host reaches can be reached",
                    "the NSTUN backend with rules that end in REJECT",
                );
                if pasta.map_gw() {
                    report.open(
                        "user_net",
                        "pasta { map_gw: true }",
                        "the gateway's address is the host's loopback, with every service on it",
                        "map_gw: false",
                    );
                }
            }
        }
        return;
    }
    nstun(net, report);
}

fn nstun(net: &UserNet, report: &mut Report<'_>) {
    let everything = |rule: &NstunRule| {
        let any =
            |ip: Option<&String>| ip.is_none_or(|ip| ip.is_empty() || ip == "0.0.0.0/0" || ip == "::/0");
        rule.direction() == Direction::GuestToHost
            && rule.proto() == Protocol::Any
            && any(rule.src_ip.as_ref())
            && any(rule.dst_ip.as_ref())
            && (rule.sport(), rule.dport()) == (0, 0)
    };
    for (family, rules) in [("rule4", &net.rule4), ("rule6", &net.rule6)] {
        // First match wins: an ALLOW for everything makes what follows it dead.
        let first = rules.iter().find(|rule| everything(rule));
        if !first.is_some_and(|rule| matches!(rule.action(), Action::Reject | Action::Drop)) {
            report.open(
                "user_net",
                format!("{family} does not end in REJECT"),
                "what no rule matches is allowed, and each family has rules of its own",
                &format!("{family} {{ action: REJECT }} as the last one"),
            );
        }
        for rule in rules {
            let named = |ip: &str| {
                !ip.is_empty() && ip.bytes().any(|b| !(b.is_ascii_hexdigit() || b".:/".contains(&b)))
            };
            if let Some(ip) = [rule.src_ip(), rule.dst_ip()].into_iter().find(|ip| named(ip)) {
                report.open(
                    "user_net",
                    format!("{family} names {ip}"),
                    "a name is no address to nsjail: it logs that and lets the rule match everything",
                    "write the address",
                );
            }
        }
    }
}
