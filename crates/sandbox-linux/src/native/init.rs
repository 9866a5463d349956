//! PID 1 of the jail: reaps what the program leaves, passes signals on to it, and tells its end as it was.
//!
//! nsjail makes the program itself PID 1, which the kernel shields from signals without a handler and which collects
//! no orphans. Init's end ends every process of the jail.

use std::os::fd::BorrowedFd;

use rustix::process::{Pid, WaitOptions};

use super::stage::{tell_exit, tell_signal};
use crate::sys::contain;

/// Signals that somebody outside may send to the jail and that mean the program.
const FORWARDED: [i32; 8] = [
    libc::SIGTERM,
    libc::SIGINT,
    libc::SIGHUP,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGWINCH,
    libc::SIGCONT,
];

/// Runs until the program has ended; returns its code, or 128 plus its signal.
pub(super) fn run(status: BorrowedFd<'_>, program: Pid) -> i32 {
    // The streams and pipes are the program's; whoever reads them waits for their last holder.
    if contain::close_all_but(status).is_err() {
        return 255;
    }
    loop {
        match contain::wait_signal() {
            libc::SIGCHLD => {
                if let Some(code) = reap(status, program) {
                    return code;
                }
            }
            signal if FORWARDED.contains(&signal) => contain::send_signal(program, signal),
            _ => {}
        }
    }
}

/// Collects everything that has ended. The code, once the program is among it.
fn reap(status: BorrowedFd<'_>, program: Pid) -> Option<i32> {
    // `None` as well when no child is left, which the program's end precedes.
    while let Ok(Some((pid, ended))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid != program {
            continue;
        }
        if let Some(code) = ended.exit_status() {
            tell_exit(status, code);
            return Some(code);
        }
        if let Some(signal) = ended.terminating_signal() {
            tell_signal(status, signal);
            return Some(128 + signal);
        }
    }
    None
}
