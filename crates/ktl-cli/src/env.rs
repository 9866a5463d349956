//! Every environment variable that ktl reads or sets, in one place, but for those that only stand for a flag ([`crate::settings`]).

use std::ffi::OsString;
use std::path::PathBuf;

use crate::settings::Settled;

/// Address of the builder when `--builder` is not given.
pub const KTL_BUILDER: &str = "KTL_BUILDER";
/// Whom private builders are kept for, as `--trust`.
pub const KTL_TRUST: &str = "KTL_TRUST";
/// Memory of a private builder, as `--builder-memory`.
pub const KTL_BUILDER_MEMORY: &str = "KTL_BUILDER_MEMORY";
/// Processors of a private builder, as `--builder-cpus`.
pub const KTL_BUILDER_CPUS: &str = "KTL_BUILDER_CPUS";
/// Processes of a private builder, as `--builder-pids`.
pub const KTL_BUILDER_PIDS: &str = "KTL_BUILDER_PIDS";
/// Address of the builder, as buildctl reads it; after [`KTL_BUILDER`].
pub const BUILDKIT_HOST: &str = "BUILDKIT_HOST";
/// A builder by the name that docker buildx keeps for it; after [`BUILDKIT_HOST`].
pub const BUILDX_BUILDER: &str = "BUILDX_BUILDER";
/// Directory of docker buildx's store; default `buildx` in docker's own directory.
pub const BUILDX_CONFIG: &str = "BUILDX_CONFIG";
/// Style of the progress, as `--progress`.
pub const BUILDKIT_PROGRESS: &str = "BUILDKIT_PROGRESS";
/// The nsjail program, as `--sandbox-bin`.
pub const KTL_SANDBOX_BIN: &str = "KTL_SANDBOX_BIN";
/// Who makes the jail, as `--sandbox-runtime`.
pub const KTL_SANDBOX_RUNTIME: &str = "KTL_SANDBOX_RUNTIME";
/// ktl's cache directory; default `$XDG_CACHE_HOME/ktl`, then `~/.cache/ktl`.
pub const KTL_CACHE_DIR: &str = "KTL_CACHE_DIR";
/// The store of `ktl stage`, as `--to` and `--store`; default `store` in ktl's cache directory.
pub const KTL_STORE: &str = "KTL_STORE";
/// Where private builders keep their state; default `$XDG_STATE_HOME/ktl`, then `~/.local/state/ktl`.
pub const KTL_STATE_DIR: &str = "KTL_STATE_DIR";
/// Seconds that a builder may take for an answer, be silent, and go on after the build's end; default `20,60,10`.
pub const KTL_PATIENCE: &str = "KTL_PATIENCE";
/// Directory of docker's `config.json`; default `~/.docker`.
pub const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
/// The Docker Engine, as docker reads it.
pub const DOCKER_HOST: &str = "DOCKER_HOST";
/// A named Engine of docker's, as docker reads it; after [`DOCKER_HOST`].
pub const DOCKER_CONTEXT: &str = "DOCKER_CONTEXT";
/// Set to anything, the Engine at [`DOCKER_HOST`] is spoken to by TLS, as docker reads it.
pub const DOCKER_TLS_VERIFY: &str = "DOCKER_TLS_VERIFY";
/// Directory of ca.pem, cert.pem and key.pem for that; default docker's own directory.
pub const DOCKER_CERT_PATH: &str = "DOCKER_CERT_PATH";
/// Platforms where `--platform` names none, as docker reads it.
pub const DOCKER_DEFAULT_PLATFORM: &str = "DOCKER_DEFAULT_PLATFORM";
/// Becomes the build argument of that name, as in docker buildx.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// A source policy, as `--source-policy-file`.
pub const EXPERIMENTAL_BUILDKIT_SOURCE_POLICY: &str = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY";
/// Set to a false value, provenance does not tell the context's commit and where its repository came from.
pub const BUILDX_GIT_INFO: &str = "BUILDX_GIT_INFO";
/// Set to a true value, labels of the image tell the same.
pub const BUILDX_GIT_LABELS: &str = "BUILDX_GIT_LABELS";
/// Set to a true value, no provenance is attached unasked.
pub const BUILDX_NO_DEFAULT_ATTESTATIONS: &str = "BUILDX_NO_DEFAULT_ATTESTATIONS";
/// How much provenance a metadata file holds: min (the default), max or disabled.
pub const BUILDX_METADATA_PROVENANCE: &str = "BUILDX_METADATA_PROVENANCE";
/// Set to a true value, a metadata file holds the build's warnings.
pub const BUILDX_METADATA_WARNINGS: &str = "BUILDX_METADATA_WARNINGS";
/// Set to anything, no colour is used (no-color.org).
pub const NO_COLOR: &str = "NO_COLOR";
/// Set by CI systems: nobody looks at a live view there.
pub const CI: &str = "CI";
/// Set to true by GitHub's runner, which reads orders from what a step prints.
pub const GITHUB_ACTIONS: &str = "GITHUB_ACTIONS";
/// The file whose text that runner shows as the job's summary.
pub const GITHUB_STEP_SUMMARY: &str = "GITHUB_STEP_SUMMARY";
/// What that runner's annotations name their files relative to.
pub const GITHUB_WORKSPACE: &str = "GITHUB_WORKSPACE";
/// Agent for `--ssh default`.
pub const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";
/// By which a builder names its proxy to steps, ktl's own among them.
pub const HTTP_PROXY: &str = "HTTP_PROXY";

/// Set inside the jail. A label for people and programs in there, never a proof: see [`crate::guest`].
pub const KTL_SANDBOX_ACTIVE: &str = "KTL_SANDBOX_ACTIVE";
/// Set inside the jail: where the build context is.
pub const KTL_SANDBOX_CONTEXT: &str = "KTL_SANDBOX_CONTEXT";
/// Set inside the jail: must equal the nonce in the plan.
pub const KTL_SANDBOX_NONCE: &str = "KTL_SANDBOX_NONCE";

/// What the jail's environment takes over from the user's: terminal and language, nothing that can hold a secret.
pub const GUEST_ALLOWED: &[&str] = &["TERM", "COLORTERM", "NO_COLOR", "LANG", "LC_ALL", "LC_CTYPE"];

/// The user's environment, read once, and what it set.
#[derive(Debug, Clone, Default)]
pub struct Env {
    vars: std::collections::BTreeMap<OsString, OsString>,
    settled: Settled,
}

impl Env {
    /// The environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn current() -> Env {
        Env { vars: std::env::vars_os().collect(), settled: Settled::default() }
    }

    /// An environment made of pairs, for tests.
    #[cfg(test)]
    pub fn of(vars: &[(&str, &str)]) -> Env {
        let vars = vars.iter().map(|(key, value)| (key.into(), value.into())).collect();
        Env { vars, settled: Settled::default() }
    }

    /// With what became of the settings.
    pub fn with_settings(self, settled: Settled) -> Env {
        Env { settled, ..self }
    }

    /// With `value` for `name`, which is not set: what a file says of a flag whose variable is read where it counts.
    pub fn filled(mut self, name: &str, value: &str) -> Env {
        self.vars.insert(name.into(), value.into());
        self
    }

    /// What became of the settings: flags that somebody set without typing them.
    pub fn settings(&self) -> &Settled {
        &self.settled
    }

    /// The value of `name`; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<OsString> {
        self.vars.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).cloned()
    }

    /// The value of `name` as text; lossy, for values that are text by contract.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Everything that is text, for a policy that asks for variables of the host.
    pub fn all_text(&self) -> std::collections::BTreeMap<String, String> {
        let text = |value: &OsString| value.to_str().map(str::to_owned);
        self.vars.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()
    }

    /// Whether the terminal says that it cannot move its cursor.
    pub fn is_dumb_terminal(&self) -> bool {
        self.get("TERM").is_some_and(|term| term == "dumb")
    }

    /// The home directory as `HOME` has it. `/etc/passwd` is not asked: a static binary must stay away from the host's name
    /// service, and a user without `HOME` has no configuration to find.
    pub fn home(&self) -> Option<PathBuf> {
        self.path("HOME").filter(|home| home.is_absolute())
    }

    /// Directory that holds docker's `config.json`.
    pub fn docker_config_dir(&self) -> Option<PathBuf> {
        self.path(DOCKER_CONFIG).or_else(|| self.home().map(|home| home.join(".docker")))
    }

    /// Where private builders keep their state, or `None` when neither variable nor home says where.
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.path(KTL_STATE_DIR)
            .or_else(|| self.path("XDG_STATE_HOME").map(|dir| dir.join("ktl")))
            .filter(|dir| dir.is_absolute())
            .or_else(|| self.home().map(|home| home.join(".local/state/ktl")))
    }

    /// ktl's configuration directory, where `ktl.toml` is, or `None` when neither variable nor home says where.
    pub fn config_dir(&self) -> Option<PathBuf> {
        self.path("XDG_CONFIG_HOME")
            .filter(|dir| dir.is_absolute())
            .or_else(|| self.home().map(|home| home.join(".config")))
            .map(|dir| dir.join("ktl"))
    }

    /// ktl's cache directory, or `None` when neither variable nor home says where.
    pub fn cache_dir(&self) -> Option<PathBuf> {
        self.path(KTL_CACHE_DIR)
            .or_else(|| {
                self.path("XDG_CACHE_HOME").filter(|dir| dir.is_absolute()).map(|dir| dir.join("ktl"))
            })
            .or_else(|| self.home().map(|home| home.join(".cache/ktl")))
    }
}
