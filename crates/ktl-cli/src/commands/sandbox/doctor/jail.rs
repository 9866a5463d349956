//! Whether a jail can be had: its parts one by one, nsjail, and a jail that really runs.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use sandbox_linux::{Caller, NAMESPACES, Probe, Runtime, Verdict};

use super::builder::Opened;
use super::{About, Check, Status, brief, kernel};
use crate::cli::RuntimeChoice;
use crate::failure::Failure;
use crate::guest::fd;
use crate::launch::{self, Rooms};
use crate::log::Log;
use crate::look::{Introduced, Question, Said};
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
                Err(error) => Check::fail(
                    About::Part,
                    name,
                    format!("the kernel refuses one: {error}"),
                    kernel::refusals(),
                ),
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
                kernel::refusals(),
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

/// The program: there, startable, and of which generation. It has no version flag, so what it can do is read off its help.
pub(super) fn nsjail(sandbox: &SandboxPlan) -> Check {
    let name = "nsjail";
    let needed = !matches!(runtime::find(sandbox), Ok(Runtime::Native));
    let program = match runtime::nsjail(sandbox) {
        Ok(nsjail) => nsjail.path().to_owned(),
        Err(_) if !needed => {
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
        if needed {
            Check::fail(About::Jail, name, found, mend)
        } else {
            Check { status: Status::Warn, ..Check::fail(About::Part, name, found, mend) }
        }
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
    let mut command = Command::new(program);
    command.arg("--help").env_clear();
    let (status, said) = brief::run(command, &[], HELP_TIME)?;
    Ok((status, String::from_utf8_lossy(&said).into_owned()))
}

/// What the trial jails have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trial<'a> {
    pub(super) context: &'a Path,
    pub(super) cache: &'a Path,
    pub(super) facts: &'a Facts,
    pub(super) verbose: u8,
    pub(super) log: &'a Log,
    pub(super) ui: &'a Ui,
}

/// The runtime that a build with these flags takes, and the one that `auto` would take where another was asked for.
pub(super) fn choice(sandbox: &SandboxPlan) -> Check {
    let name = "runtime";
    let chosen = match runtime::find(sandbox) {
        Ok(chosen) => chosen,
        Err(failure) => return Check::failure(About::Jail, name, failure),
    };
    let why = runtime::why(sandbox, &chosen);
    // A program that the environment names counts for auto; one that was typed is a choice.
    let bin = sandbox.bin.clone().filter(|_| sandbox.runtime == RuntimeChoice::Auto);
    let auto = SandboxPlan { runtime: RuntimeChoice::Auto, bin, ..sandbox.clone() };
    let found = match runtime::find(&auto) {
        Ok(by_itself) if by_itself == chosen => format!("builds take {chosen} ({why}), as auto does"),
        Ok(by_itself) => format!("builds take {chosen} ({why}); auto would take {by_itself}"),
        Err(_) => format!("builds take {chosen} ({why})"),
    };
    Check::ok(About::Part, name, found)
}

/// The runtime that builds do not take, where there is one: tried all the same, so that one knows what it is good for.
pub(super) fn other(sandbox: &SandboxPlan) -> Option<SandboxPlan> {
    let other = match runtime::find(sandbox) {
        Ok(Runtime::Native) => SandboxPlan { runtime: RuntimeChoice::Nsjail, bin: None, ..sandbox.clone() },
        // Where the chosen one is missing, ktl's own is what remains.
        Ok(Runtime::Nsjail(_)) | Err(_) => {
            SandboxPlan { runtime: RuntimeChoice::Native, bin: None, ..sandbox.clone() }
        }
    };
    runtime::find(&other).is_ok().then_some(other)
}

impl Trial<'_> {
    /// Starts the jail of a build, looks around in it, and has the builder asked from inside.
    pub(super) fn start(
        self,
        sandbox: &SandboxPlan,
        connection: Option<Opened>,
    ) -> (Check, Option<Result<Introduced, String>>) {
        let not_asked = connection.is_some().then(|| Err("there is no jail to ask it from".to_owned()));
        match self.try_start("jail", sandbox, connection) {
            Ok((check, introduced)) => (check, introduced),
            Err(failure) => (Check::failure(About::Jail, "jail", failure), not_asked),
        }
    }

    /// Starts a jail by a runtime that builds do not take. It cannot fail the host.
    pub(super) fn start_other(self, sandbox: &SandboxPlan) -> Option<Check> {
        let runtime = runtime::find(sandbox).ok()?;
        let name = format!("jail by {runtime}");
        let check = self.try_start(&name, sandbox, None).map(|(check, _)| check);
        Some(check.unwrap_or_else(|failure| {
            let mut mend = vec![format!("Builds do not take {runtime} here; the rest is for who wants it.")];
            mend.extend(failure.hints);
            Check { status: Status::Warn, ..Check::fail(About::Part, name, failure.title, mend) }
        }))
    }

    fn try_start(
        self,
        name: &str,
        sandbox: &SandboxPlan,
        connection: Option<Opened>,
    ) -> Result<(Check, Option<Result<Introduced, String>>), Failure> {
        let mut fds = vec![fd::PLAN, fd::RESULT];
        fds.extend(connection.is_some().then_some(fd::CONNECTION));
        let rooms = Rooms {
            cache: self.cache,
            context: self.context,
            dockerfile: None,
            inputs: &[],
            outputs: Vec::new(),
            fds,
        };
        let prepared = launch::open(rooms, sandbox, None, self.log, self.ui)?;
        let plan = LookPlan {
            version: plan::VERSION,
            nonce: self.facts.nonce.clone(),
            verbose: self.verbose,
            targets: HIDDEN.iter().map(|path| Probe::Path(path.into())).collect(),
            question: connection.as_ref().map(|_| Question::Introduce),
            promises: Some(prepared.promises()),
        };
        let (stream, relay, _program): (Option<OwnedFd>, _, _) = match connection {
            Some(Opened { stream, relay, program }) => (Some(stream), relay, program),
            None => (None, None, None),
        };
        let looked = launch::look(prepared, &plan, stream, self.ui, || {
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
            Check::fail(About::Jail, name, "started one, and it did not answer", Vec::new())
        } else if seen.is_empty() {
            let found = format!("started one; {} are hidden in it; {}", HIDDEN.join(", "), looked.proof);
            Check::ok(About::Jail, name, found)
        } else {
            let mend =
                "The policy or a --sandbox-bind shows them; `ktl sandbox policy lint` tells which entry.";
            let found = format!("started one, and {} can be seen in it; {}", seen.join(", "), looked.proof);
            Check::warn(About::Jail, name, found, mend)
        };
        let builder = looked.builder.map(|answer| match answer {
            Ok(Said::Introduced(said)) => Ok(said),
            Ok(_) => Err("the guest has answered another question".to_owned()),
            Err(refused) => Err(refused.why),
        });
        Ok((check, builder))
    }
}
