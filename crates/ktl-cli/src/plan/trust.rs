//! The user's things that a build may use: secrets and ssh agents. Only their names cross into the jail.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use buildsvc::secret::{self, SecretSpec};
use buildsvc::session::host::Secret;
use buildsvc::ssh::SshSpec;

use super::{Facts, Kind};
use crate::broker::{AgentKind, AgentSource, SecretOrigin, SecretSource};
use crate::env::{self, Env};
use crate::failure::Failure;

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
