//! Damaged policies, filters, and lines of the kernel's and of nsjail's.

use xtask::fuzz::{self, Messages, Target};

use crate::{Builtin, LogLine, Policy, PolicyError};

const TARGETS: &[Target] =
    &[("policy texts", policy_texts), ("seccomp strings", seccomp_strings), ("lines", lines)];

#[test]
fn damaged_messages_are_survived() {
    fuzz::run("fuzz_tests::damaged_messages_are_survived", TARGETS);
}

/// What is taken means the same when it is written again, and can be judged and explained; what is not has its place in the
/// text.
fn policy_texts(messages: &mut Messages) {
    let more = [
        r#"{"mode":"ONCE","mount":[{"dst":"/a","srcContent":"aGk=","rw":true}],"uidmap":[{"count":1}],"seccompString":["DEFAULT ALLOW"]}"#,
        "mount: [ < dst: '/a' mandatory: False >, { dst: \"/\\303\\251\" } ], pass_fd: [ 3, 04, 0x5 ]\nenvar: \"A=\" \"b\"; # c\n",
    ];
    let good: Vec<&str> = Builtin::ALL.iter().map(|which| which.text()).chain(more).collect();
    while let Some(text) = messages.next(&good) {
        match Policy::parse("p", &text) {
            Ok(policy) => {
                let written = policy.to_text();
                let again = Policy::parse("p", written.as_bytes());
                assert!(again.is_ok_and(|again| again.to_text() == written), "{written}");
                let _ = (crate::lint(&policy), crate::explain(&policy, None));
            }
            Err(PolicyError::Syntax { text, span, .. }) => assert!(text.get(span).is_some()),
            Err(_) => {}
        }
    }
}

fn seccomp_strings(messages: &mut Messages) {
    let good = [
        "POLICY a { ERRNO(1) { ptrace, socket(domain, type) { domain == 16 && (type & 0xf) != 2 } } } USE a DEFAULT ALLOW",
        "#define X 7\nPOLICY b { KILL { SYSCALL[101], mount { mountflags > X || flags in {1,2} } } }\nPOLICY c { USE b ALLOW { read } }\nUSE c, b DEFAULT KILL_PROCESS",
        "DEFAULT LOG",
    ];
    while let Some(text) = messages.text(&good) {
        let _ = crate::seccomp::compile(&text, crate::seccomp::Arch::native());
    }
}

fn lines(messages: &mut Messages) {
    let good = [
        "[E][2026-01-01T00:00:00+0000][123] mountPt():209 mount('/a') failed: No such file",
        "[I][2026-01-01T00:00:00+0000] Executing '/bin/x' for '[STANDALONE MODE]'",
        "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n",
        "         0     100000      65536\n",
    ];
    while let Some(line) = messages.next(&good) {
        let _ = (LogLine::parse(&line), crate::mountinfo::parse(&line));
        let _ = crate::caller::parse_id_map(&String::from_utf8_lossy(&line));
    }
}
