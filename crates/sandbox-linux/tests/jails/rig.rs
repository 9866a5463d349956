//! What the tests share: where the tools are, and one call that runs a command in a jail and hears it out.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use sandbox_linux::{
    Bind, Caller, Command, Jail, Nsjail, OnSignal, Outcome, Overrides, Policy, Runtime, RuntimeError,
    sealed_memfd,
};
use tempfile::TempDir;

/// Number of the guest's report pipe.
pub const REPORT: i32 = 10;
/// Number of the guest's promises.
pub const PROMISES: i32 = 11;

/// Directory of the repository's tools, which `cargo xtask setup` fills.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin")
}

/// The role that a test gave to this process, if it is not the tests' own.
#[expect(clippy::disallowed_methods, reason = "the harness leaves no other way to tell a child what it is")]
pub fn role() -> Option<OsString> {
    std::env::var_os("KTL_TEST_ROLE")
}

/// The nsjail to test with; `None`, with a word on stderr, when there is none.
pub fn nsjail() -> Option<Nsjail> {
    let path = OsStr::new("/usr/local/bin:/usr/bin:/bin");
    let found = Nsjail::find(Some(&tools().join("nsjail")), None).or_else(|_| Nsjail::find(None, Some(path)));
    if let Err(error) = &found {
        eprintln!("skipped: {error}; run `cargo xtask setup`");
    }
    found.ok()
}

fn busybox() -> Option<PathBuf> {
    let found = [tools().join("busybox"), "/bin/busybox".into()].into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: no static busybox; run `cargo xtask setup`");
    }
    found
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a program of these bytes.
pub fn place(path: &Path, program: &[u8]) {
    let draft = path.with_extension("draft");
    fs::write(&draft, program).unwrap();
    copy_program(&draft, path);
    fs::remove_file(draft).unwrap();
}

/// A directory that everybody may search, with a static busybox and this test program in it.
pub struct Rig {
    pub dir: TempDir,
    pub runtime: Runtime,
}

impl Rig {
    /// One for each runtime that is here.
    pub fn each() -> Vec<Rig> {
        let runtimes = nsjail().map(Runtime::Nsjail).into_iter().chain([Runtime::Native]);
        runtimes.filter_map(Rig::with).collect()
    }

    pub fn with(runtime: Runtime) -> Option<Rig> {
        let busybox = busybox()?;
        let dir = tempfile::Builder::new().prefix("ktl-jail-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        copy_program(&busybox, &dir.path().join("busybox"));
        copy_program(Path::new(&format!("/proc/{}/exe", std::process::id())), &dir.path().join("guest"));
        Some(Rig { dir, runtime })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Binds of the two programs and what every test needs besides.
    pub fn overrides(&self) -> Overrides {
        let program = |name: &str| bind(&self.path(name), &format!("/ktl-bin/{name}"));
        Overrides {
            binds: vec![program("busybox"), program("guest")],
            env: vec![("KTL_TEST_ROLE".to_owned(), "guest".to_owned())],
            cwd: "/".into(),
            pass_fds: vec![REPORT, PROMISES],
            ..Overrides::default()
        }
    }

    pub fn jail(&self, policy: Policy, overrides: Overrides) -> Jail {
        Jail::new(policy, overrides, &Caller::current().unwrap()).unwrap()
    }

    /// Runs a shell script inside; what it writes to descriptor 10 comes back.
    pub fn shell(&self, jail: &Jail, script: &str) -> Run {
        self.run(jail, "/ktl-bin/busybox", &["sh", "-c", script])
    }

    /// Runs this program inside as [`guest`](crate::guest).
    pub fn guest(&self, jail: &Jail) -> Run {
        self.run(jail, "/ktl-bin/guest", GUEST_ARGS)
    }

    pub fn run(&self, jail: &Jail, program: &str, args: &[&str]) -> Run {
        run_with(&self.runtime, jail, program, args).unwrap()
    }

    /// Asserts that the guest saw none of these paths. The native jail's init is no process that the guest may look
    /// into, so there the kernel does not even say that something is missing.
    pub fn assert_hidden(&self, report: &str, paths: &[&str]) {
        for path in paths {
            let hidden = report.contains(&format!("{path} hidden\n"));
            let denied = path.starts_with("/proc/1/")
                && self.runtime == Runtime::Native
                && report.contains(&format!("{path} unreachable (permission denied)\n"));
            assert!(hidden || denied, "{} {path}: {report}", self.runtime);
        }
    }

    /// Everything in the directory.
    pub fn listing(&self) -> Vec<PathBuf> {
        let mut found: Vec<PathBuf> =
            fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
        found.sort();
        found
    }

    /// Processes of a jail with one guest; the native one has an init besides.
    pub fn processes(&self) -> usize {
        if self.runtime == Runtime::Native { 2 } else { 1 }
    }
}

/// Copies a program, by another process: what another thread forks meanwhile would have the file open for writing, and
/// the kernel executes no such file.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp")
        .env_remove("KTL_TEST_ROLE")
        .arg("--")
        .args([from, to])
        .status()
        .unwrap();
    assert!(copied.success(), "cp {}: {copied}", from.display());
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Held for reading while a jail is forked, and for writing while a program is written in this process, for the same reason
/// as in [`copy_program`].
pub static FORKS: RwLock<()> = RwLock::new(());

/// Arguments that make the test harness run the guest's role on its main thread.
pub const GUEST_ARGS: &[&str] = &["--exact", "guest::role", "--nocapture", "--test-threads=1", "--quiet"];

pub fn bind(src: &Path, dst: &str) -> Bind {
    Bind { src: src.to_owned(), dst: dst.into(), rw: false, idmap: false, is_dir: src.is_dir() }
}

/// What came of a jail.
#[derive(Debug)]
pub struct Run {
    pub outcome: Outcome,
    pub report: String,
    /// The runtime's log, for the messages of failed tests.
    #[expect(dead_code, reason = "read through Debug")]
    pub log: Vec<String>,
}

pub fn run_with(runtime: &Runtime, jail: &Jail, program: &str, args: &[&str]) -> Result<Run, RuntimeError> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let promises = serde_json::to_vec(&jail.promises()).unwrap();
    let mut fds: Vec<(OwnedFd, i32)> =
        vec![(writer, REPORT), (sealed_memfd("promises", &promises).unwrap(), PROMISES)];
    fds.retain(|(_, number)| jail.promises().fds.contains(number));
    let command = Command { program: program.into(), args: args.iter().map(OsString::from).collect(), fds };
    let running = {
        let _inherits = FORKS.read().unwrap_or_else(PoisonError::into_inner);
        runtime.spawn(jail, command)?
    };
    let mut log = Vec::new();
    let outcome = running.supervise(&mut |_| OnSignal::Kill, &mut |line| log.push(line.to_string()));
    let mut report = String::new();
    File::from(reader).read_to_string(&mut report).unwrap();
    Ok(Run { outcome, report, log })
}

/// Mounts, and nsjail's working directories, of the host.
pub fn traces() -> Vec<String> {
    let mut found: Vec<String> = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("ktl") || line.contains("nsjail"))
        .map(str::to_owned)
        .collect();
    let uid = rustix::process::geteuid().as_raw();
    for dir in ["/run/user", &format!("/run/user/{uid}"), "/tmp"] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let own = [format!("nsjail.{uid}.root"), format!("nsjail.{uid}.tmp"), "nsjail".to_owned()];
            if own.contains(&name) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
