//! Real clients through a served gate to real Engines, the distribution's and the newest.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use xtask::parts::{Auth, DockerEngine, Registry, ScratchDir};
use xtask::tools;

use super::raw_tests::ambiguous;
use super::{Gate, GateRecord, Serving};

/// An Engine behind a gate, a client's configuration with buildx as its plugin, and a context to build.
///
/// Fields go in this order: the gate first, the directory last.
struct Behind {
    serving: Serving,
    host: String,
    config: PathBuf,
    context: PathBuf,
    engine: DockerEngine,
    registry: Registry,
    scratch: ScratchDir,
}

/// A step that runs, without a network and without an image from anywhere.
const DOCKERFILE: &str = r#"
FROM scratch AS plain
COPY busybox /bin/busybox
ARG WHO=nobody
LABEL who=$WHO
FROM plain AS made
RUN ["/bin/busybox", "touch", "/made"]
"#;

impl Behind {
    fn start<E: std::fmt::Debug>(
        label: &str,
        start: impl FnOnce(&Path) -> Result<DockerEngine, E>,
    ) -> Behind {
        let scratch = ScratchDir::new(label).unwrap();
        let registry = Registry::start(&scratch.join("registry"), Auth::None).unwrap();
        let engine = start(&scratch.join("e")).unwrap();
        let config = scratch.dir("config").unwrap();
        fs::create_dir(config.join("cli-plugins")).unwrap();
        symlink(tools::buildx().unwrap(), config.join("cli-plugins/docker-buildx")).unwrap();
        let context = scratch.dir("context").unwrap();
        fs::copy(tools::busybox().unwrap(), context.join("busybox")).unwrap();
        fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        let gate = Gate::listen(&scratch.dir("gate").unwrap(), engine.socket()).unwrap();
        let host = format!("unix://{}", gate.socket().display());
        Behind { serving: gate.serve().unwrap(), host, config, context, engine, registry, scratch }
    }

    /// docker as a jailed client has it: the gate is all it knows.
    fn docker(&self, buildkit: bool, arguments: &[&str]) -> Output {
        Command::new(DockerEngine::client_dir().unwrap().join("docker"))
            .args(arguments)
            .current_dir(&self.context)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.config)
            .env("DOCKER_CONFIG", &self.config)
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_BUILDKIT", if buildkit { "1" } else { "0" })
            .output()
            .unwrap()
    }

    fn passes(&self, buildkit: bool, arguments: &[&str]) -> String {
        let output = self.docker(buildkit, arguments);
        let text = text(&output);
        assert!(output.status.success(), "docker {arguments:?}: {text}\n{}", self.engine.log_text());
        text
    }

    fn is_refused(&self, arguments: &[&str]) {
        let output = self.docker(false, arguments);
        let text = text(&output);
        assert!(!output.status.success(), "docker {arguments:?}: {text}");
        assert!(text.contains("ktl: the gate passes what a build needs; "), "docker {arguments:?}: {text}");
    }

    /// What the Engine itself says, past the gate.
    fn engine_says(&self, arguments: &[&str]) -> String {
        let output = self.engine.docker().unwrap().args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn close(self) -> (GateRecord, DockerEngine, ScratchDir) {
        (self.serving.close(), self.engine, self.scratch)
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// All that is true of both Engines.
///
/// `classic` is the stage that the classic builder can make: on the newest Engine it runs steps as containers, and those ask
/// for a time namespace, which the runc of Debian 12 does not know.
fn builds_and_nothing_else(behind: &Behind, classic: &str) {
    let target = format!("--target={classic}");
    behind.passes(false, &["version"]);
    for (buildkit, tag, arguments) in [
        (
            false,
            "gate:classic",
            &["build", "--network=none", "--build-arg=WHO=a b;c&d", &target, "-t", "gate:classic", "."][..],
        ),
        (
            true,
            "gate:buildkit",
            &["build", "--network=none", "-t", "gate:buildkit", "-t", "gate:second", "."][..],
        ),
        (true, "gate:buildx", &["buildx", "build", "--network=none", "--load", "-t", "gate:buildx", "."][..]),
    ] {
        behind.passes(buildkit, arguments);
        assert!(behind.engine_says(&["image", "inspect", tag]).contains("sha256:"), "{tag}");
    }
    let label = behind.engine_says(&["image", "inspect", "-f", "{{.Config.Labels.who}}", "gate:classic"]);
    assert_eq!(label.trim(), "a b;c&d");
    behind.passes(true, &["buildx", "build", "--network=none", "--output=type=local,dest=out", "."]);
    assert!(behind.context.join("out/made").exists());
    // buildx asks for the records of builds as well, and goes on without.
    behind.passes(
        true,
        &["buildx", "build", "--network=none", "--load", "--metadata-file=m.json", "-t", "gate:m", "."],
    );
    let metadata = fs::read_to_string(behind.context.join("m.json")).unwrap();
    assert!(metadata.contains("containerimage.digest"), "{metadata}");
    let name = format!("{}/gate:pushed", behind.registry.address());
    behind.passes(true, &["buildx", "build", "--network=none", "--push", "-t", &name, "."]);
    let tags = format!("http://{}/v2/gate/tags/list", behind.registry.address());
    let tags = ureq::get(&tags).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(tags.contains("pushed"), "{tags}");
    behind.passes(false, &["image", "inspect", "gate:classic"]);
    assert!(behind.passes(false, &["images"]).contains("gate"));

    for arguments in [
        &["run", "--rm", "gate:classic", "/bin/busybox", "true"][..],
        &["run", "-v", "/:/host", "gate:classic", "/bin/busybox", "true"],
        &["create", "gate:classic"],
        &["ps"],
        &["exec", "x", "true"],
        &["volume", "create", "x"],
        &["network", "ls"],
        &["pull", "busybox"],
        &["tag", "gate:classic", "gate:other"],
        &["rmi", "gate:classic"],
        &["save", "-o", "x.tar", "gate:classic"],
        &["system", "df"],
        &["builder", "prune", "-f"],
        &["buildx", "prune", "-f"],
        &["buildx", "du"],
    ] {
        behind.is_refused(arguments);
    }
    // Asked with HEAD, whose answer has no body to say why.
    assert!(!behind.docker(false, &["cp", "x:/etc/passwd", "."]).status.success());
    // An Engine's own refusals are still its own.
    let output = behind.docker(false, &["build", "--network=container:x", "-t", "gate:no", "."]);
    assert!(text(&output).contains("other networks belong to other containers"), "{}", text(&output));
    let info = behind.passes(false, &["info", "--format={{.OSType}} {{.Name}}"]);
    assert_eq!(info.trim(), "linux");
    for (what, bytes) in ambiguous() {
        let mut stream = UnixStream::connect(behind.host.trim_start_matches("unix://")).unwrap();
        let _closed_early = stream.write_all(&bytes);
        let mut answer = Vec::new();
        let _reset_counts_as_an_end = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{what}: {}", String::from_utf8_lossy(&answer));
    }
    a_hijacked_connection_is_no_way_around(behind);
    assert_eq!(behind.engine_says(&["ps", "-aq"]).trim(), "");
}

/// After the hijack, what is no HTTP/2 gets nowhere.
fn a_hijacked_connection_is_no_way_around(behind: &Behind) {
    for path in ["/grpc", "/session"] {
        let mut stream = UnixStream::connect(behind.host.trim_start_matches("unix://")).unwrap();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let _closed_early = stream.write_all(
            b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        );
        let _closed_early = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _reset_counts_as_an_end = stream.read_to_end(&mut answer);
        assert!(
            !String::from_utf8_lossy(&answer).contains("HTTP/1.1"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
}

/// Says so where a test cannot run.
fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: a Docker Engine of the test's own needs root");
    }
    root
}

#[test]
fn the_distributions_engine_builds_for_a_client_behind_the_gate_and_does_nothing_else() {
    if !is_root() {
        return;
    }
    let behind = Behind::start("gate-old", DockerEngine::start);
    builds_and_nothing_else(&behind, "made");
    let (record, _engine, _scratch) = behind.close();
    for call in [
        "POST /build",
        "POST /images/NAME/push",
        "POST /session",
        "POST /grpc",
        "/moby.buildkit.v1.Control/Solve",
    ] {
        assert!(record.passed.contains_key(call), "{record:?}");
    }
    assert!(
        record.refused.iter().any(|refused| refused.path == "/moby.buildkit.v1.Control/Prune"),
        "{record:?}"
    );
}

#[test]
fn the_newest_engine_builds_for_a_client_behind_the_gate_and_does_nothing_else() {
    if !is_root() {
        return;
    }
    let behind = Behind::start("gate-new", DockerEngine::start_new);
    let version = behind.passes(false, &["version", "--format={{.Server.Version}}"]);
    assert_eq!(version.trim(), tools::engine_version());
    builds_and_nothing_else(&behind, "plain");
    behind.is_refused(&["buildx", "history", "ls"]);
    let (record, engine, scratch) = behind.close();
    for call in ["POST /build", "POST /session", "POST /grpc", "/moby.buildkit.v1.Control/Solve"] {
        assert!(record.passed.contains_key(call), "{record:?}");
    }
    assert!(
        record.refused.iter().any(|refused| refused.path == "/moby.buildkit.v1.Control/Prune"),
        "{record:?}"
    );
    // Stopping it takes containerd, shims and mounts along.
    let (pid, path) = (engine.pid().unwrap(), scratch.path().display().to_string());
    drop(engine);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let commands = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    assert!(commands.into_iter().all(|line| !String::from_utf8_lossy(&line).contains(&path)));
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&path));
}
