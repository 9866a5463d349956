//! Which builder a build goes to, and the connection to it.
//!
//! The connection is made outside the jail, before any thread exists, and handed in as an open descriptor: the jail then needs
//! neither the socket's file nor a network. See `dial` for the making and `tls` for what keeps a client key outside.

mod address;
mod engine;

use crate::cli::BuilderFlags;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::Hermetic;
use crate::private::{limits, trust};

pub use address::{Address, Container, Ssh};
pub use engine::{EngineHost, of_docker};

/// Name of the private builder that is meant without one.
pub const DEFAULT_NAME: &str = "default";

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
    found.push(Candidate {
        address: Address::Engine(None),
        named_by: "docker's own configuration",
        demanded: false,
    });
    Ok(found)
}

/// The candidates of a build. Only a private daemon has its network taken away by ktl, so a build that is hermetic or has a list of
/// servers, and names none, has one, whatever else runs on this machine.
///
/// # Errors
/// Also when a builder was named that could prove nothing, and the build wants proof.
pub fn of_build(
    flags: &BuilderFlags,
    env: &Env,
    hermetic: Hermetic,
    egress: bool,
) -> Result<Vec<Candidate>, Failure> {
    let found = candidates(flags, env)?;
    if !hermetic.is_on() && !egress {
        return Ok(found);
    }
    match found.first().filter(|candidate| candidate.demanded) {
        None => Ok(vec![Candidate {
            address: Address::Jail(DEFAULT_NAME.to_owned()),
            named_by: if egress { "--egress" } else { "--hermetic" },
            demanded: true,
        }]),
        Some(_) if !hermetic.is_on() => Ok(found),
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
            match (of_build(&flags, &Env::of(env), hermetic, false), expected) {
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
        let address = |flags: &BuilderFlags, egress| {
            let env = Env::of(&[("XDG_RUNTIME_DIR", "/run/user/7")]);
            of_build(flags, &env, Hermetic::Off, egress).unwrap()[0].address.to_string()
        };
        let flags = BuilderFlags::default();
        assert_eq!(address(&flags, true), "jail://default");
        assert_eq!(address(&flags, false), "unix:///run/buildkit/buildkitd.sock");
        let named = BuilderFlags { builder: Some("unix:///b".to_owned()), ..flags };
        assert_eq!(
            address(&named, true),
            "unix:///b",
            "a person has named it, and is told what is not proven"
        );
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
            [
                "unix:///run/buildkit/buildkitd.sock",
                "unix:///run/user/7/buildkit/buildkitd.sock",
                "docker://"
            ]
        );
        flags.builder = Some("nonsense".into());
        assert_eq!(candidates(&flags, &env).unwrap_err().exit, Exit::Usage);
    }
}
