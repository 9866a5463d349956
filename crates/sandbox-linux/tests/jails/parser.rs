//! Probe 26: what is a policy, and what it says. Each snippet is read here and by the real nsjail, which prints the message
//! that it made of it; the two must agree, but for what the table calls stricter.

use std::fs;
use std::path::Path;
use std::process::Command;

use sandbox_linux::{Builtin, Policy, PolicyError};

mod json;
mod text;

#[derive(Debug, Clone, Copy)]
enum Verdict {
    /// A policy, in the canonical text form on one line.
    Reads(&'static str),
    /// Line and column of the mistake.
    Refused(usize, usize),
    /// The same, and why ktl refuses what nsjail takes.
    Stricter(usize, usize, &'static str),
    /// A policy with fields that not every release of nsjail has.
    Newer(&'static str),
}

const CUT: &str = "the kernel would read the string up to its first NUL, not what the file says";
const BYTES: &str = "strings are UTF-8, so that every message and report can show them";
const HALF: &str = "no such character; nsjail makes bytes of it that are no text";
const TWICE: &str = "one of the two values would be silently dropped; the text form refuses it as well";
const ELEMENT: &str = "nsjail drops or flattens it, and so reads another list than the one written";
const ESCAPE: &str = "JSON has no such escape; nsjail drops the backslash";
const WORD: &str = "nsjail takes more words for a bool than it says, `1` and `yes` among them";
const VALUE: &str = "the schema has no such value; nsjail goes on with the default";
const POINT: &str = "JSON has digits after a point";

/// Snippets that are no UTF-8; nsjail takes all of them.
const NOT_UTF8: &[(&[u8], usize, usize)] = &[
    (b"mode: ONCE # \xff", 1, 14),
    (b"mode: ONCE\nhostname: \"\xff\"", 2, 12),
    (b"mount { dst: \"/x\" src_content: \"\xff\" }", 1, 33),
];

#[test]
fn every_snippet_is_read_as_nsjail_reads_it() {
    let nsjail = Nsjail::find();
    let mut wrong = Vec::new();
    let mut note = |snippet: &str, what: String| wrong.push(format!("{snippet:?}: {what}"));
    let rows: Vec<_> = text::ROWS.iter().chain(json::ROWS).collect();
    assert!(rows.len() > 80);
    for (snippet, verdict) in rows {
        let ours = Policy::parse("p", snippet.as_bytes());
        match (verdict, &ours) {
            (Verdict::Reads(want) | Verdict::Newer(want), Ok(policy)) if one_line(policy) == *want => {}
            (
                Verdict::Refused(l, c) | Verdict::Stricter(l, c, _),
                Err(PolicyError::Syntax { line, column, .. }),
            ) if (l, c) == (line, column) => {}
            _ => note(snippet, format!("{verdict:?}, but {ours:?}")),
        }
        let Some(nsjail) = &nsjail else { continue };
        let theirs = nsjail.reads(snippet.as_bytes());
        match (verdict, &theirs) {
            (Verdict::Reads(want), Some(message)) if message == want => {}
            (Verdict::Newer(want), Some(message)) if message == want => {}
            (Verdict::Refused(..) | Verdict::Newer(_), None) => {}
            (Verdict::Stricter(_, _, why), Some(_)) => assert!(!why.is_empty()),
            _ => note(snippet, format!("{verdict:?}, but nsjail: {theirs:?}")),
        }
    }
    for (bytes, l, c) in NOT_UTF8 {
        match Policy::parse("p", bytes) {
            Err(PolicyError::Syntax { line, column, .. }) if (line, column) == (*l, *c) => {}
            other => note(&String::from_utf8_lossy(bytes), format!("{other:?}")),
        }
        if let Some(nsjail) = &nsjail {
            assert!(nsjail.accepts(bytes), "{bytes:?}");
        }
    }
    assert!(Policy::parse("p", b"").unwrap_err().to_string().starts_with("p:1:1: "));
    assert!(nsjail.is_none_or(|nsjail| !nsjail.accepts(b"")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whole_policies_are_read_as_nsjail_reads_them() {
    let Some(nsjail) = Nsjail::find() else { return };
    let texts = crate::corpus::policies();
    assert!(texts.len() > Builtin::ALL.len());
    for (name, text) in texts {
        let policy = Policy::parse(&name, text.as_bytes()).unwrap();
        assert_eq!(nsjail.reads(text.as_bytes()), Some(one_line(&policy)), "{name}");
        // What is written for nsjail is what was read.
        assert_eq!(nsjail.reads(policy.to_text().as_bytes()), Some(one_line(&policy)), "{name}");
        let json = policy.to_json().to_string();
        assert_eq!(nsjail.reads(json.as_bytes()), Some(one_line(&policy)), "{name}: {json}");
    }
}

pub fn one_line(policy: &Policy) -> String {
    let text = policy.to_text();
    text.lines().map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned()
}

/// The program, asked for nothing but to read a policy.
pub struct Nsjail {
    program: std::path::PathBuf,
    dir: tempfile::TempDir,
}

impl Nsjail {
    pub fn find() -> Option<Nsjail> {
        let program = crate::rig::nsjail()?.path().to_owned();
        Some(Nsjail { program, dir: tempfile::tempdir().unwrap() })
    }

    pub fn accepts(&self, policy: &[u8]) -> bool {
        self.run(policy).is_some()
    }

    /// The message that nsjail reads, in the canonical form of [`one_line`].
    pub fn reads(&self, policy: &[u8]) -> Option<String> {
        let log = self.run(policy)?;
        // It prints the message in the text form, with each byte beyond ASCII escaped.
        let (_, after) = log.split_once("Parsed ").unwrap_or_else(|| panic!("{policy:?}: {log}"));
        let (_, message) = after.split_once(":\n'").unwrap_or_else(|| panic!("{log}"));
        let (message, _) = message.rsplit_once('\'').unwrap_or_else(|| panic!("{log}"));
        let policy = Policy::parse("nsjail", format!("#\n{message}").as_bytes());
        Some(policy.map_or_else(|error| format!("{message}: {error}"), |policy| one_line(&policy)))
    }

    /// What it says, if it takes the policy.
    fn run(&self, policy: &[u8]) -> Option<String> {
        let file = self.dir.path().join("policy");
        fs::write(&file, policy).unwrap();
        let output =
            Command::new(&self.program).arg("-v").arg("--config").arg(Path::new(&file)).arg("-h").output();
        let output = output.unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 255)), "{code:?}");
        (code == Some(0)).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
