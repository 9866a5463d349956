//! What the command line comes to, in tables.

use std::ffi::OsStr;

use clap::Parser;

use super::sandbox::{HostBind, parse_bind};
use super::*;
use crate::broker::AgentKind;
use crate::cli::RuntimeChoice;
use crate::cli::{Cli, Command};

/// A world in which `/w/ctx` is a context, `/w/other/Dockerfile` lies beside it, and `/w/agent.sock` is a socket.
fn facts() -> Facts {
    Facts {
        cwd: "/w".into(),
        uid: 1000,
        host_name: "host".into(),
        live_view: false,
        nonce: "nonce".into(),
        reference: "ref".into(),
        scratch: None,
        piped: None,
        kind_of: |path| match path.to_str().unwrap_or_default() {
            "/w/ctx" | "/w/ctx/sub" | "/w/other" => Kind::Directory,
            "/w/other/blobs/sha256/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            | "/w/ctx/Dockerfile"
            | "/w/ctx/sub/D"
            | "/w/other/Dockerfile"
            | "/w/key" => Kind::File,
            "/w/agent.sock" => Kind::Other,
            _ => Kind::Missing,
        },
        real: |_| None,
        read: |path, _| {
            match path.to_str().unwrap_or_default() {
            "/w/other/index.json" => Ok(br#"{"manifests":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "annotations":{"org.opencontainers.image.ref.name":"latest"}}]}"#
                .to_vec()),
            "/w/policy.json" => {
                Ok(br#"{"rules":[{"action":"DENY","selector":{"identifier":"*"}}]}"#.to_vec())
            }
            "/w/broken.json" => Ok(b"{".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
        },
    }
}

fn resolved(args: &[&str], env: &[(&str, &str)]) -> Result<(BuildPlan, HostPlan), Failure> {
    let Command::Build(args) = Cli::parse_from(["ktl", "build"].iter().chain(args)).command else {
        panic!("another command");
    };
    let env: Vec<_> = env.iter().copied().chain([("HOME", "/home/me")]).collect();
    resolve(&args, 0, &Env::of(&env), &facts())
}

fn attrs(args: &[&str], env: &[(&str, &str)]) -> BTreeMap<String, String> {
    resolved(args, env).unwrap().0.build.frontend_attrs
}

#[test]
fn flags_become_attributes_of_the_frontend() {
    for (args, env, expected) in [
        (&["ctx"][..], &[][..], &[("filename", "Dockerfile")][..]),
        (&["ctx", "-f", "ctx/sub/D"], &[], &[("filename", "D")]),
        (&["ctx", "--target", "t"], &[], &[("target", "t")]),
        (&["ctx", "--build-arg", "A=b=c"], &[], &[("build-arg:A", "b=c")]),
        (&["ctx", "--build-arg", "A"], &[("A", "of env")], &[("build-arg:A", "of env")]),
        (&["ctx", "--label", "a=b", "--label", "c"], &[], &[("label:a", "b"), ("label:c", "")]),
        (&["ctx", "--platform", "linux/amd64,linux/arm64"], &[], &[("platform", "linux/amd64,linux/arm64")]),
        (
            &["ctx", "--platform", "aarch64", "--platform", "linux/amd64"],
            &[],
            &[("platform", "linux/arm64,linux/amd64")],
        ),
        (&["ctx", "--no-cache", "--pull"], &[], &[("no-cache", ""), ("image-resolve-mode", "pull")]),
        (&["ctx"], &[("SOURCE_DATE_EPOCH", "7")], &[("build-arg:SOURCE_DATE_EPOCH", "7")]),
        (
            &["ctx", "--build-arg", "SOURCE_DATE_EPOCH=8"],
            &[("SOURCE_DATE_EPOCH", "7")],
            &[("build-arg:SOURCE_DATE_EPOCH", "8")],
        ),
        (&["ctx", "--network", "none"], &[], &[("force-network-mode", "none")]),
        (&["ctx", "--network=host"], &[], &[("force-network-mode", "host")]),
        (
            &["ctx", "--add-host", "a:1.2.3.4", "--add-host", "b=::1"],
            &[],
            &[("add-hosts", "a=1.2.3.4,b=::1")],
        ),
        (&["ctx", "--shm-size", "64m"], &[], &[("shm-size", "67108864")]),
        (&["ctx", "--ulimit", "nofile=5", "--ulimit", "core=0:1"], &[], &[("ulimit", "core=0:1,nofile=5:5")]),
        (
            &["ctx", "--resource", "memory=1g", "--cgroup-parent", "/p"],
            &[],
            &[("memory", "1073741824"), ("cgroup-parent", "/p")],
        ),
        (&["ctx", "--no-cache-filter", "a,b", "--no-cache-filter", "c"], &[], &[("no-cache", "a,b,c")]),
        (&["ctx", "--hermetic"], &[], &[("force-network-mode", "none"), ("cmdline", "")]),
    ] {
        let got = attrs(args, env);
        for (key, value) in expected {
            assert_eq!(got.get(*key).map(String::as_str), Some(*value), "{args:?} {key}");
        }
    }
    assert!(!attrs(&["ctx", "--build-arg", "A"], &[]).contains_key("build-arg:A"), "unset means not given");
}

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
        (&["--hermetic", "--network", "host"][..], crate::exit::Exit::Policy),
        (&["--hermetic", "--allow", "network.host"], crate::exit::Exit::Policy),
        (&["--hermetic", "--allow", "security.insecure"], crate::exit::Exit::Policy),
        (&["--network", "bridge"], crate::exit::Exit::Usage),
        (&["--allow", "all"], crate::exit::Exit::Usage),
        (&["--add-host", "x"], crate::exit::Exit::Usage),
        (&["--shm-size", "x"], crate::exit::Exit::Usage),
        (&["--ulimit", "x"], crate::exit::Exit::Usage),
        (&["--resource", "x"], crate::exit::Exit::Usage),
        (&["--annotation", "x"], crate::exit::Exit::Usage),
        (&["--source-policy-file", "absent.json"], crate::exit::Exit::Usage),
        (&["--source-policy-file", "broken.json"], crate::exit::Exit::Usage),
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
        assert_eq!(resolved(&args, &[]).unwrap_err().exit, crate::exit::Exit::Usage, "{args:?}");
    }
}

#[test]
fn paths_of_the_inputs_have_one_place_in_the_jail() {
    for (args, context, dockerfile) in [
        (&["ctx"][..], "/workspace", "/workspace"),
        (&["ctx", "-f", "ctx/sub/D"], "/workspace", "/workspace/sub"),
        (&["ctx", "-f", "other/Dockerfile"], "/workspace", "/ktl-dockerfile"),
        (&["ctx", "--sandbox=off"], "/w/ctx", "/w/ctx"),
        (&["ctx", "--sandbox=off", "-f", "other/Dockerfile"], "/w/ctx", "/w/other"),
    ] {
        let (plan, _) = resolved(args, &[]).unwrap();
        let paths: Vec<_> =
            plan.locals.iter().map(|local| (local.name.as_str(), local.path.to_str().unwrap())).collect();
        assert_eq!(paths, [("context", context), ("dockerfile", dockerfile)], "{args:?}");
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
        assert_eq!(
            resolved(&["ctx", "--cache-to", bad], &[]).unwrap_err().exit,
            crate::exit::Exit::Usage,
            "{bad}"
        );
    }
}

#[test]
fn results_go_where_the_user_says() {
    use Destination as D;
    for (args, exports, destinations, in_cache) in [
        (&["ctx"][..], &[][..], &[][..], true),
        (&["ctx", "-t", "app:dev"], &["image"], &[D::None], true),
        (&["ctx", "-o", "type=cacheonly"], &[], &[], true),
        (&["ctx", "-o", "out"], &["local"], &[D::Directory("/w/out".into())], false),
        (&["ctx", "-o", "-"], &["tar"], &[D::Stdout], false),
        (&["ctx", "-t", "a", "--push"], &["image"], &[D::None], false),
        (&["ctx", "-t", "a", "--load"], &["docker"], &[D::Engine], false),
        (&["ctx", "--output", "tty"], &[], &[], true),
        (
            &["ctx", "-o", "type=oci,dest=/abs/a.oci", "-o", "x"],
            &["oci", "local"],
            &[D::File("/abs/a.oci".into()), D::Directory("/w/x".into())],
            false,
        ),
    ] {
        let (plan, host) = resolved(args, &[]).unwrap();
        let kinds: Vec<_> = plan.build.exports.iter().map(|export| export.kind.as_str()).collect();
        assert_eq!(kinds, exports, "{args:?}");
        assert_eq!(host.destinations, destinations, "{args:?}");
        assert_eq!(host.stays_in_cache, in_cache, "{args:?}");
    }
    let (plan, _) = resolved(&["ctx", "-t", "app:dev", "-t", "r.example/x", "--push"], &[]).unwrap();
    assert_eq!(plan.build.exports[0].attrs["name"], "docker.io/library/app:dev,r.example/x:latest");
    assert_eq!(plan.build.exports[0].attrs["push"], "true");
}

#[test]
fn progress_is_settled_before_the_guest_starts() {
    for (args, style) in [
        (&["ctx"][..], Mode::Plain),
        (&["ctx", "--progress", "tty"], Mode::Tty),
        (&["ctx", "--output", "tty"], Mode::Tty),
        (&["ctx", "--output", "logs", "--progress", "rawjson"], Mode::Plain),
        (&["ctx", "-q", "--progress", "plain"], Mode::Quiet),
    ] {
        assert_eq!(resolved(args, &[]).unwrap().0.progress, style, "{args:?}");
    }
}

#[test]
fn what_was_typed_wins_over_the_environment() {
    let bin = Some("/w/n");
    for (args, env, runtime, program) in [
        (&["ctx"][..], &[][..], RuntimeChoice::Auto, None),
        (&["ctx"], &[("KTL_SANDBOX_RUNTIME", "native")], RuntimeChoice::Native, None),
        (&["ctx"], &[("KTL_SANDBOX_RUNTIME", ""), ("KTL_SANDBOX_BIN", "")], RuntimeChoice::Auto, None),
        (&["ctx"], &[("KTL_SANDBOX_BIN", "n")], RuntimeChoice::Auto, bin),
        (&["ctx", "--sandbox-bin", "n"], &[("KTL_SANDBOX_RUNTIME", "native")], RuntimeChoice::Nsjail, bin),
        (&["ctx", "--sandbox-runtime", "native"], &[("KTL_SANDBOX_BIN", "n")], RuntimeChoice::Native, None),
        (&["ctx", "--sandbox-runtime", "nsjail"], &[("KTL_SANDBOX_BIN", "n")], RuntimeChoice::Nsjail, bin),
    ] {
        let sandbox = resolved(args, env).unwrap().1.sandbox.unwrap();
        assert_eq!(
            (sandbox.runtime, sandbox.bin.as_deref().and_then(Path::to_str)),
            (runtime, program),
            "{args:?} {env:?}"
        );
    }
    for (args, env) in [
        (&["ctx", "--sandbox-runtime", "native", "--sandbox-bin", "n"][..], &[][..]),
        (&["ctx"], &[("KTL_SANDBOX_RUNTIME", "none")]),
        (&["ctx"], &[("BUILDKIT_PROGRESS", "loud")]),
    ] {
        assert_eq!(resolved(args, env).unwrap_err().exit, crate::exit::Exit::Usage, "{args:?} {env:?}");
    }
    assert_eq!(resolved(&["ctx"], &[("BUILDKIT_PROGRESS", "rawjson")]).unwrap().0.progress, Mode::RawJson);
    assert_eq!(resolved(&["ctx"], &[("BUILDKIT_PROGRESS", "")]).unwrap().0.progress, Mode::Plain);
    let typed = resolved(&["ctx", "--progress", "tty"], &[("BUILDKIT_PROGRESS", "rawjson")]).unwrap();
    assert_eq!(typed.0.progress, Mode::Tty);
}

#[test]
fn the_guest_learns_names_and_no_values() {
    let args = ["ctx", "--secret", "id=s,env=TOKEN", "--ssh", "default=agent.sock", "--ssh", "k=key"];
    let (plan, host) =
        resolved(&args, &[("TOKEN", "hush"), ("AWS_SECRET", "hush"), ("TERM", "xterm")]).unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    assert!(!json.contains("hush") && !json.contains("agent.sock") && !json.contains("/home/me"), "{json}");
    assert_eq!(
        (plan.secrets, plan.agents),
        (vec!["s".to_owned()], vec!["default".to_owned(), "k".to_owned()])
    );
    assert!(matches!(host.agents[0].kind, AgentKind::Socket(_)));
    assert!(matches!(host.agents[1].kind, AgentKind::Keys(_)));
    let names: Vec<_> = host.sandbox.unwrap().env.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["KTL_SANDBOX_ACTIVE", "KTL_SANDBOX_CONTEXT", "KTL_SANDBOX_NONCE", "TERM"]);
}

#[test]
fn binds_are_read_from_the_right() {
    let mut facts = facts();
    facts.kind_of = |_| Kind::Directory;
    for (spec, src, dst, rw) in [
        ("/a:/b", "/a", "/b", false),
        ("/a:/b:ro", "/a", "/b", false),
        ("/a:/b:rw", "/a", "/b", true),
        ("/a:x:y:/b:rw", "/a:x:y", "/b", true),
        ("rel:/b", "/w/rel", "/b", false),
    ] {
        let bind = parse_bind(OsStr::new(spec), &facts).unwrap();
        assert_eq!(bind, HostBind { src: src.into(), dst: dst.into(), rw }, "{spec}");
    }
    for spec in ["/a", "/a:", ":/b", "/a:b", "/a:/", "/a:/x/../y", "/a:/b:rx"] {
        assert!(parse_bind(OsStr::new(spec), &facts).is_err(), "{spec}");
    }
}

#[test]
fn the_same_directory_keeps_its_key() {
    let key = |args: &[&str]| resolved(args, &[]).unwrap().0.shared_key;
    assert_eq!(key(&["ctx"]), key(&["ctx", "--no-cache"]));
    assert!(key(&["ctx"]).starts_with("ctx:"));
    assert_ne!(key(&["ctx"]), key(&["ctx/sub", "-f", "ctx/sub/D"]));
}
