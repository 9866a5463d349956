//! Reports of real failures: the messages and sources are those of BuildKit 0.32.2 for small Dockerfiles.

use buildsvc::error::{BuildError, SolveFailure};
use buildsvc::event::{Position, SourceInfo, SourceRange, VertexWarning};

use super::*;
use crate::display::FailedStep;

fn source(text: &str, lines: (i32, i32)) -> (SourceInfo, Vec<SourceRange>) {
    let info = SourceInfo {
        filename: "Dockerfile".into(),
        data: text.as_bytes().to_vec(),
        language: "Dockerfile".into(),
    };
    let line = |line| Position { line, character: 0 };
    (info, vec![SourceRange { start: line(lines.0), end: line(lines.1) }])
}

fn solve(message: &str) -> SolveFailure {
    SolveFailure { message: message.to_owned(), code: 2, ..SolveFailure::default() }
}

fn report(failure: SolveFailure, summary: &Summary) -> String {
    render(&BuildError::Solve(Box::new(failure)), summary, None, false)
}

/// The hints that a message alone leads to.
fn hints(message: &str) -> Vec<String> {
    hint::of(&BuildError::Solve(Box::new(solve(message))), &Summary::default())
}

fn failed(name: &str, log: &[&str], logs_shown: bool) -> Summary {
    let step = FailedStep {
        name: name.to_owned(),
        log: log.iter().map(|l| (*l).to_owned()).collect(),
        ..FailedStep::default()
    };
    Summary { failed: vec![step], logs_shown, ..Summary::default() }
}

#[test]
fn a_failed_run() {
    let text = "FROM scratch\nCOPY busybox /bin/sh\nRUN echo hi\nRUN echo why; exit 3\nCMD [\"/bin/sh\"]\n";
    let failure = SolveFailure {
        exit_code: Some(3),
        sources: vec![source(text, (4, 4))],
        ..solve("process \"/bin/sh -c echo why; exit 3\" did not complete successfully: exit code: 3")
    };
    insta::assert_snapshot!(report(failure.clone(), &failed("[3/3] RUN echo why; exit 3", &["0.050 why"], false)), @r#"
    ERROR: failed to build: process "/bin/sh -c echo why; exit 3" did not complete successfully: exit code: 3
    ------
     > [3/3] RUN echo why; exit 3:
    0.050 why
    ------
    Dockerfile:4
    --------------------
       2 |     COPY busybox /bin/sh
       3 |     RUN echo hi
       4 | >>> RUN echo why; exit 3
       5 |     CMD ["/bin/sh"]
    --------------------
    "#);
    let shown = report(failure, &failed("[3/3] RUN echo why; exit 3", &["0.050 why"], true));
    assert!(!shown.contains("0.050 why"), "the output is not repeated: {shown}");
}

#[test]
fn of_several_failed_steps_the_named_one_is_quoted() {
    let step = |digest: &str, log: &[&str]| FailedStep {
        digest: digest.to_owned(),
        name: format!("step {digest}"),
        log: log.iter().map(|l| (*l).to_owned()).collect(),
    };
    let failed = vec![step("a", &["0.1 from a"]), step("b", &["0.1 from b"]), step("c", &[])];
    let summary = Summary { failed, ..Summary::default() };
    for (vertex, want) in [(None, "ab"), (Some("b"), "b"), (Some("c"), "ab"), (Some("?"), "ab")] {
        let text = report(SolveFailure { vertex: vertex.map(str::to_owned), ..solve("no") }, &summary);
        let quoted: String = text.lines().filter_map(|l| l.strip_prefix("0.1 from ")).collect();
        assert_eq!(quoted, want, "{vertex:?}");
        assert!(!text.contains("step c"), "{text}");
    }
}

#[test]
fn a_missing_file() {
    let failure = SolveFailure {
        sources: vec![source("FROM scratch\nCOPY missing.txt /x\n", (2, 2))],
        ..solve(
            "failed to compute cache key: failed to calculate checksum of ref uw21ab1r5ejwxx5lf879gw4pn::pkahhxghdxqbxc1mdhk4djgny: \"/missing.txt\": not found",
        )
    };
    insta::assert_snapshot!(report(failure, &Summary::default()), @r#"
    ERROR: failed to build: failed to compute cache key: failed to calculate checksum of ref uw21ab1r5ejwxx5lf879gw4pn::pkahhxghdxqbxc1mdhk4djgny: "/missing.txt": not found
    Dockerfile:2
    --------------------
       1 |     FROM scratch
       2 | >>> COPY missing.txt /x
    --------------------
    hint: /missing.txt is not in what is copied from: paths are relative to the root of the build context (or of the stage named by --from), and a file that .dockerignore excludes is not there either
    "#);
}

#[test]
fn a_syntax_error() {
    let failure = SolveFailure {
        sources: vec![source("FROM scratch\nFOO bar\n", (2, 2))],
        ..solve("dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)")
    };
    insta::assert_snapshot!(report(failure, &Summary::default()), @r#"
    ERROR: failed to build: dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)
    Dockerfile:2
    --------------------
       1 |     FROM scratch
       2 | >>> FOO bar
    --------------------
    "#);
}

#[test]
fn an_unknown_stage() {
    let message = "target stage \"nope\" could not be found";
    insta::assert_snapshot!(report(solve(message), &Summary::default()), @r#"
    ERROR: failed to build: target stage "nope" could not be found
    hint: no `FROM … AS nope` in the Dockerfile; `--target` takes the name or the number of a stage
    "#);
    let text = "FROM scratch AS one\nfrom --platform=linux/amd64 one as two\nFROM two\n";
    let failure = SolveFailure { sources: vec![source(text, (0, 0))], ..solve(message) };
    insta::assert_snapshot!(report(failure, &Summary::default()), @r#"
    ERROR: failed to build: target stage "nope" could not be found
    hint: the Dockerfile has the stages one, two
    "#);
}

#[test]
fn excerpts() {
    let text = "FROM a\nRUN \\\n  one \\\n  two\nRUN three\n\nRUN four\nRUN five\r\n";
    let quote = |lines| {
        let (info, ranges) = source(text, lines);
        excerpt::render(&info, &ranges, false)
    };
    insta::assert_snapshot!(quote((2, 4)), @r#"
    Dockerfile:2
    --------------------
       1 |     FROM a
       2 | >>> RUN \
       3 | >>>   one \
       4 | >>>   two
       5 |     RUN three
    --------------------
    "#);
    insta::assert_snapshot!(quote((1, 1)), @r#"
    Dockerfile:1
    --------------------
       1 | >>> FROM a
       2 |     RUN \
       3 |       one \
    --------------------
    "#);
    insta::assert_snapshot!(quote((8, 99)), @r#"
    Dockerfile:8
    --------------------
       6 |
       7 |     RUN four
       8 | >>> RUN five
    --------------------
    "#);
    for nowhere in [(0, 0), (9, 9), (-1, 3), (i32::MAX, i32::MAX)] {
        assert_eq!(quote(nowhere), "", "{nowhere:?}");
    }
    let (info, ranges) = source(&"RUN x\n".repeat(1000), (1, 1000));
    assert!(
        excerpt::render(&info, &ranges, false).ends_with("     | … 960 more lines\n--------------------\n")
    );
    let (mut info, ranges) = source("::error::x\n##[group]\x1b[2J", (1, 2));
    info.filename = "::add-mask::\x1b]0;x\x07".into();
    let quoted = excerpt::render(&info, &ranges, false);
    assert!(quoted.starts_with("| ::add-mask::␛]0;x␇:1\n"), "{quoted}");
    assert!(quoted.contains("   2 | >>> # #[group]␛[2J\n"), "{quoted}");
}

#[test]
fn hints_for_known_messages() {
    let resolve = "x: failed to resolve source metadata for docker.io/library/x:latest: ";
    for (message, want) in [
        ("failed to read dockerfile: open Nope: no such file or directory".to_owned(), "--file"),
        ("failed to load LLB: security.insecure is not allowed".to_owned(), "entitlement security.insecure"),
        ("failed to load LLB: network.host is not allowed".to_owned(), "entitlement network.host"),
        (
            "granting entitlement network.host is not allowed by build daemon configuration".to_owned(),
            "--allow-insecure-entitlement network.host",
        ),
        ("secret tok: not found".to_owned(), "--secret id=tok,src"),
        ("no SSH key \"\" forwarded from the client".to_owned(), "--ssh default"),
        (
            format!("{resolve}unexpected status from HEAD request to http://127.0.0.1:5999/v2/basic/x/manifests/latest: 401 Unauthorized"),
            "docker login",
        ),
        (
            format!("{resolve}unexpected status from HEAD request to http://127.0.0.1:5999/v2/forbid/x/manifests/latest: 403 Forbidden\ndenied"),
            "config.json",
        ),
        (
            format!("{resolve}pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"),
            "docker login",
        ),
        (format!("{resolve}127.0.0.1:5999/nothere/x:latest: not found"), "no such image"),
        (
            format!("{resolve}failed to do request: Head \"http://127.0.0.1:5998/v2/x/manifests/latest\": dial tcp 127.0.0.1:5998: connect: connection refused"),
            "cannot reach 127.0.0.1:5998",
        ),
        (
            format!("{resolve}failed to do request: Head \"https://registry-1.docker.io/v2/library/x/manifests/latest\": dial tcp: lookup registry-1.docker.io on 10.0.0.1:53: no such host (did you mean a?)"),
            "cannot reach registry-1.docker.io",
        ),
        (
            "failed to push 10.0.0.2:5000/b: failed to do request: Head \"https://10.0.0.2:5000/v2/b/blobs/sha256:e7\": http: server gave HTTP response to HTTPS client".to_owned(),
            "registry.insecure=true",
        ),
        (
            "failed to push r.example/b: failed to do request: Head \"https://r.example/v2/b/blobs/sha256:e7\": tls: failed to verify certificate: x509: certificate signed by unknown authority".to_owned(),
            "ca = [",
        ),
        (
            format!("{resolve}failed to do request: Head \"https://127.0.0.1:5999/v2/x/manifests/latest\": tls: first record does not look like a TLS handshake"),
            "http = true",
        ),
        (
            format!("{resolve}could not resolve image due to policy: source \"docker-image://docker.io/library/x:latest\" denied by policy: source denied by policy"),
            "source policy",
        ),
        (
            "failed to load LLB: requested feature exec.mount.ssh (SSH) is not supported by build server, please update buildkit".to_owned(),
            "upgrade the builder",
        ),
        ("error from receiver: write out/bin/sh: no space left on device".to_owned(), "disk is full"),
        (
            "ResourceExhausted: failed to copy to tar: rpc error: code = ResourceExhausted desc = write out/x.tar: no space left on device".to_owned(),
            "prune",
        ),
        ("exporter \"nope\" could not be found".to_owned(), "output type"),
        ("failed to copy: write /var/lib/buildkit/x: no space left on device".to_owned(), "prune"),
        ("process \"/bin/sh -c x\" did not complete successfully: exit code: 137".to_owned(), "memory"),
    ] {
        let hints = hints(&message);
        assert!(hints.len() == 1 && hints[0].contains(want), "{message}: {hints:?}");
    }
    for message in [
        "process \"/bin/sh -c echo 401\" did not complete successfully: exit code: 1",
        "dockerfile parse error on line 2: unknown instruction: FOO (did you mean FROM?)",
        "unknown cache exporter: \"nope\"",
        "",
    ] {
        assert_eq!(hints(message), Vec::<String>::new(), "{message}");
    }
}

#[test]
fn hints_from_what_a_step_said() {
    for (line, want) in [
        (
            "0.077 runc run failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory",
            "exec form",
        ),
        ("0.046 dd: error writing '/t/x': No space left on device", "disk is full"),
        ("0.052 exec /bin/sh: exec format error", "binfmt_misc"),
    ] {
        let failure = solve("process \"/bin/sh -c x\" did not complete successfully: exit code: 1");
        let hints = hint::of(&BuildError::Solve(Box::new(failure)), &failed("[2/2] RUN x", &[line], true));
        assert!(hints.len() == 1 && hints[0].contains(want), "{line}: {hints:?}");
    }
}

#[test]
fn other_failures_and_their_codes() {
    let lost = BuildError::Lost { during: "the build", detail: "connection reset".into() };
    let old = BuildError::Unsupported { version: "v0.9".into(), what: "export OCI layouts".into() };
    let output = BuildError::Output {
        operation: "write",
        path: "out.tar".into(),
        source: std::io::Error::from(std::io::ErrorKind::StorageFull),
    };
    let late = BuildError::TimedOut(std::time::Duration::from_secs(90));
    let mut all = String::new();
    for (failure, code) in [(&lost, 3), (&old, 1), (&output, 1), (&BuildError::Cancelled, 130), (&late, 3)] {
        assert_eq!(exit_code(failure), code, "{failure}");
        all.push_str(&render(failure, &Summary::default(), None, false));
    }
    assert_eq!(exit_code(&BuildError::Solve(Box::default())), 1);
    insta::assert_snapshot!(all, @r#"
    ERROR: failed to build: lost the connection to the builder during the build: connection reset
    hint: the builder may have been stopped or have run out of memory; see its own log (`docker logs` of the buildkitd container, or `journalctl -u buildkit`)
    ERROR: failed to build: the builder (BuildKit v0.9) cannot export OCI layouts
    hint: upgrade the builder, or choose another one with `--builder`
    ERROR: failed to build: failed to write out.tar: no storage space
    hint: the disk of the output is full
    ERROR: the build was cancelled
    ERROR: the build was given up after 90 s: its time is over
    hint: give it more with `--timeout`
    "#);
}

#[test]
fn untrusted_texts_are_inert() {
    let failure = SolveFailure {
        sources: vec![source("FROM a\n::set-output name=x::y\x1b[2J\n", (2, 2))],
        ..solve("first\n::error::second\x1b]0;title\x07\n##vso[task]third")
    };
    insta::assert_snapshot!(render(&BuildError::Solve(Box::new(failure)), &Summary::default(), None, true), @r#"
    [1;31mERROR:[0m failed to build: first
    | ::error::second␛]0;title␇
    # #vso[task]third
    Dockerfile:2
    --------------------
       1 |     FROM a
    [31m   2 | >>> ::set-output name=x::y␛[2J[0m
    --------------------
    "#);
    let long = report(solve(&"x".repeat(1 << 20)), &Summary::default());
    assert!(long.len() < 20_000);
}

#[test]
fn warnings_are_listed() {
    let warning = |short: &str| VertexWarning { short: short.into(), ..VertexWarning::default() };
    assert_eq!(warnings(&Summary::default()), "");
    let one = Summary {
        warnings: vec![warning("FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)")],
        ..Summary::default()
    };
    assert_eq!(
        warnings(&one),
        "1 warning found:\n - FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)\n"
    );
    let many = Summary {
        warnings: vec![warning("a"), warning("b\x1b[2J")],
        warnings_dropped: 3,
        ..Summary::default()
    };
    assert_eq!(warnings(&many), "5 warnings found:\n - a\n - b␛[2J\n - … and 3 more\n");
}

#[test]
fn rules_of_hermetic_builds() {
    use crate::plan::Hermetic;
    let digest = "a".repeat(64);
    let dockerfile = format!(
        "FROM a@sha256:{digest}\n# https://h/x docker.io/library/b:1\nADD https://h/x /x\nADD --chown=1 git@h:r/x.git#main /y\n\
         ADD https://h/r.git /z\nCOPY --from=b:1 / /\nRUN --mount=type=bind,from=\"b:1\",target=/b \\\n  --network=host true\n\
         RUN --security=insecure --device=d/d=x true\n"
    );
    let denied = |source: &str| {
        format!(
            "failed to load LLB: error evaluating the source policy: source \"{source}\" denied by policy: source denied by policy"
        )
    };
    for (message, rule, lines) in [
        (denied("https://h/x"), "nothing is fetched from the web", &[3][..]),
        (denied("git://h/r.git#main"), "no repository is fetched", &[5]),
        (denied("docker-image://docker.io/library/b:1"), "--build-context b:1=oci-layout://DIR", &[6, 7]),
        (denied("local://other"), "no directory of this build", &[]),
        (denied("docker-image+blob://x"), "is neither", &[]),
        ("failed to load LLB: network.host is not allowed".to_owned(), "`RUN --network=host`", &[8]),
        (
            "failed to load LLB: security.insecure is not allowed".to_owned(),
            "`RUN --security=insecure`",
            &[9],
        ),
        ("device d/d=x is requested by the build but not allowed".to_owned(), "`RUN --device`", &[9]),
    ] {
        let mut failure = BuildError::Solve(Box::new(solve(&message)));
        let found = rule::broken(&failure, Hermetic::BestEffort);
        assert!(found.as_ref().is_some_and(|found| found.contains(rule)), "{message}: {found:?}");
        rule::place(&mut failure, Hermetic::BestEffort, "D", dockerfile.as_bytes());
        let BuildError::Solve(solve) = &failure else { panic!() };
        let found = solve.sources.iter().flat_map(|(_, ranges)| ranges).map(|range| range.start.line);
        assert_eq!(found.collect::<Vec<_>>(), lines, "{message}");
        let shown = render(&failure, &Summary::default(), Some("the rule"), false);
        assert!(shown.ends_with("rule: the rule\n") && !shown.contains("hint:"), "{shown}");
    }
    // By a variable, where only one can be meant.
    let mut failure = BuildError::Solve(Box::new(solve(&denied("https://h/v1"))));
    rule::place(&mut failure, Hermetic::Required, "D", b"ARG V\nADD https://h/v$V /\n");
    assert!(matches!(&failure, BuildError::Solve(solve) if solve.sources.len() == 1));
    // What another policy denies, and what has another cause.
    let offline = "failed to do request: Head \"http://r/v2/\": dial tcp: connect: network is unreachable";
    for (message, required, any) in [
        (denied(&format!("docker-image://a@sha256:{digest}")), false, false),
        (offline.to_owned(), true, false),
        ("process \"x\" did not complete successfully: exit code: 1".to_owned(), false, false),
    ] {
        let failure = BuildError::Solve(Box::new(solve(&message)));
        assert_eq!(rule::broken(&failure, Hermetic::Required).is_some(), required, "{message}");
        assert_eq!(rule::broken(&failure, Hermetic::BestEffort).is_some(), any, "{message}");
    }
}
