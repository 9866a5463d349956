//! Damaged policies and filters beside nsjail: nothing that it refuses is taken, and what both take says the same. The
//! seeds are fixed, so that a run is the same everywhere; `policy::properties` and `seccomp`'s tests go wider without nsjail.

use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};
use sandbox_linux::seccomp::{Arch, compile};
use sandbox_linux::{Policy, PolicyError};

use crate::corpus::policies;
use crate::parser::{Nsjail, one_line};

/// Words of policies, beside what the corpus itself has.
const PIECES: &[&str] = &[
    "mode",
    "hostname",
    "envar",
    "mount",
    "rlimit_as",
    "nice_level",
    "clone_newnet",
    "uidmap",
    "exec_bin",
    "dst",
    "path",
    "src_content",
    "count",
    "rlimit_as_type",
    "cgroup_mem_swap_max",
    "name",
    ":",
    ";",
    ",",
    "{",
    "}",
    "<",
    ">",
    "[",
    "]",
    "\"",
    "'",
    "\"x\"",
    "'y'",
    "\"\\x41\\101\\n\"",
    "\"\\u00e9\"",
    "\\",
    "-",
    "0",
    "1",
    "0x10",
    "017",
    "08",
    "-5",
    "4294967296",
    "18446744073709551616",
    "1.5",
    "1e3",
    "true",
    "False",
    "t",
    "ONCE",
    "EXECVE",
    "HARD",
    "null",
    "#",
    "# x\n",
    "\n",
    " ",
    "\t",
    "\r",
    "//",
    "/*",
    "é",
    "\u{1}",
    "\u{b}",
    "mount { dst: \"/x\" }",
    "mount <dst: '/y'>",
    "envar: [\"A=1\", 'B']",
];

/// Fields that not every release of nsjail has, and ids, which nsjail looks up while it reads.
const NOT_COMPARED: &[&str] =
    &["oom_score_adj", "user_net", "userNet", "traffic", "_id: ", "unotify", "core_sched", "Id\""];

fn runner(cases: u32, seed: u8) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]))
}

fn check<S: Strategy>(
    mut runner: TestRunner,
    cases: &S,
    holds: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    match runner.run(cases, holds) {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\n{case:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}

/// A text with a few places cut out, doubled, or filled with words.
fn damaged(texts: Vec<String>, words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let cut = (any::<prop::sample::Index>(), 0..12_usize, 0..4_u8, prop::sample::select(words));
    (prop::sample::select(texts), prop::collection::vec(cut, 1..3)).prop_map(|(mut text, cuts)| {
        for (at, length, how, word) in cuts {
            let mut chars: Vec<char> = text.chars().collect();
            let start = at.index(chars.len() + 1);
            let end = (start + length).min(chars.len());
            let piece: Vec<char> = chars[start..end].to_vec();
            match how {
                0 => drop(chars.drain(start..end)),
                1 => drop(chars.splice(start..start, piece)),
                2 => drop(chars.splice(start..start, word.chars())),
                _ => drop(chars.splice(start..end, word.chars())),
            }
            text = chars.into_iter().collect();
        }
        text
    })
}

#[test]
fn damaged_policies_are_read_as_nsjail_reads_them() {
    let Some(nsjail) = Nsjail::find() else { return };
    let mut texts: Vec<String> = policies().into_iter().map(|(_, text)| text).collect();
    let json: Vec<String> =
        texts.iter().map(|text| Policy::parse("p", text.as_bytes()).unwrap().to_json().to_string()).collect();
    texts.extend(json);
    texts.retain(|text| text.len() < 900);
    let written = prop::collection::vec(prop::sample::select(PIECES), 1..9).prop_map(|words| words.join(" "));
    let cases = prop_oneof![4 => damaged(texts, PIECES), 1 => written];
    let taken = std::cell::Cell::new(0);
    check(runner(200, 1), &cases, |text| {
        taken.set(taken.get() + u32::from(Policy::parse("p", text.as_bytes()).is_ok()));
        compare(&nsjail, &text)
    });
    assert!(taken.get() > 30, "{}", taken.get());
}

fn compare(nsjail: &Nsjail, text: &str) -> Result<(), TestCaseError> {
    if NOT_COMPARED.iter().any(|name| text.contains(name)) || text.is_empty() {
        return Ok(());
    }
    let theirs = nsjail.reads(text.as_bytes());
    match (Policy::parse("p", text.as_bytes()), theirs) {
        (Ok(ours), Some(theirs)) => prop_assert_eq!(one_line(&ours), theirs),
        (Err(_), None) => {}
        (Ok(_), None) => prop_assert!(false, "nsjail refuses it"),
        (Err(PolicyError::Syntax { message, .. }), Some(_)) => {
            let stricter = ["a NUL byte", "is not UTF-8", "no such character"];
            let guessed = text.trim_start().starts_with('{');
            prop_assert!(
                guessed || stricter.iter().any(|end| message.ends_with(end)),
                "only ktl refuses: {}",
                message
            );
        }
        (Err(error), Some(_)) => prop_assert!(false, "only ktl refuses: {}", error),
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
#[test]
fn damaged_filters_are_not_taken_where_nsjail_refuses() {
    let Some(nsjail) = crate::rig::nsjail() else { return };
    let program = nsjail.path().to_owned();
    let sources: Vec<String> = crate::kafel_sample::policies().map(|(source, _)| source).collect();
    let words = &[
        "ALLOW",
        "KILL",
        "ERRNO(1)",
        "TRAP",
        "DEFAULT",
        "DEFAULT ALLOW",
        "POLICY",
        "USE",
        "{",
        "}",
        "(",
        ")",
        ",",
        "==",
        "!=",
        "<=",
        "||",
        "&&",
        "&",
        "|",
        "!",
        "read",
        "write",
        "fd",
        "buf",
        "0",
        "-1",
        "0x10",
        "017",
        "0b1",
        "#define A 1\n",
        "A",
        "//",
        "/*",
        "*/",
        "\n",
        "SYSCALL[1]",
        "ON x86_64",
        ";",
        "é",
        "'",
        "18446744073709551616",
    ];
    let taken = std::cell::Cell::new(0);
    check(runner(2500, 2), &damaged(sources, words), |source| {
        if taken.get() < 150 && compile(&source, Arch::X86_64).is_ok() {
            taken.set(taken.get() + 1);
            prop_assert!(compiles(&program, &source), "nsjail refuses it");
        }
        Ok(())
    });
    assert!(taken.get() > 100, "{}", taken.get());
}

/// Whether nsjail compiles it: then it goes on to listen at an address that is none, so that no program ever starts.
fn compiles(nsjail: &Path, source: &str) -> bool {
    let mut command = Command::new(nsjail);
    command.args(["-Ml", "-p", "1", "--bindhost", "nonsense", "--seccomp_string", source, "--", "/none"]);
    let output = command.output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let refused = log.contains("Could not compile policy");
    assert!(refused || log.contains("Couldn't convert 'nonsense'"), "{source}: {log}");
    !refused
}
