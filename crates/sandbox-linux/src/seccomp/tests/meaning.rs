//! What programs do, over all numbers that there are and some that there are not.

use super::super::{Action, Arch, compile, parser, syscall_name};
use super::reference::decide;
use super::{BOTH, REGISTERS, check_shape, native, run, sample};

/// Compares a program with the reference for every call of interest.
fn agree(source: &str, arch: Arch) {
    let program = compile(source, arch).unwrap_or_else(|error| panic!("{source}: {error}"));
    check_shape(&program);
    let ast = parser::parse(source).unwrap();
    let numbers =
        (0..=500).chain([1000, 0x3fff_ffff, 0x4000_0000, 0x4000_003b, 0x7fff_ffff, 0x8000_0000, u32::MAX]);
    for nr in numbers {
        for (at, register) in REGISTERS.iter().enumerate() {
            let next = |by: usize| REGISTERS[(at * 5 + by * 3) % REGISTERS.len()];
            for args in [[*register; 6], [*register, next(1), next(2), next(3), next(4), next(5)]] {
                let got = program.run(nr, arch.audit(), args, 0x1234_5678_9abc);
                let want = decide(&ast, arch, nr, arch.audit(), args);
                assert_eq!(got, want, "{source}\n{arch}, call {nr}, {args:x?}\n{program:?}");
            }
        }
    }
    for foreign in BOTH.into_iter().filter(|other| *other != arch).map(Arch::audit).chain([0x4000_0003, 0]) {
        for nr in [0, 1, 59, 231] {
            assert_eq!(program.run(nr, foreign, [0; 6], 0), Action::Kill, "{source}");
        }
    }
}

const POLICIES: &[&str] = &[
    "DEFAULT ALLOW",
    "DEFAULT KILL",
    "DEFAULT LOG",
    "DEFAULT TRACE(7)",
    "DEFAULT ERRNO(1)",
    "DEFAULT KILL_PROCESS",
    "ALLOW { read, write, exit }",
    "KILL { read, write, exit, kill }",
    "KILL { read { fd == 1 } }",
    "ALLOW { read } ERRNO(1) { read, write } KILL_PROCESS { write, close } DEFAULT ALLOW",
    "ALLOW { read { fd == 0 && count == 0 } } ERRNO(1) { read { count == 0 } } DEFAULT TRAP(3)",
    "ALLOW { read { fd == 1 } } ALLOW { read } ALLOW { read }",
    "ERRNO(1) { write { fd == 1, fd == 2 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd != 1 } } ERRNO(2) { write { buf != 1 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd < 2 } } ERRNO(2) { write { buf < 2 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd <= 2 } } ERRNO(2) { write { buf <= 0x100000001 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd > 2 } } ERRNO(2) { write { buf > 0x100001233 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd >= 0x7fffffff } } ERRNO(2) { write { buf >= 0x100001234 } } DEFAULT ALLOW",
    "ERRNO(1) { write { 2 < fd } } ERRNO(2) { write { 0x100001234 <= buf } } DEFAULT ALLOW",
    "ERRNO(1) { write { 2 > fd } } ERRNO(2) { write { 0x100001234 >= buf } } DEFAULT ALLOW",
    "ERRNO(1) { write { 0 <= fd } } DEFAULT ALLOW",
    "ERRNO(1) { write { buf >= 0 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd > 0xffffffff } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd == 0x100001234 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd == -1 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd == 0xffffffff } } DEFAULT ALLOW",
    "ERRNO(1) { write { count == -1 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd == count } } ERRNO(2) { write { fd < count } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd <= buf & count } } ERRNO(2) { write { buf | fd > count } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd == fd } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd != fd || 1 > 2 } } DEFAULT ALLOW",
    "ERRNO(1) { write { buf & 3 == 1 } } ERRNO(2) { write { (buf & 0x100000000) != 0 } } DEFAULT ALLOW",
    "ERRNO(1) { write { (buf & 0xf1f1f1f100000000) == 0xf1f1f1f100000000 } } DEFAULT ALLOW",
    "ERRNO(1) { write { (fd & 0xf1f1f1f100000000) == 0 } } DEFAULT ALLOW",
    "ERRNO(1) { write { (fd & 0xffffffffffffffff) == 1 } } DEFAULT ALLOW",
    "ERRNO(1) { write { fd == 0xf00000000 & 1 } } DEFAULT ALLOW",
    "ERRNO(1) { write { buf & 0 == fd } } DEFAULT ALLOW",
    "ERRNO(1) { write { buf | 0xffffffff == 0xffffffff } } DEFAULT ALLOW",
    "ERRNO(1) { write { buf | 0xffffffff00000000 > -2 } } DEFAULT ALLOW",
    "ERRNO(1) { write { (count | 2) & (fd | 3) == 2 } } ERRNO(2) { write { 8 | count & fd > buf } } DEFAULT ALLOW",
    "ERRNO(1) { write { (buf | fd) & (count | 1) == (buf & fd) | (count & 3) } } DEFAULT ALLOW",
    "ERRNO(1) { write { 3 == (count & 3) } } ERRNO(2) { write { 7 >= (buf & fd) } } DEFAULT ALLOW",
    "ERRNO(1) { write { !(fd == 1 && count == 0) && !(buf > 5 || fd == 3) } } DEFAULT ALLOW",
    "ERRNO(1) { SYSCALL[-1], SYSCALL[0x40000000] } ERRNO(2) { SYSCALL[499] } DEFAULT ALLOW",
    "ERRNO(1) { SYSCALL[0x4000003b](a) { a == 1 } } DEFAULT ALLOW",
    "ALLOW { SYSCALL[0x40000000] } DEFAULT ERRNO(4)",
    "ERRNO(1) { read(a, b, c) { a == 1 && c == 3 } } DEFAULT ALLOW",
    "ERRNO(1) { read ON aarch64, write ON x86_64, close ON {arm, x86} } DEFAULT ALLOW",
    "POLICY a { ALLOW { read }, LOG { write } } POLICY b { USE a, KILL { read, write, close } } USE b DEFAULT ERRNO(5)",
    "POLICY a { KILL { read { fd == 1 } } } ALLOW { read { fd < 3 } } USE a DEFAULT ERRNO(5)",
    "TRAP(9) { personality { personality == 0xffffffff } } DEFAULT ALLOW",
    "ERRNO(1) { fchmod { mode == 0x1234 } } DEFAULT ALLOW",
];

#[test]
fn programs_do_what_the_source_says() {
    for source in POLICIES {
        for arch in BOTH {
            agree(source, arch);
        }
    }
}

/// The policies whose effect is compared with nsjail's for a few calls, here for all of them.
#[test]
fn the_sample_means_the_same_for_every_call() {
    for (source, calls) in sample::policies() {
        assert!(!calls.is_empty());
        agree(&source, Arch::X86_64);
    }
    let last = (0..=0xffff).rev().find(|number| syscall_name(Arch::X86_64, *number).is_some());
    assert!(last.is_some_and(|last| (400..500).contains(&last)), "{last:?}");
}

/// Enough rules, with actions of their own, that jumps and returns go out of reach.
#[test]
fn long_programs() {
    let each = |format: &dyn Fn(usize) -> String, n: usize| (0..n).map(format).collect::<Vec<_>>().join("\n");
    let many = each(&|n| format!("ERRNO({n}) {{ SYSCALL[{}] }}", n % 480), 900);
    agree(&format!("{many} DEFAULT ALLOW"), Arch::X86_64);
    let tests =
        each(&|n| format!("ERRNO({n}) {{ write {{ buf == {n} || count > {n} && fd != {n} }} }}"), 250);
    agree(&format!("{tests} DEFAULT TRAP(1)"), Arch::X86_64);
    let lists = each(&|n| format!("ALLOW {{ SYSCALL[{n}](a) {{ a & {n} == 0x100000000, a == 3 }} }}"), 400);
    agree(&format!("{lists} DEFAULT KILL_PROCESS"), Arch::Aarch64);
    let one = each(&|n| format!("buf == {n}"), 190).replace('\n', " || ");
    agree(&format!("ERRNO(1) {{ write {{ {one} }} }} DEFAULT ALLOW"), Arch::X86_64);
}

#[test]
fn sizes() {
    for (source, size) in [
        ("DEFAULT KILL", 1),
        ("KILL { read, write } DEFAULT KILL", 1),
        ("KILL { read { fd == 1 } }", 1),
        ("DEFAULT ERRNO(1)", 4),
        // Four, and a look at the number for x32.
        ("DEFAULT ALLOW", 6),
    ] {
        assert_eq!(native(source).instructions().len(), size, "{source}");
    }
    assert_eq!(compile("DEFAULT ALLOW", Arch::Aarch64).unwrap().instructions().len(), 4);
}

#[test]
fn x32_calls_do_not_slip_through_a_deny_list() {
    let x32 = 0x4000_0000 | 101;
    assert_eq!(run("KILL { ptrace } DEFAULT ALLOW", 101, [0; 6]), Action::Kill);
    assert_eq!(run("KILL { ptrace } DEFAULT ALLOW", x32, [0; 6]), Action::Kill);
    assert_eq!(run("KILL { ptrace } DEFAULT LOG", x32, [0; 6]), Action::Kill);
    assert_eq!(run("KILL { ptrace } DEFAULT TRACE(1)", x32, [0; 6]), Action::Kill);
    // A default that refuses stays what nsjail makes of it.
    assert_eq!(run("ALLOW { ptrace } DEFAULT ERRNO(38)", x32, [0; 6]), Action::Errno(38));
    assert_eq!(run("ALLOW { ptrace } DEFAULT KILL_PROCESS", x32, [0; 6]), Action::KillProcess);
    // And so does a number that the policy names itself.
    assert_eq!(run("ALLOW { SYSCALL[0x40000065] } DEFAULT ALLOW", x32, [0; 6]), Action::Allow);
    let arm = compile("DEFAULT ALLOW", Arch::Aarch64).unwrap();
    assert_eq!(arm.run(x32, Arch::Aarch64.audit(), [0; 6], 0), Action::Allow);
}

#[test]
fn actions_are_listed() {
    let program = native("LOG { read } ERRNO(2) { write } ERRNO(1) { close } DEFAULT ALLOW");
    let want = [Action::Kill, Action::Errno(1), Action::Errno(2), Action::Log, Action::Allow];
    assert_eq!(program.actions(), want);
    assert!(program.logs());
    assert!(!native("DEFAULT ALLOW").logs());
    let shown: Vec<String> = program.actions().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["KILL", "ERRNO(1)", "ERRNO(2)", "LOG", "ALLOW"]);
    assert_eq!(syscall_name(Arch::X86_64, 59), Some("execve"));
}

/// The policies that the program carries have filters of their own.
#[test]
fn carried_policies() {
    for builtin in crate::Builtin::ALL {
        let source: String = builtin
            .text()
            .lines()
            .filter_map(|line| line.trim().strip_prefix("seccomp_string:"))
            .map(|line| line.trim().trim_matches('"').to_owned() + "\n")
            .collect();
        assert!(source.contains("DEFAULT"), "{builtin:?}: {source}");
        agree(&source, Arch::X86_64);
    }
}
