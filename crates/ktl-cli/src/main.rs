//! ktl: builds container images by driving buildkitd from inside a jail.
//!
//! One binary, two lives. On the host side it plans, dials and launches; the staged copy of it then runs as the guest, where
//! [`guest::main`] proves the jail before it acts. See ARCHITECTURE.md.

mod broker;
mod builder;
mod cancel;
mod cli;
mod commands;
mod dial;
mod display;
mod env;
mod exec;
mod exit;
mod failure;
mod gate;
mod guest;
mod launch;
mod look;
mod outputs;
mod plan;
mod report;
mod runtime;
mod stage;
mod stream;
mod tidy;
mod tls;
mod ui;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    sandbox_linux::close_name_service_trap();
    let env = env::Env::current();
    if env.get(env::KTL_SANDBOX_ACTIVE).is_some() {
        return guest::main(&env);
    }
    // Nothing that a person types, so no part of the command line that is explained and completed.
    if std::env::args_os().nth(1).is_some_and(|word| word == tidy::COMMAND) {
        return tidy::run().into();
    }
    let cli = cli::Cli::parse();
    let result = match &cli.command {
        cli::Command::Build(args) => commands::build::run(args, cli.verbose, &env),
        cli::Command::Sandbox(args) => commands::sandbox::run(args, cli.verbose, &env),
        cli::Command::DialStdio(args) => commands::dial_stdio::run(args, cli.verbose, &env),
        cli::Command::Completion(args) => commands::completion::run(args),
        cli::Command::Man(args) => commands::man::run(args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = write!(std::io::stderr().lock(), "{failure}");
            failure.exit.into()
        }
    }
}
