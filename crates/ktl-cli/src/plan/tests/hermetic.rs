//! What a hermetic build may be asked for, and what is made of it.

use super::*;

const BY_DIGEST: &str = "r.example/f@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const TAGGED: &str = "r.example/f:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn what_the_flags_show_is_refused_by_name() {
    let image = format!("a=docker-image://{BY_DIGEST}");
    let cache = format!("type=registry,ref={BY_DIGEST}");
    let generator = format!("generator={BY_DIGEST}");
    for (args, part, best_effort_too) in [
        (&["--pull"][..], "--pull", true),
        (&["--allow", "device=x"], "--allow device", true),
        (&["--build-context", "a=docker-image://b:1"], "--build-context a=docker-image://b:1", true),
        (&["--build-context", "a=https://h/x.git#main"], "--build-context a=https://h/x.git", true),
        (&["--build-context", "a=https://h/x.tgz"], "--build-context", true),
        (&["--cache-from", "b:1"], "--cache-from type=registry,ref=b:1", true),
        (&["--cache-from", "type=s3,region=r,bucket=b"], "--cache-from type=s3", true),
        (&["--sbom", "true"], "--sbom", true),
        (&["--attest", "type=sbom,generator=b:1"], "--sbom", true),
        (&["--build-arg", "BUILDKIT_ATTEST_SBOM="], "--sbom", true),
        (&["-t", "r.example/a:1", "--push"], "--push", false),
        (&["-o", "type=image,name=r.example/a:1,push=true"], "--push", false),
        (&["-o", "type=registry,name=r.example/a:1"], "--push", false),
        (&["--cache-to", "r.example/a:1"], "--cache-to type=registry,ref=r.example/a:1", false),
        (&["--cache-to", "type=s3,region=r,bucket=b"], "--cache-to type=s3", false),
    ] {
        let with = |hermetic| resolved(&[&["ctx", hermetic], args].concat(), &[]);
        let failure = with("--hermetic").unwrap_err();
        assert_eq!(failure.exit, Exit::Policy, "{args:?}: {failure}");
        assert!(failure.title.contains(part) && failure.title.contains("--hermetic"), "{args:?}: {failure}");
        assert!(!failure.hints.is_empty(), "{args:?}");
        assert_eq!(with("--hermetic=best-effort").is_err(), best_effort_too, "{args:?}");
        assert!(with("--hermetic=off").is_ok(), "{args:?}");
    }
    for args in [
        &["--build-context", &image][..],
        &["--build-context", "a=other"],
        &["--build-context", "a=oci-layout://other"],
        &["--cache-from", &cache],
        &["--cache-from", "type=local,src=other"],
        &["--cache-to", "type=inline"],
        &["--sbom", &generator],
        &["--sbom", "false"],
        &["-o", "type=image,name=r.example/a:1,push=false"],
    ] {
        resolved(&[&["ctx", "--hermetic"], args].concat(), &[]).unwrap();
    }
    let mut facts = facts();
    facts.scratch = Some("/s".into());
    let Command::Build(args) = Cli::parse_from(["ktl", "build", "https://h/x.git", "--hermetic"]).command
    else {
        panic!("another command");
    };
    let failure = resolve(&args, 0, &Env::of(&[("HOME", "/home/me")]), &facts).unwrap_err();
    assert!(failure.title.contains("the context https://h/x.git"), "{failure}");
}

#[test]
fn the_rules_go_with_the_request() {
    let args = ["ctx", "--build-context", "x=other", "--source-policy-file", "policy.json"];
    let policy = |extra: &[&str]| {
        let (plan, _) = resolved(&[&args[..], extra].concat(), &[]).unwrap();
        serde_json::to_value(plan.build.source_policy).unwrap()["rules"].as_array().cloned().unwrap()
    };
    let (users, all) = (policy(&[]), policy(&["--hermetic"]));
    assert!(all.starts_with(&users) && all.len() > users.len(), "the user's come first, and stay");
    assert!(all[users.len()..].iter().all(|rule| rule["action"] == 1), "ktl's only deny: {all:?}");
    let (plan, _) = resolved(&["ctx", "--hermetic"], &[]).unwrap();
    assert!(plan.build.source_policy.is_some() && plan.build.entitlements.is_empty());
}

#[test]
fn who_reads_the_dockerfile() {
    let other = ["ctx", "-f", "other/Dockerfile"];
    let (tagged, by_digest) = (["--allow-frontend", TAGGED], ["--allow-frontend", BY_DIGEST]);
    let argument = ["ctx", "--build-arg", "BUILDKIT_SYNTAX=docker/dockerfile:1-labs"];
    let unknown = [
        "--allow-frontend",
        "r.example/g:1@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];
    for (args, expected) in [
        (vec!["ctx"], Ok(("dockerfile.v0", None, ""))),
        (
            vec!["ctx", "-f", "ctx/sub/D"],
            Ok(("dockerfile.v0", None, "/w/ctx/sub/D:1: docker/dockerfile:1 is not fetched")),
        ),
        (other.to_vec(), Err("/w/other/Dockerfile:2: the frontend r.example/f:1")),
        ([&other[..], &unknown].concat(), Err("the frontend r.example/f:1")),
        ([&other[..], &tagged].concat(), Ok(("gateway.v0", Some(TAGGED), "--allow-frontend"))),
        ([&other[..], &by_digest].concat(), Ok(("gateway.v0", Some(BY_DIGEST), "--allow-frontend"))),
        (argument.to_vec(), Err("--build-arg BUILDKIT_SYNTAX: the frontend docker/dockerfile:1-labs")),
        (vec!["ctx", "--allow-frontend", "r.example/f:1"], Err("names no digest")),
    ] {
        match (resolved(&[&args[..], &["--hermetic"]].concat(), &[]), expected) {
            (Ok((plan, host)), Ok((frontend, source, note))) => {
                let attrs = &plan.build.frontend_attrs;
                assert_eq!(
                    (plan.build.frontend.as_str(), attrs.get("source").map(String::as_str)),
                    (frontend, source)
                );
                assert!(attrs.contains_key("cmdline"), "{args:?}");
                assert!(host.notes.concat().contains(note), "{args:?}: {:?}", host.notes);
            }
            (Err(failure), Err(part)) => assert!(failure.title.contains(part), "{args:?}: {failure}"),
            (found, _) => panic!("{args:?}: {:?}", found.map(|(plan, _)| plan.build)),
        }
    }
    assert_eq!(resolved(&["ctx", tagged[0], tagged[1]], &[]).unwrap_err().exit, Exit::Usage);
}

#[test]
fn only_releases_of_the_builtin_are_left_out() {
    let digest = "a".repeat(64);
    for (image, taken) in [
        ("docker/dockerfile", true),
        ("docker/dockerfile:1", true),
        ("docker.io/docker/dockerfile:1.7", true),
        ("docker/dockerfile:1.20.3", true),
        ("docker/dockerfile:1-labs", false),
        ("docker/dockerfile:1.7-labs", false),
        ("docker/dockerfile:master", false),
        ("docker/dockerfile:2", false),
        ("docker/dockerfile:1.", false),
        ("docker/dockerfile-upstream:1", false),
        ("r.example/docker/dockerfile:1", false),
        (&format!("docker/dockerfile:1@sha256:{digest}"), false),
    ] {
        let argument = format!("BUILDKIT_SYNTAX={image}");
        let plan = resolved(&["ctx", "--hermetic", "--build-arg", &argument], &[]);
        assert_eq!(plan.is_ok(), taken, "{image}");
    }
}
