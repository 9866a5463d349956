//! The command line is a contract: a change of it shows in review.

use crate::ktl::World;

#[test]
fn help_is_as_reviewed() {
    let world = World::new();
    for (name, args) in [
        ("ktl", &["--help"][..]),
        ("ktl-build", &["build", "--help"]),
        ("ktl-stage", &["stage", "--help"]),
        ("ktl-lock", &["lock", "--help"]),
        ("ktl-builder", &["builder", "--help"]),
        ("ktl-builder-inspect", &["builder", "inspect", "--help"]),
        ("ktl-builder-du", &["builder", "du", "--help"]),
        ("ktl-builder-prune", &["builder", "prune", "--help"]),
        ("ktl-login", &["login", "--help"]),
        ("ktl-logout", &["logout", "--help"]),
        ("ktl-history", &["history", "--help"]),
        ("ktl-history-ls", &["history", "ls", "--help"]),
        ("ktl-history-inspect", &["history", "inspect", "--help"]),
        ("ktl-history-logs", &["history", "logs", "--help"]),
        ("ktl-history-rm", &["history", "rm", "--help"]),
        ("ktl-dial-stdio", &["dial-stdio", "--help"]),
        ("ktl-completion", &["completion", "--help"]),
        ("ktl-man", &["man", "--help"]),
        ("ktl-sandbox", &["sandbox", "--help"]),
        ("ktl-sandbox-exec", &["sandbox", "exec", "--help"]),
        ("ktl-sandbox-probe", &["sandbox", "probe", "--help"]),
        ("ktl-sandbox-doctor", &["sandbox", "doctor", "--help"]),
        ("ktl-sandbox-policy", &["sandbox", "policy", "--help"]),
        ("ktl-sandbox-policy-show", &["sandbox", "policy", "show", "--help"]),
        ("ktl-sandbox-policy-lint", &["sandbox", "policy", "lint", "--help"]),
        ("ktl-sandbox-policy-explain", &["sandbox", "policy", "explain", "--help"]),
        ("ktl-sandbox-policy-diff", &["sandbox", "policy", "diff", "--help"]),
    ] {
        let ran = world.run(world.command().args(args)).ok();
        assert_eq!(ran.stderr, "");
        insta::assert_snapshot!(name, ran.stdout);
    }
    let short = world.run(world.command().args(["build", "-h"])).ok();
    assert!(short.stdout.contains("--sandbox-probe-path"));
    assert!(!short.stdout.contains("__tidy"));
}
