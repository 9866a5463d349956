//! Whether a builder answers, how far it can be trusted, and what it says of itself.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{About, Check};
use crate::builder::{self, Address};
use crate::cli::BuilderFlags;
use crate::dial::{Connection, Program};
use crate::env::Env;
use crate::failure::Failure;
use crate::look::Introduced;
use crate::private::{Network, start};
use crate::tls::{Relay, TlsFiles};
use crate::ui::Ui;

/// A connection that a guest can be given.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: OwnedFd,
    pub(super) relay: Option<Relay>,
    pub(super) program: Option<Program>,
}

#[derive(Debug)]
pub(super) struct Reached {
    pub(super) checks: Vec<Check>,
    pub(super) connection: Option<Opened>,
}

/// Connects as a build would: the same flags and variables, in the same order.
pub(super) fn reach(flags: &BuilderFlags, env: &Env, ui: &Ui) -> Result<Reached, Failure> {
    let tls = TlsFiles::from_flags(flags).map_err(Failure::usage)?;
    let candidates = builder::candidates(flags, env)?;
    let named: Vec<_> = candidates.iter().map(|c| (c.address.clone(), c.named_by)).collect();
    let dialled = start::dial(candidates, tls.as_ref(), &flags.private, &Network::Host.into(), env, ui);
    let (connection, lease) = match dialled {
        Ok(dialled) => dialled,
        Err(failure) => {
            let checks = vec![Check::failure(About::Builder, "builder", failure)];
            return Ok(Reached { checks, connection: None });
        }
    };
    let Connection { stream, relay, program, address, .. } = connection;
    let private = lease.is_some();
    let named_by = match named.iter().find(|(named, _)| *named == address || private && named.is_private()) {
        Some((_, named_by)) => named_by,
        None if private => "nobody, there being no other",
        None => "an earlier answer",
    };
    let found = format!("connected to {address}, named by {named_by}");
    let trust = if private {
        Check::ok(About::Builder, TRUST, "ktl runs it itself, in a jail of its own")
    } else {
        trust(&address, tls.is_some())
    };
    let checks = vec![Check::ok(About::Builder, "builder", found), trust];
    Ok(Reached { checks, connection: Some(Opened { stream, relay, program }) })
}

const TRUST: &str = "builder's trust";

/// Who else can use the builder, or pretend to be it.
fn trust(address: &Address, tls: bool) -> Check {
    let name = TRUST;
    match address {
        Address::Tcp { .. } if tls => {
            Check::ok(About::Builder, name, "TLS, and its certificate was verified in the handshake")
        }
        Address::Tcp { .. } => Check::warn(
            About::Builder,
            name,
            "tcp without TLS: whoever is on the way reads and changes the build, and everybody who reaches the port can use it",
            "Give the builder a certificate (buildkitd --tlscert, --tlskey, --tlscacert) and name it with --tlscacert, --tlscert and --tlskey.",
        ),
        Address::Unix(path) => socket(name, path),
        Address::Ssh(_) => Check::ok(
            About::Builder,
            name,
            "OpenSSH; that a host key which changed is refused is its own configuration's (StrictHostKeyChecking)",
        ),
        Address::Container(_) | Address::Engine(_) | Address::Context(_) => Check::warn(
            About::Builder,
            name,
            "everybody who may use the container engine can use it and change what it gives",
            "A private builder is nobody else's: --builder jail://",
        ),
        Address::Jail(_) | Address::Ephemeral => {
            Check::warn(About::Builder, name, "is not started", "Name it with --builder.")
        }
    }
}

fn socket(name: &str, path: &Path) -> Check {
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) => {
            let what = format!("connected, and cannot look at {}: {error}", path.display());
            return Check::warn(About::Builder, name, what, "Look at its owner and mode by other means.");
        }
    };
    let me = nix::unistd::geteuid().as_raw();
    let what = format!(
        "its socket belongs to uid {} and gid {}, mode {:04o}",
        found.uid(),
        found.gid(),
        found.mode() & 0o7777
    );
    if found.uid() != 0 && found.uid() != me {
        return Check::warn(
            About::Builder,
            name,
            what,
            "Another user runs it, who reads and changes what is built. Use a builder of root's or of your own.",
        );
    }
    if found.mode() & 0o002 != 0 {
        return Check::warn(
            About::Builder,
            name,
            format!("{what}: every user of this host can connect"),
            "buildkitd --group GROUP gives the socket to a group; whoever can use it can do what root can.",
        );
    }
    match path.parent().map(|dir| (dir, fs::metadata(dir))) {
        Some((dir, Ok(parent))) if parent.mode() & 0o022 != 0 && parent.mode() & 0o1000 == 0 => Check::warn(
            About::Builder,
            name,
            format!("{what}, and others may write to {}", dir.display()),
            &format!("They can put a socket of their own there. Type: chmod go-w {}", dir.display()),
        ),
        _ => Check::ok(About::Builder, name, what),
    }
}

/// What the builder said when it was asked from inside the jail.
pub(super) fn introduced(answer: Result<Introduced, String>) -> Vec<Check> {
    let said = match answer {
        Ok(said) => said,
        Err(why) if why.starts_with("there is no jail") => {
            let mend = "ktl talks to a builder from inside a jail only; mend the jail first.";
            return vec![Check::warn(About::Builder, "builder's version", format!("not asked: {why}"), mend)];
        }
        Err(why) => {
            let mend = vec!["Something listens there that is no BuildKit, or one that is stuck.".to_owned()];
            return vec![Check::fail(
                About::Builder,
                "builder's version",
                format!("asked in vain: {why}"),
                mend,
            )];
        }
    };
    let mut checks = Vec::new();
    let platforms = said.workers.join("; ");
    let name = "builder's version";
    checks.push(if said.workers.is_empty() {
        let mend = vec!["Its log says why; buildkitd needs runc or containerd.".to_owned()];
        Check::fail(About::Builder, name, format!("{} without any worker", shown(&said.version)), mend)
    } else if said.version.is_empty() {
        Check::warn(About::Builder, name, "it is too old to say (before 0.11)", "Update buildkitd.")
    } else {
        Check::ok(About::Builder, name, format!("BuildKit {}; builds for {platforms}", said.version))
    });
    checks.push(match said.no_forced_network {
        None => {
            Check::ok(About::Builder, "RUN without network", "its version honours what --hermetic asks for")
        }
        Some(why) => {
            Check::warn(About::Builder, "RUN without network", why, "--hermetic needs a newer buildkitd.")
        }
    });
    checks
}

fn shown(version: &str) -> &str {
    if version.is_empty() { "an old BuildKit" } else { version }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn trust_follows_owner_and_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let status = |socket_mode, dir_mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(socket_mode)).unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(dir_mode)).unwrap();
            trust(&Address::Unix(path.clone()), false).status
        };
        assert_eq!(status(0o600, 0o700), Status::Ok);
        assert_eq!(status(0o660, 0o755), Status::Ok);
        assert_eq!(status(0o666, 0o700), Status::Warn);
        assert_eq!(status(0o600, 0o777), Status::Warn);
        assert_eq!(status(0o600, 0o1777), Status::Ok);
        let tcp = Address::Tcp { host: "b".into(), port: 1 };
        assert_eq!(trust(&tcp, false).status, Status::Warn);
        assert_eq!(trust(&tcp, true).status, Status::Ok);
    }

    #[test]
    fn what_was_not_asked_is_never_ok() {
        let said = |version: &str, workers: usize| Introduced {
            version: version.to_owned(),
            workers: vec!["linux/amd64".to_owned(); workers],
            no_forced_network: None,
        };
        for (answer, status) in [
            (Ok(said("v0.20.0", 1)), Status::Ok),
            (Ok(said("", 1)), Status::Warn),
            (Ok(said("v0.20.0", 0)), Status::Fail),
            (Err("there is no jail to ask it from".to_owned()), Status::Warn),
            (Err("connection lost".to_owned()), Status::Fail),
        ] {
            assert_eq!(introduced(answer).first().map(|check| check.status), Some(status));
        }
    }
}
