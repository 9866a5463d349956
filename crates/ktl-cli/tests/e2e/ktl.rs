//! The binary, the parts it talks to, and what it printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use xtask::parts::{Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir, push_base_images};

/// What all tests share. Never dropped: its processes end when they notice that their owner has.
pub struct Parts {
    pub scratch: ScratchDir,
    pub registry: Registry,
    pub daemon: Buildkitd,
    /// Configuration of a docker buildx that has the daemon as its builder `e2e`.
    pub buildx_config: PathBuf,
    pub busybox: String,
    /// The same image, by its digest.
    pub pinned: String,
}

pub static PARTS: LazyLock<Parts> = LazyLock::new(|| {
    let scratch = ScratchDir::new("e2e").unwrap();
    let registry = Registry::start(&scratch.join("registry"), Auth::None).unwrap();
    let arguments = [
        "--allow-insecure-entitlement=network.host",
        "--oci-worker-labels=org.mobyproject.buildkit.worker.moby.host-gateway-ip=10.9.8.7",
    ];
    let options = Options {
        plain_http: vec![registry.address().to_owned()],
        arguments: arguments.map(str::to_owned).into(),
        ..Options::default()
    };
    let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
    push_base_images(&daemon, &registry, &[BaseImage::Busybox]).unwrap();
    let busybox = BaseImage::Busybox.reference(&registry);
    let pinned = BaseImage::Busybox.by_digest(&registry).unwrap();
    let buildx_config = scratch.dir("buildx").unwrap();
    let mut create = Command::new(xtask::tools::buildx().unwrap());
    create.args(["create", "--name", "e2e", "--driver", "remote"]).arg(daemon.address());
    let created = create.env("BUILDX_CONFIG", &buildx_config).output().unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    Parts { scratch, registry, daemon, buildx_config, busybox, pinned }
});

/// A directory of its own for one test: home, cache, context, outputs.
pub struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        let base = PARTS.scratch.dir("worlds").unwrap();
        let world = World { dir: tempfile::tempdir_in(base).unwrap() };
        fs::create_dir(world.path("home")).unwrap();
        fs::create_dir(world.path("ctx")).unwrap();
        world
    }

    /// With this Dockerfile in its context; `BUSYBOX` in it becomes the base image, `PINNED` the same one by its digest.
    pub fn with_dockerfile(text: &str) -> World {
        let world = World::new();
        world.write(
            "ctx/Dockerfile",
            text.replace("BUSYBOX", &PARTS.busybox).replace("PINNED", &PARTS.pinned),
        );
        world
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `ktl` in this world, with an environment that holds nothing of the caller's.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ktl"));
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KTL_BUILDER", PARTS.daemon.address())
            .env("KTL_SANDBOX_BIN", xtask::tools::nsjail().unwrap())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// A PATH with the real clients of the parts in front, docker's plugin buildx in its place below HOME.
    pub fn with_clients(&self) -> String {
        let plugins = self.path("home/.docker/cli-plugins");
        fs::create_dir_all(&plugins).unwrap();
        let plugin = plugins.join("docker-buildx");
        if !plugin.exists() {
            std::os::unix::fs::symlink(xtask::tools::buildx().unwrap(), plugin).unwrap();
        }
        let dirs = [
            xtask::parts::DockerEngine::client_dir().unwrap(),
            xtask::tools::buildctl().unwrap().parent().unwrap().to_owned(),
        ];
        let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        format!("{}:/usr/bin:/bin", dirs.join(":"))
    }

    /// `ktl build ctx …`.
    pub fn build(&self, args: &[&str]) -> Ran {
        self.run(self.command().args(["build", "ctx"]).args(args))
    }

    /// `ktl build ctx …`, jailed by ktl itself.
    pub fn build_native(&self, args: &[&str]) -> Ran {
        self.run(self.command().args(["build", "ctx"]).args(args).args(NATIVE))
    }

    /// docker buildx in this world, with the same daemon.
    pub fn buildx(&self) -> Command {
        let mut command = Command::new(xtask::tools::buildx().unwrap());
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("BUILDX_CONFIG", &PARTS.buildx_config)
            .env("BUILDX_BUILDER", "e2e")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, command: &mut Command) -> Ran {
        Ran::of(command.output().unwrap())
    }

    /// Names left in the world's own directory, hidden ones included.
    pub fn names(&self) -> Vec<String> {
        names(self.dir.path())
    }
}

/// Chooses ktl's own runtime.
pub const NATIVE: &[&str] = &["--sandbox-runtime", "native"];

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// One finished run.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        self.ends_with(0)
    }

    #[track_caller]
    pub fn ends_with(self, code: i32) -> Ran {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub fn says(self, part: &str) -> Ran {
        assert!(self.stderr.contains(part), "no {part:?} in:\n{}", self.stderr);
        self
    }

    #[track_caller]
    pub fn says_not(self, part: &str) -> Ran {
        assert!(!self.stderr.contains(part), "{part:?} in:\n{}", self.stderr);
        self
    }
}

/// True when the tests may do what only root may; says why a test is skipped otherwise.
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: {test} needs root");
    }
    root
}
