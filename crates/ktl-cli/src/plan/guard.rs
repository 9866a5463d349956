//! What is done about keys and logins in a context.

use buildsvc::context::guard::Watch;
use clap::ValueEnum as _;

use crate::cli::{BuildArgs, ContextGuard};
use crate::env::{self, Env};
use crate::failure::Failure;

/// The flag, else the variable, else what goes with `--hermetic`.
pub fn watch(args: &BuildArgs, env: &Env) -> Result<Watch, Failure> {
    let of_env = |text: String| {
        ContextGuard::from_str(&text, true).map_err(|_| {
            Failure::usage(format!("{}: {text:?} is none of warn, deny and off", env::KTL_CONTEXT_GUARD))
        })
    };
    let chosen = match args.build.context_guard {
        Some(chosen) => Some(chosen),
        None => env.text(env::KTL_CONTEXT_GUARD).map(of_env).transpose()?,
    };
    Ok(match chosen {
        Some(ContextGuard::Warn) => Watch::Warn,
        Some(ContextGuard::Deny) => Watch::Deny,
        Some(ContextGuard::Off) => Watch::Off,
        None if args.sandbox.hermetic.is_on() => Watch::Deny,
        None => Watch::Warn,
    })
}
