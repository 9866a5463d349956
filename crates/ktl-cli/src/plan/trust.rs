//! The user's things that a build may use: secrets, ssh agents, registry logins. Only names cross into the jail.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use buildsvc::build::Build;
use buildsvc::dockerfile::{self, Arguments};
use buildsvc::platform::Platform;
use buildsvc::reference::ImageRef;
use buildsvc::secret::{self, SecretSpec};
use buildsvc::session::host::Secret;
use buildsvc::ssh::SshSpec;

use super::{Facts, HostBind, Kind, guest_path};
use crate::broker::{AgentKind, AgentSource, Allowed, Names, Scheme, SecretOrigin, SecretSource};
use crate::env::{self, Env};
use crate::failure::Failure;

/// What the Dockerfile frontend runs for `attest:sbom` when nothing else was named.
const SBOM_GENERATOR: &str = "docker/buildkit-syft-scanner";

pub fn secret_source(spec: SecretSpec, env: &Env, facts: &Facts) -> Result<SecretSource, Failure> {
    let SecretSpec { id, source } = spec;
    let variable = match &source {
        secret::SecretSource::Env(name) => Some(name.clone()),
        secret::SecretSource::Id if env.get(&id).is_some() => Some(id.clone()),
        _ => None,
    };
    if let Some(name) = variable {
        return match env.get(&name) {
            Some(value) => {
                Ok(SecretSource { id, origin: SecretOrigin::Env { name, value: Secret(value.into_vec()) } })
            }
            None => Err(Failure::usage(format!("--secret id={id}: the variable {name} is not set"))),
        };
    }
    let path = match source {
        secret::SecretSource::File(path) => path,
        _ => id.clone().into(),
    };
    let path = facts.cwd.join(path);
    match (facts.kind_of)(&path) {
        Kind::Missing => {
            Err(Failure::usage(format!("--secret id={id}: there is no file {}", path.display())))
        }
        _ => Ok(SecretSource { id, origin: SecretOrigin::File(path) }),
    }
}

pub fn agent_source(spec: SshSpec, env: &Env, facts: &Facts) -> Result<AgentSource, Failure> {
    let SshSpec { id, paths } = spec;
    let paths: Vec<PathBuf> = paths.iter().map(|path| facts.cwd.join(path)).collect();
    for path in &paths {
        if (facts.kind_of)(path) == Kind::Missing {
            return Err(Failure::usage(format!("--ssh {id}: there is nothing at {}", path.display())));
        }
    }
    match paths.as_slice() {
        [] => match env.path(env::SSH_AUTH_SOCK) {
            Some(socket) => Ok(AgentSource { id, kind: AgentKind::Socket(socket) }),
            None => Err(Failure::usage(format!("--ssh {id}: no agent is running (SSH_AUTH_SOCK is not set)"))
                .hint("Start one with `eval $(ssh-agent)` and `ssh-add`, or name a key: --ssh default=$HOME/.ssh/id_ed25519")),
        },
        [socket] if (facts.kind_of)(socket) == Kind::Other => Ok(AgentSource { id, kind: AgentKind::Socket(socket.clone()) }),
        keys => Ok(AgentSource { id, kind: AgentKind::Keys(keys.to_vec()) }),
    }
}

/// `--allow-registry HOST[=REALM]`.
pub fn allowed_registry(text: &str) -> Result<Allowed, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("--allow-registry {text}: {why}")).hint("The form is HOST[:PORT][=REALM].")
    };
    let (host, scheme) = match text.split_once('=') {
        None => (text, None),
        Some((host, "basic")) => (host, Some(Scheme::Basic)),
        Some((host, realm)) if realm.starts_with("https://") || realm.starts_with("http://") => {
            (host, Some(Scheme::Realm(realm.to_owned())))
        }
        Some(_) => return Err(wrong("the realm is neither a URL nor `basic`")),
    };
    // A path of one letter makes of a host an image that is checked as all images are.
    match format!("{host}/x").parse::<ImageRef>() {
        Ok(image) if image.domain() == host || host == "index.docker.io" => {
            Ok(Allowed { host: host.to_owned(), scheme })
        }
        _ if !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            Ok(Allowed { host: host.to_owned(), scheme })
        }
        _ => Err(wrong("that is no host")),
    }
}

/// What a frontend that is told `attrs` knows beside the Dockerfile.
pub fn arguments(attrs: &BTreeMap<String, String>) -> Arguments {
    let mut arguments = Arguments::default();
    for (key, value) in attrs {
        match key.split_once(':').unwrap_or((key.as_str(), "")) {
            ("build-arg", name) => drop(arguments.build_args.insert(name.to_owned(), value.clone())),
            ("target", "") => arguments.target = Some(value.clone()),
            ("platform", "") => {
                arguments.platforms = Platform::list(std::slice::from_ref(value)).unwrap_or_default();
            }
            _ => {}
        }
    }
    arguments
}

/// What `build` pulls and pushes, as its flags and its Dockerfile have it.
pub fn names(build: &Build, dockerfile: &str, allowed: &[Allowed]) -> Names {
    let mut names = Names::default();
    let mut pull = |text: &str| {
        if let Ok(image) = text.parse() {
            names.pull(&image);
        }
    };
    for (key, value) in &build.frontend_attrs {
        match key.split_once(':').unwrap_or((key.as_str(), "")) {
            ("build-arg", "BUILDKIT_SYNTAX") => pull(value.split(' ').next().unwrap_or_default()),
            ("source", "") => pull(value),
            ("context", _) => {
                if let Some(image) = value.strip_prefix("docker-image://") {
                    pull(image);
                }
            }
            ("attest", kind) => {
                let given = value.split(',').find_map(|field| field.strip_prefix("generator="));
                given.or((kind == "sbom").then_some(SBOM_GENERATOR)).into_iter().for_each(&mut pull);
            }
            _ => {}
        }
    }
    for cache in &build.cache_imports {
        cache.attrs.get("ref").into_iter().for_each(|image| pull(image));
    }
    for image in dockerfile::references(dockerfile, &arguments(&build.frontend_attrs)) {
        names.pull(&image);
    }
    for cache in &build.cache_exports {
        if let Some(image) = cache.attrs.get("ref").and_then(|text| text.parse().ok()) {
            names.push(&image);
        }
    }
    for export in &build.exports {
        let pushes = export.attrs.get("push").is_some_and(|push| push == "true" || push.is_empty());
        for image in export.attrs.get("name").into_iter().flat_map(|names| names.split(',')) {
            match image.trim().parse() {
                Ok(image) if pushes => names.push(&image),
                Ok(image) => names.pull(&image),
                Err(_) => {}
            }
        }
    }
    allowed.iter().for_each(|allowed| names.allow(allowed));
    names
}

/// The file that the user shows to the jail in the place of docker's `config.json`. It is taken out of `binds`: the logins
/// in it are used from outside, so the jail need not see them.
pub fn login_file(binds: &mut Vec<HostBind>) -> Option<PathBuf> {
    let place = Path::new(guest_path::CONTEXT).join(".docker/config.json");
    let (taken, left) = std::mem::take(binds).into_iter().partition(|bind| bind.dst == place);
    *binds = left;
    let taken: Vec<HostBind> = taken;
    taken.into_iter().next_back().map(|bind| bind.src)
}
