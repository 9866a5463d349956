//! What a build will do, settled before anything is done.
//!
//! [`BuildPlan`] is the only thing that crosses into the jail besides open descriptors: the guest acts on it and on nothing
//! else. It holds no secret, no credential and no path that the guest could not see anyway. [`HostPlan`] is the other half:
//! what the host side must do before, during and after. Both come out of one pure function; its inputs are the command line,
//! the environment and what [`Facts`] says of the machine.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use buildsvc::build::{Build, Export};
use buildsvc::output::{self, Destination, OutputKind, OutputSpec};
use buildsvc::platform::Platform;
use buildsvc::reference::ImageRef;
use buildsvc::secret::{self, SecretSpec};
use buildsvc::session::host::Secret;
use buildsvc::ssh::SshSpec;
use sandbox_linux::Promises;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::broker::{AgentKind, AgentSource, SecretOrigin, SecretSource};
use crate::cli::{BuildArgs, SandboxSwitch};
use crate::display::Mode;
use crate::env::{self, Env};
use crate::failure::Failure;

/// Raised whenever a [`BuildPlan`] changes its meaning; the guest refuses every other.
pub const VERSION: u32 = 1;

/// Where things are inside the jail.
pub mod guest_path {
    pub const CONTEXT: &str = "/workspace";
    pub const DOCKERFILE: &str = "/ktl-dockerfile";
    pub const CACHE: &str = "/ktl-cache";
    pub const OUTPUT: &str = "/ktl-out";
    pub const BINARY: &str = "/ktl-bin/ktl";
}

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
    /// One for each exporter, in their order.
    pub outputs: Vec<GuestOutput>,
    pub secrets: Vec<String>,
    pub agents: Vec<String>,
    pub progress: Mode,
    pub colour: bool,
    pub quiet: bool,
    /// 1 explains decisions, 2 traces the conversation with the builder.
    pub verbose: u8,
    /// Paths to look for from inside before the build starts.
    pub probes: Vec<PathBuf>,
    /// The builder must be able to keep RUN off the network.
    pub hermetic: bool,
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

/// How the guest writes what an exporter sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestOutput {
    /// Nothing is sent to the client.
    None,
    /// To this open descriptor.
    Descriptor(i32),
    /// Into this directory.
    Directory(PathBuf),
}

/// The part of the plan that stays outside.
#[derive(Debug)]
pub struct HostPlan {
    pub context: PathBuf,
    /// Host directories behind [`BuildPlan::locals`], by name.
    pub locals: BTreeMap<String, PathBuf>,
    pub destinations: Vec<Destination>,
    pub secrets: Vec<SecretSource>,
    pub agents: Vec<AgentSource>,
    pub docker_config: Option<PathBuf>,
    pub metadata_file: Option<PathBuf>,
    pub iidfile: Option<PathBuf>,
    pub cache: PathBuf,
    pub sandbox: Option<SandboxPlan>,
    /// Nothing was asked for that outlives the builder's cache.
    pub stays_in_cache: bool,
}

/// The jail that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPlan {
    pub config: Option<PathBuf>,
    pub bin: Option<PathBuf>,
    pub binds: Vec<HostBind>,
    pub workdir: PathBuf,
    pub logs: bool,
    pub env: Vec<(String, String)>,
    pub path_var: Option<OsString>,
}

/// `--sandbox-bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBind {
    pub src: PathBuf,
    pub dst: PathBuf,
    pub rw: bool,
}

/// What the plan needs to know of the machine.
#[derive(Debug, Clone)]
pub struct Facts {
    pub cwd: PathBuf,
    pub uid: u32,
    pub host_name: String,
    pub stderr_is_terminal: bool,
    pub nonce: String,
    pub reference: String,
    /// What a path leads to.
    pub kind_of: fn(&Path) -> Kind,
    /// A path with all its symlinks resolved, where it exists.
    pub real: fn(&Path) -> Option<PathBuf>,
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
    let (style, outputs) = progress_and_outputs(args)?;
    let results = Results::resolve(args, outputs, facts)?;
    let jailed = args.sandbox.sandbox != Some(SandboxSwitch::Off);
    if !jailed {
        refuse_jail_flags_without_jail(args)?;
    }

    let secrets =
        SecretSpec::list(&args.build.secret).map_err(|error| Failure::usage(format!("--secret: {error}")))?;
    let secrets =
        secrets.into_iter().map(|spec| secret_source(spec, env, facts)).collect::<Result<Vec<_>, _>>()?;
    let agents = SshSpec::list(&args.build.ssh).map_err(|error| Failure::usage(format!("--ssh: {error}")))?;
    let agents =
        agents.into_iter().map(|spec| agent_source(spec, env, facts)).collect::<Result<Vec<_>, _>>()?;

    let cache = env.cache_dir().map(|dir| facts.cwd.join(dir)).ok_or_else(|| {
        Failure::usage("nowhere to keep ktl's cache: neither KTL_CACHE_DIR, XDG_CACHE_HOME nor HOME is set")
            .hint("Set KTL_CACHE_DIR to a directory of yours.")
    })?;

    let locals = [("context", &inputs.context), ("dockerfile", &inputs.dockerfile_dir)];
    let guest_locals = locals
        .iter()
        .map(|(name, host)| Local {
            name: (*name).to_owned(),
            path: if jailed { inputs.guest_path(host) } else { (*host).clone() },
        })
        .collect();

    let mut plan = BuildPlan {
        version: VERSION,
        nonce: facts.nonce.clone(),
        build: Build {
            reference: facts.reference.clone(),
            frontend: "dockerfile.v0".to_owned(),
            frontend_attrs: frontend_attrs(args, &inputs, env)?,
            exports: results.exports,
            ..Build::default()
        },
        shared_key: shared_key(&inputs.context, facts),
        locals: guest_locals,
        outputs: results.destinations.iter().map(|_| GuestOutput::None).collect(),
        secrets: secrets.iter().map(|secret| secret.id.clone()).collect(),
        agents: agents.iter().map(|agent| agent.id.clone()).collect(),
        progress: settle_style(style, args, facts),
        colour: facts.stderr_is_terminal && env.get(env::NO_COLOR).is_none(),
        quiet: args.display.quiet,
        verbose,
        probes: args.sandbox.sandbox_probe_path.clone(),
        hermetic: args.sandbox.hermetic,
        builder: String::new(),
        promises: None,
    };
    if args.sandbox.hermetic {
        plan.build.without_network();
    }
    let host = HostPlan {
        locals: locals.iter().map(|(name, path)| ((*name).to_owned(), (*path).clone())).collect(),
        context: inputs.context,
        destinations: results.destinations,
        secrets,
        agents,
        docker_config: env.docker_config_dir(),
        metadata_file: args.result.metadata_file.as_ref().map(|path| facts.cwd.join(path)),
        iidfile: args.result.iidfile.as_ref().map(|path| facts.cwd.join(path)),
        cache,
        sandbox: jailed.then(|| sandbox_plan(args, env, facts)).transpose()?,
        stays_in_cache: results.stays_in_cache,
    };
    Ok((plan, host))
}

/// The context and the Dockerfile.
struct Inputs {
    context: PathBuf,
    dockerfile_dir: PathBuf,
    dockerfile_name: String,
}

impl Inputs {
    fn resolve(args: &BuildArgs, facts: &Facts) -> Result<Inputs, Failure> {
        let given = &args.context;
        if given == Path::new("-") || given.to_string_lossy().contains("://") {
            return Err(Failure::usage(format!("the build context `{}` is no directory", given.display()))
                .hint("This version builds local directories only."));
        }
        let context = facts.cwd.join(given);
        let context = (facts.real)(&context).unwrap_or(context);
        match (facts.kind_of)(&context) {
            Kind::Directory => {}
            Kind::Missing => {
                return Err(Failure::usage(format!(
                    "the build context {} does not exist",
                    context.display()
                )));
            }
            Kind::File | Kind::Other => {
                return Err(Failure::usage(format!(
                    "the build context {} is not a directory",
                    context.display()
                )));
            }
        }
        let file = match &args.build.file {
            Some(file) if file == Path::new("-") => {
                return Err(Failure::usage("this version reads no Dockerfile from standard input")
                    .hint("Name a file: -f FILE"));
            }
            Some(file) => facts.cwd.join(file),
            None => {
                let upper = context.join("Dockerfile");
                let lower = context.join("dockerfile");
                let exists = |path: &Path| (facts.kind_of)(path) != Kind::Missing;
                if !exists(&upper) && exists(&lower) { lower } else { upper }
            }
        };
        match (facts.kind_of)(&file) {
            Kind::Missing => {
                return Err(Failure::usage(format!("there is no Dockerfile at {}", file.display()))
                    .hint("Name it with -f FILE; the path is relative to the current directory."));
            }
            Kind::Directory => {
                return Err(Failure::usage(format!("the Dockerfile {} is a directory", file.display())));
            }
            Kind::File | Kind::Other => {}
        }
        let name = file.file_name().unwrap_or_default();
        let dockerfile_name = name
            .to_str()
            .ok_or_else(|| Failure::usage(format!("the Dockerfile's name {} is not UTF-8", file.display())))?
            .to_owned();
        let dir = file.parent().unwrap_or(Path::new("/"));
        let dockerfile_dir = (facts.real)(dir).unwrap_or_else(|| dir.to_owned());
        Ok(Inputs { context, dockerfile_dir, dockerfile_name })
    }

    /// Where a host path of the inputs is in the jail: the one place where this mapping is made.
    fn guest_path(&self, host: &Path) -> PathBuf {
        match host.strip_prefix(&self.context) {
            Ok(below) if below.as_os_str().is_empty() => PathBuf::from(guest_path::CONTEXT),
            Ok(below) => Path::new(guest_path::CONTEXT).join(below),
            Err(_) => PathBuf::from(guest_path::DOCKERFILE),
        }
    }
}

fn frontend_attrs(args: &BuildArgs, inputs: &Inputs, env: &Env) -> Result<BTreeMap<String, String>, Failure> {
    let flags = &args.build;
    let mut attrs = BTreeMap::new();
    attrs.insert("filename".to_owned(), inputs.dockerfile_name.clone());
    if let Some(target) = &flags.target {
        attrs.insert("target".to_owned(), target.clone());
    }
    if let Some(epoch) = env.text(env::SOURCE_DATE_EPOCH) {
        attrs.insert(format!("build-arg:{}", env::SOURCE_DATE_EPOCH), epoch);
    }
    for arg in &flags.build_arg {
        match arg.split_once('=') {
            Some(("", _)) => return Err(Failure::usage(format!("--build-arg `{arg}` names no variable"))),
            Some((key, value)) => drop(attrs.insert(format!("build-arg:{key}"), value.to_owned())),
            None => {
                if let Some(value) = env.text(arg) {
                    attrs.insert(format!("build-arg:{arg}"), value);
                }
            }
        }
    }
    for label in &flags.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if key.is_empty() {
            return Err(Failure::usage(format!("--label `{label}` names no key")));
        }
        attrs.insert(format!("label:{key}"), value.to_owned());
    }
    if !flags.platform.is_empty() {
        let platforms = Platform::list(&flags.platform)
            .map_err(|error| Failure::usage(format!("--platform: {error}")))?;
        let platforms: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        attrs.insert("platform".to_owned(), platforms.join(","));
    }
    if flags.no_cache {
        attrs.insert("no-cache".to_owned(), String::new());
    }
    if flags.pull {
        attrs.insert("image-resolve-mode".to_owned(), "pull".to_owned());
    }
    Ok(attrs)
}

/// Exporters, and where what they send goes.
struct Results {
    exports: Vec<Export>,
    destinations: Vec<Destination>,
    stays_in_cache: bool,
}

impl Results {
    fn resolve(args: &BuildArgs, outputs: Vec<OutputSpec>, facts: &Facts) -> Result<Results, Failure> {
        let flags = &args.result;
        let names = flags.tag.iter().map(|tag| tag.parse()).collect::<Result<Vec<ImageRef>, _>>();
        let names = names.map_err(|error| Failure::usage(format!("--tag: {error}")))?;
        let mut specs = outputs;
        if flags.push && flags.load {
            return Err(Failure::usage("--push and --load cannot be given together"));
        }
        if flags.push {
            match specs.iter().position(|spec| spec.kind == OutputKind::Image) {
                Some(at) => drop(specs[at].attrs.insert("push".to_owned(), "true".to_owned())),
                None if specs.is_empty() => specs.push(OutputSpec::push()),
                None => return Err(Failure::usage("--push goes with no --output but type=image")),
            }
        }
        if flags.load {
            specs.push(OutputSpec::load());
        }
        let stays_in_cache = specs.iter().all(|spec| spec.kind == OutputKind::CacheOnly);
        if specs.is_empty() && !names.is_empty() {
            // Gives the image its digest without sending it anywhere.
            specs.push(OutputSpec {
                kind: OutputKind::Image,
                attrs: BTreeMap::new(),
                destination: Destination::None,
            });
        }
        specs.iter_mut().for_each(|spec| spec.name_it(&names));
        let specs = output::settle(specs).map_err(|error| match error {
            output::OutputError::PushWithoutName => {
                Failure::usage("a push needs the name of the image").hint("Add -t REGISTRY/NAME:TAG")
            }
            error => Failure::usage(format!("--output: {error}")),
        })?;
        let absolute = |destination| match destination {
            Destination::File(path) => Destination::File(facts.cwd.join(path)),
            Destination::Directory(path) => Destination::Directory(facts.cwd.join(path)),
            other => other,
        };
        let destinations = specs.iter().map(|spec| absolute(spec.destination.clone())).collect();
        let exports = specs
            .into_iter()
            .map(|spec| Export { kind: spec.kind.name().to_owned(), attrs: spec.attrs })
            .collect();
        Ok(Results { exports, destinations, stays_in_cache })
    }
}

/// Reads `--output`, of which two words name progress styles.
fn progress_and_outputs(args: &BuildArgs) -> Result<(Option<Mode>, Vec<OutputSpec>), Failure> {
    let mut style = args.display.progress;
    let mut outputs = Vec::new();
    for text in &args.result.output {
        match text.as_str() {
            "logs" => style = Some(Mode::Plain),
            "tty" => style = Some(Mode::Tty),
            _ => outputs.push(
                OutputSpec::parse(text)
                    .map_err(|error| Failure::usage(format!("--output {text}: {error}")))?,
            ),
        }
    }
    Ok((style, outputs))
}

/// `auto` ends here: the guest does not see whether a person is looking.
fn settle_style(style: Option<Mode>, args: &BuildArgs, facts: &Facts) -> Mode {
    if args.display.quiet {
        return Mode::Quiet;
    }
    match style.unwrap_or(Mode::Auto) {
        // Lines of the jail's log would tear a live view.
        Mode::Auto if facts.stderr_is_terminal && !args.sandbox.sandbox_logs => Mode::Tty,
        Mode::Auto => Mode::Plain,
        given => given,
    }
}

fn secret_source(spec: SecretSpec, env: &Env, facts: &Facts) -> Result<SecretSource, Failure> {
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

fn agent_source(spec: SshSpec, env: &Env, facts: &Facts) -> Result<AgentSource, Failure> {
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

fn refuse_jail_flags_without_jail(args: &BuildArgs) -> Result<(), Failure> {
    let flags = &args.sandbox;
    let given = [
        ("--sandbox-config", flags.sandbox_config.is_some()),
        ("--sandbox-bind", !flags.sandbox_bind.is_empty()),
        ("--sandbox-bind-home", flags.sandbox_bind_home),
        ("--sandbox-workdir", flags.sandbox_workdir.is_some()),
        ("--sandbox-probe-path", !flags.sandbox_probe_path.is_empty()),
        ("--sandbox-logs", flags.sandbox_logs),
        ("--hermetic", flags.hermetic),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            Err(Failure::usage(format!("{flag} means nothing with --sandbox=off"))
                .hint("Leave one of them out."))
        }
        None => Ok(()),
    }
}

fn sandbox_plan(args: &BuildArgs, env: &Env, facts: &Facts) -> Result<SandboxPlan, Failure> {
    let flags = &args.sandbox;
    let mut binds =
        flags.sandbox_bind.iter().map(|spec| parse_bind(spec, facts)).collect::<Result<Vec<_>, _>>()?;
    if flags.sandbox_bind_home {
        let home = env.home().ok_or_else(|| Failure::usage("--sandbox-bind-home: HOME is not set"))?;
        binds.push(HostBind { src: home.clone(), dst: home, rw: false });
    }
    let workdir = flags.sandbox_workdir.clone().unwrap_or_else(|| guest_path::CONTEXT.into());
    if !workdir.is_absolute() {
        return Err(Failure::usage(format!(
            "--sandbox-workdir {}: needs an absolute path",
            workdir.display()
        )));
    }
    let mut allowed: Vec<(String, String)> = vec![
        (env::KTL_SANDBOX_ACTIVE.to_owned(), "1".to_owned()),
        (env::KTL_SANDBOX_CONTEXT.to_owned(), guest_path::CONTEXT.to_owned()),
        (env::KTL_SANDBOX_NONCE.to_owned(), facts.nonce.clone()),
    ];
    allowed.extend(env::GUEST_ALLOWED.iter().filter_map(|name| Some(((*name).to_owned(), env.text(name)?))));
    Ok(SandboxPlan {
        config: flags.sandbox_config.as_ref().map(|path| facts.cwd.join(path)),
        bin: flags.sandbox_bin.as_ref().map(|path| facts.cwd.join(path)),
        binds,
        workdir,
        logs: flags.sandbox_logs,
        env: allowed,
        path_var: env.get("PATH"),
    })
}

/// Reads `HOST:GUEST[:ro|rw]` from the right, so that colons in the host path do no harm.
fn parse_bind(spec: &OsStr, facts: &Facts) -> Result<HostBind, Failure> {
    let shown = spec.to_string_lossy();
    let wrong = |why: &str| {
        Failure::usage(format!("--sandbox-bind {shown}: {why}")).hint("The form is HOST:GUEST[:ro|rw].")
    };
    let bytes = spec.as_bytes();
    let (rest, rw) = if let Some(rest) = bytes.strip_suffix(b":rw") {
        (rest, true)
    } else {
        (bytes.strip_suffix(b":ro").unwrap_or(bytes), false)
    };
    let colon =
        rest.iter().rposition(|byte| *byte == b':').ok_or_else(|| wrong("names no path in the jail"))?;
    let (src, dst) = (OsStr::from_bytes(&rest[..colon]), Path::new(OsStr::from_bytes(&rest[colon + 1..])));
    if src.is_empty() {
        return Err(wrong("names no path on the host"));
    }
    if !dst.is_absolute()
        || dst.components().any(|part| part == Component::ParentDir)
        || dst == Path::new("/")
    {
        return Err(wrong("the path in the jail must be absolute, below /, and without `..`"));
    }
    let src = facts.cwd.join(src);
    let src = (facts.real)(&src).unwrap_or(src);
    if (facts.kind_of)(&src) == Kind::Missing {
        return Err(wrong(&format!("there is nothing at {}", src.display())));
    }
    Ok(HostBind { src, dst: dst.to_owned(), rw })
}

/// Which of the daemon's copies of a context this is: the same for the same directory of the same user on the same host.
/// It decides what must be sent again, never what is built.
fn shared_key(context: &Path, facts: &Facts) -> String {
    let mut text = format!("{}\0{}\0", facts.host_name, facts.uid).into_bytes();
    text.extend_from_slice(context.as_os_str().as_bytes());
    let name = context.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let digest = sha2::Sha256::digest(&text);
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:{hex}")
}
