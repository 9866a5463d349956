//! What is done about keys and logins in a context.

use buildsvc::context::guard::Watch;
use clap::ValueEnum as _;

use crate::cli::{BuildArgs, ContextGuard};
use crate::env::{self, Env};
use crate::failure::Failure;

/// The flag; else what goes with `--hermetic`, which a variable does not weaken; else the variable.
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
    let hermetic = args.sandbox.hermetic.is_on() && args.build.context_guard.is_none();
    Ok(match chosen {
        _ if hermetic => Watch::Deny,
        Some(ContextGuard::Deny) => Watch::Deny,
        Some(ContextGuard::Off) => Watch::Off,
        Some(ContextGuard::Warn) | None => Watch::Warn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resolved;

    #[test]
    fn a_variable_does_not_weaken_a_hermetic_build() {
        let variable = |value| [(env::KTL_CONTEXT_GUARD, value)];
        for (args, variables, want) in [
            (&["ctx"][..], &[][..], Watch::Warn),
            (&["ctx"], &variable("off"), Watch::Off),
            (&["ctx"], &variable("deny"), Watch::Deny),
            (&["ctx", "--context-guard", "warn"], &variable("off"), Watch::Warn),
            (&["ctx", "--hermetic"], &[], Watch::Deny),
            (&["ctx", "--hermetic"], &variable("off"), Watch::Deny),
            (&["ctx", "--hermetic=best-effort"], &variable("warn"), Watch::Deny),
            (&["ctx", "--hermetic", "--context-guard", "off"], &[], Watch::Off),
        ] {
            assert_eq!(resolved(args, variables).unwrap().0.context_guard, want, "{args:?} {variables:?}");
        }
        assert!(
            resolved(&["ctx", "--hermetic"], &variable("of")).is_err(),
            "a word that is none is told all the same"
        );
    }
}
