//! The command line: what a person may type, and the help that explains it.
//!
//! Flags that docker buildx has are named and behave as there; the jail's are ktl's own. Values are parsed here only as far as
//! clap can say what is wrong with them; [`crate::plan`] settles what they mean together.

mod egress;
mod former;
mod names;
mod step;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::ci::Ci;
use crate::commands::audit::AuditArgs;
use crate::commands::builder::BuilderArgs;
use crate::commands::history::HistoryArgs;
use crate::commands::lock::LockArgs;
use crate::commands::login::LoginArgs;
use crate::commands::logout::LogoutArgs;
use crate::commands::sandbox::SandboxArgs;
use crate::commands::stage::StageArgs;
use crate::display::Mode;
use crate::env::{self, Env};
use crate::exit;
use crate::plan::Hermetic;
use crate::private::limits;
pub use egress::EgressFlags;
pub use former::FormerFlags;
pub use names::NamesFlags;
pub use step::StepFlags;

/// Build container images from inside a jail
///
/// ktl drives buildkitd directly over its gRPC socket. Everything that talks to the builder runs in a jail: no home directory,
/// no keys, no sockets, only the build context (read-only) and the outputs that you asked for.
///
/// Every flag has a variable, KTL_ and its name (--no-cache: KTL_NO_CACHE), for when it is not typed; flags that ktl build does
/// not have, with their command's name in front (KTL_STAGE_QUIET). Flags of ktl build are also keys of ktl.toml, in
/// ~/.config/ktl ([build] no-cache = true, [egress] allow = ["pypi.org"]); one at the root of a context can only make its build
/// stricter. What gives a build more than it has by default has to be typed. -v says what was set.
#[derive(Debug, Parser)]
#[command(name = "ktl", version, after_help = exit::HELP, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Say what was decided and why: the builder that was found, the jail's proof; twice, trace the build
    /// (-D and --debug are the same)
    #[arg(short, long, short_alias = 'D', alias = "debug", global = true, action = ArgAction::Count)]
    pub verbose: u8,
}

impl Cli {
    /// Fills in what the environment says of flags that were not given, where that is all that it says.
    pub fn take_defaults(&mut self, env: &Env) {
        if let Command::Build(args) = &mut self.command
            && args.build.platform.is_empty()
        {
            let platforms = env.text(env::DOCKER_DEFAULT_PLATFORM).unwrap_or_default();
            args.build.platform =
                platforms.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    #[command(visible_alias = "b")]
    Build(Box<BuildArgs>),
    Stage(Box<StageArgs>),
    Lock(Box<LockArgs>),
    Sandbox(Box<SandboxArgs>),
    Builder(BuilderArgs),
    Audit(AuditArgs),
    Login(LoginArgs),
    Logout(LogoutArgs),
    History(HistoryArgs),
    DialStdio(Box<DialStdioArgs>),
    Completion(CompletionArgs),
    Man(ManArgs),
}

/// Pass a connection to the builder over stdin and stdout
///
/// For a client that reaches this machine by a program alone, as over ssh: `ssh host ktl dial-stdio` is a connection to the
/// builder there. Ends when the builder does.
#[derive(Debug, Args)]
pub struct DialStdioArgs {
    #[command(flatten)]
    pub builder: BuilderFlags,
}

/// Print a completion script for a shell
///
/// For bash: ktl completion bash > ~/.local/share/bash-completion/completions/ktl
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Write the manual pages into a directory
///
/// The same text as --help, for man(1): ktl man ~/.local/share/man/man1
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory that the pages go to
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Build an image from a Dockerfile
///
/// Progress goes to stderr, the digest of the image to stdout. Without --output, --push or --load the result stays in the
/// builder's cache.
#[derive(Debug, Args)]
// As everywhere in docker, the last of several values counts.
#[command(after_help = AFTER_BUILD_HELP, args_override_self = true)]
pub struct BuildArgs {
    /// The build context: a directory, a git repository (URL#REF:SUBDIR), an archive at an http(s) URL, or - for an archive
    /// or a Dockerfile on standard input
    #[arg(value_name = "PATH|URL|-")]
    pub context: PathBuf,

    #[command(flatten)]
    pub build: BuildFlags,
    #[command(flatten)]
    pub step: StepFlags,
    #[command(flatten)]
    pub former: FormerFlags,
    #[command(flatten)]
    pub egress: EgressFlags,
    #[command(flatten)]
    pub result: ResultFlags,
    #[command(flatten)]
    pub display: DisplayFlags,
    #[command(flatten)]
    pub builder: BuilderFlags,
    /// Build on this server, and have ktl there enforce it: a copy of this ktl is put into the server's cache, passes the
    /// builder's bytes from inside a jail, and uses the buildkitd there or starts a private one. --builder then names one of
    /// the server's: unix://PATH, jail:// or jail://NAME. What its owner has pinned counts before these flags
    #[arg(long, value_name = "ssh://[USER@]HOST[:PORT][/SOCKET]", help_heading = "Builder", conflicts_with_all = [
        "verify_reproducible", "tlscacert", "tlscert", "tlskey", "tlsdir", "tlsservername", "buildkitd_bin"])]
    pub remote: Option<String>,
    #[command(flatten)]
    pub sandbox: SandboxFlags,
}

const AFTER_BUILD_HELP: &str = "Examples:
  ktl build . -t app:dev                                 build, keep the result in the builder's cache
  ktl build . -t registry.example/app:1 --push           build and push
  ktl build . -o ./out                                   write the final stage's files to ./out
  ktl build . --egress pypi.org --egress files.pythonhosted.org
                                                         steps reach these two servers, and nothing else
  ktl build . --sandbox --hermetic                       no network: neither for the client nor for RUN
  ktl build . --sandbox-probe-path /etc/shadow           show that the jail hides a path
  ktl build . --remote ssh://build@server --hermetic     the same on a server, which enforces it

Exit codes: 0 ok, 1 build failed, 2 usage, 3 builder unreachable or lost, 4 sandbox, 5 policy, 70 internal error,
128+N ended by signal N";

/// A value of a switch, as docker reads it.
fn boolean(text: &str) -> Result<bool, String> {
    buildsvc::csv::boolean(text).ok_or_else(|| "expected true or false".to_owned())
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Build")]
pub struct BuildFlags {
    /// The Dockerfile: a path, relative to the current directory, or to a context that is no directory; a URL, which the builder
    /// fetches; - for standard input [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Further context, for COPY --from=NAME and FROM NAME: a directory, docker-image://IMAGE, oci-layout://DIR[:TAG], or a
    /// git or http(s) URL (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_context: Vec<String>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Build-time variable; KEY alone takes its value from the environment (repeatable)
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Label of the image (repeatable)
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Target platforms, such as linux/amd64,linux/arm64 (repeatable) [also: DOCKER_DEFAULT_PLATFORM]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Make results that are equal wherever they are built: SOURCE_DATE_EPOCH is the time of the context's commit unless you
    /// set it, times of files are set to it, and no provenance is attached unless you ask for it. Needs BuildKit 0.13
    #[arg(long)]
    pub reproducible: bool,
    /// Build twice, the second time without a cache, on another private builder where the builder is one, and make the outputs
    /// only when the images are equal; else name the first file that differs (exit 1). Means --reproducible
    #[arg(long, conflicts_with_all = ["call", "check"])]
    pub verify_reproducible: bool,
    /// Do not use the build cache
    #[arg(long, value_parser = boolean, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true, conflicts_with = "no_cache_filter")]
    pub no_cache: bool,
    /// Do not use the build cache for these stages (repeatable)
    #[arg(long, value_name = "STAGE")]
    pub no_cache_filter: Vec<String>,
    /// Cache to read: REF, or type=registry|local|gha|s3|azblob[,KEY=VALUE]; one that is not there is no failure (repeatable)
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Cache to write: REF, or type=registry|local|inline|gha|s3|azblob[,mode=min|max][,KEY=VALUE] (repeatable)
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Look for newer versions of all images that the build refers to
    #[arg(long, value_parser = boolean, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true)]
    pub pull: bool,
    /// Ask about the Dockerfile instead of building it: check, outline or targets[,format=json] (exit 1 when a check finds
    /// something)
    #[arg(long, value_name = "METHOD")]
    pub call: Option<String>,
    /// Look for mistakes in the Dockerfile, --call check
    #[arg(long, value_parser = boolean, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub check: Option<bool>,
    /// What the Dockerfile's names mean, for --hermetic; `ktl stage` writes it [default: ktl.lock beside the Dockerfile, where
    /// there is one]
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Where the images and files are that the lock names [default: `store` in ktl's cache directory; also: KTL_STORE]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=VARIABLE] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    /// SSH agent or keys for RUN --mount=type=ssh: default|ID[=SOCKET|=KEY[,KEY]] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub ssh: Vec<String>,
    /// Give the build up after this time, such as 90s, 30m or 1h30m. Without it too, a builder that says nothing for a
    /// minute counts as lost
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// What to do about private keys, logins and hard links to other places in a context: warn, deny (exit 5, nothing of the
    /// file is sent) or off. What .dockerignore names is not sent and not looked at [default: warn; deny with --hermetic,
    /// whatever is set elsewhere]
    #[arg(long, value_enum, value_name = "warn|deny|off", hide_possible_values = true)]
    pub context_guard: Option<ContextGuard>,
    /// How often the keys of --ssh may log in during the build
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub ssh_max_signatures: u32,
    /// Send your login for this registry even though the build does not name it. REALM, the URL where its tokens come
    /// from, or `basic`, is for a registry that only the builder reaches (repeatable)
    #[arg(long, value_name = "HOST[=REALM]")]
    pub allow_registry: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Result")]
pub struct ResultFlags {
    /// Name of the image, NAME[:TAG] (repeatable)
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    /// Where the result goes: DIR, - (a tar on stdout), or type=local|tar|oci|docker|image|registry[,dest=PATH][,name=NAME]
    /// [,push=true][,mode=delete][,KEY=VALUE] (repeatable). `logs` and `tty` name progress styles; a directory of that name is ./logs
    #[arg(short, long, value_name = "SPEC")]
    pub output: Vec<String>,
    /// Annotation of the image, [TYPE[PLATFORM][,TYPE…]:]KEY=VALUE; TYPE is manifest, manifest-descriptor, index or
    /// index-descriptor (repeatable)
    #[arg(long, value_name = "ANNOTATION")]
    pub annotation: Vec<String>,
    /// Attestation: type=provenance|sbom[,KEY=VALUE][,disabled=true] (repeatable)
    #[arg(long, value_name = "SPEC")]
    pub attest: Vec<String>,
    /// Provenance of the image: true, false, or mode=min|max[,KEY=VALUE] [default: mode=min for images, unless
    /// BUILDX_NO_DEFAULT_ATTESTATIONS is set]
    #[arg(long, value_name = "VALUE")]
    pub provenance: Option<String>,
    /// List of what is in the image: true, false, or generator=IMAGE
    #[arg(long, value_name = "VALUE")]
    pub sbom: Option<String>,
    /// Push the image to its registry (type=registry)
    #[arg(long, value_parser = boolean, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true)]
    pub push: bool,
    /// Load the image into the Docker Engine (type=docker, handed to `docker load`)
    #[arg(long, value_parser = boolean, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true)]
    pub load: bool,
    /// The most bytes that the outputs on this side may have, each, such as 500m or 2g [default: the free space of their disk]
    #[arg(long, value_name = "SIZE")]
    pub output_limit: Option<String>,
    /// Let the builder's files into /, the home directory, or settings in it such as ~/.config
    #[arg(long)]
    pub output_force: bool,
    /// Keep set-user-id bits of files in a local output, and let devices in
    #[arg(long)]
    pub output_privileged: bool,
    /// Append to this file what the builder asked for and what became of it, as JSON lines; `ktl audit show` reads it
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    /// Write the build's result metadata to this file as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Write how this build went to this file as JSON, also when it fails or is refused: claims about its isolation with what
    /// was found, the reason of its end, the result. Has ktl look from inside a RUN step first, as --hermetic does
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Write the image ID to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Display")]
pub struct DisplayFlags {
    /// Style of the progress: auto, plain, tty, quiet, rawjson or none [default: auto, which is tty on a terminal; also:
    /// BUILDKIT_PROGRESS]
    #[arg(long, value_name = "STYLE")]
    pub progress: Option<Mode>,
    /// No progress; print the image ID alone
    #[arg(short, long, value_parser = boolean, action = ArgAction::Set, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "false", hide_default_value = true)]
    pub quiet: bool,
    /// Whom groups, annotations and a job summary are written for: github, off, or auto, which is github where that runs ktl
    #[arg(
        long,
        value_enum,
        value_name = "SYSTEM",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true
    )]
    pub ci: Ci,
}

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Builder")]
pub struct BuilderFlags {
    /// The builder, by the name that docker buildx keeps for it, or by its address: unix://PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT][/SOCKET], docker:// for a Docker Engine, docker-container://NAME,
    /// podman-container://NAME, nerdctl-container://NAME, kube-pod://POD, or jail://[NAME] for a private one: a buildkitd that
    /// ktl runs in a jail of its own [also: KTL_BUILDER, BUILDKIT_HOST, BUILDX_BUILDER]
    #[arg(long, value_name = "ADDRESS")]
    pub builder: Option<String>,
    /// CA certificate of the builder, PEM (tcp only)
    #[arg(long, value_name = "FILE")]
    pub tlscacert: Option<PathBuf>,
    /// Client certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tlscert: Option<PathBuf>,
    /// Client key, PEM
    #[arg(long, value_name = "FILE")]
    pub tlskey: Option<PathBuf>,
    /// Directory with ca.pem|ca.crt, cert.pem|tls.crt and key.pem|tls.key
    #[arg(long, value_name = "DIR", conflicts_with_all = ["tlscacert", "tlscert", "tlskey"])]
    pub tlsdir: Option<PathBuf>,
    /// Name in the builder's certificate [default: the host of the address]
    #[arg(long, value_name = "NAME")]
    pub tlsservername: Option<String>,
    #[command(flatten)]
    pub private: PrivateFlags,
}

/// How a private builder is run.
#[derive(Debug, Default, Args)]
pub struct PrivateFlags {
    /// Whom the build comes from, such as `fork`: a private builder of its own, NAME@TRUST, whose cache no build of another
    /// trust reads or writes. Any other kind of builder is refused [also: KTL_TRUST]
    #[arg(long, value_name = "NAME")]
    pub trust: Option<String>,
    /// The buildkitd of a private builder [default: buildkitd on PATH]
    #[arg(long, value_name = "PATH")]
    pub buildkitd_bin: Option<PathBuf>,
    /// Memory that a private builder may take with its steps, such as 4g (root only) [also: KTL_BUILDER_MEMORY]
    #[arg(long, value_name = "SIZE", value_parser = limits::memory)]
    pub builder_memory: Option<u64>,
    /// Processors that a private builder may take with its steps, such as 1.5 (root only) [also: KTL_BUILDER_CPUS]
    #[arg(long, value_name = "N", value_parser = limits::cpus)]
    pub builder_cpus: Option<u64>,
    /// Processes and threads of a private builder with its steps, 0 for no limit (root only) [default: 8192; also:
    /// KTL_BUILDER_PIDS]
    #[arg(long, value_name = "N", value_parser = limits::pids)]
    pub builder_pids: Option<u64>,
    /// Stop a private builder that nobody has used for this long, as it is started [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub idle_timeout: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct SandboxFlags {
    /// Jail the build's client. On by default; `off` is the only way out of the jail
    #[arg(long, value_enum, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub sandbox: Option<SandboxSwitch>,
    #[command(flatten)]
    pub jail: JailFlags,
    #[command(flatten)]
    pub log: LogFlags,
    /// Write the log of the sandbox as JSON, one object a line (with --sandbox-logs or --sandbox-log-file)
    #[arg(long)]
    pub json: bool,
    /// Tell from inside the jail, before the build starts, whether a path is visible there (repeatable)
    #[arg(long, value_name = "PATH")]
    pub sandbox_probe_path: Vec<PathBuf>,
    /// No network: none for the jail, and none for RUN; exit 5 when that cannot be had. Needs a private builder, and takes
    /// jail://default when none is named; `best-effort` takes any, and lists what is then not proven [also: --locked]
    #[arg(long, alias = "locked", value_enum, value_name = "best-effort", num_args = 0..=1, require_equals = true,
          default_missing_value = "required", default_value = "off", hide_default_value = true, hide_possible_values = true)]
    pub hermetic: Hermetic,
}

/// What decides how the jail is made; the same for a build and for a look at it.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct JailFlags {
    /// nsjail policy of the jail, text or JSON [default: ktl's own linux-strict]
    #[arg(long, value_name = "FILE")]
    pub sandbox_config: Option<PathBuf>,
    /// Who makes the jail: the nsjail program, ktl itself (native), or nsjail where it is installed (auto, the default)
    /// [also: KTL_SANDBOX_RUNTIME]
    #[arg(long, value_enum, value_name = "RUNTIME")]
    pub sandbox_runtime: Option<RuntimeChoice>,
    /// The nsjail program; means --sandbox-runtime nsjail [default: nsjail on PATH; also: KTL_SANDBOX_BIN]
    #[arg(long, value_name = "PATH")]
    pub sandbox_bin: Option<PathBuf>,
    /// Show a host path inside the jail, read-only unless :rw (repeatable)
    #[arg(long, value_name = "HOST:GUEST[:ro|rw]")]
    pub sandbox_bind: Vec<OsString>,
    /// Show your home directory inside the jail, read-only. This gives up much of what the jail protects
    #[arg(long)]
    pub sandbox_bind_home: bool,
    /// Working directory inside the jail [default: /workspace]
    #[arg(long, value_name = "DIR")]
    pub sandbox_workdir: Option<PathBuf>,
}

/// What the jail has to say, for commands that start one.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct LogFlags {
    /// Stream the log of the sandbox to stderr as `[sandbox] …`: decisions, binds, the jail's own lines, proof and end
    #[arg(long)]
    pub sandbox_logs: bool,
    /// Append the log of the sandbox to this file. Without one, that of a run which failed is kept in the cache
    #[arg(long, value_name = "FILE")]
    pub sandbox_log_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum RuntimeChoice {
    #[default]
    Auto,
    Nsjail,
    Native,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ContextGuard {
    Warn,
    Deny,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxSwitch {
    On,
    Off,
}
