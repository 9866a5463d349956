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

/// Files of the user and of a repository, and an environment that has the first.
struct Files(tempfile::TempDir);

impl Files {
    fn new(user: &str, repository: &str) -> Files {
        let files = Files(tempfile::tempdir().unwrap());
        for (dir, text) in [("config/ktl", user), ("ctx", repository)] {
            std::fs::create_dir_all(files.0.path().join(dir)).unwrap();
            if !text.is_empty() {
                std::fs::write(files.0.path().join(dir).join("ktl.toml"), text).unwrap();
            }
        }
        files
    }

    fn context(&self) -> String {
        self.0.path().join("ctx").display().to_string()
    }

    fn build(&self, line: &[&str], variables: &[(&str, &str)]) -> Result<(Box<BuildArgs>, Env), Failure> {
        let config = self.0.path().join("config").display().to_string();
        let variables = [variables, &[("XDG_CONFIG_HOME", &config)]].concat();
        build(&[&[self.context().as_str()], line].concat(), &variables)
    }
}

#[test]
fn the_users_file_sets_what_nothing_else_does() {
    let user = "[build]\ntag = ['a', 'b']\nno-cache = true\nprogress = 'plain'\ntimeout = '1h'\n\
                [sandbox]\nhermetic = 'best-effort'\nworkdir = '/w'\nruntime = 'native'\n\
                [builder]\naddress = 'jail://mine'\nmemory = '4g'\ncpus = 1.5\ntrust = 'fork'\n";
    let files = Files::new(user, "");
    let (args, env) = files.build(&[], &[]).unwrap();
    assert_eq!((args.result.tag.join(","), args.build.no_cache), ("a,b".to_owned(), true));
    assert_eq!(args.build.timeout.map(|time| time.as_secs()), Some(3600));
    assert_eq!(args.sandbox.hermetic, Hermetic::BestEffort);
    let text = |name: &str| env.text(name).unwrap_or_default();
    let read = ["KTL_BUILDER", "KTL_BUILDER_MEMORY", "KTL_BUILDER_CPUS", "KTL_TRUST", "KTL_SANDBOX_RUNTIME"];
    assert_eq!(read.map(text), ["jail://mine", "4g", "1.5", "fork", "native"]);
    assert!(
        args.builder.private.builder_memory.is_none(),
        "a limit that nobody typed asks for no other builder"
    );
    let told = env.settings().told().iter().find(|told| told.flag == "--hermetic").unwrap().from.to_string();
    assert!(told.ends_with("config/ktl/ktl.toml:7"), "{told}");

    let variables = [
        ("KTL_TAG", "v"),
        ("KTL_NO_CACHE", "0"),
        ("BUILDKIT_HOST", "unix:///b"),
        ("KTL_TRUST", "t"),
        ("BUILDKIT_PROGRESS", "tty"),
    ];
    let (args, env) = files.build(&["--timeout", "2h"], &variables).unwrap();
    assert_eq!((args.result.tag.join(","), args.build.no_cache), ("v".to_owned(), false));
    assert_eq!(args.build.timeout.map(|time| time.as_secs()), Some(7200));
    assert!(args.display.progress.is_none() && env.text("KTL_BUILDER").is_none());
    assert_eq!(env.text("KTL_TRUST").as_deref(), Some("t"));

    // Other commands have of it what they share with a build.
    let config = files.0.path().join("config").display().to_string();
    let env = Env::of(&[("XDG_CONFIG_HOME", &config)]);
    let Ok((_, env)) = read_line(&["history", "ls"], env) else { panic!() };
    assert_eq!(env.text("KTL_BUILDER").as_deref(), Some("jail://mine"));
}

fn read_line(line: &[&str], env: Env) -> Result<(Cli, Env), Unread> {
    read(arguments(line), env)
}

#[test]
fn a_file_that_is_not_understood_ends_the_command() {
    for (user, place, part) in [
        ("[build]\ntags = ['a']\n", "ktl.toml:2", "no key `tags` in [build]"),
        ("[build]\n\nhermetic = true\n", "ktl.toml:3", "There is [sandbox] hermetic"),
        ("[egress]\nallow = []\n", "ktl.toml:2", "empty list"),
        ("tag = 'a'\n", "ktl.toml:1", "in no table"),
        ("[build]\nno-cache = 'yes'\n", "ktl.toml:2", "none of true, false"),
        ("[build]\ntimeout = ['1h']\n", "ktl.toml:2", "takes one value"),
        ("[build]\nprogress = 'loud'\n", "ktl.toml:2", "invalid value 'loud'"),
        ("[builder]\nmemory = 'much'\n", "ktl.toml:2", "invalid value"),
        ("[sandbox]\nbind-home = true\n", "ktl.toml:2", "has to be typed"),
        ("[build]\nallow = ['security.insecure']\n", "ktl.toml:2", "has to be typed"),
        ("[build]\ncontext-guard = 'off'\n", "ktl.toml:2", "has to be typed"),
        ("[sandbox]\nsandbox = 'off'\n", "ktl.toml:2", "no key"),
        ("[build]\nno-cache = true\nno-cache-filter = ['a']\n", "ktl.toml:3", "contradict"),
        ("[build\n", "ktl.toml:1", ""),
    ] {
        let failure = Files::new(user, "").build(&[], &[]).unwrap_err();
        let text = failure.to_string();
        assert!(failure.exit == Exit::Usage && text.contains(place) && text.contains(part), "{user}: {text}");
    }
    let policy = Files::new("[build]\nsource-policy-file = 'p'\n", "");
    for variable in ["EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "KTL_SOURCE_POLICY_FILE"] {
        assert!(policy.build(&[], &[(variable, "q")]).unwrap_err().title.contains("both name"));
    }
}

#[test]
fn a_repository_can_make_a_build_stricter_only() {
    let strict = "[sandbox]\nhermetic = true\n[build]\ncontext-guard = 'deny'\nnetwork = 'none'\ntimeout = '1m'\nssh-max-signatures = 1\n";
    let (args, env) = Files::new("", strict).build(&[], &[]).unwrap();
    assert_eq!(args.sandbox.hermetic, Hermetic::Required);
    assert_eq!((args.build.context_guard, args.build.ssh_max_signatures), (Some(ContextGuard::Deny), 1));
    assert_eq!(
        (args.step.network.as_deref(), args.build.timeout.map(|time| time.as_secs())),
        (Some("none"), Some(60))
    );
    assert!(env.settings().told()[0].from.to_string().ends_with("ctx/ktl.toml:2"));

    // What the user asks for stays, unless the repository asks for more; and what is typed counts.
    let loose = "[sandbox]\nhermetic = false\n[build]\ntimeout = '9h'\n";
    let user = "[sandbox]\nhermetic = 'best-effort'\n[build]\ntimeout = '1h'\n";
    let (args, _) =
        Files::new(user, loose).build(&[], &[("KTL_HERMETIC", "off"), ("KTL_TIMEOUT", "2h")]).unwrap();
    assert_eq!(args.sandbox.hermetic, Hermetic::BestEffort);
    assert_eq!(args.build.timeout.map(|time| time.as_secs()), Some(3600));
    let (args, _) = Files::new(user, strict).build(&["--hermetic=off", "--timeout", "3h"], &[]).unwrap();
    assert_eq!(args.sandbox.hermetic, Hermetic::Off);
    assert_eq!(args.build.timeout.map(|time| time.as_secs()), Some(10_800));

    for (repository, exit, part) in [
        ("[build]\ntag = ['a']\n", Exit::Policy, "not for a repository"),
        ("[builder]\ntrust = 'vendor'\n", Exit::Policy, "not for a repository"),
        ("[builder]\naddress = 'tcp://evil:1'\n", Exit::Policy, "not for a repository"),
        ("[sandbox]\nbind-home = true\n", Exit::Usage, "has to be typed"),
        ("[build]\nnetwork = 'host'\n", Exit::Usage, "has to be typed"),
        ("[build]\nssh-max-signatures = 21\n", Exit::Usage, "has to be typed"),
        ("[egress]\nallow = ['@/etc/passwd']\n", Exit::Policy, "names a file"),
        ("[egress]\nallow = ['a.example', '10.0.0.1']\n", Exit::Policy, "10.0.0.1 is private"),
        ("[egress]\nallow = ['http://localhost:80']\n", Exit::Policy, "is loopback"),
        ("[egress]\nallow = ['http://169.254.169.254']\n", Exit::Policy, "is link-local"),
        ("[egress]\nlearn = 'list'\n", Exit::Usage, "has to be typed"),
    ] {
        let failure = Files::new("", repository).build(&[], &[]).unwrap_err();
        assert!(failure.exit == exit && failure.title.contains(part), "{repository}: {failure}");
    }
}

#[test]
fn lists_of_servers_narrow_each_other() {
    let list = |hosts: &[&str]| format!("[egress]\nallow = {hosts:?}\n");
    for (user, repository, variable, want) in [
        (&[][..], &["a.example"][..], "", Ok(&["a.example"][..])),
        (&["a.example", "10.0.0.1"], &[], "", Ok(&["a.example", "10.0.0.1"])),
        (
            &["*.example.org", "10.0.0.1"],
            &["a.example.org/x", "10.0.0.1", "10.0.0.2"],
            "",
            Ok(&["10.0.0.1", "a.example.org/x"]),
        ),
        (&["a.example", "b.example"], &[], "b.example\nc.example", Ok(&["b.example"])),
        (&["a.example"], &["b.example"], "", Err("no server is on all")),
        (&["a.example"], &["a.example"], "b.example", Err("no server is on all")),
    ] {
        let of = |hosts: &[&str]| if hosts.is_empty() { String::new() } else { list(hosts) };
        let files = Files::new(&of(user), &of(repository));
        match (files.build(&[], &[("KTL_EGRESS", variable)]), want) {
            (Ok((args, _)), Ok(want)) => {
                let mut found = args.egress.egress;
                found.sort();
                let mut want: Vec<&str> = want.to_vec();
                want.sort();
                assert_eq!(found, want);
            }
            (Err(failure), Err(part)) => {
                assert!(failure.exit == Exit::Policy && failure.title.contains(part), "{failure}")
            }
            (other, _) => panic!("{user:?} {repository:?} {variable:?}: {other:?}"),
        }
    }
    let files = Files::new(&list(&["a.example"]), &list(&["b.example"]));
    let (args, _) = files.build(&["--egress", "c.example"], &[]).unwrap();
    assert_eq!(args.egress.egress, ["c.example"], "what is typed is what counts");
    assert!(
        files.build(&["--hermetic"], &[]).is_err(),
        "lists that contradict each other are told all the same"
    );
    let (args, _) = Files::new(&list(&["a.example"]), "").build(&["--hermetic"], &[]).unwrap();
    assert!(args.egress.egress.is_empty());
}

#[test]
fn an_odd_file_in_the_context_holds_nothing_up() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x"), "[sandbox]\nhermetic = true\n").unwrap();
    type Make = fn(&std::path::Path, &std::path::Path);
    let odd: [(Make, &str); 5] = [
        (|path, outside| std::os::unix::fs::symlink(outside.join("x"), path).unwrap(), "is a link"),
        (|path, _| std::os::unix::fs::symlink("nowhere", path).unwrap(), "is a link"),
        (|path, _| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(), "no regular file"),
        (|path, _| std::fs::create_dir(path).unwrap(), "no regular file"),
        (|path, _| std::fs::File::create(path).unwrap().set_len(1 << 30).unwrap(), "larger than"),
    ];
    for (make, part) in odd {
        let files = Files::new("", "");
        make(&files.0.path().join("ctx/ktl.toml"), outside.path());
        let failure = files.build(&[], &[]).unwrap_err();
        assert!(failure.exit == Exit::Usage && failure.title.contains(part), "{failure}");
    }
    // A user's own may be a link, as tools that keep settings make them.
    let files = Files::new("", "");
    std::os::unix::fs::symlink(outside.path().join("x"), files.0.path().join("config/ktl/ktl.toml")).unwrap();
    assert_eq!(files.build(&[], &[]).unwrap().0.sandbox.hermetic, Hermetic::Required);
    let files = Files::new("", "");
    std::os::unix::fs::symlink("nowhere", files.0.path().join("config/ktl/ktl.toml")).unwrap();
    assert!(files.build(&[], &[]).is_err(), "a file that leads nowhere is not the same as none");
    for context in ["-", "https://h.example/x.git", "/nowhere"] {
        set(&[context], &[]);
    }
}
