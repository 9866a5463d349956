//! Whose terminal it is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use sandbox_linux::{Outcome, Runtime};

use super::jail;
use crate::rig::{Rig, role};

/// With `skip_setsid` the program has the caller's terminal and is in its foreground; otherwise it has none.
#[test]
fn the_terminal_stays_where_the_policy_says() {
    if role().is_some_and(|role| role == "terminal") {
        for rig in Rig::each() {
            // The seventh field of its state is the terminal.
            let script = "set -- $(/ktl-bin/busybox cat /proc/$$/stat); [ $7 = 0 ] && echo none >&10 && exit; echo asks; read line; echo \"$line\" >&10";
            assert_eq!(rig.shell(&jail(&rig, "#"), script).report, "none\n", "{}", rig.runtime);
            let run = rig.shell(&jail(&rig, "skip_setsid: true"), script);
            assert_eq!(
                (run.outcome, run.report.as_str()),
                (Outcome::Exited(0), "typed\n"),
                "{}",
                rig.runtime
            );
        }
        return;
    }
    let Some(rig) = Rig::with(Runtime::Native) else { return };
    let test =
        "--exact written::terminal::the_terminal_stays_where_the_policy_says --nocapture --test-threads=1";
    let child = Command::new("script")
        .args([
            "--quiet",
            "--return",
            "--command",
            &format!("{} {test}", rig.path("guest").display()),
            "/dev/null",
        ])
        .env("KTL_TEST_ROLE", "terminal")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return eprintln!("skipped: script: {error}"),
    };
    // An answer for each runtime, once it asks: what is typed before that may be flushed.
    let mut keys = child.stdin.take().unwrap();
    let mut shown = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if line.contains("asks") {
            keys.write_all(b"typed\n").unwrap();
        }
        shown.push_str(&line);
        shown.push('\n');
    }
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {shown}");
    assert!(shown.contains("asks"), "{shown}");
}
