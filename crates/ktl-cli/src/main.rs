//! ktl: builds container images by driving buildkitd from inside a jail.
//!
//! One binary, two lives. On the host side it plans, dials and launches; the staged copy of it then runs as the guest, where
//! [`guest::main`] proves the jail before it acts. See ARCHITECTURE.md.

mod attested;
mod audit;
mod broker;
mod builder;
mod caches;
mod cancel;
mod carry;
mod ci;
mod claims;
mod cli;
mod commands;
mod compare;
mod depot;
mod dial;
mod display;
mod egress;
mod env;
mod exec;
mod exit;
mod failure;
#[cfg(test)]
mod fuzz_tests;
mod gate;
mod guest;
mod hermetic;
mod inside;
mod launch;
mod log;
mod login;
mod look;
mod outputs;
mod piped;
mod plan;
mod private;
mod pull;
mod remote;
mod report;
mod repository;
mod runtime;
mod settings;
mod stage;
mod stream;
mod tidy;
mod tls;
mod ui;
mod watched;
mod web;

use std::ffi::OsStr;
use std::io::Write;
use std::process::ExitCode;

use settings::Unread;

fn main() -> ExitCode {
    sandbox_linux::close_name_service_trap();
    let env = env::Env::current();
    if env.get(env::KTL_SANDBOX_ACTIVE).is_some() {
        return guest::main(&env);
    }
    // Nothing that a person types, so no part of the command line that is explained and completed.
    match std::env::args_os().nth(1).as_deref().and_then(OsStr::to_str) {
        Some(inside::step::COMMAND) => return inside::step::run(&env),
        Some(tidy::COMMAND) => return tidy::run().into(),
        Some(commands::build::verify::COMMAND) => {
            let (result, env) = commands::build::verify::pass(env);
            return ended(result, &env);
        }
        Some(remote::COMMAND) => return ended(remote::serve::run(&env), &env),
        Some(private::supervisor::COMMAND) => return private::supervisor::run(&env).into(),
        _ => {}
    }
    let (mut cli, env) = match settings::read(std::env::args_os().collect(), env) {
        Ok(read) => read,
        Err(Unread::Typed(error)) => {
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(exit::Exit::Usage.code()).into();
        }
        Err(Unread::Set(failure)) => return ended(Err(failure), &env::Env::default()),
    };
    env.settings().tell(&ui::Ui { verbose: cli.verbose > 0, quiet: false });
    cli.take_defaults(&env);
    let result = match &cli.command {
        cli::Command::Build(args) => commands::build::run(args, cli.verbose, &env),
        cli::Command::Stage(args) => commands::stage::run(args, cli.verbose, &env),
        cli::Command::Lock(args) => commands::lock::run(args, cli.verbose, &env),
        cli::Command::Sandbox(args) => commands::sandbox::run(args, cli.verbose, &env),
        cli::Command::Builder(args) => commands::builder::run(args, cli.verbose, &env),
        cli::Command::Login(args) => commands::login::run(args, &env),
        cli::Command::Logout(args) => commands::logout::run(args, &env),
        cli::Command::History(args) => commands::history::run(args, cli.verbose, &env),
        cli::Command::DialStdio(args) => commands::dial_stdio::run(args, cli.verbose, &env),
        cli::Command::Audit(args) => commands::audit::run(args),
        cli::Command::Completion(args) => commands::completion::run(args),
        cli::Command::Man(args) => commands::man::run(args),
    };
    ended(result, &env)
}

fn ended(result: Result<exit::Exit, failure::Failure>, env: &env::Env) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let failure = env.settings().explain(failure);
            let _ = write!(std::io::stderr().lock(), "{failure}");
            failure.exit.into()
        }
    }
}
