//! Work for every processor, so that a start has to share them.

use std::hint::black_box;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

/// The hidden subcommand of xtask that spins until it is ended.
pub const SUBCOMMAND: &str = "__spin";

/// Spinning processes, ended when this is dropped.
#[derive(Debug)]
pub struct Load(Vec<Child>);

impl Load {
    pub fn start(count: usize) -> Result<Load> {
        let mut load = Load(Vec::new());
        for _ in 0..count {
            // Not by its path: cargo may have replaced that file since the bench started.
            let mut command = Command::new("/proc/self/exe");
            command.arg(SUBCOMMAND).stdin(Stdio::null());
            load.0.push(command.spawn().context("start a spinning process")?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

/// The spinning process. It stands in a session of its own, as other users' work does, and it does not outlive the bench.
pub fn spin() -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("tie the load to the bench")?;
    nix::unistd::setsid().context("make a session")?;
    let mut number = 0_u64;
    loop {
        number = black_box(number.wrapping_add(1));
    }
}
