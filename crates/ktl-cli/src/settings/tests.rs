//! What is set, what is typed, and what comes of both.

use std::ffi::OsString;

use super::*;
use crate::cli::{BuildArgs, Command as Asked, ContextGuard};
use crate::exit::Exit;
use crate::plan::Hermetic;

fn arguments(line: &[&str]) -> Vec<OsString> {
    ["ktl"].iter().chain(line).map(OsString::from).collect()
}

fn build(line: &[&str], variables: &[(&str, &str)]) -> Result<(Box<BuildArgs>, Env), Failure> {
    let line = [&["build"], line].concat();
    match read(arguments(&line), Env::of(variables)) {
        Ok((Cli { command: Asked::Build(args), .. }, env)) => Ok((args, env)),
        Ok(_) => panic!("another command"),
        Err(Unread::Set(failure)) => Err(failure),
        Err(Unread::Typed(error)) => panic!("{error}"),
    }
}

#[track_caller]
fn set(line: &[&str], variables: &[(&str, &str)]) -> BuildArgs {
    *build(line, variables).unwrap_or_else(|failure| panic!("{failure}")).0
}

#[test]
fn a_variable_is_its_flag_where_that_was_not_typed() {
    let args = set(
        &["."],
        &[
            ("KTL_NO_CACHE", "1"),
            ("KTL_TAG", "a:1\nb:2"),
            ("KTL_PLATFORM", "linux/amd64,linux/arm64"),
            ("KTL_BUILD_ARG", "A=x,y"),
            ("KTL_PULL", "false"),
            ("KTL_PUSH", ""),
            ("KTL_TIMEOUT", "90s"),
            ("KTL_CHECK", "true"),
            ("KTL_SANDBOX", "on"),
            ("KTL_HERMETIC", "true"),
            ("KTL_SSH_MAX_SIGNATURES", "3"),
            ("KTL_PROGRESS", "plain"),
            ("KTL_MEMORY", "1g"),
            ("KTL_TARGET", "-odd=x"),
        ],
    );
    assert!(args.build.no_cache && !args.build.pull && !args.result.push);
    assert_eq!(args.result.tag, ["a:1", "b:2"]);
    assert_eq!(args.build.platform, ["linux/amd64", "linux/arm64"]);
    assert_eq!(args.build.build_arg, ["A=x,y"]);
    assert_eq!(args.build.timeout.map(|time| time.as_secs()), Some(90));
    assert_eq!((args.build.check, args.build.ssh_max_signatures), (Some(true), 3));
    assert_eq!(args.sandbox.hermetic, Hermetic::Required);
    assert_eq!(args.step.resources(), ["memory=1g"]);
    assert_eq!(args.build.target.as_deref(), Some("-odd=x"));

    let typed = ["-t", "c", "--timeout", "1h", "--no-cache-filter", "s", "--hermetic=off", "--sandbox=off"];
    let args = set(
        &[&["."], &typed[..]].concat(),
        &[
            ("KTL_TAG", "a"),
            ("KTL_TIMEOUT", "1s"),
            ("KTL_NO_CACHE", "true"),
            ("KTL_HERMETIC", "1"),
            ("KTL_SANDBOX", "off"),
        ],
    );
    assert_eq!(args.result.tag, ["c"]);
    assert_eq!(args.build.timeout.map(|time| time.as_secs()), Some(3600));
    assert!(!args.build.no_cache, "what was typed excludes it");
    assert_eq!(args.sandbox.hermetic, Hermetic::Off);
}

#[test]
fn nothing_is_set_by_a_word_that_means_nothing() {
    for (variable, value, part) in [
        ("KTL_NO_CACHE", "yes", "\"yes\" is none of true, false, 1 and 0"),
        ("KTL_NO_CACHE", "TRUE", "none of"),
        ("KTL_CHECK", "si", "invalid value 'si' for '--check[=<BOOL>]'"),
        ("KTL_TIMEOUT", "soon", "\"soon\" is no time"),
        ("KTL_TIMEOUT", "0s", "no time"),
        ("KTL_VERBOSE", "very", "is no number"),
        ("KTL_PROGRESS", "loud", "invalid value 'loud' for '--progress <STYLE>'"),
        ("KTL_CONTEXT_GUARD", "maybe", "\"maybe\" is none of warn, deny"),
        ("KTL_HERMETIC", "very", "none of off, best-effort, required"),
        ("KTL_TAG", "\n", "blank lines"),
        ("KTL_IDLE_TIMEOUT", "x", "invalid value"),
    ] {
        let failure = build(&["."], &[(variable, value)]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.title.starts_with(variable) && failure.title.contains(part), "{variable}: {failure}");
    }
    let both = build(&["."], &[("KTL_NO_CACHE", "1"), ("KTL_NO_CACHE_FILTER", "s")]).unwrap_err();
    assert!(both.title.contains("contradict each other"), "{both}");
    let off = set(&["."], &[("KTL_NO_CACHE", "0"), ("KTL_NO_CACHE_FILTER", "s")]);
    assert_eq!(off.build.no_cache_filter, ["s"]);
}

#[test]
fn what_takes_protection_away_has_to_be_typed() {
    for (variable, value) in [
        ("KTL_SANDBOX", "off"),
        ("KTL_SANDBOX", "false"),
        ("KTL_SANDBOX_CONFIG", "/p.cfg"),
        ("KTL_SANDBOX_BIND", "/:/host:rw"),
        ("KTL_SANDBOX_BIND_HOME", "1"),
        ("KTL_ALLOW", "security.insecure"),
        ("KTL_ALLOW_FRONTEND", "x"),
        ("KTL_ALLOW_REGISTRY", "r.example"),
        ("KTL_NETWORK", "host"),
        ("KTL_CONTEXT_GUARD", "off"),
        ("KTL_SSH_MAX_SIGNATURES", "21"),
        ("KTL_EGRESS_LEARN", "list"),
        ("KTL_OUTPUT_FORCE", "true"),
        ("KTL_OUTPUT_PRIVILEGED", "true"),
        ("KTL_SECRET", "id=x,src=/etc/shadow"),
        ("KTL_SSH", "default"),
    ] {
        let failure = build(&["."], &[(variable, value)]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage, "{variable}");
        assert!(failure.title.contains("has to be typed"), "{variable}: {failure}");
    }
    // What says that nothing is taken away is no reason to stop.
    set(&["."], &[("KTL_OUTPUT_FORCE", "false"), ("KTL_SANDBOX_BIND_HOME", "0"), ("KTL_SANDBOX_BIND", "")]);
    let args = set(&[".", "--output-force"], &[("KTL_OUTPUT_FORCE", "1")]);
    assert!(args.result.output_force);
}

#[test]
fn a_variable_does_not_weaken_a_hermetic_build() {
    for (typed, variables, want) in [
        (&["."][..], &[][..], None),
        (&["."], &[("KTL_CONTEXT_GUARD", "warn")], Some(ContextGuard::Warn)),
        (&["."], &[("KTL_CONTEXT_GUARD", "deny")], Some(ContextGuard::Deny)),
        (&[".", "--context-guard", "warn"], &[("KTL_CONTEXT_GUARD", "deny")], Some(ContextGuard::Warn)),
        (&[".", "--hermetic"], &[("KTL_CONTEXT_GUARD", "warn")], None),
        (&["."], &[("KTL_CONTEXT_GUARD", "warn"), ("KTL_HERMETIC", "best-effort")], None),
        (&[".", "--hermetic"], &[("KTL_HERMETIC", "best-effort")], None),
    ] {
        let args = set(typed, variables);
        assert_eq!(args.build.context_guard, want, "{typed:?} {variables:?}");
        let hermetic = if typed.contains(&"--hermetic") { Hermetic::Required } else { args.sandbox.hermetic };
        assert_eq!(args.sandbox.hermetic, hermetic);
    }
}

#[test]
fn a_setting_that_is_about_something_else_steps_back() {
    for (typed, variables, unused) in [
        (&["."][..], &[("KTL_LOCK", "l")][..], &["lock"][..]),
        (&[".", "--hermetic"], &[("KTL_LOCK", "l"), ("KTL_EGRESS", "a.example")], &["egress"]),
        (&["."], &[("KTL_EGRESS_RECORD", "r"), ("KTL_JSON", "1")], &["egress-record", "json"]),
        (&["."], &[("KTL_EGRESS_RECORD", "r"), ("KTL_EGRESS", "a.example")], &[]),
        (&["."], &[("KTL_JSON", "1"), ("KTL_SANDBOX_LOGS", "1")], &[]),
        (&[".", "--sandbox=off"], &[("KTL_SANDBOX_LOGS", "1")], &["sandbox-logs"]),
        (&[".", "--tlsdir", "d"], &[("KTL_TLSCACERT", "c")], &["tlscacert"]),
        // What protects does not: the build says that the two do not go together.
        (&[".", "--sandbox=off"], &[("KTL_HERMETIC", "1")], &[]),
        (&[".", "--egress", "a.example"], &[("KTL_HERMETIC", "1")], &[]),
    ] {
        let (_, env) = build(typed, variables).unwrap();
        let found: Vec<&str> =
            env.settings().unused.iter().map(|(setting, _)| setting.flag.long.as_str()).collect();
        assert_eq!(found, unused, "{typed:?} {variables:?}");
    }
}

#[test]
fn other_commands_have_the_flags_of_a_build_and_their_own() {
    let own = |line: &[&str], variables: &[(&str, &str)]| match read(arguments(line), Env::of(variables)) {
        Ok((cli, env)) => {
            Ok((cli, env.settings().told().iter().map(|told| told.flag.clone()).collect::<Vec<_>>()))
        }
        Err(Unread::Set(failure)) => Err(failure),
        Err(Unread::Typed(error)) => panic!("{error}"),
    };
    for (line, variables, flags) in [
        (
            &["history", "ls"][..],
            &[("KTL_HISTORY_LS_FORMAT", "json"), ("KTL_FORMAT", "x")][..],
            &["--format"][..],
        ),
        (&["history", "ls"], &[("KTL_TLSDIR", "d"), ("KTL_JSON", "1"), ("KTL_PROGRESS", "x")], &["--tlsdir"]),
        (&["stage"], &[("KTL_PLATFORM", "linux/arm64"), ("KTL_FILE", "F")], &["--file", "--platform"]),
        (&["builder", "prune"], &[("KTL_BUILDER_PRUNE_FILTER", "shared"), ("KTL_ALL", "1")], &["--filter"]),
        (&["sandbox", "probe", "/x"], &[("KTL_HERMETIC", "1"), ("KTL_SANDBOX_PROBE_JSON", "1")], &["--json"]),
        (&["-v", "man", "d"], &[("KTL_VERBOSE", "2")], &[]),
        (&["man", "d"], &[("KTL_VERBOSE", "2")], &["--verbose"]),
    ] {
        let (_, mut found) = own(line, variables).unwrap();
        found.sort();
        assert_eq!(found, flags, "{line:?}");
    }
    let verbosity = |line: &[&str]| own(line, &[("KTL_VERBOSE", "2")]).unwrap().0.verbose;
    assert_eq!((verbosity(&["man", "d"]), verbosity(&["man", "-v", "d"])), (2, 1));
    for (line, variable, value) in [
        (&["builder", "prune"][..], "KTL_BUILDER_PRUNE_FORCE", "1"),
        (&["history", "rm", "x"], "KTL_HISTORY_RM_ALL", "true"),
        (&["login"], "KTL_LOGIN_PASSWORD", "p"),
        (&["sandbox", "exec"], "KTL_SANDBOX_EXEC_CONTAINERD_SOCKET", "/s"),
        (&["sandbox", "exec"], "KTL_SANDBOX_BIND", "/:/x"),
        (&["sandbox", "policy", "show"], "KTL_SANDBOX_POLICY_SHOW_SANDBOX_CONFIG", "/x"),
    ] {
        assert!(own(line, &[(variable, value)]).unwrap_err().title.contains("has to be typed"), "{variable}");
    }
}

#[test]
fn a_failure_tells_what_nobody_typed() {
    let (_, env) = build(&["."], &[("KTL_HERMETIC", "1"), ("KTL_BUILD_ARG", "TOKEN=hidden")]).unwrap();
    let told = env.settings().explain(Failure::usage("x")).to_string();
    assert!(
        told.contains("--hermetic required (KTL_HERMETIC)") && told.contains("--build-arg (KTL_BUILD_ARG)"),
        "{told}"
    );
    assert!(!told.contains("hidden"));
    assert!(env.settings().explain(Failure::sandbox("x")).hints.is_empty());
}
