//! The boundary, host side: from a plan to a guest in its jail, and from the guest's end to an exit.
//!
//! Everything up to the fork inside [`Nsjail::spawn`] happens on one thread. What the guest gets is four open descriptors and a
//! directory tree; what it does not get is the user's home, environment, network and sockets.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sandbox_linux::{
    Bind, Builtin, Caller, Command, Jail, JailError, Nsjail, OnSignal, Outcome, Overrides, Policy,
    PolicyError,
};

use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::guest::{GuestResult, fd};
use crate::outputs::Opened;
use crate::plan::{BuildPlan, GuestOutput, HostPlan, SandboxPlan, guest_path};
use crate::stage;
use crate::ui::Ui;

/// A result holds a few digests; one that does not was not written by ktl.
const RESULT_LIMIT: u64 = 16 << 20;

/// A jail that is ready to start.
#[derive(Debug)]
pub struct Prepared {
    nsjail: Nsjail,
    jail: Jail,
    args: Vec<std::ffi::OsString>,
}

/// Settles the jail for `plan`, whose promises and output paths are filled in. Says once what was corrected in the policy.
pub fn prepare(
    plan: &mut BuildPlan,
    host: &HostPlan,
    sandbox: &SandboxPlan,
    outputs: &[Opened],
    ui: &Ui,
) -> Result<Prepared, Failure> {
    let nsjail = Nsjail::find(sandbox.bin.as_deref(), sandbox.path_var.as_deref()).map_err(|error| {
        let ways = error.ways_to_get_it().iter().map(|way| format!("- {way}"));
        let failure = Failure::sandbox(format!("no jail: {}", chain(&error)));
        failure.hint("nsjail makes the jail, and it can be had like this:").hints(ways).hint(WAY_OUT)
    })?;
    let policy = policy(plan, sandbox)?;
    let name = policy.name().to_owned();
    let staged = stage::stage(&host.cache).map_err(|error| {
        let failure = Failure::sandbox(format!("failed to stage ktl for the jail: {}", chain(&error)));
        match error {
            stage::StageError::Dynamic => {
                failure.hint("Build it with `cargo build` in ktl's own checkout, which links statically.")
            }
            _ => failure.hint("The cache directory can be moved with KTL_CACHE_DIR."),
        }
    })?;
    let cache = guest_cache(&host.cache)?;
    let mut fds = vec![fd::PLAN, fd::CONNECTION, fd::BROKER, fd::CONTROL, fd::RESULT];
    let mut binds = vec![
        bind(&staged, guest_path::BINARY, false),
        bind(&host.context, guest_path::CONTEXT, false),
        bind(&cache, guest_path::CACHE, true),
    ];
    let mut writable = vec![(cache, PathBuf::from(guest_path::CACHE))];
    for local in &plan.locals {
        if local.path.starts_with(guest_path::DOCKERFILE)
            && let Some(dir) = host.locals.get(&local.name)
        {
            binds.push(bind(dir, guest_path::DOCKERFILE, false));
        }
    }
    for (index, output) in outputs.iter().enumerate() {
        plan.outputs[index] = if let Some(staging) = output.staging() {
            let dst = Path::new(guest_path::OUTPUT).join(index.to_string());
            binds.push(bind(staging, &dst, true));
            writable.push((staging.to_owned(), dst.clone()));
            GuestOutput::Directory(dst)
        } else if let Some(name) = output.descriptor_name() {
            let number = fd::OUTPUTS + i32::try_from(index).unwrap_or(i32::MAX - fd::OUTPUTS);
            fds.push(number);
            GuestOutput::Descriptor { number, name }
        } else {
            GuestOutput::None
        };
    }
    binds.extend(sandbox.binds.iter().map(|user| bind(&user.src, &user.dst, user.rw)));

    let overrides = Overrides {
        binds,
        env: sandbox.env.clone(),
        cwd: sandbox.workdir.clone(),
        no_network: true,
        pass_fds: fds,
        ..Overrides::default()
    };
    let caller = Caller::current()
        .map_err(|error| Failure::sandbox(format!("failed to learn who runs ktl: {error}")))?;
    let jail = Jail::new(policy, overrides, &caller)
        .map_err(|error| {
            let failure = Failure::sandbox(format!("the policy {name} gives no jail: {}", chain(&error)));
            match error {
                JailError::NoFreeId { .. } => failure.hint(
                    "Root in this container has no second id to give away. Run ktl as a plain user, or start the container \
                     with a range of ids (for podman: subordinate ids in /etc/subuid and /etc/subgid).",
                ),
                _ => failure.hint(WAY_OUT),
            }
        })?;
    for correction in jail.corrections() {
        ui.note(format_args!("[sandbox] {name}: {correction}"));
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
    plan.promises = Some(jail.promises());
    let args = std::env::args_os().skip(1).collect();
    Ok(Prepared { nsjail, jail, args })
}

fn bind(src: &Path, dst: impl Into<PathBuf>, rw: bool) -> Bind {
    Bind { src: src.to_owned(), dst: dst.into(), rw, idmap: true, is_dir: src.is_dir() }
}

const WAY_OUT: &str = "Nothing was built. `--sandbox=off` builds without a jail: then the builder and everything it runs can ask \
                       this machine's ktl for files with all your rights.";

fn policy(plan: &BuildPlan, sandbox: &SandboxPlan) -> Result<Policy, Failure> {
    let Some(path) = &sandbox.config else {
        return Ok(Policy::builtin(if plan.hermetic { Builtin::Hermetic } else { Builtin::Strict }));
    };
    let bytes = fs::read(path).map_err(|error| {
        Failure::sandbox(format!("failed to read the policy {}: {error}", path.display()))
            .hint("It is named by --sandbox-config.")
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
}

/// Starts the guest, calls `after_fork` once threads are allowed, and waits for the end.
pub fn run(
    prepared: Prepared,
    plan: &BuildPlan,
    sandbox: &SandboxPlan,
    handed: Handed,
    ui: &Ui,
    after_fork: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Exit, Option<GuestResult>), Failure> {
    let Prepared { nsjail, jail, args } = prepared;
    let io_failure =
        |what: &'static str| move |error: io::Error| Failure::internal(format!("failed to {what}: {error}"));
    let json = serde_json::to_vec(plan)
        .map_err(|error| Failure::internal(format!("failed to write the plan: {error}")))?;
    let plan_fd = sandbox_linux::sealed_memfd("ktl-plan", &json).map_err(io_failure("seal the plan"))?;
    let (control_guest, control_host) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(io::Error::from)
        .map_err(io_failure("make the control pipe"))?;
    let result = rustix::fs::memfd_create("ktl-result", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(io::Error::from)
        .map_err(io_failure("make room for the result"))?;
    let result_guest = result.as_fd().try_clone_to_owned().map_err(io_failure("duplicate a descriptor"))?;

    let mut fds = vec![
        (plan_fd, fd::PLAN),
        (handed.connection, fd::CONNECTION),
        (handed.broker, fd::BROKER),
        (control_guest, fd::CONTROL),
        (result_guest, fd::RESULT),
    ];
    for (output, handed) in plan.outputs.iter().zip(handed.outputs) {
        if let (GuestOutput::Descriptor { number, .. }, Some(open)) = (output, handed) {
            fds.push((open, *number));
        }
    }
    let command = Command { program: guest_path::BINARY.into(), args, fds };
    let running = nsjail.spawn(&jail, command).map_err(|error| {
        Failure::sandbox(format!("failed to start the jail: {}", chain(&error))).hint(WAY_OUT)
    })?;
    after_fork()?;

    let mut control = Some(File::from(control_host));
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
            if sandbox.logs {
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
            if !sandbox.logs && ui.verbose {
                failure = failure.hints(log.iter().map(|line| format!("[sandbox] {}", line.text)));
            }
            return Err(failure.hint(WAY_OUT));
        }
    };
    if exit != Exit::Ok {
        return Ok((received.map_or(exit, Exit::Signal), None));
    }
    Ok((exit, Some(read_result(result.into())?)))
}

fn read_result(mut file: File) -> Result<GuestResult, Failure> {
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
