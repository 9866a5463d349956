//! Which builder a build goes to, and the connection to it.
//!
//! The connection is made outside the jail, before any thread exists, and handed in as an open descriptor: the jail then needs
//! neither the socket's file nor a network. See `dial` for the making and `tls` for what keeps a client key outside.

mod address;
mod buildx;
mod engine;

use crate::cli::BuilderFlags;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::Hermetic;
use crate::private::{limits, trust};
use crate::tls::TlsFiles;

pub use address::{Address, Container, Ssh};
#[cfg(test)]
pub use buildx::named as named_by_buildx;
pub use engine::{EngineHost, of_context, of_docker};

/// Name of the private builder that is meant without one.
pub const DEFAULT_NAME: &str = "default";

/// One place where a builder may be found, and who named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub address: Address,
    pub named_by: &'static str,
    /// Somebody typed or exported it: when it does not answer, no other is tried.
    pub demanded: bool,
    /// What whoever keeps the builder's name keeps for it; the command line's go before.
    pub tls: Option<TlsFiles>,
}

impl Candidate {
    /// The only place to look at.
    pub fn only(address: Address, named_by: &'static str) -> Candidate {
        Candidate { address, named_by, demanded: true, tls: None }
    }

    /// A place that is looked at when nobody has named one.
    fn usual(address: Address, named_by: &'static str) -> Candidate {
        Candidate { address, named_by, demanded: false, tls: None }
    }
}

/// The candidates in the order of discovery. A name that was given ends the search, and a trust or a limit leaves private
/// ones only.
pub fn candidates(flags: &BuilderFlags, env: &Env) -> Result<Vec<Candidate>, Failure> {
    limits::keep(trust::keep(discovered(flags, env)?, &flags.private, env)?, &flags.private)
}

/// What a text that names a builder may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Address,
    /// One of docker buildx's.
    Name,
    Either,
}

fn discovered(flags: &BuilderFlags, env: &Env) -> Result<Vec<Candidate>, Failure> {
    let given = [
        (flags.builder.clone(), "--builder", Form::Either),
        (env.text(env::KTL_BUILDER), env::KTL_BUILDER, Form::Either),
        (env.text(env::BUILDKIT_HOST), env::BUILDKIT_HOST, Form::Address),
        (env.text(env::BUILDX_BUILDER), env::BUILDX_BUILDER, Form::Name),
    ];
    for (text, named_by, form) in given {
        let Some(text) = text else { continue };
        if form == Form::Name || (form == Form::Either && buildx::is_name(&text)) {
            let (address, tls) = buildx::named(&text, env).map_err(|mut failure| {
                failure.title = format!("{named_by}: {}", failure.title);
                failure
            })?;
            return Ok(vec![Candidate { tls, ..Candidate::only(address, named_by) }]);
        }
        let address = Address::parse(&text).map_err(|why| Failure::usage(format!("{named_by}: {why}")))?;
        return Ok(vec![Candidate::only(address, named_by)]);
    }
    let mut found =
        vec![Candidate::usual(Address::Unix("/run/buildkit/buildkitd.sock".into()), "the system's default")];
    if let Some(runtime) = env.path("XDG_RUNTIME_DIR").filter(|dir| dir.is_absolute()) {
        let socket = runtime.join("buildkit/buildkitd.sock");
        found.push(Candidate::usual(Address::Unix(socket), "XDG_RUNTIME_DIR"));
    }
    found.push(Candidate::usual(Address::Engine(None), "docker's own configuration"));
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
            tls: None,
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
        // A name of buildx's is looked up where nothing else is said, and never in BUILDKIT_HOST.
        flags.builder = None;
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("instances")).unwrap();
        let group = r#"{"Driver":"remote","Nodes":[{"Name":"n","Endpoint":"unix:///x"}]}"#;
        std::fs::write(dir.path().join("instances/n"), group).unwrap();
        let config = dir.path().to_string_lossy();
        let with = |more: &[(&str, &str)]| {
            let mut all = vec![("BUILDX_CONFIG", &*config), ("BUILDX_BUILDER", "n")];
            all.extend(more);
            Env::of(&all)
        };
        assert_eq!(names(&flags, &with(&[])), ["unix:///x"]);
        assert_eq!(names(&flags, &with(&[("BUILDKIT_HOST", "unix:///b")])), ["unix:///b"]);
        assert_eq!(
            names(&flags, &with(&[("KTL_BUILDER", "n"), ("BUILDKIT_HOST", "unix:///b")])),
            ["unix:///x"]
        );
        assert_eq!(candidates(&flags, &with(&[("BUILDKIT_HOST", "n")])).unwrap_err().exit, Exit::Usage);
        let absent = candidates(&flags, &with(&[("BUILDX_BUILDER", "absent")])).unwrap_err().to_string();
        assert!(absent.contains("BUILDX_BUILDER: `absent`"), "{absent}");
        flags.builder = Some("nonsense".into());
        assert_eq!(candidates(&flags, &env).unwrap_err().exit, Exit::Usage);
    }
}
