//! `ktl completion`: a script that lets a shell complete ktl's commands and flags.

use std::io;

use clap::CommandFactory as _;

use crate::cli::{Cli, CompletionArgs};
use crate::exit::Exit;
use crate::failure::Failure;

pub fn run(args: &CompletionArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ktl", &mut script);
    io::Write::write_all(&mut io::stdout().lock(), &script)
        .map_err(|error| Failure::usage(format!("failed to write to stdout: {error}")))?;
    Ok(Exit::Ok)
}
