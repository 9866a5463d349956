//! Which builder a build goes to, and the connection to it.
//!
//! The connection is made outside the jail, before any thread exists, and handed in as an open descriptor: the jail then needs
//! neither the socket's file nor a network. See `dial` for the making and `tls` for what keeps a client key outside.

use std::fmt;
use std::path::PathBuf;

use crate::cli::BuilderFlags;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::Hermetic;
use crate::private::{limits, trust};

/// Name of the private builder that is meant without one.
pub const DEFAULT_NAME: &str = "default";

/// Where a builder listens. Follows buildctl's address forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: u16,
    },
    /// A private daemon in a jail, by its name.
    Jail(String),
    /// A private daemon for this one command, whose cache goes with it.
    Ephemeral,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Address::Jail(name) => write!(f, "jail://{name}"),
            Address::Ephemeral => f.write_str("jail://?ephemeral"),
        }
    }
}

impl Address {
    /// Whether the daemon there is one that ktl itself has started in a jail.
    pub fn is_private(&self) -> bool {
        matches!(self, Address::Jail(_) | Address::Ephemeral)
    }

    /// Reads `unix://PATH` (also `unix:PATH` and a bare absolute path), `tcp://HOST:PORT`,
    /// `jail://[NAME]` or `jail://?ephemeral`.
    pub fn parse(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.starts_with('/') {
                Ok(Address::Unix(path.into()))
            } else {
                Err(format!("`{text}` needs an absolute path, as in unix:///run/buildkit/buildkitd.sock"))
            };
        }
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        if let Some(name) = text.strip_prefix("jail://") {
            if name == "?ephemeral" {
                return Ok(Address::Ephemeral);
            }
            return Ok(Address::Jail(if name.is_empty() { DEFAULT_NAME } else { name }.to_owned()));
        }
        let Some(authority) = text.strip_prefix("tcp://") else {
            return Err(match text.split_once("://") {
                Some((scheme, _)) => {
                    format!(
                        "builders cannot be reached by `{scheme}://`; use unix://PATH, tcp://HOST:PORT or jail://NAME"
                    )
                }
                None => {
                    format!("`{text}` is no builder address; use unix://PATH, tcp://HOST:PORT or jail://NAME")
                }
            });
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` names no port, as in tcp://{authority}:1234"))?;
        let port = port.parse().map_err(|_| format!("`{port}` in `{text}` is no port number"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
            return Err(format!("`{text}` is not of the form tcp://HOST:PORT"));
        }
        Ok(Address::Tcp { host: host.to_owned(), port })
    }
}

/// One place where a builder may be found, and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub address: Address,
    pub named_by: &'static str,
    /// Somebody typed or exported it: when it does not answer, no other is tried.
    pub demanded: bool,
}

/// The candidates in the order of discovery. A name that was given ends the search, and a trust or a limit leaves private
/// ones only.
pub fn candidates(flags: &BuilderFlags, env: &Env) -> Result<Vec<Candidate>, Failure> {
    limits::keep(trust::keep(discovered(flags, env)?, &flags.private, env)?, &flags.private)
}

fn discovered(flags: &BuilderFlags, env: &Env) -> Result<Vec<Candidate>, Failure> {
    let given = [
        (flags.builder.clone(), "--builder"),
        (env.text(env::KTL_BUILDER), env::KTL_BUILDER),
        (env.text(env::BUILDKIT_HOST), env::BUILDKIT_HOST),
    ];
    for (text, named_by) in given {
        if let Some(text) = text {
            let address =
                Address::parse(&text).map_err(|why| Failure::usage(format!("{named_by}: {why}")))?;
            return Ok(vec![Candidate { address, named_by, demanded: true }]);
        }
    }
    let mut found = vec![Candidate {
        address: Address::Unix("/run/buildkit/buildkitd.sock".into()),
        named_by: "the system's default",
        demanded: false,
    }];
    if let Some(runtime) = env.path("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute()) {
        found.push(Candidate {
            address: Address::Unix(runtime.join("buildkit/buildkitd.sock")),
            named_by: "XDG_RUNTIME_DIR",
            demanded: false,
        });
    }
    Ok(found)
}

/// The candidates of a build. Only a private daemon has its network taken away by ktl, so a hermetic build that names none has
/// one, whatever else runs on this machine.
///
/// # Errors
/// Also when a builder was named that could prove nothing, and the build wants proof.
pub fn of_build(flags: &BuilderFlags, env: &Env, hermetic: Hermetic) -> Result<Vec<Candidate>, Failure> {
    let found = candidates(flags, env)?;
    if !hermetic.is_on() {
        return Ok(found);
    }
    match found.first().filter(|candidate| candidate.demanded) {
        None => Ok(vec![Candidate {
            address: Address::Jail(DEFAULT_NAME.to_owned()),
            named_by: "--hermetic",
            demanded: true,
        }]),
        Some(named) if hermetic == Hermetic::BestEffort || named.address.is_private() => Ok(found),
        Some(Candidate { address, named_by, .. }) => Err(Failure::new(
            Exit::Policy,
            format!("--hermetic: the builder at {address} (named by {named_by}) cannot prove that a build had no network"),
        )
        .hint(
            "It runs with a network of its own, which nothing in a request takes away. --builder jail:// is a builder that ktl \
             starts without one.",
        )
        .hint("--hermetic=best-effort takes this builder for what it can do, and lists what is not proven.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let unix = |path: &str| Ok(Address::Unix(path.into()));
        let tcp = |host: &str, port| Ok(Address::Tcp { host: host.into(), port });
        for (text, expected) in [
            ("unix:///run/b.sock", unix("/run/b.sock")),
            ("unix:/run/b.sock", unix("/run/b.sock")),
            ("/run/b.sock", unix("/run/b.sock")),
            ("tcp://builder:1234", tcp("builder", 1234)),
            ("tcp://builder:1234/", tcp("builder", 1234)),
            ("tcp://[::1]:1234", tcp("::1", 1234)),
            ("jail://", Ok(Address::Jail("default".into()))),
            ("jail://?ephemeral", Ok(Address::Ephemeral)),
            ("jail://fork-7", Ok(Address::Jail("fork-7".into()))),
        ] {
            assert_eq!(Address::parse(text), expected, "{text}");
            let again =
                expected.map(|address: Address| address.to_string()).and_then(|text| Address::parse(&text));
            assert_eq!(Address::parse(text), again, "{text} printed and read again");
        }
        for (text, part) in [
            ("unix://run/b.sock", "absolute"),
            ("builder", "no builder address"),
            ("ftp://x", "`ftp://`"),
            ("tcp://builder", "no port"),
            ("tcp://builder:http", "no port number"),
            ("tcp://:1", "form"),
            ("tcp://u@h:1", "form"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn hermetic_builds_go_to_private_builders() {
        let none: &[(&str, &str)] = &[];
        for (flag, env, hermetic, expected) in [
            (None, none, Hermetic::Required, Ok("jail://default")),
            (None, none, Hermetic::BestEffort, Ok("jail://default")),
            (Some("jail://"), &[("BUILDKIT_HOST", "unix:///b")], Hermetic::Required, Ok("jail://default")),
            (Some("jail://?ephemeral"), none, Hermetic::Required, Ok("jail://?ephemeral")),
            (None, &[("KTL_BUILDER", "jail://x")], Hermetic::Required, Ok("jail://x")),
            (Some("unix:///b"), none, Hermetic::BestEffort, Ok("unix:///b")),
            (None, &[("BUILDKIT_HOST", "tcp://b:1")], Hermetic::BestEffort, Ok("tcp://b:1")),
            (Some("unix:///b"), none, Hermetic::Required, Err("named by --builder")),
            (None, &[("KTL_BUILDER", "unix:///b")], Hermetic::Required, Err("named by KTL_BUILDER")),
            (
                None,
                &[("BUILDKIT_HOST", "unix:///var/run/docker.sock")],
                Hermetic::Required,
                Err("BUILDKIT_HOST"),
            ),
            (Some("unix:///b"), none, Hermetic::Off, Ok("unix:///b")),
        ] {
            let flags = BuilderFlags { builder: flag.map(str::to_owned), ..BuilderFlags::default() };
            match (of_build(&flags, &Env::of(env), hermetic), expected) {
                (Ok(found), Ok(address)) => {
                    let found: Vec<String> = found.iter().map(|found| found.address.to_string()).collect();
                    assert_eq!(found, [address], "{flag:?} {env:?}");
                }
                (Err(failure), Err(part)) => {
                    let text = failure.to_string();
                    assert_eq!(failure.exit, Exit::Policy);
                    for part in [part, "--builder jail://", "--hermetic=best-effort"] {
                        assert!(text.contains(part), "{part}: {text}");
                    }
                }
                (found, _) => panic!("{flag:?} {env:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_given_builder_ends_the_search() {
        let mut flags = BuilderFlags::default();
        let env = Env::of(&[
            ("BUILDKIT_HOST", "unix:///b"),
            ("KTL_BUILDER", "unix:///k"),
            ("XDG_RUNTIME_DIR", "/run/user/7"),
        ]);
        let names = |flags: &BuilderFlags, env: &Env| {
            let found = candidates(flags, env).unwrap();
            found.iter().map(|candidate| candidate.address.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&flags, &env), ["unix:///k"]);
        flags.builder = Some("unix:///f".into());
        assert_eq!(names(&flags, &env), ["unix:///f"]);
        flags.builder = None;
        assert_eq!(
            names(&flags, &Env::of(&[("XDG_RUNTIME_DIR", "/run/user/7")])),
            ["unix:///run/buildkit/buildkitd.sock", "unix:///run/user/7/buildkit/buildkitd.sock"]
        );
        flags.builder = Some("nonsense".into());
        assert_eq!(candidates(&flags, &env).unwrap_err().exit, Exit::Usage);
    }
}
