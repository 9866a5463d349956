//! Filters to be tried on the real kernel beside nsjail's (`kafel`), and to be interpreted over all system calls (the module
//! `seccomp`'s own tests, which include this file). A sample of the language: each action, each comparison, each width.

/// Number and arguments of a call.
pub type Call = (u32, [u64; 6]);

pub const fn call(number: u32, a: u64, b: u64, c: u64) -> Call {
    (number, [a, b, c, 0, 0, 0])
}

// Calls that change nothing, and end differently.
pub const GETPID: Call = call(39, 0, 0, 0);
pub const GETPPID: Call = call(110, 0, 0, 0);
pub const YIELD: Call = call(24, 0, 0, 0);
pub const UNSHARE: Call = call(272, 0, 0, 0);
pub const UNSHARE_VFORK: Call = call(272, 0x4000, 0, 0);
pub const PERSONALITY: Call = call(135, 0xffff_ffff, 0, 0);
pub const UNAME: Call = call(63, 0, 0, 0);
pub const PTRACE: Call = call(101, 99_999, 999_999_999, 0);
pub const NO_CALL: Call = call(499, 0, 0, 0);
pub const URING: Call = call(425, 0, 0, 0);
pub const SOCKET: Call = call(41, 1, 1, 0);
pub const NETLINK: Call = call(41, 16, 3, 0);
pub const X32_GETPID: Call = call(0x4000_0027, 0, 0, 0);

pub const fn write(fd: u64, buf: u64, count: u64) -> Call {
    call(1, fd, buf, count)
}

pub const fn lseek(fd: u64, offset: u64, whence: u64) -> Call {
    call(8, fd, offset, whence)
}

pub const fn dup(fd: u64) -> Call {
    call(32, fd, 0, 0)
}

pub const fn fstat(fd: u64) -> Call {
    call(5, fd, 0, 0)
}

/// Descriptors that are not open: 99, and 99 with bits that the kernel ignores.
pub const W: [Call; 6] = [
    write(99, 0, 0),
    write(98, 1, 2),
    write(99, 0x1_0000_0000, 3),
    write(0x1_0000_0063, 0, 8),
    write(97, u64::MAX, 0x1_0000_0008),
    write(96, 0x8000_0000, 0xffff_ffff),
];

pub const PLAIN: &[Call] = &[GETPID, YIELD, UNAME, NO_CALL];

/// Whole sources, under which a program can start and end, and the calls to try them with.
pub fn policies() -> impl Iterator<Item = (String, &'static [Call])> {
    POLICIES.iter().map(|(source, calls)| {
        let start = if source.ends_with("DEFAULT ALLOW") { "" } else { "ALLOW { execve, exit } " };
        (format!("{start}{source}"), *calls)
    })
}

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
