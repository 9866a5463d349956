//! The child half: from a fresh clone to the jail's init, and from its fork to the program.
//!
//! Runs on a copy of the parent's memory and allocates nothing. Each step stands under its [`Stage`], in the order
//! of that list, and the first that fails ends the jail.

use std::os::fd::AsFd as _;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, Signal};

use super::setup::Setup;
use super::stage::{Failure, Stage, tell_failure, tell_start};
use super::{caps, cpu, init, keyring, landlock, net, rlimit, tree, user};
use crate::sys::contain;

/// What a process of the jail ends with when the set-up failed; the record says why.
const FAILED: i32 = 255;

/// The whole life of the jail's first process; returns its exit code.
pub(super) fn run(setup: &Setup) -> i32 {
    let program = contain_self(setup).and_then(|()| {
        contain::fork(|| {
            let Err(failure) = become_program(setup);
            tell_failure(setup.status.as_fd(), failure);
            FAILED
        })
        .map_err(Stage::Program.failed())
    });
    match program {
        Ok(program) => match become_init(setup) {
            Ok(()) => {
                // The program has its own; init's place is nobody's condition.
                let _ = cpu::spread(&setup.cpus);
                init::run(setup.status.as_fd(), program)
            }
            // The end of a process namespace's first process is everybody's.
            Err(failure) => {
                contain::send_signal(program, libc::SIGKILL);
                tell_failure(setup.status.as_fd(), failure);
                FAILED
            }
        },
        Err(failure) => {
            tell_failure(setup.status.as_fd(), failure);
            FAILED
        }
    }
}

fn contain_self(setup: &Setup) -> std::result::Result<(), Failure<'_>> {
    // Everything up to the maps' arrival works without an id, beside the parent who writes them.
    die_with_parent().map_err(Stage::Supervision.failed())?;
    contain::close_copy(setup.go_parent.as_fd());
    contain::block_signals().map_err(Stage::Supervision.failed())?;
    // Out of the reach of the terminal's signals. The session is the program's to make: each new one is another
    // party to the scheduler's shares, and has to wait for its first. A program that keeps the caller's stays in its
    // group as well, and init leaves that later.
    if !setup.keep_session {
        rustix::process::setpgid(None, None).map_err(Stage::Session.failed())?;
    }
    if let Some(name) = &setup.hostname {
        net::set_host_name(name).map_err(Stage::Hostname.failed())?;
    }
    if setup.loopback {
        net::loopback_up().map_err(Stage::Network.failed())?;
    }
    tree::make_private().map_err(Stage::MountTree.failed_on(b"/"))?;

    wait_for_maps(setup).map_err(Stage::Supervision.failed())?;
    setup.ids.take().map_err(Stage::Ids.failed())?;
    if setup.ids.own && setup.capabilities == 0 {
        user::forbid_nesting().map_err(Stage::Nesting.failed_on(user::NESTING.to_bytes()))?;
    }
    // The change of ids has cleared it.
    die_with_parent().map_err(Stage::Supervision.failed())?;
    parent_is_alive(setup).map_err(Stage::Supervision.failed())?;

    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    tree::enter(&setup.tree)?;
    rustix::process::chdir(setup.cwd.as_c_str())
        .map_err(Stage::WorkingDirectory.failed_on(setup.cwd.as_bytes()))?;
    rustix::process::umask(umask);

    if setup.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(Stage::NewPrivileges.failed())?;
    }
    keyring::replace().map_err(Stage::Keyring.failed())?;
    if setup.own_time {
        contain::unshare_time().map_err(Stage::Time.failed())?;
    }
    match setup.capabilities {
        0 => caps::drop_all(),
        kept => caps::keep(kept),
    }
    .map_err(Stage::Capabilities.failed())?;
    cpu::set_priority(setup.nice).map_err(Stage::Priority.failed())?;
    // Init runs without the filter, so the program, which has the same id, must not be able to trace it. An exec
    // makes the program dumpable again.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Stage::Program.failed())
}

/// What init does without once the program is there: its capabilities, and the terminal's signals.
fn become_init(setup: &Setup) -> std::result::Result<(), Failure<'_>> {
    if setup.capabilities != 0 {
        caps::drop_held().map_err(Stage::Capabilities.failed())?;
    }
    if setup.keep_session {
        rustix::process::setpgid(None, None).map_err(Stage::Session.failed())?;
    }
    Ok(())
}

fn die_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

fn wait_for_maps(setup: &Setup) -> Result<()> {
    let mut byte = [0];
    loop {
        match rustix::io::read(&setup.go, &mut byte) {
            Ok(1) => return Ok(()),
            Ok(_) => return Err(Errno::CHILD),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The parent holds the other end as long as it lives. Its process id says nothing here: it is in another namespace.
fn parent_is_alive(setup: &Setup) -> Result<()> {
    let mut fds = [PollFd::new(&setup.go, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&at_once))? {
        0 => Ok(()),
        _ => Err(Errno::CHILD),
    }
}

/// Does not return but with a failure.
fn become_program(setup: &Setup) -> std::result::Result<std::convert::Infallible, Failure<'_>> {
    // Numbers before limits, which may be lower than they; rules before numbers, which may be those of the mounts.
    if let Some((null, streams)) = &setup.null {
        for stream in streams.clone() {
            contain::place_fd(null.as_fd(), stream).map_err(Stage::Descriptors.failed())?;
        }
    }
    let rules = landlock::rules(setup).map_err(Stage::Landlock.failed())?;
    contain::close_on_exec().map_err(Stage::Descriptors.failed())?;
    for (fd, number) in &setup.fds {
        contain::place_fd(fd.as_fd(), *number).map_err(Stage::Descriptors.failed())?;
    }
    rlimit::set(&setup.limits).map_err(Stage::Limits.failed())?;
    if !setup.own_processes {
        die_with_parent().map_err(Stage::Supervision.failed())?;
    }
    // A session without a terminal: nothing can be typed into the caller's (TIOCSTI).
    if !setup.keep_session {
        rustix::process::setsid().map_err(Stage::Session.failed())?;
    }
    if let Some(bits) = setup.personality {
        contain::set_personality(bits).map_err(Stage::Personality.failed())?;
    }
    if setup.forbid_tsc {
        contain::forbid_tsc().map_err(Stage::Counter.failed())?;
    }
    contain::reset_signals(&setup.mask).map_err(Stage::Signals.failed())?;
    cpu::spread(&setup.cpus).map_err(Stage::Processors.failed())?;
    tell_start(setup.status.as_fd());
    landlock::restrict(rules.as_ref()).map_err(Stage::Landlock.failed())?;
    if let Some(filter) = &setup.filter {
        filter.install().map_err(|error| Stage::Filter.failed()(tree::errno(error)))?;
    }
    Err(Stage::Exec.failed_on(setup.program.as_bytes())(setup.image.exec()))
}
