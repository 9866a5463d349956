//! ktl: builds container images by driving buildkitd from inside a jail.
//!
//! One binary, two lives. On the host side it plans, dials and launches; the staged copy of it then runs as the guest, where
//! [`guest::main`] proves the jail before it acts. See ARCHITECTURE.md.

mod broker;
mod builder;
mod caches;
mod cancel;
mod cli;
mod commands;
mod dial;
mod display;
mod env;
mod exit;
mod failure;
mod guest;
mod launch;
mod look;
mod outputs;
mod piped;
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
    let cli = cli::Cli::parse();
    let result = match &cli.command {
        cli::Command::Build(args) => commands::build::run(args, cli.verbose, &env),
        cli::Command::Sandbox(args) => commands::sandbox::run(args, cli.verbose, &env),
        cli::Command::Tidy => Ok(tidy::run()),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = write!(std::io::stderr().lock(), "{failure}");
            failure.exit.into()
        }
    }
}
