//! What a build will do, settled before anything is done.
//!
//! [`BuildPlan`] is the only thing that crosses into the jail besides open descriptors: the guest acts on it and on nothing
//! else. It holds no secret, no credential and no path that the guest could not see anyway. [`HostPlan`] is the other half:
//! what the host side must do before, during and after. Both come out of one pure function; its inputs are the command line,
//! the environment and what [`Facts`] says of the machine.

mod attestations;
mod attributes;
mod caches;
mod call;
mod contexts;
mod destination;
mod egress;
mod engine;
mod frontend;
mod guard;
mod hermetic;
mod inputs;
mod locked;
mod named;
mod patience;
mod results;
mod sandbox;
mod sealed;
mod trust;
mod vcs;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use buildsvc::build::Build;
use buildsvc::context::guard::Watch;
use buildsvc::egress::Egress;
use buildsvc::output::Destination;
use buildsvc::patience::Patience;
use buildsvc::secret::SecretSpec;
use buildsvc::ssh::{DEFAULT_AGENT, SshSpec};
use sandbox_linux::Promises;
use serde::{Deserialize, Serialize};

pub use attestations::Metadata;
pub use caches::CacheStore;
pub use call::Call;
pub use egress::rules as egress_rules;
pub use engine::settle as for_engine;
pub use hermetic::{Hermetic, is_by_digest, is_sbom};
pub use inputs::{dockerfile_of, url_of};
pub use locked::Locked;
pub use named::{Named, beside};
pub use results::is_quiet;
pub use sandbox::{HostBind, LogPlan, SandboxPlan, client_log_plan, log_plan, sandbox_plan};
pub use sealed::{ExecPlan, GuestPlan, LookPlan, Sealing};
pub use trust::names;

use crate::audit::Audit;
use crate::broker::{AgentSource, Allowed, SecretSource};
use crate::ci::Github;
use crate::cli::{BuildArgs, SandboxSwitch};
use crate::depot;
use crate::display::Mode;
use crate::env::{self, Env};
use crate::failure::Failure;
use crate::inside::InsidePlan;
use crate::piped::Piped;
use crate::repository::{Repository, RepositoryError};
use caches::Caches;
use contexts::Shared;
use inputs::Inputs;
use results::Results;

/// Raised whenever a [`GuestPlan`] changes its meaning; the guest refuses every other.
pub const VERSION: u32 = 5;

/// Where things are inside the jail.
pub mod guest_path {
    pub const CONTEXT: &str = "/workspace";
    pub const DOCKERFILE: &str = "/ktl-dockerfile";
    /// Directories of named contexts and stores of images, numbered.
    pub const SHARED: &str = "/ktl-shared";
    pub const CACHE: &str = "/ktl-cache";
    pub const OUTPUT: &str = "/ktl-out";
    pub const BINARY: &str = "/ktl-bin/ktl";
    /// The cache of a program that is not ktl, under the name that wrappers around nsjail gave it.
    pub const CLIENT_CACHE: &str = "/bk-cache";
}

/// The entitlement of docker buildx that is this side's to grant, and no builder hears of.
pub const LOCAL_DELETE: &str = "buildx.local.delete";

/// The part of the plan that the guest acts on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildPlan {
    pub version: u32,
    /// Made for this run; the guest's environment must hold the same.
    pub nonce: String,
    pub build: Build,
    /// Names the daemon's copy of the context, so that the next build sends only what changed.
    pub shared_key: String,
    pub locals: Vec<Local>,
    /// What the context's files are sent with instead of their own times, in seconds since 1970.
    pub times: Option<i64>,
    pub stores: Vec<GuestStore>,
    /// What is done about keys and logins in them.
    pub context_guard: Watch,
    /// The context where it came as an archive.
    pub upload: Option<GuestUpload>,
    /// One for each exporter, in their order.
    pub outputs: Vec<GuestOutput>,
    /// What each may be.
    pub output_bounds: Vec<OutputBounds>,
    pub secrets: Vec<String>,
    pub agents: Vec<String>,
    pub progress: Mode,
    /// The progress is folded, for a reader who knows how.
    pub is_grouped: bool,
    pub colour: bool,
    pub quiet: bool,
    /// 1 explains decisions, 2 traces the conversation with the builder.
    pub verbose: u8,
    /// Paths to look for from inside before the build starts.
    pub probes: Vec<PathBuf>,
    /// When the builder counts as lost, and the build as too long.
    pub patience: Patience,
    /// What the metadata file is to hold, where there is one.
    pub metadata: Option<Metadata>,
    pub hermetic: Hermetic,
    /// The servers that the build may reach, where that is not for the builder alone to say.
    pub egress: Option<Egress>,
    /// The look from inside a step that comes first.
    pub inside: Option<InsidePlan>,
    /// Everything that is asked of the session is reported.
    pub audit: bool,
    /// The builder's address, for messages.
    pub builder: String,
    /// What the jail promises; `None` when the user chose to run without.
    pub promises: Option<Promises>,
}

/// A directory that the daemon may ask for by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    pub name: String,
    /// As the process that serves it sees it: a path in the jail, or on the host without one.
    pub path: PathBuf,
}

/// A store of blobs that the daemon may ask for by id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStore {
    pub id: String,
    /// What may be read, if there is anything.
    pub existing: Option<PathBuf>,
    /// Where new blobs are put, if any may come.
    pub arriving: Option<PathBuf>,
}

/// An archive, of which the host side has read the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestUpload {
    pub id: String,
    pub head: Vec<u8>,
    /// Where the rest is read from.
    pub descriptor: i32,
}

/// How the guest writes what an exporter sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestOutput {
    /// Nothing is sent to the client.
    None,
    /// To this open descriptor; `name` is what messages call it.
    Descriptor { number: i32, name: String },
    /// Into this directory.
    Directory(PathBuf),
}

/// What an exporter may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputBounds {
    pub bytes: u64,
    /// How often: once for each platform.
    pub calls: usize,
    /// An image, whose archive is hashed again.
    pub image: bool,
    pub devices: bool,
}

/// The part of the plan that stays outside.
#[derive(Debug)]
pub struct HostPlan {
    /// What the jail shows as its workspace.
    pub context: PathBuf,
    /// Host directories behind [`BuildPlan::locals`] and [`BuildPlan::stores`], by name.
    pub locals: BTreeMap<String, PathBuf>,
    /// Further directories that the jail shows, read-only: from where, to where.
    pub rooms: Vec<(PathBuf, PathBuf)>,
    pub destinations: Vec<Destination>,
    /// A mirror may take the place of what ktl did not put there.
    pub delete_anything: bool,
    /// Set-user-id bits of what lands in directories are kept.
    pub output_privileged: bool,
    pub cache_stores: Vec<CacheStore>,
    /// What a hermetic build takes in the place of a network, where there is a lock.
    pub locked: Option<Locked>,
    /// Nothing is built: this is asked.
    pub call: Option<Call>,
    /// What RUN reaches is looked at before the build.
    pub looks_inside: bool,
    /// What went in is compared with the lock after the build.
    pub compares_materials: bool,
    /// What the user should know before the build begins.
    pub warnings: Vec<String>,
    /// What was decided for a hermetic build, told in the same place.
    pub notes: Vec<String>,
    /// Those that the broker may give out: the ones that the builder may ask for, and those of the caches.
    pub secrets: Vec<SecretSource>,
    pub agents: Vec<AgentSource>,
    pub max_signatures: u32,
    /// `None` when the builder fetches it with a remote context.
    pub dockerfile: Option<PathBuf>,
    pub allowed_registries: Vec<Allowed>,
    pub docker_config: Option<PathBuf>,
    /// Instead of the `config.json` there.
    pub login_file: Option<PathBuf>,
    pub metadata_file: Option<PathBuf>,
    pub iidfile: Option<PathBuf>,
    /// Where the list of the servers that were reached goes.
    pub egress_learn: Option<PathBuf>,
    /// Where the record of all requests goes.
    pub egress_record: Option<PathBuf>,
    pub cache: PathBuf,
    pub sandbox: Option<SandboxPlan>,
    pub log: LogPlan,
    /// Set by who runs the build: a plan opens nothing.
    pub audit: Audit,
    /// Nothing was asked for that outlives the builder's cache.
    pub stays_in_cache: bool,
    /// And that is what was asked for.
    pub cache_only: bool,
}

/// What the plan needs to know of the machine.
#[derive(Debug, Clone)]
pub struct Facts {
    pub cwd: PathBuf,
    pub uid: u32,
    pub host_name: String,
    /// Somebody is looking at stderr, on a terminal that can move its cursor.
    pub live_view: bool,
    pub nonce: String,
    pub reference: String,
    /// The directory of this run for inputs that are no directories of the user's, where one was needed.
    pub scratch: Option<PathBuf>,
    /// What came on standard input.
    pub piped: Option<Piped>,
    /// What a path leads to.
    pub kind_of: fn(&Path) -> Kind,
    /// A path with all its symlinks resolved, where it exists.
    pub real: fn(&Path) -> Option<PathBuf>,
    /// The git repository around a directory.
    pub repository: fn(&Path) -> Result<Option<Repository>, RepositoryError>,
    /// The bytes of a file that is not larger than the limit.
    pub read: fn(&Path, u64) -> io::Result<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Missing,
    Directory,
    File,
    Other,
}

/// Settles what the arguments mean.
pub fn resolve(
    args: &BuildArgs,
    verbose: u8,
    env: &Env,
    facts: &Facts,
) -> Result<(BuildPlan, HostPlan), Failure> {
    let inputs = Inputs::resolve(args, facts)?;
    let (style, outputs) = results::progress_and_outputs(args, env)?;
    let call = Call::resolve(args)?;
    // An answer is nothing that goes anywhere.
    let outputs = if call.is_some() { Vec::new() } else { outputs };
    let mut results = Results::resolve(args, outputs, env, facts)?;
    if call.is_some() {
        results = Results {
            exports: Vec::new(),
            destinations: Vec::new(),
            bounds: Vec::new(),
            stays_in_cache: false,
            cache_only: true,
        };
    }
    let jailed = args.sandbox.sandbox != Some(SandboxSwitch::Off);
    if !jailed {
        sandbox::refuse_jail_flags_without_jail(args)?;
    }

    let secrets =
        SecretSpec::list(&args.build.secret).map_err(|error| Failure::usage(format!("--secret: {error}")))?;
    let secrets = secrets
        .into_iter()
        .map(|spec| trust::secret_source(spec, env, facts))
        .collect::<Result<Vec<_>, _>>()?;
    let default_agent = [DEFAULT_AGENT.to_owned()];
    let agents =
        if args.build.ssh.is_empty() && inputs.needs_agent() { &default_agent[..] } else { &args.build.ssh };
    let agents = SshSpec::list(agents).map_err(|error| Failure::usage(format!("--ssh: {error}")))?;
    let agents = agents
        .into_iter()
        .map(|spec| trust::agent_source(spec, env, facts))
        .collect::<Result<Vec<_>, _>>()?;

    let allowed_registries = args
        .build
        .allow_registry
        .iter()
        .map(|text| trust::allowed_registry(text))
        .collect::<Result<_, _>>()?;

    let cache = cache_dir(env, facts)?;
    let mut sandbox = jailed
        .then(|| sandbox_plan(&args.sandbox.jail, args.sandbox.hermetic.is_on(), env, facts))
        .transpose()?;
    let login_file = sandbox.as_mut().and_then(|sandbox| trust::login_file(&mut sandbox.binds));

    let mut shared = Shared { jailed, caps: inputs.caps().into_iter().collect(), ..Shared::default() };
    shared.add_contexts(&args.build.build_context, facts)?;
    let caches = match &call {
        Some(_) => Caches::default(),
        None => Caches::resolve(args, env, facts, &mut shared)?,
    };
    let mut frontend_attrs = inputs::frontend_attrs(args, &inputs, env)?;
    frontend_attrs.extend(std::mem::take(&mut shared.attrs));
    let locked = locked(args, &inputs, &mut frontend_attrs, env, facts, &mut shared)?;
    let mut locals = shared.locals;
    let mut host_locals = shared.hosts;
    for (name, host) in inputs.locals() {
        let path = if jailed { inputs.guest_path(host) } else { host.to_owned() };
        locals.push(Local { name: name.to_owned(), path });
        host_locals.insert(name.to_owned(), host.to_owned());
    }
    if !shared.caps.is_empty() {
        shared.caps.sort_unstable();
        shared.caps.dedup();
        frontend_attrs.insert("frontend.caps".to_owned(), shared.caps.join(","));
    }
    let upload = match (&facts.piped, inputs.upload()) {
        (Some(Piped::Archive { head }), Some(id)) => {
            Some(GuestUpload { id: id.to_owned(), head: head.clone(), descriptor: -1 })
        }
        _ => None,
    };

    let progress = results::settle_style(style, args, facts);
    let github = Github::of(args.display.ci, env, &facts.cwd).is_some();
    let mut plan = BuildPlan {
        version: VERSION,
        nonce: facts.nonce.clone(),
        build: Build {
            reference: facts.reference.clone(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs,
            exports: results.exports,
            cache_imports: caches.imports,
            cache_exports: caches.exports,
            question: call.as_ref().map(|call| format!("frontend.{}", call.method)),
            ..Build::default()
        },
        shared_key: inputs.shared_key(facts),
        locals,
        times: None,
        stores: shared.stores,
        context_guard: guard::watch(args),
        upload,
        outputs: results.destinations.iter().map(|_| GuestOutput::None).collect(),
        output_bounds: results.bounds,
        secrets: secrets.iter().map(|secret| secret.id.clone()).collect(),
        agents: agents.iter().map(|agent| agent.id.clone()).collect(),
        progress,
        is_grouped: github && progress == Mode::Plain,
        colour: facts.live_view && env.get(env::NO_COLOR).is_none(),
        quiet: is_quiet(args, env) && style != Some(Mode::None),
        verbose,
        probes: args.sandbox.sandbox_probe_path.clone(),
        patience: patience::resolve(args.build.timeout, env)?,
        metadata: args
            .result
            .metadata_file
            .as_ref()
            .filter(|_| call.is_none())
            .map(|_| Metadata::of_env(env)),
        hermetic: args.sandbox.hermetic,
        egress: egress::resolve(args, facts)?,
        inside: None,
        audit: args.result.audit.is_some(),
        builder: String::new(),
        promises: None,
    };
    attributes::add(args, env, facts, &mut plan.build)?;
    attestations::add(args, env, &mut plan.build)?;
    let mut warnings = args.former.warnings();
    warnings.extend(caches.warnings);
    vcs::add(args, env, facts, &inputs, &mut plan, &mut warnings)?;
    let mut notes = Vec::new();
    if let Some(locked) = &locked {
        locked.apply(&mut plan.build);
    }
    if args.sandbox.hermetic.is_on() {
        hermetic::seal(args, &mut plan, locked.as_ref())?;
        let allowed = &args.step.allow_frontend;
        notes.extend(frontend::settle(allowed, &mut plan.build, inputs.dockerfile().as_deref(), facts)?);
    } else if !args.step.allow_frontend.is_empty() {
        return Err(Failure::usage("--allow-frontend means nothing without --hermetic"));
    }
    if let Some(list) = &plan.egress {
        egress::add(list, &mut plan.build)?;
    }
    let reported = plan.hermetic.is_on() || args.result.report.is_some();
    let compares_materials = reported && call.is_none();
    let looks_inside = call.is_none() && (reported || plan.egress.is_some());
    let host = HostPlan {
        dockerfile: inputs.dockerfile(),
        locals: host_locals,
        rooms: shared.rooms,
        context: inputs.workspace,
        destinations: results.destinations,
        delete_anything: args.step.allow.iter().any(|word| word == LOCAL_DELETE),
        output_privileged: args.result.output_privileged,
        cache_stores: caches.stores,
        locked,
        call,
        looks_inside,
        compares_materials,
        warnings,
        notes,
        secrets: secrets.into_iter().chain(caches.secrets).collect(),
        agents,
        max_signatures: args.build.ssh_max_signatures,
        allowed_registries,
        docker_config: env.docker_config_dir(),
        login_file,
        metadata_file: args.result.metadata_file.as_ref().map(|path| facts.cwd.join(path)),
        iidfile: args.result.iidfile.as_ref().map(|path| facts.cwd.join(path)),
        egress_learn: args.egress.egress_learn.as_ref().map(|path| facts.cwd.join(path)),
        egress_record: args.egress.egress_record.as_ref().map(|path| facts.cwd.join(path)),
        cache,
        sandbox,
        log: client_log_plan(&args.sandbox.log, args.sandbox.json, facts)?,
        audit: Audit::default(),
        stays_in_cache: results.stays_in_cache,
        cache_only: results.cache_only,
    };
    Ok((plan, host))
}

/// What is locked, for a build that is to be hermetic.
fn locked(
    args: &BuildArgs,
    inputs: &Inputs,
    attrs: &mut BTreeMap<String, String>,
    env: &Env,
    facts: &Facts,
    shared: &mut Shared,
) -> Result<Option<Locked>, Failure> {
    let asked = args.build.lock.is_some() || args.build.store.is_some();
    match inputs.dockerfile() {
        _ if !args.sandbox.hermetic.is_on() && asked => {
            Err(Failure::usage("--lock and --store mean nothing without --hermetic"))
        }
        _ if !args.sandbox.hermetic.is_on() => Ok(None),
        None if asked => Err(Failure::usage("--lock and --store are for a Dockerfile of this machine")),
        None => Ok(None),
        Some(dockerfile) => Locked::resolve(args, dockerfile, attrs, env, facts, shared),
    }
}

/// Where the store is: as a flag says, or the environment, or in the cache.
pub fn store_dir(flag: Option<&Path>, env: &Env, facts: &Facts) -> Result<PathBuf, Failure> {
    match flag.map(Path::to_owned).or_else(|| env.path(env::KTL_STORE)) {
        Some(dir) => Ok(facts.cwd.join(dir)),
        None => Ok(cache_dir(env, facts)?.join(depot::DIR)),
    }
}

/// ktl's cache directory.
pub fn cache_dir(env: &Env, facts: &Facts) -> Result<PathBuf, Failure> {
    env.cache_dir().map(|dir| facts.cwd.join(dir)).ok_or_else(|| {
        Failure::usage("nowhere to keep ktl's cache: neither KTL_CACHE_DIR, XDG_CACHE_HOME nor HOME is set")
            .hint("Set KTL_CACHE_DIR to a directory of yours.")
    })
}

#[cfg(test)]
mod tests;
