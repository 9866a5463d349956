//! Filters on the real kernel: ours beside nsjail's, from the same source, for one call at a time.
//!
//! The program under the filter makes a single call and ends with what came of it. It is written here instruction
//! by instruction, because any other program makes calls of its own, which a strict filter would refuse: this one
//! needs execve to start and exit to end.
#![cfg(target_arch = "x86_64")]

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use sandbox_linux::install_filter;
use sandbox_linux::seccomp::{Action, Arch, compile};
use tempfile::TempDir;

use crate::kafel_sample::{Call, GETPID, X32_GETPID, policies};
use crate::rig::role;

/// What a killed program ends with, seen through nsjail.
const KILLED: i32 = 128 + libc::SIGSYS;
/// What the program ends with when its call returned a positive number.
pub const POSITIVE: i32 = 200;
/// What nsjail ends with when it could not set up the jail.
const NOT_STARTED: i32 = 255;

#[test]
fn filters_act_like_those_of_nsjail() {
    let Some(bench) = Bench::new() else { return };
    let mut wrong = Vec::new();
    for (source, calls) in policies() {
        let program = compile(&source, Arch::native()).unwrap_or_else(|error| panic!("{source}: {error}"));
        for call in calls {
            let ours = bench.ours(&source, *call);
            let want = match program.run(call.0, Arch::native().audit(), call.1, 0) {
                Action::Kill | Action::KillProcess | Action::Trap(_) => KILLED,
                Action::Errno(errno) => errno.into(),
                Action::Trace(_) => libc::ENOSYS,
                Action::Log | Action::Allow => bench.free(*call),
            };
            let theirs = bench.theirs(&source, *call);
            if (ours, theirs) != (want, want) {
                wrong.push(format!("{source}: {call:x?}: {ours}, nsjail {theirs}, interpreted {want}"));
            }
        }
    }
    assert!(policies().count() >= 60);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the header of the module `seccomp` lists: nsjail runs these programs, in its own reading.
#[test]
fn stricter_than_nsjail() {
    let Some(bench) = Bench::new() else { return };
    let source = "KILL { getpid } DEFAULT ALLOW";
    assert_eq!((bench.theirs(source, X32_GETPID), bench.ours(source, X32_GETPID)), (libc::ENOSYS, KILLED));
    let deep = format!("DEFAULT ALLOW KILL {{ getppid {{ {}1 == 1{} }} }}", "(".repeat(65), ")".repeat(65));
    for (source, nsjail) in [
        ("#define EIGHT 08\nERRNO(1) { getpid } DEFAULT ALLOW", 1),
        ("ERRNO(1) { SYSCALL[0x100000027] } DEFAULT ALLOW", 1),
        ("DEFAULT ALLOW /* a **/ KILL { getpid } /* b */", POSITIVE),
        ("DEFAULT ALLOW\0 KILL { getpid }", POSITIVE),
        ("USER_NOTIF { getpid } DEFAULT ALLOW", libc::ENOSYS),
        (&deep, POSITIVE),
    ] {
        assert!(compile(source, Arch::native()).is_err(), "{source:?}");
        // No argument can hold a NUL; nsjail's own string ends there.
        let shown = source.split('\0').next().unwrap();
        assert_eq!(bench.theirs(shown, GETPID), nsjail, "{source:?}");
    }
}

#[test]
fn both_refuse() {
    let Some(bench) = Bench::new() else { return };
    for source in [
        "read",
        "DEFAULT",
        "DEFAULT ALLOW DEFAULT ALLOW",
        "DEFAULT allow",
        "DEFAULT ALLOW;",
        "ALLOW { execve, exit }, DEFAULT KILL",
        "ALLOW { read, } DEFAULT ALLOW",
        "POLICY p { ALLOW { read } KILL { write } } DEFAULT ALLOW",
        "POLICY p { USE p } DEFAULT ALLOW",
        "POLICY p {} POLICY p {} DEFAULT ALLOW",
        "#define A 1\n#define A 2\nDEFAULT ALLOW",
        "#include \"other\"\nDEFAULT ALLOW",
        "#define A -0\nDEFAULT ALLOW",
        "#define A 18446744073709551616\nDEFAULT ALLOW",
        "ERRNO(65536) { read } DEFAULT ALLOW",
        "ERRNO(EPERM) { read } DEFAULT ALLOW",
        "ERRNO(1) { stat } DEFAULT ALLOW",
        "ERRNO(1) { uname } DEFAULT ALLOW",
        "POLICY unused { ALLOW { nope } } DEFAULT ALLOW",
        "ERRNO(1) { read { file == 1 } } DEFAULT ALLOW",
        "ERRNO(1) { read() { fd == 1 } } DEFAULT ALLOW",
        "ERRNO(1) { openat { flags == O_RDONLY } } DEFAULT ALLOW",
        "ERRNO(1) { read { fd == A } } #define A 1\nDEFAULT ALLOW",
        "ERRNO(1) { read { fd } } DEFAULT ALLOW",
        "ERRNO(1) { read { (fd == 1) == 1 } } DEFAULT ALLOW",
        "ERRNO(1) { read { 1 | (fd == 1) } } DEFAULT ALLOW",
        "ERRNO(1) { read { 1 & !fd == 1 } } DEFAULT ALLOW",
        "ERRNO(1) { read { fd == 1, } } DEFAULT ALLOW",
        "ERRNO(1) { read ON madeup } DEFAULT ALLOW",
        "ERRNO(1) { read ON {x86_64, amd64} } DEFAULT ALLOW",
        "DEFAULT ALLOW /* open",
        "DEFAULT ALLOW\r",
        "/***/ DEFAULT ALLOW",
    ] {
        assert!(compile(source, Arch::native()).is_err(), "{source:?}");
        assert_eq!(bench.theirs(source, GETPID), NOT_STARTED, "{source:?}");
    }
}

/// Installs the filter in `policy` and becomes `probe`, both in the working directory.
#[test]
fn filtered() {
    if role().is_none_or(|role| role != "filtered") {
        return;
    }
    let source = fs::read_to_string("policy").unwrap();
    let program = compile(&source, Arch::native()).unwrap();
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0).unwrap();
    let name = CString::from(c"./probe");
    install_filter(&program, false).unwrap();
    let Err(error) = nix::unistd::execve(&name, &[&name], &[] as &[&CString]);
    panic!("{error}");
}

struct Bench {
    dir: TempDir,
    nsjail: PathBuf,
}

impl Bench {
    fn new() -> Option<Bench> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin/nsjail");
        let mut places = [tools, "/usr/local/bin/nsjail".into(), "/usr/bin/nsjail".into()].into_iter();
        let Some(nsjail) = places.find(|path| path.exists()) else {
            eprintln!("skipped: no nsjail; run `cargo xtask setup`");
            return None;
        };
        let dir = tempfile::Builder::new().prefix("ktl-kafel-").tempdir().unwrap();
        Some(Bench { dir, nsjail })
    }

    /// How the call ends without a filter.
    fn free(&self, call: Call) -> i32 {
        self.place(call);
        self.end(&mut Command::new(self.dir.path().join("probe")))
    }

    fn ours(&self, source: &str, call: Call) -> i32 {
        self.place(call);
        fs::write(self.dir.path().join("policy"), source).unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "kafel::filtered", "--nocapture", "--test-threads=1", "--quiet"]);
        self.end(command.env("KTL_TEST_ROLE", "filtered"))
    }

    fn theirs(&self, source: &str, call: Call) -> i32 {
        self.place(call);
        let mut command = Command::new(&self.nsjail);
        command.args(["-Mo", "-q", "--disable_proc"]);
        for namespace in ["net", "user", "ns", "pid", "ipc", "uts", "cgroup"] {
            command.arg(format!("--disable_clone_new{namespace}"));
        }
        command.arg("--seccomp_string").arg(source).arg("--").arg(self.dir.path().join("probe"));
        self.end(&mut command)
    }

    fn place(&self, call: Call) {
        let path = self.dir.path().join("probe");
        // A fresh file each time: one that still runs somewhere cannot be written to.
        let _ = fs::remove_file(&path);
        let _alone = crate::rig::FORKS.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        fs::write(&path, probe(call)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn end(&self, command: &mut Command) -> i32 {
        let command = command.current_dir(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null());
        let status: ExitStatus = command.stderr(Stdio::null()).status().unwrap();
        status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap()
    }
}

/// An executable that makes one call and ends with its errno, with 0, or with [`POSITIVE`].
pub fn probe((number, args): Call) -> Vec<u8> {
    let mut code = Vec::new();
    // mov imm64 to rax, rdi, rsi, rdx, r10, r8, r9
    let registers: [[u8; 2]; 7] =
        [[0x48, 0xb8], [0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8], [0x49, 0xb9]];
    for (mov, value) in registers.iter().zip(std::iter::once(u64::from(number)).chain(args)) {
        code.extend(mov);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x0f, 0x05]); // syscall
    executable(code)
}

/// The same for a call of the 32-bit ABI without arguments.
pub fn foreign_probe(number: u32) -> Vec<u8> {
    let mut code = vec![0xb8]; // mov eax
    code.extend(number.to_le_bytes());
    code.extend([0xcd, 0x80, 0x48, 0x98]); // int 0x80; cdqe
    executable(code)
}

fn executable(mut code: Vec<u8>) -> Vec<u8> {
    code.extend([0x48, 0x89, 0xc7, 0x48, 0xf7, 0xdf]); // mov rdi, rax; neg rdi
    code.extend([0x48, 0x81, 0xff, 0xff, 0x0f, 0x00, 0x00]); // cmp rdi, 4095
    code.extend([0x76, 0x05, 0xbf]); // jbe over the next; mov edi, POSITIVE
    code.extend(POSITIVE.to_le_bytes());
    code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // exit
    code.extend([0x0f, 0x0b]); // ud2, if even that was refused

    let (base, header) = (0x40_0000_u64, 64 + 56_u64);
    let size = header + code.len() as u64;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]); // executable, x86-64, version
    for word in [base + header, 64, 0] {
        file.extend(u64::to_le_bytes(word)); // entry, program headers, section headers
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // flags and sizes
    file.extend([1, 0, 0, 0, 5, 0, 0, 0]); // load, readable and executable
    for word in [0, base, base, size, size, 0x1000] {
        file.extend(u64::to_le_bytes(word));
    }
    file.extend(code);
    file
}
