//! Whether a client was safe.

use super::ground::Ground;
use super::run::Run;

/// Of a client and all its processes.
pub const MEMORY_MIB: u64 = 256;

/// In the order in which they are looked for: the worst first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Safe,
    /// The daemon got, changed or showed what it must not.
    Leaked(String),
    /// The client was still there when its time was over.
    Hang,
    /// In MiB.
    Memory(u64),
    /// The client died.
    Crashed(String),
}

impl Verdict {
    pub fn word(&self) -> String {
        match self {
            Verdict::Safe => "safe".to_owned(),
            Verdict::Leaked(_) => "LEAKED".to_owned(),
            Verdict::Hang => "hang".to_owned(),
            Verdict::Memory(mib) => format!("{mib} MiB"),
            Verdict::Crashed(_) => "crash".to_owned(),
        }
    }

    pub fn detail(&self) -> &str {
        match self {
            Verdict::Leaked(what) | Verdict::Crashed(what) => what,
            Verdict::Safe | Verdict::Hang | Verdict::Memory(_) => "",
        }
    }
}

/// Judges by what the daemon recorded, what lies on the disk and what the client printed.
pub fn judge(ground: &Ground, run: &Run) -> Verdict {
    let leaks = ground.record.leaks();
    let shown = [("stdout", &run.stdout), ("stderr", &run.stderr)];
    let on_screen = shown.iter().find_map(|(name, text)| Some(format!("{name}: {}", ill_text(text)?)));
    let leak = leaks.into_iter().next().or_else(|| run.changed.clone()).or_else(|| ground.ill_output());
    let broken = || (run.progress == "rawjson").then(|| no_json(&run.stderr)).flatten();
    if let Some(what) = leak.or(on_screen).or_else(broken) {
        return Verdict::Leaked(what);
    }
    if run.hung {
        return Verdict::Hang;
    }
    if run.peak_kib > MEMORY_MIB << 10 {
        return Verdict::Memory(run.peak_kib >> 10);
    }
    match run.code {
        None => Verdict::Crashed("ended by a signal".to_owned()),
        // What a panic of Rust and one of Go end with.
        Some(101) => Verdict::Crashed(last_line(&run.stderr)),
        Some(2) if contains(&run.stderr, b"goroutine ") => Verdict::Crashed(last_line(&run.stderr)),
        _ => Verdict::Safe,
    }
}

/// What no text of a client may hold, whatever it shows: it would move more than the lines that the client draws, hide or
/// turn text, or be an order to a CI runner.
fn ill_text(text: &[u8]) -> Option<String> {
    const ILL: &[(&str, &[u8])] = &[
        ("sets the title or the clipboard", b"\x1b]"),
        ("a device control string", b"\x1bP"),
        ("resets the terminal", b"\x1bc"),
        ("clears the screen", b"\x1b[2J"),
        ("conceals text", b"\x1b[8m"),
        ("a bell", b"\x07"),
        ("a backspace", b"\x08"),
        ("a C1 control", b"\xc2\x9b"),
        ("turns the reading order", "\u{202e}".as_bytes()),
        ("isolates the reading order", "\u{2066}".as_bytes()),
        ("an order to Azure", b"##vso["),
        ("an order to GitHub", b"##["),
    ];
    if let Some((what, _)) = ILL.iter().find(|(_, ill)| contains(text, ill)) {
        return Some((*what).to_owned());
    }
    let orders = text.split(|byte| *byte == b'\n' || *byte == b'\r').find(|line| {
        let line = line.trim_ascii_start();
        line.starts_with(b"::") && contains(line, b"::CANARY")
    });
    orders.map(|line| format!("an order to GitHub: {}", String::from_utf8_lossy(&line[..line.len().min(80)])))
}

/// A line that is no JSON amid lines that are.
fn no_json(text: &[u8]) -> Option<String> {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let is_object = |line: &&[u8]| line.starts_with(b"{");
    let (first, last) = (lines.iter().position(is_object), lines.iter().rposition(is_object));
    lines[first?..=last?]
        .iter()
        .find(|line| serde_json::from_slice::<serde_json::Value>(line).is_err())
        .map(|line| format!("no JSON: {}", String::from_utf8_lossy(&line[..line.len().min(80)])))
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn last_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().last().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(stderr: &[u8]) -> Run {
        Run {
            code: Some(1),
            hung: false,
            peak_kib: 1024,
            progress: "plain",
            changed: None,
            stdout: Vec::new(),
            stderr: stderr.to_vec(),
        }
    }

    /// Each check finds what it is for.
    #[test]
    fn verdicts() -> anyhow::Result<()> {
        let scratch = crate::parts::ScratchDir::new("judge")?;
        let ground = Ground::new(scratch.path())?;
        assert_eq!(judge(&ground, &ran(b"#1 a quiet step\n")), Verdict::Safe);
        for ill in [
            "\u{1b}]0;title\u{7}",
            "\u{1b}[2J",
            "a\u{202e}b",
            "\u{9b}31m",
            "x ##vso[task]y",
            "\n  ::add-mask::CANARY",
            "\r::set-output name=x::CANARY",
        ] {
            let verdict = judge(&ground, &ran(ill.as_bytes()));
            assert!(matches!(verdict, Verdict::Leaked(_)), "{ill:?}: {verdict:?}");
        }
        assert_eq!(judge(&ground, &Run { hung: true, ..ran(b"") }), Verdict::Hang);
        assert_eq!(judge(&ground, &Run { peak_kib: 300 << 10, ..ran(b"") }), Verdict::Memory(300));
        assert!(matches!(judge(&ground, &Run { code: None, ..ran(b"") }), Verdict::Crashed(_)));
        let lines = |text: &[u8]| judge(&ground, &Run { progress: "rawjson", ..ran(text) });
        assert_eq!(lines(b"{}\n{\"a\":1}\nERROR: it failed\n"), Verdict::Safe);
        assert!(matches!(lines(b"{}\nno\n{}\n"), Verdict::Leaked(_)));
        assert!(matches!(lines(b"{}\n{\"a\n"), Verdict::Leaked(_)));
        let changed = Run { changed: Some("outside/victim".to_owned()), ..ran(b"") };
        assert!(matches!(judge(&ground, &changed), Verdict::Leaked(_)));
        let written = ground.write("out/tool", "x")?;
        std::fs::set_permissions(written, std::os::unix::fs::PermissionsExt::from_mode(0o4755))?;
        assert!(matches!(judge(&ground, &ran(b"")), Verdict::Leaked(_)));
        std::fs::remove_dir_all(ground.path("out"))?;
        ground.record.got("a question", b"a CANARY");
        assert!(matches!(judge(&ground, &ran(b"")), Verdict::Leaked(_)));
        Ok(())
    }
}
