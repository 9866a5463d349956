//! `--verify-reproducible`: builds twice, compares, and only then makes what was asked for.
//!
//! A second look at a cached build would show nothing, so the second build uses no cache, and where the builder is ktl's own it
//! is done by another one that has none. A builder of somebody else's does both: one of another version puts images together
//! in another way. Both send an image archive into a directory of this run. When the images in these are equal, the build that was asked
//! for is done a third time, now from the cache: outputs that cannot be held back, as a push cannot, begin only then.
//!
//! Each of the three is a ktl of its own ([`pass`]), because this process must not have threads when a jail is made.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use buildsvc::csv;
use buildsvc::output::{OutputKind, OutputSpec};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::builder::Address;
use crate::cli::{self, BuildArgs};
use crate::compare::{Archive, CompareError, Difference, first_difference};
use crate::display::inert;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::outputs;
use crate::plan;
use crate::settings::{self, Unread};
use crate::tidy::Tidier;
use crate::ui::Ui;

/// Name of the hidden command that does one of the builds.
pub const COMMAND: &str = "__verify-pass";

/// How the bytes of a layer come about; what else an output says is no matter of being equal.
const OF_LAYERS: [&str; 4] = ["compression", "compression-level", "force-compression", "oci-mediatypes"];
/// Of a report that ktl itself has written.
const REPORT_LIMIT: u64 = 4 << 20;

pub fn run(args: &BuildArgs, env: &Env, ui: &Ui) -> Result<Exit, Failure> {
    let stdin = Path::new("-");
    if args.context == stdin || args.build.file.as_deref() == Some(stdin) {
        return Err(Failure::usage(
            "--verify-reproducible builds twice, and standard input can be read once",
        )
        .hint("Put the context or the Dockerfile into a file."));
    }
    if let Some(url) = plan::url_of(args.build.file.as_deref()) {
        let why = format!("--verify-reproducible builds twice, and {url} may be another file by then");
        return Err(Failure::usage(why).hint("Put the Dockerfile into a file."));
    }
    let room = Room::make(env)?;
    let first = room.dir.join("first.oci");
    ui.note(format_args!("[verify] first build"));
    match room.build("first")? {
        Exit::Ok => {}
        failed => return Ok(failed),
    }
    let private = room.is_private()?;
    ui.note(format_args!(
        "[verify] second build, without a cache, {}",
        if private { "on a private builder of its own" } else { "on the same builder" }
    ));
    match room.build(if private { "second-elsewhere" } else { "second" })? {
        Exit::Ok => {}
        failed => return Ok(failed),
    }
    let open = |path: &Path| Archive::open(path).map_err(not_compared);
    let (one, other) = (open(&first)?, open(&room.dir.join("second.oci"))?);
    if let Some(difference) = first_difference(&one, &other).map_err(not_compared)? {
        return Err(told(&difference));
    }
    let images = one.images().map_err(not_compared)?;
    for image in &images {
        ui.note(format_args!(
            "[verify] equal: {} {}",
            inert::text(&image.platform),
            inert::text(&image.digest)
        ));
    }
    if asks_for_nothing(args) {
        for image in &images {
            writeln!(io::stdout().lock(), "{}", inert::text(&image.digest)).map_err(|error| {
                Failure::new(Exit::BuildFailed, format!("failed to print the digest: {error}"))
            })?;
        }
        return Ok(Exit::Ok);
    }
    room.build("last")
}

fn not_compared(error: CompareError) -> Failure {
    Failure::new(Exit::BuildFailed, format!("the two builds cannot be compared: {}", chain(&error)))
}

fn told(difference: &Difference) -> Failure {
    let Difference { place, step, what, values, mend } = difference;
    let step = step.as_ref().map(|step| format!(" ({step})")).unwrap_or_default();
    let mut failure = Failure::new(
        Exit::Unmet,
        format!("the build is not reproducible: first difference in {place}{step}: {what}"),
    );
    if let Some((one, other)) = values {
        failure = failure.hint(format!("first build:  {one}")).hint(format!("second build: {other}"));
    }
    failure.hints(mend.map(str::to_owned)).hint("No output was written.")
}

/// Whether the comparison is all that there is to do.
fn asks_for_nothing(args: &BuildArgs) -> bool {
    let result = &args.result;
    result.output.is_empty()
        && result.tag.is_empty()
        && !result.push
        && !result.load
        && result.metadata_file.is_none()
        && result.iidfile.is_none()
        && result.report.is_none()
        && args.egress.egress_learn.is_none()
        && args.egress.egress_record.is_none()
        && args.build.cache_to.is_empty()
}

/// Where the archives lie; goes with this run, however that ends.
#[derive(Debug)]
struct Room {
    dir: PathBuf,
    _tidier: Tidier,
}

impl Room {
    fn make(env: &Env) -> Result<Room, Failure> {
        let facts = super::facts(env)?;
        let cache = plan::cache_dir(env, &facts)?;
        let dir = cache.join(format!("{}-verify", outputs::staging_name(&facts.nonce)));
        let failed = |error: io::Error| {
            Failure::new(
                Exit::BuildFailed,
                format!("failed to make room for the comparison in {}: {error}", dir.display()),
            )
        };
        let mut tidier = Tidier::start().map_err(failed)?;
        tidier.watch(&dir).map_err(failed)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        Ok(Room { dir, _tidier: tidier })
    }

    /// One build, by a ktl of its own with this one's arguments.
    fn build(&self, name: &str) -> Result<Exit, Failure> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).arg(name).arg(&self.dir).args(std::env::args_os().skip(1));
        if name != "last" {
            command.stdout(Stdio::null());
        }
        let failed = |error: io::Error| {
            Failure::internal(format!("failed to start a ktl for the {name} build: {error}"))
        };
        let mut child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let waited = wait(pid);
        if waited.is_err() {
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        waited.map_err(failed)?;
        Ok(exit_of(status))
    }

    /// Whether the first build was done by a builder of ktl's own.
    fn is_private(&self) -> Result<bool, Failure> {
        let path = self.dir.join("first.json");
        let unread = |why: String| Failure::internal(format!("the report of the first build: {why}"));
        let bytes =
            super::facts::read_bounded(&path, REPORT_LIMIT).map_err(|error| unread(error.to_string()))?;
        let report: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| unread(error.to_string()))?;
        report["private"].as_bool().ok_or_else(|| unread("it does not say which builder did it".to_owned()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(0), _) => Exit::Ok,
        (Some(code), _) => Exit::Guest(u8::try_from(code).unwrap_or(Exit::Internal.code())),
        (None, signal) => {
            Exit::Signal(signal.and_then(|signal| u8::try_from(signal).ok()).unwrap_or_default())
        }
    }
}

/// Waits for the end of a child, which gets the signals that another process sends here. Those of the terminal it has already.
fn wait(pid: i32) -> io::Result<()> {
    let process = rustix::process::Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    let ended = pidfd_open(process, PidfdFlags::empty())?;
    let wanted: SigSet =
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT].into_iter().collect();
    // After the child was started: it would inherit the mask.
    let mut before = SigSet::empty();
    signal::sigprocmask(SigmaskHow::SIG_BLOCK, Some(&wanted), Some(&mut before))?;
    let followed = SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(io::Error::from)
        .and_then(|signals| follow(pid, ended.as_fd(), &signals));
    signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
    followed
}

fn follow(pid: i32, ended: BorrowedFd<'_>, signals: &SignalFd) -> io::Result<()> {
    loop {
        let mut watched =
            [PollFd::new(ended, PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_over = watched[0].any().unwrap_or(true);
        while let Some(info) = signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
            if let (Some(number), false) = (number, info.ssi_code == libc::SI_KERNEL) {
                let _ = signal::kill(Pid::from_raw(pid), number);
            }
        }
        if is_over {
            return Ok(());
        }
    }
}

/// The hidden command: one of the builds, `NAME DIR build …`.
pub fn pass(env: Env) -> (Result<Exit, Failure>, Env) {
    match asked(env) {
        Ok((args, verbose, env)) => (super::run(&args, verbose, &env), env),
        Err(failure) => (Err(failure), Env::default()),
    }
}

fn asked(env: Env) -> Result<(Box<BuildArgs>, u8, Env), Failure> {
    let mut given = std::env::args_os().skip(2);
    let strange =
        || Failure::usage(format!("{COMMAND} is a part of --verify-reproducible, and nothing to type"));
    let (Some(name), Some(dir)) = (given.next(), given.next()) else { return Err(strange()) };
    let (mut cli, env) = match settings::read([OsString::from("ktl")].into_iter().chain(given).collect(), env)
    {
        Ok(read) => read,
        Err(Unread::Set(failure)) => return Err(failure),
        Err(Unread::Typed(_)) => return Err(strange()),
    };
    cli.take_defaults(&env);
    let cli::Command::Build(mut args) = cli.command else { return Err(strange()) };
    args.build.verify_reproducible = false;
    args.build.reproducible = true;
    let dir = PathBuf::from(dir);
    match name.to_str() {
        Some("first") => compare(&mut args, &dir, "first")?,
        Some(second @ ("second" | "second-elsewhere")) => {
            compare(&mut args, &dir, "second")?;
            args.build.no_cache = true;
            args.build.no_cache_filter.clear();
            args.build.cache_from.clear();
            if second == "second-elsewhere" {
                args.builder.builder = Some(Address::Ephemeral.to_string());
            }
        }
        Some("last") => {
            // What was compared is in the cache.
            args.build.no_cache = false;
            args.build.no_cache_filter.clear();
        }
        _ => return Err(strange()),
    }
    Ok((args, cli.verbose, env))
}

/// Has the build make an archive to be compared, and nothing else.
fn compare(args: &mut BuildArgs, dir: &Path, name: &str) -> Result<(), Failure> {
    let result = &mut args.result;
    let mut fields =
        vec!["type=oci".to_owned(), format!("dest={}", dir.join(format!("{name}.oci")).display())];
    let outputs = result.output.iter().filter_map(|text| OutputSpec::parse(text).ok());
    let mut images = outputs.filter(|output| output.kind.is_image() && output.kind != OutputKind::Docker);
    if let Some(image) = images.next() {
        let of_layers = image.attrs.iter().filter(|(key, _)| OF_LAYERS.contains(&key.as_str()));
        fields.extend(of_layers.map(|(key, value)| format!("{key}={value}")));
    }
    result.output = vec![csv::record(&fields)];
    // ktl's own directory, which may lie among the settings of a home.
    result.output_force = true;
    // Attestations tell of runs, and annotations are what the user typed.
    result.provenance = Some("false".to_owned());
    result.sbom = None;
    result.attest.clear();
    result.annotation.clear();
    result.tag.clear();
    (result.push, result.load) = (false, false);
    (result.metadata_file, result.iidfile) = (None, None);
    result.report = Some(dir.join(format!("{name}.json")));
    if let Some(learned) = &mut args.egress.egress_learn {
        *learned = dir.join(format!("{name}.egress"));
    }
    args.egress.egress_record = None;
    args.build.cache_to.clear();
    Ok(())
}
