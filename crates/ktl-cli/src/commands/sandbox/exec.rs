//! `ktl sandbox exec`.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use sandbox_linux::{Bind, Overrides, Tenant};

use crate::builder::{self, Candidate};
use crate::cli::{BuilderFlags, JailFlags, LogFlags};
use crate::commands::build::facts;
use crate::dial;
use crate::display::inert;
use crate::env::Env;
use crate::exec::door::Door;
use crate::exec::errand::Errand;
use crate::exec::program::{self, Programs};
use crate::exec::room::{self, Brought};
use crate::exec::sockets;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::gate::{Gate, GateRecord};
use crate::guest::fd;
use crate::launch;
use crate::log::Log;
use crate::outputs::staging_name;
use crate::plan::{self, ExecPlan, Facts, SandboxPlan, guest_path};
use crate::private::{Lock, Network, start};
use crate::runtime;
use crate::tidy::Tidier;
use crate::tls::TlsFiles;
use crate::ui::Ui;

/// Run any program in the jail of a build
///
/// The program is found on PATH and shown in the jail with its loader, libraries or interpreter, and nothing else of the host:
/// the context is at /workspace (read-only), a cache of its own at /bk-cache (writable, also its HOME), the builder behind
/// /run/buildkit/buildkitd.sock. ktl starts first in there, proves the jail, and then starts the program. Of the policy that
/// --sandbox-config names every word counts, its network included; ktl's own has no network.
///
/// A Docker Engine is reached through a gate that passes what a build needs (version and info, session, build, load, inspect
/// and push of images) and refuses containers, exec, volumes and networks: its socket itself would make the program root on this host.
/// containerd has no such gate: see --containerd-socket.
///
/// Registry logins stay outside. To give docker or buildctl one: --sandbox-bind FILE:/login/config.json --env DOCKER_CONFIG=/login
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct ExecArgs {
    /// The program and its arguments, after `--` [default: exec_bin of the policy that --sandbox-config names]
    #[arg(value_name = "CMD", last = true)]
    command: Vec<OsString>,
    /// Directory that is shown at /workspace, read-only
    #[arg(long, value_name = "DIR", default_value = ".")]
    context: PathBuf,
    /// Directory that is shown at /bk-cache, writable [default: exec in ktl's cache]
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Another program that the first one calls (repeatable). docker brings its plugin buildx, nerdctl brings buildctl
    #[arg(long, value_name = "NAME")]
    program: Vec<OsString>,
    /// A variable for the program; NAME alone takes its value from the environment (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Reach this Docker Engine, through a gate that passes builds only; `none` for no Engine [default, for docker and buildx:
    /// that of DOCKER_HOST, or /var/run/docker.sock]
    #[arg(long, value_name = "PATH")]
    docker_socket: Option<PathBuf>,
    /// Show containerd's socket as it is. Whoever can write to it controls containerd and is root on this host: the program may
    /// start privileged containers with any host path in them, and the jail holds nothing any more
    #[arg(long, value_name = "PATH")]
    containerd_socket: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    builder: BuilderFlags,
    #[command(flatten)]
    jail: JailFlags,
    #[command(flatten)]
    log: LogFlags,
    /// Write the log of the sandbox as JSON, one object a line (with --sandbox-logs or --sandbox-log-file)
    #[arg(long)]
    json: bool,
}

const AFTER_HELP: &str = "Examples:
  ktl sandbox exec -- docker buildx build .       docker's client, jailed, with ktl's builder
  ktl sandbox exec --builder none --docker-socket /run/docker.sock -- docker build . -t app
  ktl sandbox exec --sandbox-bind out:/workspace/out:rw -- docker buildx build . -o out
  ktl sandbox exec --program jq -- ./ci/build.sh  a script, and what it calls
  ktl sandbox exec --sandbox-config ci.cfg --builder none -- bash

`--builder none` brings no builder. The terminal is not the program's own: Ctrl-C reaches it
through ktl; the first one is passed on, the second one ends the jail.

Exit codes: the program's own; 128+N ended by signal N; 127 not found; 126 cannot be run. ktl's own
failures say `ERROR: …`: 2 usage, 3 builder, 4 sandbox, 5 policy, 70 internal error";

pub fn run(args: &ExecArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: args.quiet };
    let facts = facts(env)?;
    let log_plan = plan::client_log_plan(&args.log, args.json, &facts)?;
    let log = Log::open(&log_plan, "sandbox exec", &plan::cache_dir(env, &facts)?, &ui)?;
    let outcome = exec(args, verbose, &facts, env, &log, &ui);
    log.close(outcome)
}

fn exec(args: &ExecArgs, verbose: u8, facts: &Facts, env: &Env, log: &Log, ui: &Ui) -> Result<Exit, Failure> {
    let sandbox = plan::sandbox_plan(&args.jail, false, env, facts)?;
    let context = directory("--context", &facts.cwd.join(&args.context))?;
    let runtime = runtime::find(&sandbox)?;
    let policy = launch::policy(&sandbox)?;
    let errand = Errand::of(&args.command, &policy)?;

    let engine = sockets::engine(args.docker_socket.as_deref(), errand.is_dockers(), env, &facts.cwd)?;
    sockets::refuse(&sandbox.binds, engine.as_deref(), env)?;
    let mut programs =
        Programs::new(env.get("PATH").unwrap_or_default(), &facts.cwd, &context, room::shown(&policy));
    let program = errand.add_to(&mut programs)?;
    add_companions(&mut programs, &errand, args, env, ui)?;

    let (builder, tls, _lease) = find_builder(args, env, ui)?;
    let brought = Brought {
        door: builder.is_some(),
        gate: engine.is_some(),
        buildx: builder
            .as_ref()
            .is_some_and(|builder| engine.is_none() || (builder.demanded && args.docker_socket.is_none())),
    };
    let ways = Ways::open(builder.map(|builder| (builder, tls)), engine.as_deref(), facts, env)?;
    let cache = cache(args, facts, env)?;
    let mut binds = vec![
        launch::bind(&launch::staged(&plan::cache_dir(env, facts)?)?, guest_path::BINARY, false),
        launch::bind(&context, guest_path::CONTEXT, false),
        launch::bind(&cache, guest_path::CLIENT_CACHE, true),
    ];
    binds.extend(programs.binds());
    binds.extend(ways.binds());
    binds.extend(containerd(args, facts, ui)?);
    binds.extend(sandbox.binds.iter().map(|user| launch::bind(&user.src, &user.dst, user.rw)));
    let overrides = Overrides {
        tenant: Tenant::Program,
        binds,
        env: variables(&sandbox, room::variables(programs.path_var(), brought, &args.env, &policy, env)?),
        cwd: sandbox.workdir.clone(),
        pass_fds: vec![fd::PLAN, fd::CONTROL, fd::RESULT],
        host_env: env.all_text(),
        ..Overrides::default()
    };
    let settled = launch::jail(policy, overrides, vec![(cache, guest_path::CLIENT_CACHE.into())])?;
    let prepared = launch::ready(runtime, settled, &sandbox, None, log, ui)?;
    let plan = ExecPlan {
        version: plan::VERSION,
        nonce: facts.nonce.clone(),
        verbose,
        program,
        argv: errand.argv,
        files: if brought.buildx { vec![room::buildx_record()] } else { Vec::new() },
        outlet: None,
        promises: Some(prepared.promises()),
    };
    let Ways { door, gate, tidier } = ways;
    let mut serving = None;
    let outcome = launch::exec(prepared, &plan, Vec::new(), ui, || {
        door.map(|door| door.serve(*ui)).transpose()?;
        serving = gate.map(Gate::serve).transpose()?;
        Ok(())
    });
    if let Some(serving) = serving {
        tell(&serving.close(), ui);
    }
    drop(tidier);
    outcome
}

fn directory(flag: &str, path: &Path) -> Result<PathBuf, Failure> {
    program::directory(path).map_err(|error| Failure::usage(format!("{flag} {}: {error}", path.display())))
}

/// `--cache-dir`, or a directory in ktl's own cache that no build uses.
fn cache(args: &ExecArgs, facts: &Facts, env: &Env) -> Result<PathBuf, Failure> {
    let dir = match &args.cache_dir {
        Some(dir) => facts.cwd.join(dir),
        None => plan::cache_dir(env, facts)?.join("exec"),
    };
    launch::private_dir(&dir)
}

/// `--program`, and what well-known programs call.
fn add_companions(
    programs: &mut Programs<'_>,
    errand: &Errand,
    args: &ExecArgs,
    env: &Env,
    ui: &Ui,
) -> Result<(), Failure> {
    const BUILDX: &str = "docker-buildx";
    for name in &args.program {
        programs.add(name)?;
    }
    match errand.tool().as_str() {
        "docker" => match program::docker_plugin(BUILDX, env.docker_config_dir().as_deref()) {
            Some(plugin) => {
                let place = Path::new("/usr/libexec/docker/cli-plugins").join(BUILDX);
                programs.add_at(&plugin, &place).map(drop)
            }
            None => {
                if args.command.get(1).is_some_and(|word| word == "buildx") {
                    ui.note(format_args!("[sandbox] docker's plugin {BUILDX} was not found on this host"));
                }
                Ok(())
            }
        },
        "nerdctl" if programs.has("buildctl") => programs.add(OsStr::new("buildctl")).map(drop),
        _ => Ok(()),
    }
}

/// A builder, what TLS with it needs, and the lease on a private one.
type Found = (Option<Candidate>, Option<TlsFiles>, Option<Lock>);

/// The builder that answers, as for a build. One that nobody named may be missing.
fn find_builder(args: &ExecArgs, env: &Env, ui: &Ui) -> Result<Found, Failure> {
    if args.builder.builder.as_deref() == Some("none") {
        return Ok((None, None, None));
    }
    let tls = TlsFiles::from_flags(&args.builder).map_err(Failure::usage)?;
    let candidates = builder::candidates(&args.builder, env)?;
    let (candidates, lease) =
        start::ensure(candidates, &args.builder.private, &Network::Host.into(), env, ui)?;
    match dial::dial(&candidates, tls.as_ref(), env, ui) {
        Ok(connection) => {
            let found = candidates.into_iter().find(|candidate| candidate.address == connection.address);
            Ok((found, tls, lease))
        }
        Err(failure) if candidates.iter().any(|candidate| candidate.demanded) => Err(failure),
        Err(_) => {
            ui.note(format_args!(
                "[builder] none was found, so the program gets none; --builder names one, -v tells where ktl looked"
            ));
            Ok((None, None, None))
        }
    }
}

/// The ways out of the jail, listening and not yet served.
#[derive(Debug)]
struct Ways {
    door: Option<Door>,
    gate: Option<Gate>,
    /// Removes their directory, also when ktl is killed. The last to go.
    tidier: Option<Tidier>,
}

impl Ways {
    fn open(
        builder: Option<(Candidate, Option<TlsFiles>)>,
        engine: Option<&Path>,
        facts: &Facts,
        env: &Env,
    ) -> Result<Ways, Failure> {
        if builder.is_none() && engine.is_none() {
            return Ok(Ways { door: None, gate: None, tidier: None });
        }
        // A socket's path is short, and a cache's may not be.
        let base = env.path("TMPDIR").filter(|dir| dir.is_absolute()).unwrap_or_else(|| "/tmp".into());
        let dir = base.join(staging_name(&facts.nonce));
        let failed = |error: std::io::Error| {
            Failure::sandbox(format!("failed to make {} for the jail's sockets: {error}", dir.display()))
        };
        let mut tidier = Tidier::start().map_err(failed)?;
        tidier.watch(&dir).map_err(failed)?;
        DirBuilder::new().mode(0o700).create(&dir).map_err(failed)?;
        Ok(Ways {
            door: builder.map(|(builder, tls)| Door::listen(&dir, builder, tls, env.clone())).transpose()?,
            gate: engine.map(|engine| Gate::listen(&dir, engine)).transpose()?,
            tidier: Some(tidier),
        })
    }

    fn binds(&self) -> Vec<Bind> {
        let door = self.door.as_ref().map(|door| (door.socket(), room::BUILDER_SOCKET));
        let gate = self.gate.as_ref().map(|gate| (gate.socket(), room::DOCKER_SOCKET));
        door.into_iter().chain(gate).map(|(socket, dst)| launch::bind(socket, dst, true)).collect()
    }
}

/// `--containerd-socket`, which is never brought in silently.
fn containerd(args: &ExecArgs, facts: &Facts, ui: &Ui) -> Result<Option<Bind>, Failure> {
    let Some(socket) = &args.containerd_socket else {
        return Ok(None);
    };
    let socket = facts.cwd.join(socket);
    if !sockets::is_socket(&socket) {
        return Err(Failure::usage(format!("--containerd-socket {}: is no socket", socket.display())));
    }
    ui.line(format_args!(
        "WARNING: containerd's socket is in the jail: the program controls containerd, which is root on this host"
    ));
    Ok(Some(launch::bind(&socket, room::CONTAINERD_SOCKET, true)))
}

/// The variables of every jail, with those of this one over them.
fn variables(sandbox: &SandboxPlan, over: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut all = sandbox.env.clone();
    all.retain(|(name, _)| !over.iter().any(|(other, _)| other == name));
    all.extend(over);
    all
}

/// What the program asked of the Engine and was refused.
fn tell(record: &GateRecord, ui: &Ui) {
    for refused in &record.refused {
        ui.note(format_args!(
            "[gate] refused {} {}: {}",
            inert::text(&refused.method),
            inert::text(&refused.path),
            inert::text(&refused.reason)
        ));
    }
    if !record.passed.is_empty() {
        let passed: Vec<String> =
            record.passed.iter().map(|(call, count)| format!("{call} {count}")).collect();
        ui.verbose(format_args!("[gate] passed: {}", passed.join(", ")));
    }
}
