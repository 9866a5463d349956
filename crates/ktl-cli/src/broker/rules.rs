//! What may be answered: the user's command line in the form the desk works by.
//!
//! Everything that a guest can name is listed here; an id or directory that is not listed does not exist for it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use buildsvc::dockerconfig::DockerConfig;
use buildsvc::session::host::Secret;

use super::names::Names;
use crate::audit::Audit;

/// The id that an ssh mount without one means.
pub const DEFAULT_AGENT: &str = "default";

#[derive(Debug, Default)]
pub struct Rules {
    pub docker_config: DockerConfig,
    /// The registries that logins are for.
    pub names: Names,
    /// Directory of `.token_seed`, docker's config directory. `None` keeps the token authority shut, and daemons ask
    /// for credentials instead (`BUILDKIT_NO_CLIENT_TOKEN` of moby/buildkit).
    pub token_seeds: Option<PathBuf>,
    pub secrets: Vec<SecretSource>,
    pub agents: Vec<AgentSource>,
    /// Of all agents together.
    pub max_signatures: u32,
    /// Directories beneath which files may be opened for a guest that may not read them itself, by local name. A guest
    /// gets descriptors of directories only where they cannot be climbed out of; see [`super::Desk::new`].
    pub locals: BTreeMap<String, OwnedFd>,
    /// In the form of `PATH`: where `docker-credential-*`, `ssh-agent` and `ssh-add` are looked for.
    pub program_search_path: OsString,
    /// Where all that is asked is written down.
    pub audit: Audit,
}

/// One `--secret`.
#[derive(Debug, Clone)]
pub struct SecretSource {
    pub id: String,
    pub origin: SecretOrigin,
}

#[derive(Debug, Clone)]
pub enum SecretOrigin {
    /// An environment variable, read by the caller.
    Env { name: String, value: Secret },
    /// A file, read each time it is asked for.
    File(PathBuf),
}

/// One `--ssh`.
#[derive(Debug, Clone)]
pub struct AgentSource {
    pub id: String,
    pub kind: AgentKind,
}

#[derive(Debug, Clone)]
pub enum AgentKind {
    /// The socket of an agent that runs already.
    Socket(PathBuf),
    /// Private keys without passphrase, given to an agent of their own while the desk is open.
    Keys(Vec<PathBuf>),
}
