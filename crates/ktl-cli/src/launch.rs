//! The boundary, host side: from a plan to a guest in its jail, and from the guest's end to an exit.
//!
//! Everything up to the fork inside [`Runtime::spawn`] happens on one thread. What the guest gets is a few open descriptors and a
//! directory tree; what it does not get is the user's home, environment, network and sockets.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sandbox_linux::{
    Bind, Builtin, Caller, Command, Jail, JailError, MAX_POLICY_BYTES, OnSignal, Outcome, Overrides, Policy,
    PolicyError, Promises, Runtime,
};
use serde::de::DeserializeOwned;

use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::guest::{GuestResult, fd};
use crate::look::Looked;
use crate::outputs::Opened;
use crate::plan::{BuildPlan, GuestOutput, HostPlan, LookPlan, SandboxPlan, Sealing, guest_path};
use crate::runtime;
use crate::stage;
use crate::ui::Ui;

/// A result holds a few digests; one that does not was not written by ktl.
const RESULT_LIMIT: u64 = 16 << 20;

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
    writable: Vec<(PathBuf, PathBuf)>,
}

/// A jail that is ready to start.
#[derive(Debug)]
pub struct Prepared {
    runtime: Runtime,
    jail: Jail,
    args: Vec<std::ffi::OsString>,
    logs: bool,
    way_out: Option<&'static str>,
}

impl Prepared {
    /// What the guest has to verify.
    pub fn promises(&self) -> Promises {
        self.jail.promises()
    }
}

/// Settles the jail for `plan`, whose promises and output paths are filled in. Says once what was corrected in the policy.
pub fn prepare(
    plan: &mut BuildPlan,
    host: &HostPlan,
    sandbox: &SandboxPlan,
    outputs: &[Opened],
    ui: &Ui,
) -> Result<Prepared, Failure> {
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
    let prepared = open(rooms, sandbox, Some(WAY_OUT), ui)?;
    plan.promises = Some(prepared.promises());
    Ok(prepared)
}

/// Finds who makes the jail, and settles it. Says once what was corrected in the policy. `way_out` is the last hint when there is none.
pub fn open(
    rooms: Rooms<'_>,
    sandbox: &SandboxPlan,
    way_out: Option<&'static str>,
    ui: &Ui,
) -> Result<Prepared, Failure> {
    let runtime = runtime::find(sandbox).map_err(|failure| failure.hints(way_out.map(str::to_owned)))?;
    let Settled { jail, policy, writable } = policy(sandbox)
        .and_then(|policy| settle(policy, rooms, sandbox))
        .map_err(|failure| failure.hints(way_out.map(str::to_owned)))?;
    for correction in jail.corrections() {
        ui.note(format_args!("[sandbox] {}: {correction}", policy.name()));
    }
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
    ui.note(format_args!("[sandbox] jailed by {runtime}"));
    let args = std::env::args_os().skip(1).collect();
    Ok(Prepared { runtime, jail, args, logs: sandbox.logs, way_out })
}

/// The jail without anybody who starts it.
pub fn settle(policy: Policy, rooms: Rooms<'_>, sandbox: &SandboxPlan) -> Result<Settled, Failure> {
    let name = policy.name().to_owned();
    let staged = stage::stage(rooms.cache).map_err(|error| {
        let failure = Failure::sandbox(format!("failed to stage ktl for the jail: {}", chain(&error)));
        match error {
            stage::StageError::Dynamic => {
                failure.hint("Build it with `cargo build` in ktl's own checkout, which links statically.")
            }
            _ => failure.hint("The cache directory can be moved with KTL_CACHE_DIR."),
        }
    })?;
    let cache = guest_cache(rooms.cache)?;
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
    Ok(Settled { jail, policy, writable })
}

fn bind(src: &Path, dst: impl Into<PathBuf>, rw: bool) -> Bind {
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

/// The part of the cache that the guest may write to. The staged binary is not in it.
fn guest_cache(cache: &Path) -> Result<PathBuf, Failure> {
    let dir = cache.join("guest");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| {
        Failure::sandbox(format!("failed to create {}: {error}", dir.display()))
            .hint("Set KTL_CACHE_DIR to a directory of yours.")
    })?;
    Ok(dir)
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
    prepared: Prepared,
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
    prepared: Prepared,
    plan: &LookPlan,
    connection: Option<OwnedFd>,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<Looked, Failure> {
    let fds = connection.map(|connection| (connection, fd::CONNECTION)).into_iter().collect();
    match start(prepared, &Sealing::Look(plan), fds, None, ui, after_fork)? {
        (_, Some(looked)) => Ok(looked),
        // The guest has said why on stderr.
        (exit, None) => Err(Failure::new(exit, format!("the guest ended with code {}", exit.code()))),
    }
}

/// Starts a guest that does what `document` says, and reads its result when it ends well. `control` takes the number of the
/// first signal to it; the second one, or the first without it, ends the jail.
fn start<R: DeserializeOwned>(
    prepared: Prepared,
    document: &Sealing<'_>,
    mut fds: Vec<(OwnedFd, i32)>,
    mut control: Option<File>,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Exit, Option<R>), Failure> {
    let Prepared { runtime, jail, args, logs, way_out } = prepared;
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
        let failure = Failure::sandbox(format!("failed to start the jail: {}", chain(&error)));
        failure.hints(error.hints().iter().cloned()).hints(way_out.clone())
    })?;
    after_fork()?;

    let mut received: Option<u8> = None;
    let outcome = running.supervise(
        &mut |signal| {
            let signal = u8::try_from(signal).unwrap_or(u8::MAX);
            received = Some(signal);
            match control.take().map(|mut pipe| pipe.write_all(&[signal])) {
                Some(Ok(())) => OnSignal::Continue,
                _ => OnSignal::Kill,
            }
        },
        &mut |line| {
            if logs {
                ui.line(format_args!("[sandbox] {}", line.text));
            }
        },
    );
    let exit = match outcome {
        Outcome::Exited(0) => Exit::Ok,
        Outcome::Exited(code) => Exit::Guest(u8::try_from(code).unwrap_or(Exit::Internal.code())),
        Outcome::Signaled(signal) => match received {
            Some(signal) => Exit::Signal(signal),
            None => {
                let what = format!("the guest was ended by signal {signal}");
                return Err(Failure::sandbox(what).hint(
                    "A limit of the policy may have been hit; --sandbox-logs shows the jail's own words.",
                ));
            }
        },
        Outcome::JailFailed { stage, detail, hint, log } => {
            let mut failure =
                Failure::sandbox(format!("the jail did not start: {stage}: {detail}")).hints(hint);
            if !logs && ui.verbose {
                failure = failure.hints(log.iter().map(|line| format!("[sandbox] {}", line.text)));
            }
            return Err(failure.hints(way_out));
        }
    };
    if exit != Exit::Ok {
        return Ok((received.map_or(exit, Exit::Signal), None));
    }
    Ok((exit, Some(read_result(result.into())?)))
}

fn read_result<R: DeserializeOwned>(mut file: File) -> Result<R, Failure> {
    let broken = |why: &dyn std::fmt::Display| {
        Failure::sandbox(format!("the guest handed out a broken result: {why}"))
    };
    let mut bytes = Vec::new();
    file.rewind().map_err(|error| broken(&error))?;
    file.take(RESULT_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    if bytes.len() as u64 > RESULT_LIMIT {
        return Err(broken(&"it is larger than 16 MiB"));
    }
    serde_json::from_slice(&bytes).map_err(|error| broken(&error))
}
