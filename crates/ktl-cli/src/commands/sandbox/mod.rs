//! `ktl sandbox`: the jail, without a build of ktl's own.

mod doctor;
mod exec;
mod policy;
mod probe;

use clap::{Args, Subcommand};

use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;

/// The jail by itself: run other programs in it, look around in it, check this host, read policies
#[derive(Debug, Args)]
pub struct SandboxArgs {
    #[command(subcommand)]
    command: SandboxCommand,
}

#[derive(Debug, Subcommand)]
enum SandboxCommand {
    Exec(Box<exec::ExecArgs>),
    Probe(probe::ProbeArgs),
    Doctor(Box<doctor::DoctorArgs>),
    Policy(policy::PolicyArgs),
}

pub fn run(args: &SandboxArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    match &args.command {
        SandboxCommand::Exec(args) => exec::run(args, verbose, env),
        SandboxCommand::Probe(args) => probe::run(args, verbose, env),
        SandboxCommand::Doctor(args) => doctor::run(args, verbose, env),
        SandboxCommand::Policy(args) => policy::run(args, env),
    }
}

/// Prints a result. One that cannot be printed is a failure, unless the reader has seen enough of it.
pub fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write as _};
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::internal(format!("failed to print the result: {error}")))
        }
        _ => Ok(()),
    }
}

pub fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&format!("{value:#}\n"))
}
