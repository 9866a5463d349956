//! What is asked of the builder beside a Dockerfile and its directory.

use super::*;

#[test]
fn what_a_build_may_do() {
    for (args, entitlements) in [
        (&["ctx"][..], &[][..]),
        (&["ctx", "--network", "host"], &["network.host"]),
        (&["ctx", "--network", "host", "--allow", "network.host"], &["network.host"]),
        (
            &["ctx", "--allow", "security.insecure", "--allow", "device=v/c=0"],
            &["security.insecure", "device=v/c=0"],
        ),
    ] {
        assert_eq!(resolved(args, &[]).unwrap().0.build.entitlements, entitlements, "{args:?}");
    }
    let from_env = &[("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "policy.json")][..];
    for (args, env, given) in [
        (&["ctx"][..], &[][..], false),
        (&["ctx", "--source-policy-file", "policy.json"], &[], true),
        (&["ctx"], from_env, true),
    ] {
        assert_eq!(resolved(args, env).unwrap().0.build.source_policy.is_some(), given, "{args:?}");
    }
    let plan = resolved(&["ctx", "--add-host", "here=host-gateway"], &[]).unwrap().0;
    assert_eq!(plan.build.gateway_hosts, ["here"]);
    let plan =
        resolved(&["ctx", "-t", "a", "-o", "out", "-o", "type=oci,dest=x", "--annotation", "index:a=b"], &[])
            .unwrap()
            .0;
    assert!(plan.build.exports.iter().all(|export| export.attrs["annotation-index.a"] == "b"));

    for (args, exit) in [
        (&["--hermetic", "--network", "host"][..], Exit::Policy),
        (&["--hermetic", "--allow", "network.host"], Exit::Policy),
        (&["--hermetic", "--allow", "security.insecure"], Exit::Policy),
        (&["--network", "bridge"], Exit::Usage),
        (&["--allow", "all"], Exit::Usage),
        (&["--add-host", "x"], Exit::Usage),
        (&["--shm-size", "x"], Exit::Usage),
        (&["--ulimit", "x"], Exit::Usage),
        (&["--resource", "x"], Exit::Usage),
        (&["--annotation", "x"], Exit::Usage),
        (&["--source-policy-file", "absent.json"], Exit::Usage),
        (&["--source-policy-file", "broken.json"], Exit::Usage),
    ] {
        let args: Vec<&str> = ["ctx"].iter().chain(args).copied().collect();
        assert_eq!(resolved(&args, &[]).unwrap_err().exit, exit, "{args:?}");
    }
}

#[test]
fn attestations_and_their_defaults() {
    let none: &[&str] = &[];
    for (args, env, attrs, default) in [
        (none, &[][..] as &[(&str, &str)], &[][..], true),
        (&["--provenance", "false"], &[], &[], false),
        (
            &["--provenance=mode=max", "--sbom=true"],
            &[],
            &[("attest:provenance", "type=provenance,mode=max"), ("attest:sbom", "type=sbom")],
            false,
        ),
        (&["--attest", "type=sbom,generator=g"], &[], &[("attest:sbom", "type=sbom,generator=g")], true),
        (none, &[("BUILDX_NO_DEFAULT_ATTESTATIONS", "1")], &[], false),
        (none, &[("BUILDX_NO_DEFAULT_ATTESTATIONS", "0")], &[], true),
    ] {
        let args: Vec<&str> = ["ctx"].iter().chain(args).copied().collect();
        let build = resolved(&args, env).unwrap().0.build;
        let got: Vec<_> = build
            .frontend_attrs
            .iter()
            .filter(|(key, _)| key.starts_with("attest:"))
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!((got.as_slice(), build.default_provenance), (attrs, default), "{args:?} {env:?}");
    }
    assert!(resolved(&["ctx", "--load", "-t", "a", "--sbom=true"], &[]).is_err());
    assert!(resolved(&["ctx"], &[("BUILDX_NO_DEFAULT_ATTESTATIONS", "maybe")]).is_err());
    use buildsvc::provenance::Detail;
    for (value, provenance) in [
        ("", Some(Detail::Min)),
        ("max", Some(Detail::Max)),
        ("disabled", None),
        ("false", None),
        ("x", Some(Detail::Min)),
    ] {
        let metadata = resolved(&["ctx", "--metadata-file", "m"], &[("BUILDX_METADATA_PROVENANCE", value)])
            .unwrap()
            .0
            .metadata;
        assert_eq!(metadata, Some(Metadata { provenance, warnings: false }), "{value}");
    }
    assert_eq!(resolved(&["ctx"], &[]).unwrap().0.metadata, None);
}

#[test]
fn questions_instead_of_builds() {
    for (args, method, json) in [
        (&["--check"][..], Some("lint"), false),
        (&["--check=false"], None, false),
        (&["--call", "build"], None, false),
        (&["--call", "check,format=json"], Some("lint"), true),
        (&["--call=outline"], Some("outline"), false),
        (&["--call", "targets,format=json,ignorestatus=true"], Some("targets"), true),
    ] {
        let args: Vec<&str> =
            ["ctx", "-t", "a", "-o", "out", "--cache-to", "x"].iter().chain(args).copied().collect();
        let (plan, host) = resolved(&args, &[]).unwrap();
        let call = host.call.as_ref();
        assert_eq!(
            (call.map(|call| call.method.as_str()), call.is_some_and(|call| call.json)),
            (method, json),
            "{args:?}"
        );
        assert_eq!(plan.build.question, method.map(|method| format!("frontend.{method}")));
        assert_eq!(plan.build.exports.is_empty() && plan.build.cache_exports.is_empty(), method.is_some());
    }
    for bad in [
        &["--call", "guess"][..],
        &["--call", "outline,targets"],
        &["--call", "check,format=xml"],
        &["--check", "--call", "outline"],
        &["--check", "--push", "-t", "a"],
        &["--check", "--iidfile", "i"],
    ] {
        let args: Vec<&str> = ["ctx"].iter().chain(bad).copied().collect();
        assert_eq!(resolved(&args, &[]).unwrap_err().exit, Exit::Usage, "{args:?}");
    }
}

#[test]
fn contexts_that_are_no_directories() {
    let resolved = |args: &[&str], piped: Option<Piped>| {
        let Command::Build(args) = Cli::parse_from(["ktl", "build"].iter().chain(args)).command else {
            panic!("another command");
        };
        let facts = Facts { scratch: Some("/s".into()), piped, ..facts() };
        resolve(&args, 0, &Env::of(&[("HOME", "/home/me"), ("SSH_AUTH_SOCK", "/w/agent.sock")]), &facts)
    };
    let dockerfile = || Some(Piped::Dockerfile);
    let archive = || Some(Piped::Archive { head: vec![1, 2] });
    let query = ("frontend.caps", "moby.buildkit.frontend.gitquerystring");
    for (args, piped, locals, attrs) in [
        (
            &["git://h/r#x:y"][..],
            None,
            &[][..],
            &[("context", "git://h/r#x:y"), ("filename", "Dockerfile")][..],
        ),
        (&["https://h/r.git?ref=x"], None, &[], &[("context", "https://h/r.git?ref=x"), query]),
        (&["https://h/x.tar", "-f", "sub/D"], None, &[], &[("filename", "sub/D")]),
        (
            &["https://h/x.tar", "-f", "/w/other/Dockerfile"],
            None,
            &[("dockerfile", "/ktl-dockerfile")],
            &[("dockerfilekey", "dockerfile"), ("filename", "Dockerfile")],
        ),
        (
            &["https://h/x.tar", "-f", "-"],
            dockerfile(),
            &[("dockerfile", "/ktl-dockerfile")],
            &[("dockerfilekey", "dockerfile")],
        ),
        (
            &["-"],
            dockerfile(),
            &[("context", "/workspace"), ("dockerfile", "/ktl-dockerfile")],
            &[("dockerfilekey", "dockerfile")],
        ),
        (
            &["ctx", "-f", "-"],
            dockerfile(),
            &[("context", "/workspace"), ("dockerfile", "/ktl-dockerfile")],
            &[("dockerfilekey", "dockerfile")],
        ),
        (&["-"], archive(), &[], &[("context", "http://buildkit-session/ref")]),
        (
            &["-", "-f", "sub/D"],
            archive(),
            &[],
            &[("context", "http://buildkit-session/ref"), ("filename", "sub/D")],
        ),
    ] {
        let (plan, host) = resolved(args, piped.clone()).unwrap();
        let got: Vec<_> = plan.locals.iter().map(|l| (l.name.as_str(), l.path.to_str().unwrap())).collect();
        assert_eq!(got, locals, "{args:?}");
        for (key, value) in attrs {
            assert_eq!(
                plan.build.frontend_attrs.get(*key).map(String::as_str),
                Some(*value),
                "{args:?} {key}"
            );
        }
        assert_eq!(plan.upload.is_some(), matches!(piped, Some(Piped::Archive { .. })));
        assert_eq!(host.context, Path::new(if args[0] == "ctx" { "/w/ctx" } else { "/s/context" }));
    }
    for (context, agents) in [("git@h:r.git", 1), ("ssh://h/r", 1), ("https://h/r.git", 0)] {
        assert_eq!(resolved(&[context], None).unwrap().0.agents.len(), agents, "{context}");
    }
}

#[test]
fn named_contexts_have_their_places() {
    let args = [
        "ctx",
        "--build-context",
        "a=other",
        "--build-context",
        "context=other",
        "--build-context",
        "img=oci-layout://other",
    ];
    let (plan, host) = resolved(&args, &[]).unwrap();
    let paths: Vec<_> =
        plan.locals.iter().map(|local| (local.name.as_str(), local.path.to_str().unwrap())).collect();
    assert_eq!(
        paths,
        [
            ("a", "/ktl-shared/0"),
            ("_context", "/ktl-shared/0"),
            ("context", "/workspace"),
            ("dockerfile", "/workspace")
        ]
    );
    assert_eq!(host.rooms, [("/w/other".into(), "/ktl-shared/0".into())]);
    let attrs = &plan.build.frontend_attrs;
    assert_eq!(
        (attrs["context:a"].as_str(), attrs["context:context"].as_str()),
        ("local:a", "local:_context")
    );
    assert_eq!(attrs["frontend.caps"], "moby.buildkit.frontend.contexts+forward");
    let [store] = plan.stores.as_slice() else { panic!("{:?}", plan.stores) };
    let id = store.id.strip_prefix("oci:").unwrap();
    assert_eq!(attrs["context:img"], format!("oci-layout://{id}:latest@sha256:{}", "a".repeat(64)));
    assert_eq!(host.locals[&store.id], Path::new("/w/other"));
    let plan = resolved(&["ctx", "--sandbox=off", "--build-context", "a=other"], &[]).unwrap().0;
    assert_eq!(plan.locals[0].path, Path::new("/w/other"));
}

#[test]
fn caches_to_read_and_to_write() {
    let kinds = |entries: &[buildsvc::build::CacheEntry]| -> Vec<String> {
        entries.iter().map(|entry| entry.kind.clone()).collect()
    };
    let actions = [
        ("ACTIONS_RUNTIME_TOKEN", "hush"),
        ("ACTIONS_RESULTS_URL", "https://r"),
        ("ACTIONS_CACHE_SERVICE_V2", "true"),
    ];
    for (args, env, imports, exports) in [
        (
            &["--cache-from", "a,b", "--cache-to", "r.io/c"][..],
            &[][..],
            &["registry", "registry"][..],
            &["registry"][..],
        ),
        (&["--cache-to", "type=inline"], &[], &[], &["inline"]),
        (&["--build-arg", "BUILDKIT_INLINE_CACHE=1"], &[], &[], &["inline"]),
        (&["--build-arg", "BUILDKIT_INLINE_CACHE=0"], &[], &[], &[]),
        (&["--cache-from", "type=gha", "--cache-to", "type=gha"], &[], &[], &[]),
        (&["--cache-from", "type=gha"], &actions, &["gha"], &[]),
        (&["--cache-from", "type=local,src=nowhere"], &[], &[], &[]),
    ] {
        let args: Vec<&str> = ["ctx"].iter().chain(args).copied().collect();
        let (plan, host) = resolved(&args, env).unwrap();
        assert_eq!(
            (kinds(&plan.build.cache_imports), kinds(&plan.build.cache_exports)),
            (
                imports.iter().map(|k| k.to_string()).collect(),
                exports.iter().map(|k| k.to_string()).collect()
            ),
            "{args:?}"
        );
        assert_eq!(host.warnings.len(), usize::from(args.contains(&"type=local,src=nowhere")));
        assert!(!serde_json::to_string(&plan).unwrap().contains("hush"), "a token stays outside");
        assert_eq!(plan.secrets, [""; 0], "and no step may ask for it");
    }
    let (plan, host) = resolved(&["ctx", "--cache-from", "type=gha"], &actions).unwrap();
    let entry = &plan.build.cache_imports[0];
    assert_eq!((entry.attrs["url"].as_str(), entry.attrs["url_v2"].as_str()), ("https://r", "https://r"));
    assert_eq!(host.secrets[0].id, entry.secrets["token"]);

    let args = [
        "ctx",
        "--cache-from",
        "type=local,src=other",
        "--cache-to",
        "type=local,dest=new,mode=max,tag=x,reset=true",
    ];
    let (plan, host) = resolved(&args, &[]).unwrap();
    assert_eq!(plan.build.cache_imports[0].attrs["digest"], format!("sha256:{}", "a".repeat(64)));
    let stores: Vec<_> =
        plan.stores.iter().map(|store| (store.id.as_str(), store.arriving.clone())).collect();
    assert_eq!(stores, [("local:other", None), ("local:new", Some("/ktl-out/cache-0".into()))]);
    let [store] = host.cache_stores.as_slice() else { panic!("{:?}", host.cache_stores) };
    assert_eq!((store.dest.to_str(), store.tag.as_str(), store.reset), (Some("/w/new"), "x", true));
    assert_eq!(store.staging, Path::new("/w/new/.ktl-nonce-cache-0"));
    for bad in ["type=local", "type=local,dest=ctx/Dockerfile", "type=local,dest=x,reset=maybe", "mode=max"] {
        assert_eq!(resolved(&["ctx", "--cache-to", bad], &[]).unwrap_err().exit, Exit::Usage, "{bad}");
    }
}

#[test]
fn reproducible_results() {
    let outputs = ["-o", "type=oci,dest=a", "-o", "out", "-t", "x"];
    let args = |more: &[&'static str]| [&["ctx", "--reproducible"][..], &outputs[..], more].concat();
    let time = &[("SOURCE_DATE_EPOCH", "1700000000")][..];
    let (plan, _) = resolved(&args(&[]), time).unwrap();
    let rewrites =
        plan.build.exports.iter().map(|export| export.attrs.get("rewrite-timestamp").map(String::as_str));
    assert_eq!(rewrites.collect::<Vec<_>>(), [Some("true"), None]);
    assert!(plan.build.reproducible && !plan.build.default_provenance);
    assert_eq!(plan.times, Some(1_700_000_000));
    // A copy of the context that the daemon keeps would hide changes, for all files have one time.
    let (usual, _) = resolved(&["ctx"], time).unwrap();
    assert_ne!(plan.shared_key, usual.shared_key);
    assert!(usual.times.is_none() && !usual.build.reproducible);
    let (plan, _) =
        resolved(&args(&["--build-arg", "SOURCE_DATE_EPOCH=7", "--provenance=true"]), time).unwrap();
    assert_eq!(plan.times, Some(7));
    assert!(plan.build.frontend_attrs.contains_key("attest:provenance"));

    let fetched = facts_with_scratch(&["https://h/r.git", "--reproducible"], &[]).unwrap();
    assert_eq!(fetched.build.frontend_attrs["build-arg:SOURCE_DATE_EPOCH"], "context");
    for (args, env, part) in [
        (args(&[]), &[][..], "no git repository"),
        (args(&["--build-arg", "SOURCE_DATE_EPOCH="]), time, "no git repository"),
        (args(&[]), &[("SOURCE_DATE_EPOCH", "yesterday")], "no time"),
        (args(&[]), &[("SOURCE_DATE_EPOCH", "-1")], "no time"),
        (args(&[]), &[("SOURCE_DATE_EPOCH", "context")], "no time"),
        (args(&["-o", "type=image,unpack=true"]), time, "unpack"),
        (args(&["-o", "type=oci,dest=b,rewrite-timestamp=false"]), time, "contradict"),
        (vec!["https://h/context.tar", "--reproducible"], &[], "no git repository"),
    ] {
        let failure = facts_with_scratch(&args, env).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.title.contains(part), "{args:?}: {}", failure.title);
    }
}

fn facts_with_scratch(args: &[&str], env: &[(&str, &str)]) -> Result<BuildPlan, Failure> {
    let Command::Build(args) = Cli::parse_from(["ktl", "build"].iter().chain(args)).command else {
        panic!("another command");
    };
    let env: Vec<_> = env.iter().copied().chain([("HOME", "/home/me")]).collect();
    let facts = Facts { scratch: Some("/s".into()), ..facts() };
    resolve(&args, 0, &Env::of(&env), &facts).map(|(plan, _)| plan)
}
