//! What the kernel says of a private daemon's jail, seen from outside.
//!
//! The supervisor's record tells what was meant; this is what is. Who holds the other end of a unix socket is known to the kernel,
//! and so are that process's namespaces: neither the record nor the daemon has a say in it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::sys::socket::{getsockopt, sockopt};

use super::Network;
use crate::claims::{Claim, State};

pub const JAIL: &str = "the builder's jail";
pub const NETWORK: &str = "the builder's network";
const KINDS: [&str; 6] = ["user", "mnt", "pid", "ipc", "uts", "cgroup"];

/// Claims about the daemon behind `connection`. What cannot be read is not proven.
pub fn claims(connection: impl AsFd, network: Network) -> Vec<Claim> {
    let process = match getsockopt(&connection, sockopt::PeerCredentials) {
        Ok(peer) => peer.pid(),
        Err(error) => {
            let why = format!("the kernel does not say who is at the other end of its socket: {error}");
            return vec![
                Claim::new(JAIL, State::Unproven, why.clone()),
                Claim::new(NETWORK, State::Unproven, why),
            ];
        }
    };
    vec![jail(process), net(process, network)]
}

fn jail(process: i32) -> Claim {
    let mut shared = Vec::new();
    for kind in KINDS {
        match own_namespace(process, kind) {
            Ok(true) => {}
            Ok(false) => shared.push(kind),
            Err(error) => return Claim::new(JAIL, State::Unproven, format!("{kind} namespace: {error}")),
        }
    }
    if shared.is_empty() {
        return Claim::held(JAIL, format!("process {process} has its own namespaces: {}", KINDS.join(" ")));
    }
    Claim::new(
        JAIL,
        State::Broken,
        format!("process {process} shares with this machine: {}", shared.join(" ")),
    )
}

fn net(process: i32, network: Network) -> Claim {
    let looked = own_namespace(process, "net")
        .and_then(|own| Ok((own, sandbox_linux::ways_out(&process.to_string())?)));
    match looked {
        Ok((true, found)) if found.is_empty() => Claim::held(
            NETWORK,
            format!("process {process} has a network namespace of its own, with lo alone"),
        ),
        Ok((true, found)) => {
            let detail = format!("its own network namespace has {} (network {network})", found.join(" "));
            Claim::new(NETWORK, State::Broken, detail)
        }
        Ok((false, _)) => {
            let detail = format!("process {process} shares it with this machine (network {network})");
            Claim::new(NETWORK, State::Broken, detail)
        }
        Err(error) => Claim::new(NETWORK, State::Unproven, error.to_string()),
    }
}

/// Whether a namespace of `process` is another one than ktl's.
fn own_namespace(process: i32, kind: &str) -> io::Result<bool> {
    let of = |process: &str| -> io::Result<PathBuf> { fs::read_link(format!("/proc/{process}/ns/{kind}")) };
    Ok(of(&process.to_string())? != of("self")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_peer_without_a_jail_is_seen() {
        let (one, _other) = UnixStream::pair().unwrap();
        let claims = claims(&one, Network::Host);
        assert_eq!(
            claims.iter().map(|claim| claim.state).collect::<Vec<_>>(),
            [State::Broken; 2],
            "{claims:?}"
        );
        let own = std::process::id().to_string();
        assert!(claims.iter().all(|claim| claim.detail.contains(&own)), "{claims:?}");
    }
}
