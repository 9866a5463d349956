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

use crate::rig::role;

/// What a killed program ends with, seen through nsjail.
const KILLED: i32 = 128 + libc::SIGSYS;
/// What the program ends with when its call returned a positive number.
const POSITIVE: i32 = 200;
/// What nsjail ends with when it could not set up the jail.
const NOT_STARTED: i32 = 255;

/// Number and arguments of a call.
type Call = (u32, [u64; 6]);

const fn call(number: u32, a: u64, b: u64, c: u64) -> Call {
    (number, [a, b, c, 0, 0, 0])
}

// Calls that change nothing, and end differently.
const GETPID: Call = call(39, 0, 0, 0);
const GETPPID: Call = call(110, 0, 0, 0);
const YIELD: Call = call(24, 0, 0, 0);
const UNSHARE: Call = call(272, 0, 0, 0);
const UNSHARE_VFORK: Call = call(272, 0x4000, 0, 0);
const PERSONALITY: Call = call(135, 0xffff_ffff, 0, 0);
const UNAME: Call = call(63, 0, 0, 0);
const PTRACE: Call = call(101, 99_999, 999_999_999, 0);
const NO_CALL: Call = call(499, 0, 0, 0);
const URING: Call = call(425, 0, 0, 0);
const SOCKET: Call = call(41, 1, 1, 0);
const NETLINK: Call = call(41, 16, 3, 0);
const X32_GETPID: Call = call(0x4000_0027, 0, 0, 0);

const fn write(fd: u64, buf: u64, count: u64) -> Call {
    call(1, fd, buf, count)
}

const fn lseek(fd: u64, offset: u64, whence: u64) -> Call {
    call(8, fd, offset, whence)
}

const fn dup(fd: u64) -> Call {
    call(32, fd, 0, 0)
}

const fn fstat(fd: u64) -> Call {
    call(5, fd, 0, 0)
}

/// Descriptors that are not open: 99, and 99 with bits that the kernel ignores.
const W: [Call; 6] = [
    write(99, 0, 0),
    write(98, 1, 2),
    write(99, 0x1_0000_0000, 3),
    write(0x1_0000_0063, 0, 8),
    write(97, u64::MAX, 0x1_0000_0008),
    write(96, 0x8000_0000, 0xffff_ffff),
];

const PLAIN: &[Call] = &[GETPID, YIELD, UNAME, NO_CALL];
const START: &str = "ALLOW { execve, exit }";

/// Sources (`START` comes before those that end with another default) and the calls to try them with.
const POLICIES: &[(&str, &[Call])] = &[
    ("DEFAULT ALLOW", PLAIN),
    ("DEFAULT LOG", PLAIN),
    ("DEFAULT KILL", PLAIN),
    ("DEFAULT KILL_THREAD", PLAIN),
    ("DEFAULT KILL_PROCESS", PLAIN),
    ("DEFAULT DENY", PLAIN),
    ("DEFAULT ERRNO(7)", PLAIN),
    ("DEFAULT ERRNO(0)", PLAIN),
    ("DEFAULT TRAP(5)", PLAIN),
    ("DEFAULT TRACE(5)", PLAIN),
    ("", PLAIN),
    ("KILL { getpid } DEFAULT ALLOW", PLAIN),
    ("KILL_PROCESS { getpid, sched_yield } DEFAULT ALLOW", PLAIN),
    ("DENY { getpid } DEFAULT ALLOW", PLAIN),
    ("TRAP(1) { getpid } DEFAULT ALLOW", PLAIN),
    ("TRACE(1) { getpid } DEFAULT ALLOW", PLAIN),
    ("LOG { getpid } ERRNO(9) { newuname } DEFAULT ALLOW", PLAIN),
    ("ERRNO(1) { getpid, newuname, newfstat } DEFAULT ALLOW", &[GETPID, GETPPID, UNAME, fstat(99)]),
    ("ERRNO(0x11) { getpid } ERRNO(021) { newuname } ERRNO(0b10) { sched_yield } DEFAULT ALLOW", PLAIN),
    ("ERRNO(199) { getpid } DEFAULT ALLOW", PLAIN),
    ("ERRNO(1) { SYSCALL[499], SYSCALL[0x27] } DEFAULT ALLOW", PLAIN),
    ("#define a_call 39\nERRNO(1) { a_call } DEFAULT ALLOW", PLAIN),
    ("#define getpid 24\nERRNO(1) { getpid } DEFAULT ALLOW", PLAIN),
    ("ALLOW { getpid } ERRNO(1) { getpid, sched_yield } KILL { sched_yield, newuname } DEFAULT ALLOW", PLAIN),
    ("ALLOW { getpid, sched_yield }", PLAIN),
    ("ALLOW { getpid }, KILL { sched_yield } DEFAULT ERRNO(38)", PLAIN),
    (
        "POLICY a { ERRNO(1) { getpid } } POLICY b { ERRNO(2) { getpid, sched_yield }, USE a } USE b DEFAULT ALLOW",
        PLAIN,
    ),
    (
        "POLICY a { ERRNO(1) { getpid } } POLICY b { USE a, ERRNO(2) { getpid, sched_yield } } USE b USE a DEFAULT ALLOW",
        PLAIN,
    ),
    ("POLICY a { ERRNO(1) { getpid } } DEFAULT ALLOW", PLAIN),
    ("POLICY empty {} USE empty, USE empty ERRNO(3) { getpid } DEFAULT ALLOW", PLAIN),
    ("ERRNO(1) { getpid ON x86_64, sched_yield ON aarch64, newuname ON {arm, AMD64} } DEFAULT ALLOW", PLAIN),
    ("ERRNO(1) { no_such_call ON m68k, getpid } DEFAULT ALLOW", PLAIN),
    ("// getpid\nERRNO(1) /* DEFAULT KILL */ { getpid } DEFAULT ALLOW // KILL", PLAIN),
    (
        "KILL_PROCESS { ptrace, process_vm_readv, process_vm_writev } ERRNO(38) { io_uring_setup, io_uring_enter, io_uring_register } DEFAULT ALLOW",
        &[PTRACE, URING, GETPID, NO_CALL],
    ),
    ("ERRNO(1) { write { fd == 99 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd != 99 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd < 98 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd <= 98 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd > 97 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd >= 98 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { 98 < fd } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { 98 >= fd } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd == 0x100000063 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd > 0xffffffff } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf == 0x100000000 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf == -1 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf < 0x100000000 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf >= 0x100000000 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf > 0x80000000 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf <= 0x80000000 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { 0x80000000 > buf } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf & 0x100000000 != 0 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { (buf & 0xf00000000) == 0 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { 5 >= (buf & count) } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { (buf & count) > 5 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd == count, count == buf } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf < count } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { count <= buf } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { (fd & 0xffffffffffffffff) == 99 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { (fd & 0x1ffffffff) == 99 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf & 0 == fd & 0 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { buf | 0xffffffff == 0xffffffff } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { (count | 2) & (fd | 3) == 2 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { count | 8 | fd == 107 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { !(fd == 99 && count == 0) } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd == 99 && (count == 3 || buf == 0), fd == 97 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { 1 == 2 } } ERRNO(2) { write { fd == fd } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write(a, b, c) { a == 99 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { write { fd == 99 } } KILL { write { buf == 1 } } ERRNO(2) { write } DEFAULT ALLOW", &W),
    ("#define LAST 99\nERRNO(1) { write { fd == LAST } } DEFAULT ALLOW", &W),
    ("#define fd 98\nERRNO(1) { write { fd == 98 } } DEFAULT ALLOW", &W),
    ("ALLOW { write { fd == 99 } }", &W),
    ("ERRNO(97) { socket { family == 16 } } DEFAULT ALLOW", &[SOCKET, NETLINK]),
    ("ERRNO(1) { unshare { unshare_flags & 0x10000000 != 0 } } DEFAULT ALLOW", &[UNSHARE, UNSHARE_VFORK]),
    ("ERRNO(1) { unshare { unshare_flags != 0 } } DEFAULT ALLOW", &[UNSHARE, UNSHARE_VFORK]),
    ("ERRNO(1) { personality { personality == 0xffffffff } } DEFAULT ALLOW", &[PERSONALITY]),
    (
        "ERRNO(1) { lseek { offset >= 0x8000000000000000 && whence == 1 } } DEFAULT ALLOW",
        &[lseek(99, u64::MAX, 1), lseek(99, 1, 1), lseek(99, 1 << 63, 0)],
    ),
    ("ERRNO(1) { dup { fildes == 99 } } DEFAULT ALLOW", &[dup(99), dup(0x7_0000_0063), dup(98)]),
    ("ERRNO(1) { SYSCALL[1](a) { a == 0x100000063 } } DEFAULT ALLOW", &W),
    ("ERRNO(1) { SYSCALL[0x40000027] } DEFAULT ALLOW", &[X32_GETPID, GETPID]),
    ("ALLOW { getpid } DEFAULT ERRNO(38)", &[X32_GETPID, GETPID, YIELD]),
];

#[test]
fn filters_act_like_those_of_nsjail() {
    let Some(bench) = Bench::new() else { return };
    let mut wrong = Vec::new();
    for (source, calls) in POLICIES {
        let source = if source.ends_with("DEFAULT ALLOW") {
            (*source).to_owned()
        } else {
            format!("{START} {source}")
        };
        let program = compile(&source, Arch::native()).unwrap_or_else(|error| panic!("{source}: {error}"));
        for call in *calls {
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
    assert!(POLICIES.len() >= 60);
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
fn probe((number, args): Call) -> Vec<u8> {
    let mut code = Vec::new();
    // mov imm64 to rax, rdi, rsi, rdx, r10, r8, r9
    let registers: [[u8; 2]; 7] =
        [[0x48, 0xb8], [0x48, 0xbf], [0x48, 0xbe], [0x48, 0xba], [0x49, 0xba], [0x49, 0xb8], [0x49, 0xb9]];
    for (mov, value) in registers.iter().zip(std::iter::once(u64::from(number)).chain(args)) {
        code.extend(mov);
        code.extend(value.to_le_bytes());
    }
    code.extend([0x0f, 0x05]); // syscall
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
