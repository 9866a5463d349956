//! Random sources: whatever is written, the compiler answers; what is well-formed means what the reference says.

use proptest::prelude::*;

use super::super::{Arch, compile, parser};
use super::reference::decide;
use super::{BOTH, check_shape};

const PIECES: &[&str] = &[
    "ALLOW",
    "KILL",
    "KILL_PROCESS",
    "LOG",
    "ERRNO",
    "TRAP",
    "TRACE",
    "USER_NOTIF",
    "DEFAULT",
    "POLICY",
    "USE",
    "ON",
    "SYSCALL",
    "#define",
    "#include",
    "#",
    "define",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    ",",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "||",
    "&&",
    "|",
    "&",
    "!",
    "read",
    "write",
    "fd",
    "buf",
    "count",
    "p",
    "q",
    "x86_64",
    "m68k",
    "0",
    "1",
    "-1",
    "0x10",
    "017",
    "0b11",
    "18446744073709551615",
    "99999999999999999999",
    "/*",
    "*/",
    "//",
    "\n",
    " ",
    "\"",
    "ü",
    "\0",
    "\r",
    "-",
    "*",
    "/",
];

fn number() -> impl Strategy<Value = String> {
    let notable = prop::sample::select(vec![
        0_u64,
        1,
        2,
        3,
        5,
        8,
        0xff,
        0x1234,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0001,
        0x8000_0000_0000_0000,
        0xffff_ffff_0000_0000,
        u64::MAX - 1,
        u64::MAX,
    ]);
    (notable, 0..5_u8).prop_map(|(value, form)| match form {
        0 => format!("{value:#x}"),
        1 => format!("0{value:o}"),
        2 => format!("{value:#b}"),
        3 if value != 0 => format!("-{}", value.wrapping_neg()),
        _ => value.to_string(),
    })
}

/// Of `write`, whose first argument has 32 bits and whose others have 64.
fn value() -> impl Strategy<Value = String> {
    let leaf =
        prop_oneof![number(), prop::sample::select(vec!["fd", "buf", "count"]).prop_map(str::to_owned)];
    leaf.prop_recursive(4, 12, 2, |inner| {
        (inner.clone(), prop::sample::select(vec!["&", "|"]), inner, any::<bool>()).prop_map(
            |(left, sign, right, parenthesis)| {
                if parenthesis { format!("({left} {sign} {right})") } else { format!("{left}{sign}{right}") }
            },
        )
    })
}

fn condition() -> impl Strategy<Value = String> {
    let signs = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
    let leaf = (value(), signs, value()).prop_map(|(left, sign, right)| format!("{left} {sign} {right}"));
    leaf.prop_recursive(4, 10, 2, |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(vec![" && ", " || ", ", "]), inner.clone())
                .prop_map(|(left, sign, right)| format!("({left}{sign}{right})")),
            (inner.clone(), prop::sample::select(vec![" && ", " || ", ", "]), inner.clone())
                .prop_map(|(left, sign, right)| format!("{left}{sign}{right}")),
            inner.prop_map(|inner| format!("!({inner})")),
        ]
    })
}

fn action() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["ALLOW", "LOG", "KILL", "DENY", "KILL_THREAD", "KILL_PROCESS"])
            .prop_map(str::to_owned),
        (prop::sample::select(vec!["ERRNO", "TRAP", "TRACE"]), 0..300_u16)
            .prop_map(|(name, value)| format!("{name}({value})")),
    ]
}

fn filter() -> impl Strategy<Value = String> {
    let plain =
        prop::sample::select(vec!["read", "write", "close", "getpid", "execve", "exit", "dup3", "openat"]);
    prop_oneof![
        2 => (plain, prop::sample::select(vec!["", " ON x86_64", " ON {arm64, x86}"]))
            .prop_map(|(name, machine)| format!("{name}{machine}")),
        1 => (0..480_u32).prop_map(|number| format!("SYSCALL[{number}]")),
        1 => Just("SYSCALL[0x40000001]".to_owned()),
        3 => (prop::sample::select(vec!["write", "read", "write(fd, buf, count)"]), condition())
            .prop_map(|(call, condition)| format!("{call} {{ {condition} }}")),
    ]
}

fn block() -> impl Strategy<Value = String> {
    (action(), prop::collection::vec(filter(), 0..5))
        .prop_map(|(action, filters)| format!("{action} {{ {} }}", filters.join(", ")))
}

fn policy() -> impl Strategy<Value = String> {
    let blocks = || prop::collection::vec(block(), 0..3);
    (blocks(), blocks(), blocks(), prop::option::of(action()), any::<[bool; 3]>()).prop_map(
        |(first, mut second, main, default, uses)| {
            let mut source = format!("POLICY p {{ {} }}\n", first.join(", "));
            if uses[0] {
                second.insert(second.len() / 2, "USE p".to_owned());
            }
            source += &format!("POLICY q {{ {} }}\n", second.join(", "));
            for (used, name) in [(uses[1], "USE p\n"), (uses[2], "USE q\n")] {
                source += if used { name } else { "" };
            }
            source += &main.join("\n");
            source + &default.map(|action| format!("\nDEFAULT {action}")).unwrap_or_default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn words_never_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60), gap in any::<bool>()) {
        let source = pieces.join(if gap { " " } else { "" });
        for arch in BOTH {
            match compile(&source, arch) {
                Ok(program) => check_shape(&program),
                Err(error) => {
                    let place = error.place();
                    prop_assert!(place.line >= 1 && place.column >= 1);
                    prop_assert!(source.get(place.span.clone()).is_some());
                }
            }
        }
    }

    #[test]
    fn text_never_panics(source in "\\PC{0,80}") {
        let _ = compile(&source, Arch::X86_64);
    }

    /// A well-formed source with one place damaged.
    #[test]
    fn damage_never_panics(source in policy(), at in any::<prop::sample::Index>(), piece in prop::sample::select(PIECES)) {
        let at = at.index(source.len());
        let _ = compile(&format!("{}{piece}{}", &source[..at], &source[at..]), Arch::X86_64);
        let _ = compile(&source[..at], Arch::X86_64);
    }

    #[test]
    fn well_formed_sources_mean_what_they_say(
        source in policy(),
        registers in prop::collection::vec(
            prop_oneof![prop::sample::select(&super::REGISTERS[..]), any::<u64>()], 12),
    ) {
        let ast = parser::parse(&source).map_err(|error| TestCaseError::fail(format!("{source}: {error}")))?;
        for arch in BOTH {
            let program = compile(&source, arch)
                .map_err(|error| TestCaseError::fail(format!("{source}: {error}")))?;
            check_shape(&program);
            let numbers = (0..=260).chain([435, 479, 480, 0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX]);
            for nr in numbers {
                for window in registers.windows(6) {
                    let args: [u64; 6] = std::array::from_fn(|at| window[at]);
                    let got = program.run(nr, arch.audit(), args, 0);
                    let want = decide(&ast, arch, nr, arch.audit(), args);
                    prop_assert_eq!(got, want, "{}, call {}, {:x?}\n{}", arch, nr, args, source);
                }
            }
        }
    }
}
