//! Builds as they stand in public repositories, in small. Each succeeds with default flags, and no rule of ktl's has anything
//! to say about it: a wall that cries at every cat is soon taken down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::parts::{DockerEngine, ScratchDir};

use crate::ktl::{PARTS, Ran, World, is_root};

/// A Dockerfile with the files around it, paths relative to the world's directory.
struct Case {
    name: &'static str,
    dockerfile: &'static str,
    files: &'static [(&'static str, &'static str)],
    args: &'static [&'static str],
}

const fn case(name: &'static str, dockerfile: &'static str) -> Case {
    Case { name, dockerfile, files: &[], args: &[] }
}

impl Case {
    const fn with(self, files: &'static [(&'static str, &'static str)]) -> Case {
        Case { files, ..self }
    }

    const fn args(self, args: &'static [&'static str]) -> Case {
        Case { args, ..self }
    }
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ0FGRUJBQkVDQUZFQkFCRUNBRkUwCgYIKoZIzj0EAwIw\n-----END CERTIFICATE-----\n";
const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAbcdefghijklmnopqrstuvwxyz0123456789ABCDEF me@host\n";
const TEST_KEY: &str = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgMIGHAgEAMBMGByqG\n-----END PRIVATE KEY-----\n";
const GIT_CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n[remote \"origin\"]\n\turl = https://github.com/example/app.git\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n[branch \"main\"]\n\tremote = origin\n";

const CASES: &[Case] = &[
    case("a script", "FROM BUSYBOX\nCOPY run.sh /\nENTRYPOINT [\"/run.sh\"]\n").with(&[("ctx/run.sh", "#!/bin/sh\n")]),
    case("two stages", "FROM BUSYBOX AS build\nWORKDIR /src\nCOPY . .\nRUN cat main.c > /app\nFROM scratch\nCOPY --from=build /app /app\n")
        .with(&[("ctx/main.c", "int main;")]),
    case("three stages and a target", "FROM BUSYBOX AS base\nENV A=1\nFROM base AS test\nRUN exit 7\nFROM base AS release\nRUN echo ok > /ok\n")
        .args(&["--target", "release"]),
    case("a web site", "FROM BUSYBOX\nCOPY public/ /usr/share/html/\nCOPY site.conf /etc/\nEXPOSE 8080\nCMD [\"httpd\", \"-f\"]\n")
        .with(&[("ctx/public/index.html", "<p>"), ("ctx/public/css/a.css", "p{}"), ("ctx/site.conf", "A:*")]),
    case("a service of node", "FROM BUSYBOX\nWORKDIR /app\nCOPY package*.json ./\nRUN test -e package-lock.json\nCOPY . .\nUSER 1000\n")
        .with(&[
            ("ctx/package.json", "{}"),
            ("ctx/package-lock.json", "{}"),
            ("ctx/.npmrc", "registry=https://registry.npmjs.org/\n//registry.npmjs.org/:_authToken=${NPM_TOKEN}\nengine-strict=true\n"),
            ("ctx/.dockerignore", "node_modules\n.git\n"),
            ("ctx/node_modules/x/index.js", ""),
        ]),
    case("a program of go", "FROM BUSYBOX AS build\nARG VERSION=dev\nWORKDIR /src\nCOPY go.mod go.sum ./\nCOPY . .\nRUN --mount=type=cache,target=/root/.cache echo $VERSION > /bin/server\nFROM scratch\nCOPY --from=build /bin/server /server\n")
        .with(&[("ctx/go.mod", "module a\n"), ("ctx/go.sum", ""), ("ctx/keys_test.go", "package a\nconst k = `-----BEGIN RSA PRIVATE KEY-----`\n")])
        .args(&["--build-arg", "VERSION=1.2.3"]),
    case("a program of rust", "FROM BUSYBOX AS chef\nWORKDIR /app\nFROM chef AS planner\nCOPY . .\nRUN ls > recipe.json\nFROM chef AS builder\nCOPY --from=planner /app/recipe.json .\nFROM scratch\nCOPY --from=builder /app/recipe.json /\n")
        .with(&[("ctx/Cargo.toml", ""), ("ctx/src/keys.rs", "pub struct Key;"), ("ctx/.cargo/config.toml", "[net]\nretry = 2\n")]),
    case("a service of python", "FROM BUSYBOX\nENV PYTHONUNBUFFERED=1\nCOPY requirements.txt /\nCOPY pip.conf /etc/\nCOPY app /app\nHEALTHCHECK CMD true\n")
        .with(&[("ctx/requirements.txt", "flask\n"), ("ctx/pip.conf", "[global]\nindex-url = https://pypi.org/simple\n"), ("ctx/app/main.py", "")]),
    case("a service of java", "FROM BUSYBOX AS build\nCOPY pom.xml /\nCOPY src /src\nRUN mkdir /target && echo jar > /target/app.jar\nFROM BUSYBOX\nARG JAR=/target/*.jar\nCOPY --from=build ${JAR} /app.jar\n")
        .with(&[("ctx/pom.xml", "<project/>"), ("ctx/src/Main.java", ""), ("ctx/src/keystore.properties", "password=changeit\n")]),
    case("settings in the usual file", "FROM BUSYBOX\nCOPY . /app\n")
        .with(&[("ctx/.env", "PORT=8080\nDB_URL=postgres://app:app@db/app\nSECRET_KEY=changeme\n"), ("ctx/.env.example", "API_TOKEN=ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n")]),
    case("a repository with its history", "FROM BUSYBOX\nCOPY . /src\n")
        .with(&[("ctx/.git/config", GIT_CONFIG), ("ctx/.git/HEAD", "ref: refs/heads/main\n"), ("ctx/.gitmodules", "[submodule \"lib\"]\n\turl = https://github.com/example/lib\n")]),
    case("certificates and public keys", "FROM BUSYBOX\nCOPY certs /etc/ssl/certs\nCOPY authorized_keys id_ed25519.pub /root/\n")
        .with(&[("ctx/certs/ca.pem", CERTIFICATE), ("ctx/certs/root.crt", CERTIFICATE), ("ctx/authorized_keys", PUBLIC_KEY), ("ctx/id_ed25519.pub", PUBLIC_KEY)]),
    case("keys of tests that are not sent", "FROM BUSYBOX\nCOPY . /src\n")
        .with(&[("ctx/testdata/server.key", TEST_KEY), ("ctx/testdata/id_rsa", TEST_KEY), ("ctx/.dockerignore", "testdata\n**/*.key\n")]),
    case("keys of tests that nothing copies", "FROM BUSYBOX\nCOPY src /src\n")
        .with(&[("ctx/testdata/server.key", TEST_KEY), ("ctx/src/main", "")]),
    case("logins without logins", "FROM BUSYBOX\nCOPY . /home\n")
        .with(&[("ctx/.docker/config.json", "{\"credsStore\":\"desktop\",\"auths\":{\"ghcr.io\":{}}}"), ("ctx/kubeconfig.yaml", "clusters: []\nusers: []\n"), ("ctx/auth.json", "{}")]),
    case("a monorepo with named contexts", "FROM BUSYBOX AS build\nCOPY --from=shared lib.txt /\nCOPY --from=proto . /proto\nCOPY . /app\nRUN cat /lib.txt /proto/a.proto\n")
        .with(&[("ctx/main", ""), ("libs/shared/lib.txt", "shared"), ("libs/proto/a.proto", "syntax")])
        .args(&["--build-context", "shared=libs/shared", "--build-context", "proto=libs/proto"]),
    case("a Dockerfile elsewhere in a monorepo", "FROM BUSYBOX\nRUN false\n")
        .with(&[("ctx/services/api/Dockerfile", "FROM scratch\nCOPY services/api /api\nCOPY shared /shared\n"), ("ctx/services/api/main", ""), ("ctx/shared/lib", "")])
        .args(&["-f", "ctx/services/api/Dockerfile"]),
    case("an ignore file of its own", "FROM scratch\n")
        .with(&[("ctx/docker/prod.Dockerfile", "FROM BUSYBOX\nCOPY . /app\nRUN test ! -e /app/secret\n"), ("ctx/docker/prod.Dockerfile.dockerignore", "secret\n"), ("ctx/secret", ""), ("ctx/app", "")])
        .args(&["-f", "ctx/docker/prod.Dockerfile"]),
    case("an image as a named context", "FROM base\nCOPY . /app\n").args(&["--build-context", "base=docker-image://BUSYBOX"]),
    case("a secret from a file", "FROM BUSYBOX\nRUN --mount=type=secret,id=npmrc,target=/root/.npmrc test -s /root/.npmrc\n")
        .with(&[("outside/npmrc", "//r/:_authToken=npm_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5\n")])
        .args(&["--secret", "id=npmrc,src=outside/npmrc"]),
    case("a secret as a variable", "FROM BUSYBOX\nRUN --mount=type=secret,id=token,env=TOKEN test -n \"$TOKEN\"\n")
        .with(&[("outside/token", "abc")])
        .args(&["--secret", "id=token,src=outside/token"]),
    case("several platforms", "FROM --platform=$BUILDPLATFORM BUSYBOX AS build\nARG TARGETPLATFORM TARGETARCH\nRUN echo $TARGETARCH > /arch\nFROM scratch\nCOPY --from=build /arch /\n")
        .args(&["--platform", "linux/amd64,linux/arm64"]),
    case("a here-document", "FROM BUSYBOX\nRUN <<EOF\nset -e\nmkdir /app\necho hello > /app/hello\nEOF\nCOPY <<CONF /etc/app.conf\nkey = value\nCONF\n"),
    case("links, owners and modes", "FROM BUSYBOX\nCOPY --chown=1000:1000 --chmod=0755 bin /bin2\nCOPY --link data /data\nADD data/a.txt /b.txt\n")
        .with(&[("ctx/bin/run", "#!/bin/sh\n"), ("ctx/data/a.txt", "a")]),
    case("binds and caches", "FROM BUSYBOX\nWORKDIR /src\nRUN --mount=type=bind,target=. --mount=type=cache,target=/cache --mount=type=tmpfs,target=/tmp2 cat in > /out\n")
        .with(&[("ctx/in", "in")]),
    case("arguments in FROM", "ARG BASE=BUSYBOX\nARG VARIANT=release\nFROM ${BASE} AS debug\nFROM ${BASE} AS release\nRUN echo r > /r\nFROM ${VARIANT}\nRUN test -e /r\n"),
    case("labels and metadata", "FROM BUSYBOX\nARG REVISION\nLABEL org.opencontainers.image.revision=$REVISION\nVOLUME /data\nSTOPSIGNAL SIGINT\nSHELL [\"/bin/sh\", \"-ec\"]\nONBUILD RUN true\n")
        .args(&["--label", "a=b", "--build-arg", "REVISION=abc"]),
    case("a result as files", "FROM BUSYBOX AS build\nRUN mkdir /dist && echo site > /dist/index.html\nFROM scratch\nCOPY --from=build /dist /\n")
        .args(&["-o", "dist"]),
    case("an image as an archive", "FROM BUSYBOX\nCOPY . /app\n").args(&["-o", "type=oci,dest=image.tar", "--provenance=mode=max"]),
    case("an archive for docker", "FROM BUSYBOX\nCMD [\"true\"]\n").args(&["-o", "type=docker,dest=docker.tar", "-t", "app:dev"]),
    case("a cache in a directory", "FROM BUSYBOX\nRUN echo slow > /x\n").args(&["--cache-to", "type=local,dest=cache"]),
    case("an agent for a step", "FROM BUSYBOX\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\"\n").args(&["--ssh", "default=id"]),
    case("no network for a step", "FROM BUSYBOX\nRUN --network=none true\n").args(&["--network", "none"]),
    case("many small files with telling names", "FROM BUSYBOX\nCOPY . /app\n")
        .with(&[("ctx/keyboard.js", ""), ("ctx/monkey", "ook"), ("ctx/tokenizer.py", ""), ("ctx/keys.json", "{\"enter\":13}"), ("ctx/service.json", "{\"name\":\"a\"}"), ("ctx/README.md", "-----BEGIN PRIVATE KEY-----\n…\n"), ("ctx/apt-key.gpg", "\u{99}\u{1}\r")]),
];

/// A builder, as ktl and buildx are told of it.
struct Builder {
    name: String,
    /// For both: where an Engine listens, or where buildx keeps the builder.
    environment: Vec<(&'static str, PathBuf)>,
    /// For ktl, where there is no Engine.
    address: Option<String>,
    /// What the builder's steps need.
    steps: &'static [&'static str],
}

impl Builder {
    fn engine(name: &str, engine: &DockerEngine) -> Builder {
        let environment = vec![("DOCKER_HOST", PathBuf::from(engine.host()))];
        // The Engines of the tests have no bridge.
        Builder { name: name.to_owned(), environment, address: None, steps: &["--network", "none"] }
    }

    /// A buildkitd that somebody else has started.
    fn daemon(address: &str, config: &Path) -> Builder {
        let mut create = Command::new(xtask::tools::buildx().unwrap());
        create
            .args(["create", "--name", "ordinary", "--driver", "remote", address])
            .env("BUILDX_CONFIG", config);
        Ran::of(create.output().unwrap()).ok();
        let environment =
            vec![("BUILDX_CONFIG", config.to_owned()), ("BUILDX_BUILDER", PathBuf::from("ordinary"))];
        Builder { name: address.to_owned(), environment, address: Some(address.to_owned()), steps: &[] }
    }

    fn ktl(&self, world: &World) -> Command {
        let mut command = world.command();
        command.env_remove("KTL_BUILDER").envs(self.environment.iter().cloned());
        command.envs(self.address.iter().map(|address| ("KTL_BUILDER", address)));
        command
    }

    fn buildx(&self, world: &World) -> Command {
        let mut command = world.buildx();
        command
            .env_remove("BUILDX_CONFIG")
            .env_remove("BUILDX_BUILDER")
            .envs(self.environment.iter().cloned());
        command
    }
}

fn arguments(case: &Case) -> Vec<String> {
    case.args.iter().map(|arg| arg.replace("BUSYBOX", &PARTS.busybox)).collect()
}

fn world_of(case: &Case) -> World {
    let world = World::with_dockerfile(case.dockerfile);
    for (path, content) in case.files {
        world.write(path, content.replace("BUSYBOX", &PARTS.busybox));
    }
    if case.args.contains(&"default=id") {
        let key = world.path("id");
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key).status();
        assert!(made.unwrap().success());
    }
    // A context is often a checkout that somebody has copied with links of his own.
    fs::hard_link(world.path("ctx/Dockerfile"), world.path("ctx/Containerfile")).unwrap();
    world
}

/// A build that succeeds, and of which no rule has anything to say.
#[track_caller]
pub fn alarms_nobody(name: &str, ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{name}:\n{}", ran.stderr);
    for word in ["[guard]", "refused", "asked for secrets", "have lost their", "WARNING", "[audit]"] {
        assert!(!ran.stderr.contains(word), "{name}: {word:?} in\n{}", ran.stderr);
    }
}

#[test]
fn ordinary_builds_alarm_nobody() {
    assert!(CASES.len() >= 30);
    for case in CASES {
        let world = world_of(case);
        let args = arguments(case);
        let ran = world.build(&args.iter().map(String::as_str).collect::<Vec<_>>());
        alarms_nobody(case.name, &ran);
    }
}

/// What an older builder cannot do it can do for nobody: a build fails only where buildx's fails as well.
fn builds_what_buildx_builds(builder: &Builder, at_least: usize) {
    let mut built = 0;
    for case in CASES {
        let name = format!("{} on {}", case.name, builder.name);
        let world = world_of(case);
        let args = arguments(case);
        let ran = world.run(builder.ktl(&world).args(["build", "ctx"]).args(builder.steps).args(&args));
        if ran.code == Some(0) {
            built += 1;
            alarms_nobody(&name, &ran);
            continue;
        }
        let buildx = world.run(builder.buildx(&world).args(["build", "ctx"]).args(builder.steps).args(&args));
        assert_ne!(buildx.code, Some(0), "buildx builds {name}, ktl does not:\n{}", ran.stderr);
        eprintln!("{name}: neither ktl nor buildx builds it");
    }
    assert!(built >= at_least, "{} has built {built} of {}", builder.name, CASES.len());
}

#[test]
fn ordinary_builds_on_docker_engines() {
    if !is_root("a Docker Engine") {
        return;
    }
    let scratch = ScratchDir::new("ordinary").unwrap();
    let old = DockerEngine::start(&scratch.join("old")).unwrap();
    builds_what_buildx_builds(&Builder::engine("the old Engine", &old), 20);
    drop(old);
    let new = DockerEngine::start_new(&scratch.join("new")).unwrap();
    builds_what_buildx_builds(&Builder::engine("the new Engine", &new), 30);
}

/// `KTL_TEST_BUILDERS` names daemons of other versions, parted by commas, that somebody has started (CONTRIBUTING.md).
#[test]
fn ordinary_builds_on_given_daemons() {
    let Some(addresses) = xtask::workspace::variable("KTL_TEST_BUILDERS") else {
        return eprintln!("skipped: KTL_TEST_BUILDERS names no daemons");
    };
    let config = tempfile::tempdir().unwrap();
    for (number, address) in addresses.to_str().unwrap().split(',').enumerate() {
        let config = config.path().join(number.to_string());
        builds_what_buildx_builds(&Builder::daemon(address, &config), 25);
    }
}
