//! What the command line comes to, in tables.

mod asked;
mod hermetic;

use std::ffi::OsStr;

use clap::Parser;

use super::sandbox::{HostBind, parse_bind};
use super::*;
use crate::broker::{AgentKind, Scheme};
use crate::cli::RuntimeChoice;
use crate::cli::{Cli, Command};
use crate::exit::Exit;

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
        repository: |_| Ok(None),
        read: |path, _| {
            match path.to_str().unwrap_or_default() {
            "/w/other/index.json" => Ok(br#"{"manifests":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "annotations":{"org.opencontainers.image.ref.name":"latest"}}]}"#
                .to_vec()),
            "/w/policy.json" => {
                Ok(br#"{"rules":[{"action":"DENY","selector":{"identifier":"*"}}]}"#.to_vec())
            }
            "/w/ctx/Dockerfile" => Ok(b"FROM a\n".to_vec()),
            "/w/ctx/sub/D" => Ok(b"# syntax=docker/dockerfile:1\nFROM a\n".to_vec()),
            "/w/other/Dockerfile" => Ok(b"# escape=`\n# syntax=r.example/f:1 x=y\nFROM a\n".to_vec()),
            "/w/broken.json" => Ok(b"{".to_vec()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
        },
    }
}

pub(super) fn resolved(args: &[&str], env: &[(&str, &str)]) -> Result<(BuildPlan, HostPlan), Failure> {
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
        (
            &[
                "ctx",
                "-m",
                "1g",
                "--memory-swap",
                "-1",
                "-c",
                "7",
                "--cpuset-cpus",
                "0",
                "--resource",
                "memory=2k",
            ],
            &[],
            &[("memory", "2048"), ("memswap", "-1"), ("cpushares", "7"), ("cpusetcpus", "0")],
        ),
        (&["ctx", "--no-cache-filter", "a,b", "--no-cache-filter", "c"], &[], &[("no-cache", "a,b,c")]),
        (&["ctx", "--locked"], &[], &[("force-network-mode", "none")]),
        (&["ctx", "--hermetic=off"], &[], &[]),
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
        assert_eq!(resolved(args, env).unwrap_err().exit, Exit::Usage, "{args:?} {env:?}");
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

#[test]
fn registries_that_are_allowed_by_hand() {
    let parse = |text: &str| trust::allowed_registry(text).map(|allowed| (allowed.host, allowed.scheme));
    let realm = Some(Scheme::Realm("https://auth.example/token?x=y".into()));
    for (text, host, scheme) in [
        ("r.example", "r.example", None),
        ("localhost:5000", "localhost:5000", None),
        ("[::1]:5000", "[::1]:5000", None),
        ("registry", "registry", None),
        ("docker.io", "docker.io", None),
        ("index.docker.io", "index.docker.io", None),
        ("r.example=https://auth.example/token?x=y", "r.example", realm),
        ("r.example:5000=basic", "r.example:5000", Some(Scheme::Basic)),
    ] {
        assert_eq!(parse(text).unwrap(), (host.to_owned(), scheme), "{text}");
    }
    for text in [
        "",
        "=basic",
        "https://r.example",
        "r.example/x",
        "r.example=",
        "r.example=ftp://x",
        "a b",
        "*",
        "*.example",
    ] {
        assert_eq!(parse(text).unwrap_err().exit, Exit::Usage, "{text}");
    }
}

#[test]
fn a_build_names_its_registries() {
    let dockerfile = "# syntax=f.example/f\nARG BASE=a.example/base\nFROM $BASE\nCOPY --from=c.example/c x /";
    let hosts = |args: &[&str]| {
        let (plan, host) = resolved(args, &[]).unwrap();
        let named = names(&plan.build, dockerfile, &host.allowed_registries);
        named.hosts().map(str::to_owned).collect::<Vec<_>>()
    };
    let plain = ["a.example", "c.example", "f.example"];
    assert_eq!(hosts(&["ctx"]), plain);
    let with = |more: &'static str| {
        let mut all = [&plain[..], &[more]].concat();
        all.sort();
        all
    };
    for (args, more) in [
        (&["ctx", "-t", "t.example/x"][..], "t.example"),
        (&["ctx", "-t", "app"], "docker.io"),
        (&["ctx", "-o", "type=image,name=o.example/x,push=true"], "o.example"),
        (&["ctx", "--build-arg", "BUILDKIT_SYNTAX=b.example/f arg"], "b.example"),
        (&["ctx", "--allow-registry", "m.example"], "m.example"),
    ] {
        assert_eq!(hosts(args), with(more), "{args:?}");
    }
    assert_eq!(hosts(&["ctx", "--build-arg", "BASE=z.example/b"]), ["c.example", "f.example", "z.example"]);

    let (plan, _) = resolved(&["ctx", "-t", "a.example/app", "--push"], &[]).unwrap();
    let named = names(&plan.build, dockerfile, &[]);
    let asked = ["repository:base:pull,push".to_owned(), "repository:app:pull,push".to_owned()];
    assert_eq!(
        named.get("a.example").unwrap().cut(&asked).granted,
        ["repository:base:pull", "repository:app:pull,push"]
    );
    // Without a push there is nothing to push to.
    let (plan, _) = resolved(&["ctx", "-t", "a.example/app"], &[]).unwrap();
    let named = names(&plan.build, dockerfile, &[]);
    assert_eq!(named.get("a.example").unwrap().cut(&asked[1..]).granted, ["repository:app:pull"]);
}

#[test]
fn a_login_file_that_is_shown_to_the_jail_is_used_outside() {
    let bind = "ctx/Dockerfile:/workspace/.docker/config.json";
    let (_, host) = resolved(&["ctx", "--sandbox-bind", bind, "--sandbox-bind", "key:/k"], &[]).unwrap();
    assert_eq!(host.login_file, Some("/w/ctx/Dockerfile".into()));
    let left: Vec<_> = host.sandbox.unwrap().binds.into_iter().map(|bind| bind.dst).collect();
    assert_eq!(left, [PathBuf::from("/k")]);
    let (_, host) = resolved(&["ctx"], &[]).unwrap();
    assert_eq!((host.login_file, host.docker_config), (None, Some("/home/me/.docker".into())));
}
