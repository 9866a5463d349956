//! Accepted and refused sources. The refused ones come with line, column and what is said.

use super::super::{Arch, MAX_SOURCE_BYTES, compile};
use super::{BOTH, check_shape};

const ACCEPTED: &[&str] = &[
    "DEFAULT ALLOW",
    "DEFAULT KILL",
    "DEFAULT KILL_THREAD",
    "DEFAULT KILL_PROCESS",
    "DEFAULT DENY",
    "DEFAULT LOG",
    "DEFAULT ERRNO(0)",
    "DEFAULT ERRNO(65535)",
    "DEFAULT TRAP(0x10)",
    "DEFAULT TRACE(0b1)",
    "#define A 1",
    "#define A 1\n#define A 0x1\n#define A 01\n",
    "#\ndefine A\n-1",
    "# define A 18446744073709551615",
    "POLICY p {}",
    "POLICY p {} USE p",
    "POLICY p {} USE p DEFAULT ALLOW",
    "USE",
    "ALLOW {}",
    "ALLOW { read }",
    "ALLOW { read, write, openat }",
    "ALLOW{read}KILL{write}DEFAULT LOG",
    "ALLOW { read } KILL { write } DEFAULT LOG",
    "ALLOW { read }, KILL { write } DEFAULT LOG",
    "DEFAULT LOG ALLOW { read }",
    "POLICY a { ALLOW { read } } POLICY b { USE a, KILL { write } } USE b, USE a USE a",
    "#define custom -1\nALLOW { custom, custom(a, b) { a == 1 } }",
    "ALLOW { SYSCALL[0] }",
    "ALLOW { SYSCALL [ 0x1F ] }",
    "ALLOW { SYSCALL[-1] }",
    "ALLOW { SYSCALL[4294967295], SYSCALL[-2147483648] }",
    "ALLOW { SYSCALL[1](a, b, c, d, e, f) { f == 1 } }",
    "ALLOW { read() }",
    "ALLOW { read {} }",
    "ALLOW { read { 1 == 1 } }",
    "ALLOW { read { fd == 0 } }",
    "ALLOW { read { fd == 0, fd == 1, count < 4096 } }",
    "ALLOW { read { (fd == 0) && !(count > 1 || buf != 0) } }",
    "ALLOW { read { ((fd)) == ((0)) } }",
    "ALLOW { read { (fd | 1) & 3 == 1 } }",
    "ALLOW { read { !(fd | 1) == 3 } }",
    "ALLOW { read { !!!fd == 3 } }",
    "ALLOW { read { (fd == 0, fd == 1) && count == 1 } }",
    "ALLOW { read(file, where, size) { file == 0 && size >= 1 } }",
    "ALLOW { read ON x86_64, write ON {aarch64, ARM, i386, mips64, m68k, rv64, mipso32, Amd64} }",
    "ALLOW { no_such_call ON m68k { nothing == 1 } }",
    "ALLOW { read ON arm64 { fd == 1 } }",
    "ALLOW { read(a) ON x86_64 { a == 1 } }",
    "// only a comment\nALLOW { read } // and one at the end",
    "/* a * b / c */ ALLOW /**/ { read } /* two\nlines */",
    "/* a ***/ DEFAULT ALLOW",
    "// **/ not German: ü\nDEFAULT ALLOW",
    "\t\n DEFAULT\tALLOW\n\n",
    "#define X 1DEFAULT ALLOW",
    "#define fd 7\nALLOW { read { fd == 7 } }",
    "#define read 3\nALLOW { read }",
    "#define KILLER 3\nALLOW { KILLER }",
    "POLICY read { ALLOW { read } } USE read",
    "KILL_PROCESS { ptrace, process_vm_readv, process_vm_writev } ERRNO(38) { io_uring_setup } DEFAULT ALLOW",
    "ALLOW { newfstat, newuname, umount, unshare { unshare_flags & 0x10000000 == 0 } }",
    "ALLOW { write { (buf & 0xc267df278caf1f35) == 0xc267df278caf1f35 } }",
    "ALLOW { write { fd != count && buf == count } }",
];

#[test]
fn accepted() {
    for source in ACCEPTED {
        for arch in BOTH {
            match compile(source, arch) {
                Ok(program) => {
                    assert_ne!(*source, "USE");
                    check_shape(&program);
                }
                Err(error) => assert_eq!(*source, "USE", "{error}"),
            }
        }
    }
}

/// Source, place, and part of the message.
const REFUSED: &[(&str, &str, &str)] = &[
    ("", "1:1", "expected #define, POLICY, USE, DEFAULT or an action, found the end"),
    (" \n ", "2:2", "found the end"),
    ("// nothing", "1:11", "found the end"),
    ("read", "1:1", "found `read`"),
    ("SYSCALL", "1:1", "found the word SYSCALL"),
    ("DEFAULT", "1:8", "expected an action, found the end"),
    ("DEFAULT ALLOW DEFAULT ALLOW", "1:15", "`DEFAULT` is defined twice"),
    ("DEFAULT allow", "1:9", "expected an action, found `allow`"),
    ("DEFAULT USE", "1:9", "expected an action, found the word USE"),
    ("ALLOW { read }, DEFAULT KILL", "1:17", "expected USE or an action, found the word DEFAULT"),
    ("ALLOW { read },", "1:16", "expected USE or an action, found the end"),
    ("ALLOW { read, }", "1:15", "expected a system call, found `}`"),
    ("ALLOW { read write }", "1:14", "expected `,` and a system call, or `}`, found `write`"),
    ("ALLOW { read", "1:13", "found the end"),
    ("ALLOW read", "1:7", "expected `{`"),
    ("ALLOW { KILL }", "1:9", "expected a system call, found the word KILL"),
    ("ALLOW(1) { read }", "1:6", "expected `{`, found `(`"),
    ("POLICY", "1:7", "expected the name of a policy"),
    ("POLICY DEFAULT {}", "1:8", "expected the name of a policy, found the word DEFAULT"),
    ("POLICY p { ALLOW { read } KILL { write } }", "1:27", "expected `,` and a statement, or `}`"),
    ("POLICY p { ALLOW { read }, }", "1:28", "expected USE or an action"),
    ("POLICY p { #define A 1\n}", "1:12", "expected USE or an action, found `#`"),
    ("POLICY p { DEFAULT ALLOW }", "1:12", "expected USE or an action"),
    ("POLICY p {}\nPOLICY p {}", "2:1", "policy `p` is defined twice"),
    ("USE p", "1:5", "expected a policy that was defined before, found `p`"),
    ("USE p POLICY p {}", "1:5", "found `p`"),
    ("POLICY p { USE p }", "1:16", "found `p`"),
    ("POLICY a {} POLICY b { USE c }", "1:28", "found `c`"),
    ("#define A 1\n#define A 2", "2:1", "constant `A` is defined twice"),
    ("#define A", "1:10", "expected a number, found the end"),
    ("#define 1 A", "1:9", "expected the name of a constant"),
    ("#define ALLOW 1", "1:9", "expected the name of a constant, found the word ALLOW"),
    ("#define A B", "1:11", "expected a number, found `B`"),
    ("#undef A", "1:2", "expected `define`"),
    ("#include \"other.policy\"\nDEFAULT ALLOW", "1:1", "#include is not supported"),
    ("DEFAULT ALLOW\n #include \"x\";", "2:2", "#include is not supported"),
    ("# include \"x\"", "1:3", "expected `define`, found `include`"),
    ("ALLOW { read } USER_NOTIF { openat }", "1:16", "USER_NOTIF is not supported"),
    ("DEFAULT USER_NOTIF", "1:9", "USER_NOTIF is not supported"),
    ("ERRNO { read }", "1:7", "expected `(`"),
    ("ERRNO() { read }", "1:7", "expected a number"),
    ("ERRNO(EPERM) { read }", "1:7", "expected a number, found `EPERM`"),
    ("ERRNO(65536) { read }", "1:7", "expected a number up to 65535, found 65536"),
    ("TRAP(-1) { read }", "1:6", "expected a number up to 65535"),
    ("TRACE(0x10000) { read }", "1:7", "found 65536"),
    ("ALLOW { stat }", "1:9", "expected a constant or a system call of x86_64 (Kafel calls it `newstat`)"),
    ("ALLOW {\n\tread,\n\tsendfile\n}", "3:2", "(Kafel calls it `sendfile64`), found `sendfile`"),
    ("ALLOW { Read }", "1:9", "found `Read`"),
    ("POLICY unused { ALLOW { nope } } DEFAULT ALLOW", "1:25", "found `nope`"),
    ("ALLOW { nope2 } POLICY p { ALLOW { nope1 } }", "1:9", "found `nope2`"),
    ("ALLOW { SYSCALL }", "1:17", "expected `[`"),
    ("ALLOW { SYSCALL[read] }", "1:17", "expected the number of a system call"),
    ("ALLOW { SYSCALL[4294967296] }", "1:17", "expected a number of 32 bits"),
    ("ALLOW { SYSCALL[-2147483649] }", "1:17", "expected a number of 32 bits"),
    ("ALLOW { SYSCALL[0x12345678901234567] }", "1:17", "expected a number of 64 bits"),
    ("#define A 18446744073709551616", "1:11", "expected a number of 64 bits"),
    ("#define A 08", "1:11", "expected octal digits after a leading zero, found 08"),
    ("#define A -0", "1:11", "found the character '-'"),
    ("#define A - 1", "1:11", "found the character '-'"),
    ("#define _A 1", "1:9", "found the character '_'"),
    ("#define A 0x", "1:12", "found `x`"),
    ("ALLOW { read(a, a) }", "1:17", "argument `a` is defined twice"),
    ("ALLOW { read(a, b, c, d, e, f, g) }", "1:32", "expected at most 6 arguments"),
    ("ALLOW { read(a,) }", "1:16", "expected a name for an argument"),
    ("ALLOW { read(1) }", "1:14", "expected a name for an argument"),
    ("ALLOW { read { file == 1 } }", "1:16", "an argument of the call (fd, buf, count), found `file`"),
    ("ALLOW { read() { fd == 1 } }", "1:18", "this call has no named arguments, found `fd`"),
    ("ALLOW { read(a) { fd == 1 } }", "1:19", "(a), found `fd`"),
    ("ALLOW { SYSCALL[0] { fd == 1 } }", "1:22", "this call has no named arguments"),
    ("ALLOW { openat { flags == O_RDONLY } }", "1:27", "found `O_RDONLY`"),
    ("ALLOW { read { fd == A } } #define A 1", "1:22", "found `A`"),
    ("ALLOW { read { fd } }", "1:19", "expected a comparison, found `}`"),
    ("ALLOW { read { fd = 1 } }", "1:19", "found the character '='"),
    ("ALLOW { read { fd == } }", "1:22", "expected a number, a constant or the name of an argument"),
    ("ALLOW { read { == 1 } }", "1:16", "expected a number, a constant"),
    ("ALLOW { read { fd == 1 == 1 } }", "1:24", "expected `&&`, `||`, `,` or the end of the condition"),
    ("ALLOW { read { fd == 1, } }", "1:25", "expected a number, a constant"),
    ("ALLOW { read { fd == 1 && count } }", "1:33", "expected a comparison"),
    ("ALLOW { read { count || fd == 1 } }", "1:22", "expected a comparison"),
    ("ALLOW { read { (fd == 1) & 1 } }", "1:26", "expected `&&`"),
    ("ALLOW { read { (fd == 1) == 1 } }", "1:26", "expected `&&`"),
    ("ALLOW { read { 1 == (fd == 1) } }", "1:31", "expected a number before this"),
    ("ALLOW { read { 1 | (fd == 1) } }", "1:30", "expected a number before this"),
    ("ALLOW { read { !fd } }", "1:20", "expected a comparison"),
    ("ALLOW { read { (fd == 1 } }", "1:25", "expected `)`"),
    ("ALLOW { read { fd + 1 == 2 } }", "1:19", "found the character '+'"),
    ("ALLOW { read { fd ^ 1 == 2 } }", "1:19", "found the character '^'"),
    ("ALLOW { read { ~fd == 2 } }", "1:16", "found the character '~'"),
    ("ALLOW { read ON madeup }", "1:17", "expected an architecture such as x86_64 or aarch64"),
    ("ALLOW { read ON {} }", "1:18", "expected an architecture"),
    ("ALLOW { read ON {x86_64, amd64} }", "1:26", "architecture `amd64` is defined twice"),
    ("ALLOW { read ON x86_64, nope }", "1:25", "found `nope`"),
    ("ALLOW { read { fd == 1 } ON x86_64 }", "1:26", "expected `,` and a system call"),
    ("DEFAULT ALLOW /* open", "1:15", "expected `*/` after this `/*`"),
    ("/**/ DEFAULT ALLOW /*", "1:20", "expected `*/`"),
    ("/** text **/ DEFAULT ALLOW", "1:10", "odd number of asterisks"),
    ("/***/ DEFAULT ALLOW", "1:3", "odd number of asterisks"),
    ("/*/ DEFAULT ALLOW", "1:1", "expected `*/`"),
    ("DEFAULT ALLOW\r\n", "1:14", "found the character '\\r'"),
    ("DEFAULT ALLOW\0", "1:14", "found the character '\\0'"),
    ("/* ü */ DEFAULT ü", "1:17", "found the character 'ü'"),
    ("DEFAULT ALLOW;", "1:14", "found the character ';'"),
];

#[test]
fn refused() {
    let mut wrong = Vec::new();
    for (source, place, message) in REFUSED {
        let error = compile(source, Arch::X86_64).expect_err(source);
        let text = error.to_string();
        if !text.starts_with(&format!("{place}: ")) || !text.contains(message) {
            wrong.push(format!("{source:?}: {text}"));
        }
        let span = &error.place().span;
        assert!(source.get(span.clone()).is_some(), "{source}: {span:?}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn reserved_words_are_no_names() {
    for word in ["SYSCALL", "ALLOW", "LOG", "ERRNO", "KILL", "DENY", "TRAP", "TRACE", "USE", "ON", "define"] {
        for source in [
            format!("POLICY empty {{}} USE {word}"),
            format!("POLICY {word} {{}}"),
            format!("ALLOW {{ {word} }}"),
            format!("ALLOW {{ read {{ {word} == 1 }} }}"),
        ] {
            assert!(compile(&source, Arch::X86_64).is_err(), "{source}");
        }
    }
}

/// Names and numbers that the two machines do not share.
#[test]
fn tables_differ_by_machine() {
    for (source, here) in [
        ("ALLOW { open }", Arch::X86_64),
        ("ALLOW { newstat }", Arch::X86_64),
        ("ALLOW { sendfile64 }", Arch::X86_64),
        ("ALLOW { sendfile }", Arch::Aarch64),
    ] {
        for arch in BOTH {
            assert_eq!(compile(source, arch).is_ok(), arch == here, "{source} on {arch}");
        }
    }
    for arch in BOTH {
        let table = super::super::syscalls::table(arch);
        assert!(table.is_sorted_by(|a, b| a.name < b.name));
        for call in table {
            assert_eq!(super::super::syscall_name(arch, call.number), Some(call.name));
            let source = format!("ALLOW {{ {} }}", call.name);
            compile(&source, arch).unwrap_or_else(|error| panic!("{source}: {error}"));
        }
    }
    assert_eq!(super::super::syscall_name(Arch::X86_64, 9999), None);
}

/// The calls of the C library's headers are in the table under their numbers, whatever their name.
#[test]
#[cfg(target_arch = "x86_64")]
fn table_agrees_with_libc() {
    for (name, number) in [
        ("read", libc::SYS_read),
        ("newstat", libc::SYS_stat),
        ("newlstat", libc::SYS_lstat),
        ("newfstat", libc::SYS_fstat),
        ("newuname", libc::SYS_uname),
        ("sendfile64", libc::SYS_sendfile),
        ("umount", libc::SYS_umount2),
        ("sysctl", libc::SYS__sysctl),
        ("ptrace", libc::SYS_ptrace),
        ("clone3", libc::SYS_clone3),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("openat2", libc::SYS_openat2),
        ("landlock_create_ruleset", libc::SYS_landlock_create_ruleset),
        ("mount_setattr", libc::SYS_mount_setattr),
    ] {
        assert_eq!(super::super::syscall_name(Arch::X86_64, u32::try_from(number).unwrap()), Some(name));
    }
}

#[test]
fn limits() {
    let deep = |n: usize| format!("ALLOW {{ read {{ {}fd == 1{} }} }}", "(".repeat(n), ")".repeat(n));
    let nots = |n: usize| format!("ALLOW {{ read {{ {}fd == 1 }} }}", "!".repeat(n));
    let long = |n: usize| format!("ALLOW {{ read {{ fd == 1{} }} }}", "&1".repeat(n));
    let either = |n: usize| format!("ALLOW {{ read {{ fd == 1{} }} }}", "||fd == 2".repeat(n));
    let open = |n: usize| format!("ALLOW {{ read {{ {}", "(".repeat(n));
    for (source, fits) in [
        (deep(64), true),
        (deep(65), false),
        (deep(100_000), false),
        (open(100_000), false),
        (nots(64), true),
        (nots(65), false),
        (nots(100_000), false),
        (long(199), true),
        (long(200), false),
        (either(199), true),
        (either(200), false),
        (either(50_000), false),
    ] {
        let result = compile(&source, Arch::X86_64);
        assert_eq!(result.is_ok(), fits, "{:.60}: {result:.200?}", source);
        if let Err(error) = result {
            let text = error.to_string();
            assert!(text.contains("at most 200 deep") || text.contains("at most 64 parentheses"), "{text}");
        }
    }
    let unknown = format!("ALLOW {{ read{} }}", ", nope".repeat(150_000));
    let error = compile(&unknown, Arch::X86_64).unwrap_err();
    assert_eq!(error.place().column, 15);
    let same = format!("ALLOW {{ read {{ fd == 2 }}{} }}", ", read { fd == 1 }".repeat(50_000));
    assert!(compile(&same, Arch::X86_64).unwrap_err().to_string().contains("at most 4096 instructions"));
    let dead = format!("KILL {{ read{} }}", ", read { fd & buf & count == 1 }".repeat(30_000));
    assert_eq!(compile(&dead, Arch::X86_64).unwrap().instructions().len(), 1);
    let too_many: String = (0..3000).map(|n| format!(", SYSCALL[{}]", 2 * n)).collect();
    let error = compile(&format!("ALLOW {{ exit{too_many} }}"), Arch::X86_64).unwrap_err();
    assert!(error.to_string().contains("at most 4096 instructions"), "{error}");
    let error = compile(&" ".repeat(MAX_SOURCE_BYTES + 1), Arch::X86_64).unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
    let chain = "flags & mode & 0x1337 & ".repeat(10);
    let error = compile(&format!("ALLOW {{\n open {{ {chain} 1 == 1 }} }}"), Arch::X86_64).unwrap_err();
    assert_eq!(error.to_string(), "2:2: expected a condition that needs at most 16 intermediate results");
}

/// Policies that use each other twice would have 2^64 statements if each use were pasted.
#[test]
fn repeated_use_does_not_multiply() {
    let mut source = "POLICY p0 { ALLOW { read { fd == 1 } }, KILL { write } }\n".to_owned();
    for n in 1..=64 {
        source += &format!("POLICY p{n} {{ USE p{m}, USE p{m} }}\n", m = n - 1);
    }
    source += "USE p64, USE p64 DEFAULT ERRNO(1)";
    let once = "POLICY p { ALLOW { read { fd == 1 } }, KILL { write } } USE p DEFAULT ERRNO(1)";
    assert_eq!(compile(&source, Arch::X86_64), compile(once, Arch::X86_64));
}
