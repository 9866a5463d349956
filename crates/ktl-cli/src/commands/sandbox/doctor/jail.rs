//! Whether a jail can be had: its parts one by one, nsjail, and a jail that really runs.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use sandbox_linux::{Caller, HostFacts, NAMESPACES, Probe, Verdict};

use super::builder::Opened;
use super::{About, Check};
use crate::failure::Failure;
use crate::guest::fd;
use crate::launch::{self, Rooms};
use crate::look::Introduced;
use crate::plan::{self, Facts, LookPlan, SandboxPlan};
use crate::runtime;
use crate::ui::Ui;

/// How long a program may take to print its help.
const HELP_TIME: Duration = Duration::from_secs(10);
/// Looked for in the trial jail. They exist on every host that has a shell.
const HIDDEN: [&str; 3] = ["/etc/passwd", "/usr", "/var"];

/// Namespaces, id maps, id-mapped mounts: each tried by itself, so that a jail that does not start has a cause.
pub(super) fn parts(context: &Path, cache: &Path) -> Vec<Check> {
    let mut checks: Vec<Check> = NAMESPACES
        .iter()
        .map(|kind| {
            let name = format!("{kind} namespace");
            match sandbox_linux::namespace_works(kind) {
                Ok(()) => Check::ok(About::Part, name, "made one in a child"),
                Err(error) => {
                    Check::fail(About::Part, name, format!("the kernel refuses one: {error}"), settings())
                }
            }
        })
        .collect();
    let caller = match Caller::current() {
        Ok(caller) => caller,
        Err(error) => {
            let mend = vec!["Mount /proc; a jail cannot be proven without it.".to_owned()];
            checks.push(Check::fail(
                About::Part,
                "caller",
                format!("cannot tell who runs ktl: {error}"),
                mend,
            ));
            return checks;
        }
    };
    let guest = match sandbox_linux::id_maps_work(&caller) {
        Ok(guest) => {
            let found = format!("mapped the guest to host uid {} and gid {}", guest.uid, guest.gid);
            checks.push(Check::ok(About::Part, "id maps", found));
            guest
        }
        Err(error) => {
            checks.push(Check::fail(
                About::Part,
                "id maps",
                format!("the kernel refuses the guest's: {error}"),
                settings(),
            ));
            return checks;
        }
    };
    if !caller.is_root() {
        return checks;
    }
    for (what, dir) in [("context", context), ("cache", existing(cache))] {
        let name = format!("id-mapped {what}");
        let shown = dir.display();
        checks.push(match sandbox_linux::idmapped_mounts_work(dir, guest) {
            Ok(()) => Check::ok(About::Part, name, format!("mapped a mount of {shown}")),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Check::warn(
                About::Part,
                name,
                format!("the file system of {shown} cannot map ids"),
                "Builds work: outputs are handed over and taken back, and files that the guest may not read are opened for it. \
                 ext4, xfs, btrfs and tmpfs can.",
            ),
            Err(error) => Check::warn(
                About::Part,
                name,
                format!("cannot map a mount of {shown}: {error}"),
                "Builds may work without. Root in a container needs CAP_SYS_ADMIN for it.",
            ),
        });
    }
    checks
}

/// The nearest directory above that is there.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"))
}

/// The settings of this host that refuse namespaces, as hints.
fn settings() -> Vec<String> {
    let facts = HostFacts::read();
    let mut mend = Vec::new();
    if facts.max_user_namespaces == Some(0) {
        mend.push(
            "user.max_user_namespaces is 0; type: sudo sysctl -w user.max_user_namespaces=15000".to_owned(),
        );
    }
    if facts.unprivileged_userns_clone == Some(0) {
        mend.push(
            "only root may make user namespaces; type: sudo sysctl -w kernel.unprivileged_userns_clone=1"
                .to_owned(),
        );
    }
    if facts.apparmor_restrict == Some(1) {
        mend.push(
            "AppArmor restricts user namespaces; type: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give nsjail \
             a profile with `userns,`"
                .to_owned(),
        );
    }
    if facts.seccomp == Some(2) {
        mend.push(
            "a system call filter is on this process; in a container, start it with --security-opt seccomp=unconfined".to_owned(),
        );
    }
    if mend.is_empty() {
        mend.push(
            "no setting of this host explains it; an enclosing jail or a kernel without this namespace would"
                .to_owned(),
        );
    }
    mend
}

/// The program: there, startable, and of which generation. It has no version flag, so what it can do is read off its help.
pub(super) fn nsjail(sandbox: &SandboxPlan) -> Check {
    let name = "nsjail";
    let program = match runtime::nsjail(sandbox) {
        Ok(nsjail) => nsjail.path().to_owned(),
        Err(_) if runtime::find(sandbox).is_ok() => {
            let mend = "Nothing needs doing: ktl's own runtime makes the jail.";
            return Check::warn(About::Jail, name, "is not installed", mend);
        }
        Err(failure) => return Check::failure(About::Jail, name, failure),
    };
    let shown = program.display();
    let broken = |found: String| {
        let mend = vec![
            format!("Try it: {shown} --help. 127 means that its libraries are missing."),
            "Name another one with --sandbox-bin.".to_owned(),
        ];
        Check::fail(About::Jail, name, found, mend)
    };
    match help(&program) {
        Err(error) => broken(format!("{shown} cannot be started: {error}")),
        Ok((status, _)) if !status.success() => broken(format!("{shown} --help ended with {status}")),
        Ok((_, text)) => {
            let has = |flag: &str| text.contains(flag);
            if !has("--config") || !has("--disable_clone_newuser") {
                return broken(format!("{shown} --help does not list nsjail's flags; it is another program"));
            }
            let about = match (has("--user_net"), has("--experimental_mnt")) {
                (true, _) => "later than release 3.6",
                (false, true) => "release 3.6",
                (false, false) => "older than release 3.6",
            };
            Check::ok(About::Jail, name, format!("started {shown} --help; by its flags {about}"))
        }
    }
}

fn help(program: &Path) -> io::Result<(ExitStatus, String)> {
    // A file takes any amount; a pipe that nobody reads would hold the program up.
    let mut said = File::from(rustix::fs::memfd_create("ktl-help", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut child = Command::new(program)
        .arg("--help")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said.try_clone()?)
        .spawn()?;
    let end = Instant::now() + HELP_TIME;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it says nothing for 10 seconds"));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut text = Vec::new();
    said.rewind()?;
    said.take(1 << 20).read_to_end(&mut text)?;
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

/// Starts the jail of a build, looks around in it, and has the builder asked from inside.
pub(super) fn start(
    context: &Path,
    cache: &Path,
    sandbox: &SandboxPlan,
    facts: &Facts,
    verbose: u8,
    connection: Option<Opened>,
    ui: &Ui,
) -> (Check, Option<Result<Introduced, String>>) {
    let not_asked = connection.is_some().then(|| Err("there is no jail to ask it from".to_owned()));
    match try_start(context, cache, sandbox, facts, verbose, connection, ui) {
        Ok((check, introduced)) => (check, introduced),
        Err(failure) => (Check::failure(About::Jail, "jail", failure), not_asked),
    }
}

fn try_start(
    context: &Path,
    cache: &Path,
    sandbox: &SandboxPlan,
    facts: &Facts,
    verbose: u8,
    connection: Option<Opened>,
    ui: &Ui,
) -> Result<(Check, Option<Result<Introduced, String>>), Failure> {
    let mut fds = vec![fd::PLAN, fd::RESULT];
    fds.extend(connection.is_some().then_some(fd::CONNECTION));
    let rooms = Rooms { cache, context, dockerfile: None, inputs: &[], outputs: Vec::new(), fds };
    let prepared = launch::open(rooms, sandbox, None, ui)?;
    let plan = LookPlan {
        version: plan::VERSION,
        nonce: facts.nonce.clone(),
        verbose,
        targets: HIDDEN.iter().map(|path| Probe::Path(path.into())).collect(),
        ask_builder: connection.is_some(),
        promises: Some(prepared.promises()),
    };
    let (stream, relay): (Option<OwnedFd>, _) = match connection {
        Some(Opened { stream, relay }) => (Some(stream), relay),
        None => (None, None),
    };
    let looked = launch::look(prepared, &plan, stream, ui, || {
        if let Some(relay) = relay {
            std::thread::spawn(move || drop(relay.run()));
        }
        Ok(())
    })?;
    let seen: Vec<&str> = HIDDEN
        .iter()
        .zip(&looked.answers)
        .filter(|(_, answer)| answer.verdict != Verdict::Hidden)
        .map(|(path, _)| *path)
        .collect();
    let check = if looked.answers.len() != HIDDEN.len() {
        Check::fail(About::Jail, "jail", "started one, and it did not answer", Vec::new())
    } else if seen.is_empty() {
        let found = format!("started one; {} are hidden in it; {}", HIDDEN.join(", "), looked.proof);
        Check::ok(About::Jail, "jail", found)
    } else {
        let mend = "The policy or a --sandbox-bind shows them; `ktl sandbox policy lint` tells which entry.";
        let found = format!("started one, and {} can be seen in it; {}", seen.join(", "), looked.proof);
        Check::warn(About::Jail, "jail", found, mend)
    };
    Ok((check, looked.builder))
}
