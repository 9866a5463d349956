//! What is done about keys and logins in a context.

use buildsvc::context::guard::Watch;

use crate::cli::{BuildArgs, ContextGuard};

/// The flag, else what goes with `--hermetic`.
pub fn watch(args: &BuildArgs) -> Watch {
    match args.build.context_guard {
        Some(ContextGuard::Warn) => Watch::Warn,
        Some(ContextGuard::Deny) => Watch::Deny,
        Some(ContextGuard::Off) => Watch::Off,
        None if args.sandbox.hermetic.is_on() => Watch::Deny,
        None => Watch::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resolved;

    #[test]
    fn a_hermetic_build_is_guarded_unless_a_person_says_otherwise() {
        for (args, want) in [
            (&["ctx"][..], Watch::Warn),
            (&["ctx", "--context-guard", "off"], Watch::Off),
            (&["ctx", "--hermetic"], Watch::Deny),
            (&["ctx", "--hermetic=best-effort"], Watch::Deny),
            (&["ctx", "--hermetic", "--context-guard", "off"], Watch::Off),
        ] {
            assert_eq!(resolved(args, &[]).unwrap().0.context_guard, want, "{args:?}");
        }
    }
}
