//! The boundary, host side: from a plan to a guest in its jail, and from the guest's end to an exit.
//!
//! Everything up to the fork inside [`Runtime::spawn`] happens on one thread. What the guest gets is a few open descriptors and a
//! directory tree; what it does not get is the user's home, environment, network and sockets.

mod heard;

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sandbox_linux::{
    Bind, Builtin, Caller, Command, Jail, JailError, MAX_POLICY_BYTES, OnSignal, Outcome, Overrides, Policy,
    PolicyError, Promises, Runtime,
};
use serde::de::DeserializeOwned;

use crate::attested;
use crate::exec::Ended;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::guest::{GuestResult, fd};
use crate::log::{Event, Limit, Log};
use crate::look::Looked;
use crate::outputs::Opened;
use crate::plan::{BuildPlan, ExecPlan, GuestOutput, HostPlan, LookPlan, SandboxPlan, Sealing, guest_path};
use crate::remote::relay::RelayPlan;
use crate::runtime;
use crate::stage;
use crate::ui::Ui;

/// What the guest finds in its jail besides the policy's own mounts.
#[derive(Debug)]
pub struct Rooms<'a> {
    pub cache: &'a Path,
    pub context: &'a Path,
    /// The directory of a Dockerfile outside of the context.
    pub dockerfile: Option<&'a Path>,
    /// Further directories on the host, read-only, and where they are inside.
    pub inputs: &'a [(PathBuf, PathBuf)],
    /// Empty directories on the host, and where they are inside.
    pub outputs: Vec<(PathBuf, PathBuf)>,
    /// Descriptors that are handed in.
    pub fds: Vec<i32>,
}

/// A jail as it will be, and the host directories in it that the guest writes to.
#[derive(Debug)]
pub struct Settled {
    pub jail: Jail,
    /// The policy that was given.
    pub policy: Policy,
    binds: Vec<Bind>,
    writable: Vec<(PathBuf, PathBuf)>,
}

/// A jail that is ready to start.
#[derive(Debug)]
pub struct Prepared<'a> {
    runtime: Runtime,
    jail: Jail,
    policy: Policy,
    args: Vec<std::ffi::OsString>,
    log: &'a Log,
    way_out: Option<&'static str>,
}

impl Prepared<'_> {
    /// What the guest has to verify.
    pub fn promises(&self) -> Promises {
        self.jail.promises()
    }
}

/// Settles the jail for `plan`, whose promises, output paths and facts of the jail are filled in. Says once what was corrected in the policy.
pub fn prepare<'a>(
    plan: &mut BuildPlan,
    host: &HostPlan,
    sandbox: &SandboxPlan,
    outputs: &[Opened],
    log: &'a Log,
    ui: &Ui,
) -> Result<Prepared<'a>, Failure> {
    let mut rooms = Rooms {
        cache: &host.cache,
        context: &host.context,
        dockerfile: None,
        inputs: &host.rooms,
        outputs: Vec::new(),
        fds: vec![fd::PLAN, fd::CONNECTION, fd::BROKER, fd::CONTROL, fd::RESULT],
    };
    for local in &plan.locals {
        if local.path.starts_with(guest_path::DOCKERFILE) {
            rooms.dockerfile = host.locals.get(&local.name).map(PathBuf::as_path);
        }
    }
    for (index, output) in outputs.iter().enumerate() {
        plan.outputs[index] = if let Some(staging) = output.staging() {
            let dst = Path::new(guest_path::OUTPUT).join(index.to_string());
            rooms.outputs.push((staging.to_owned(), dst.clone()));
            GuestOutput::Directory(dst)
        } else if let Some(name) = output.descriptor_name() {
            let number = fd::OUTPUTS + i32::try_from(index).unwrap_or(i32::MAX - fd::OUTPUTS);
            rooms.fds.push(number);
            GuestOutput::Descriptor { number, name }
        } else {
            GuestOutput::None
        };
    }
    rooms.outputs.extend(host.cache_stores.iter().map(|store| (store.staging.clone(), store.guest.clone())));
    if let Some(upload) = &mut plan.upload {
        upload.descriptor = fd::OUTPUTS + i32::try_from(outputs.len()).unwrap_or(i32::MAX - fd::OUTPUTS);
        rooms.fds.push(upload.descriptor);
    }
    let prepared = open(rooms, sandbox, Some(WAY_OUT), log, ui)?;
    plan.promises = Some(prepared.promises());
    let binds = sandbox.binds.len();
    attested::jail(&mut plan.build.frontend_attrs, &prepared.policy, &prepared.runtime, binds);
    Ok(prepared)
}

/// Finds who makes the jail, and settles it. Says once what was corrected in the policy. `way_out` is the last hint when there
/// is none. All that is known of the jail before it starts goes into the log.
pub fn open<'a>(
    rooms: Rooms<'_>,
    sandbox: &SandboxPlan,
    way_out: Option<&'static str>,
    log: &'a Log,
    ui: &Ui,
) -> Result<Prepared<'a>, Failure> {
    let hinted = |failure: Failure| failure.hints(way_out.map(str::to_owned));
    let runtime = runtime::find(sandbox).map_err(hinted)?;
    let settled = policy(sandbox).and_then(|policy| settle(policy, rooms, sandbox)).map_err(hinted)?;
    ready(runtime, settled, sandbox, way_out, log, ui)
}

/// Makes a settled jail ready to start: tells what was corrected, and hands over what the guest must be able to write to.
pub fn ready<'a>(
    runtime: Runtime,
    settled: Settled,
    sandbox: &SandboxPlan,
    way_out: Option<&'static str>,
    log: &'a Log,
    ui: &Ui,
) -> Result<Prepared<'a>, Failure> {
    log.say(&Event::Runtime {
        name: runtime.to_string(),
        program: match &runtime {
            Runtime::Nsjail(nsjail) => Some(nsjail.path().display().to_string()),
            Runtime::Native => None,
        },
        why: runtime::why(sandbox, &runtime),
    });
    let Settled { jail, policy, binds, writable } = settled;
    log.say(&Event::Policy { name: policy.name() });
    // About a policy of ktl's own there is nothing that a user could do.
    let own = sandbox.config.is_none() && !ui.verbose;
    for correction in jail.corrections() {
        log.say(&Event::correction(correction));
        if !own && !log.streams() {
            ui.note(format_args!("[sandbox] {}: {correction}", policy.name()));
        }
    }
    for bind in &binds {
        let [host, guest] = [&bind.src, &bind.dst].map(|path| path.display().to_string());
        log.say(&Event::Bind { host, guest, rw: bind.rw });
    }
    log.say(&Event::Promises(&jail.promises()));
    for (dir, dst) in writable.iter().filter(|(_, dst)| !jail.idmapped(dst)) {
        // The file system cannot lend root's directory to the guest's id, so it is given away; results are taken back.
        let ids = jail.host_ids();
        std::os::unix::fs::chown(dir, Some(ids.uid), Some(ids.gid)).map_err(|error| {
            Failure::sandbox(format!(
                "failed to give {} to the guest as {}: {error}",
                dir.display(),
                dst.display()
            ))
        })?;
    }
    if !log.streams() {
        ui.note(format_args!("[sandbox] jailed by {runtime}"));
    }
    let args = std::env::args_os().skip(1).collect();
    Ok(Prepared { runtime, jail, policy, args, log, way_out })
}

/// The jail without anybody who starts it.
pub fn settle(policy: Policy, rooms: Rooms<'_>, sandbox: &SandboxPlan) -> Result<Settled, Failure> {
    let staged = staged(rooms.cache)?;
    let cache = private_dir(&rooms.cache.join("guest"))?;
    let mut binds = vec![
        bind(&staged, guest_path::BINARY, false),
        bind(rooms.context, guest_path::CONTEXT, false),
        bind(&cache, guest_path::CACHE, true),
    ];
    let mut writable = vec![(cache, PathBuf::from(guest_path::CACHE))];
    if let Some(dir) = rooms.dockerfile {
        binds.push(bind(dir, guest_path::DOCKERFILE, false));
    }
    binds.extend(rooms.inputs.iter().map(|(src, dst)| bind(src, dst, false)));
    for (staging, dst) in rooms.outputs {
        binds.push(bind(&staging, &dst, true));
        writable.push((staging, dst));
    }
    binds.extend(sandbox.binds.iter().map(|user| bind(&user.src, &user.dst, user.rw)));

    let overrides = Overrides {
        binds,
        env: sandbox.env.clone(),
        cwd: sandbox.workdir.clone(),
        no_network: true,
        pass_fds: rooms.fds,
        ..Overrides::default()
    };
    jail(policy, overrides, writable)
}

/// The staged copy of ktl, which is what every jail starts with.
pub fn staged(cache: &Path) -> Result<PathBuf, Failure> {
    stage::stage(cache).map_err(|error| {
        let failure = Failure::sandbox(format!("failed to stage ktl for the jail: {}", chain(&error)));
        match error {
            stage::StageError::Dynamic => {
                failure.hint("Build it with `cargo build` in ktl's own checkout, which links statically.")
            }
            _ => failure.hint("The cache directory can be moved with KTL_CACHE_DIR."),
        }
    })
}

/// A jail of this policy; `writable` are host directories in it and where they are inside.
pub fn jail(
    policy: Policy,
    overrides: Overrides,
    writable: Vec<(PathBuf, PathBuf)>,
) -> Result<Settled, Failure> {
    let name = policy.name().to_owned();
    let binds = overrides.binds.clone();
    let caller = Caller::current()
        .map_err(|error| Failure::sandbox(format!("failed to learn who runs ktl: {error}")))?;
    let jail = Jail::new(policy.clone(), overrides, &caller)
        .map_err(|error| {
            let failure = Failure::sandbox(format!("the policy {name} gives no jail: {}", chain(&error)));
            match error {
                JailError::NoFreeId { .. } => failure.hint(
                    "Root in this container has no second id to give away. Run ktl as a plain user, or start the container \
                     with a range of ids (for podman: subordinate ids in /etc/subuid and /etc/subgid).",
                ),
                _ => failure,
            }
        })?;
    Ok(Settled { jail, policy, binds, writable })
}

/// A host path in the jail that the guest may use as its owner may.
pub fn bind(src: &Path, dst: impl Into<PathBuf>, rw: bool) -> Bind {
    Bind { src: src.to_owned(), dst: dst.into(), rw, idmap: true, is_dir: src.is_dir() }
}

const WAY_OUT: &str = "Nothing was built. `--sandbox=off` builds without a jail: then the builder and everything it runs can ask \
                       this machine's ktl for files with all your rights.";

/// The policy that was asked for, or ktl's own.
pub fn policy(sandbox: &SandboxPlan) -> Result<Policy, Failure> {
    match &sandbox.config {
        Some(path) => read_policy(path),
        None => Ok(Policy::builtin(if sandbox.hermetic { Builtin::Hermetic } else { Builtin::Strict })),
    }
}

/// Reads a policy file; a mistake is shown at its place.
pub fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_POLICY_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Failure::sandbox(format!("failed to read the policy {}: {error}", path.display()))
        })?;
    Policy::parse(&path.display().to_string(), &bytes).map_err(|error| {
        let failure = Failure::sandbox(chain(&error));
        match &error {
            PolicyError::Syntax { text, line, column, .. } => failure.hints(excerpt(text, *line, *column)),
            _ => failure,
        }
    })
}

/// The line of a policy that cannot be read, and a mark below the place.
fn excerpt(text: &str, line: usize, column: usize) -> Option<String> {
    let source = text.lines().nth(line.checked_sub(1)?)?;
    let mark: String =
        source.chars().take(column.saturating_sub(1)).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let number = line.to_string();
    Some(format!("{number} | {source}\n{} | {mark}^", " ".repeat(number.len())))
}

/// A directory of the user's alone for the guest to write to, made when missing. The staged binary is not in it.
pub fn private_dir(dir: &Path) -> Result<PathBuf, Failure> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        Failure::sandbox(format!("failed to create {}: {error}", dir.display()))
            .hint("Set KTL_CACHE_DIR to a directory of yours.")
    })?;
    Ok(dir.to_owned())
}

/// What the guest is handed.
#[derive(Debug)]
pub struct Handed {
    pub connection: OwnedFd,
    pub broker: OwnedFd,
    /// By index of the exporter.
    pub outputs: Vec<Option<OwnedFd>>,
    /// The rest of an archive that came on standard input.
    pub upload: Option<OwnedFd>,
}

/// Starts the guest of a build, calls `after_fork` once threads are allowed, and waits for the end.
pub fn run(
    prepared: Prepared<'_>,
    plan: &BuildPlan,
    handed: Handed,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Exit, Option<GuestResult>), Failure> {
    let (control_guest, control_host) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|error| Failure::internal(format!("failed to make the control pipe: {error}")))?;
    let mut fds =
        vec![(handed.connection, fd::CONNECTION), (handed.broker, fd::BROKER), (control_guest, fd::CONTROL)];
    for (output, handed) in plan.outputs.iter().zip(handed.outputs) {
        if let (GuestOutput::Descriptor { number, .. }, Some(open)) = (output, handed) {
            fds.push((open, *number));
        }
    }
    if let (Some(upload), Some(open)) = (&plan.upload, handed.upload) {
        fds.push((open, upload.descriptor));
    }
    start(prepared, &Sealing::Build(plan), fds, Some(control_host.into()), ui, after_fork)
}

/// Starts a guest for a look around and waits for what it saw. A signal ends it at once.
pub fn look(
    prepared: Prepared<'_>,
    plan: &LookPlan,
    connection: Option<OwnedFd>,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<Looked, Failure> {
    let fds = connection.map(|connection| (connection, fd::CONNECTION)).into_iter().collect();
    match start(prepared, &Sealing::Look(plan), fds, None, ui, after_fork)? {
        (Exit::Ok, Some(looked)) => Ok(looked),
        // The guest has said why on stderr.
        (exit, _) => Err(Failure::new(exit, format!("the guest ended with code {}", exit.code()))),
    }
}

/// Starts a guest that runs another program, with these descriptors besides. The first signal is passed on to that, the second one ends the jail.
pub fn exec(
    prepared: Prepared,
    plan: &ExecPlan,
    handed: Vec<(OwnedFd, i32)>,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let (control_guest, control_host) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|error| Failure::internal(format!("failed to make the control pipe: {error}")))?;
    let fds = handed.into_iter().chain([(control_guest, fd::CONTROL)]).collect();
    match start(prepared, &Sealing::Exec(plan), fds, Some(control_host.into()), ui, after_fork)? {
        (Exit::Ok, Some(Ended::Exited(0))) => Ok(Exit::Ok),
        (Exit::Ok, Some(Ended::Exited(code))) => Ok(Exit::Guest(code)),
        (Exit::Ok, Some(Ended::Signaled(signal))) => Ok(Exit::Signal(signal)),
        (Exit::Ok, Some(Ended::NotStarted { code, why })) => Err(Failure::new(Exit::Guest(code), why)),
        // Another signal has ended it, or the guest has said why on stderr.
        (exit, _) => Ok(exit),
    }
}

/// Starts a guest that carries a builder's bytes over its standard streams, and waits for its end.
pub fn relay(
    prepared: Prepared<'_>,
    plan: &RelayPlan,
    connection: OwnedFd,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let fds = vec![(connection, fd::CONNECTION)];
    let (exit, _): (Exit, Option<()>) = start(prepared, &Sealing::Relay(plan), fds, None, ui, after_fork)?;
    Ok(exit)
}

/// Starts a guest that does what `document` says, and reads its result: there is one when it ends well, and there may be one
/// when it does not. `control` takes the number of the
/// first signal to it; the second one, or the first without it, ends the jail.
fn start<R: DeserializeOwned>(
    prepared: Prepared<'_>,
    document: &Sealing<'_>,
    mut fds: Vec<(OwnedFd, i32)>,
    mut control: Option<File>,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Exit, Option<R>), Failure> {
    let Prepared { runtime, jail, args, log, way_out, .. } = prepared;
    let way_out = way_out.map(str::to_owned);
    let io_failure =
        |what: &'static str| move |error: io::Error| Failure::internal(format!("failed to {what}: {error}"));
    let json = serde_json::to_vec(document)
        .map_err(|error| Failure::internal(format!("failed to write the plan: {error}")))?;
    let plan_fd = sandbox_linux::sealed_memfd("ktl-plan", &json).map_err(io_failure("seal the plan"))?;
    let result = rustix::fs::memfd_create("ktl-result", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(io_failure("make room for the result"))?;
    let result_guest = result.as_fd().try_clone_to_owned().map_err(io_failure("duplicate a descriptor"))?;
    fds.extend([(plan_fd, fd::PLAN), (result_guest, fd::RESULT)]);
    let command = Command { program: guest_path::BINARY.into(), args, fds };
    let running = runtime.spawn(&jail, command).map_err(|error| {
        log.say(&Event::JailFailed { stage: "start", detail: &chain(&error), hints: error.hints() });
        let failure = Failure::sandbox(format!("failed to start the jail: {}", chain(&error)));
        failure.hints(error.hints().iter().cloned()).hints(way_out.clone())
    })?;
    log.say(&Event::Start { pid: running.id(), program: guest_path::BINARY, fds: &jail.promises().fds });
    after_fork()?;

    let mut received: Option<u8> = None;
    let outcome = running.supervise(
        &mut |signal| {
            let signal = u8::try_from(signal).unwrap_or(u8::MAX);
            received = Some(signal);
            let told = matches!(control.take().map(|mut pipe| pipe.write_all(&[signal])), Some(Ok(())));
            log.say(&Event::Signal { signal, told });
            if told { OnSignal::Continue } else { OnSignal::Kill }
        },
        &mut |line| {
            log.say(&Event::jail(line));
            if let Some(limit) = Limit::reached(line) {
                log.say(&Event::Limit { limit });
            }
        },
    );
    let heard = heard::hear(result.into(), &outcome, log);
    let exit = match outcome {
        Outcome::Exited(0) => Exit::Ok,
        Outcome::Exited(code) => Exit::Guest(u8::try_from(code).unwrap_or(Exit::Internal.code())),
        Outcome::Signaled(signal) => match received {
            Some(signal) => Exit::Signal(signal),
            None => {
                let what = format!("the guest was ended by signal {signal}");
                return Err(Failure::sandbox(what).hint(
                    "A limit of the policy may have been hit, or its system call filter; the log has the jail's own words.",
                ));
            }
        },
        Outcome::JailFailed { stage, detail, hint, log: lines } => {
            let mut failure =
                Failure::sandbox(format!("the jail did not start: {stage}: {detail}")).hints(hint);
            if !log.streams() && ui.verbose {
                failure = failure.hints(lines.iter().map(|line| format!("[sandbox] {}", line.text)));
            }
            return Err(failure.hints(way_out));
        }
    };
    if exit != Exit::Ok {
        return Ok((received.map_or(exit, Exit::Signal), heard.ok()));
    }
    heard.map(|result| (exit, Some(result)))
}

#[cfg(test)]
#[path = "launch_properties.rs"]
mod properties;
