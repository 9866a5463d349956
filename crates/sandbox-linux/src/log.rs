//! nsjail's log: the only place where it says what it did, and so the only way to tell "the jail failed" from
//! "the program failed". Lines look like `[I][2026-11-23T18:04:32+0000] text` or
//! `[W][time][pid] function():line text`; the text may quote paths and is not trusted.

use std::fmt;

/// How loud nsjail said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

impl Level {
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
            Level::Fatal => "fatal",
        }
    }
}

/// One line of nsjail's log, control characters replaced, at most [`MAX_LINE`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub level: Level,
    /// The text without time, process id and source position.
    pub text: String,
}

/// Longer lines are cut.
pub const MAX_LINE: usize = 4096;

/// What the program in the jail came to, as nsjail reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Exited(i32),
    Signaled(i32),
}

impl LogLine {
    /// Reads one line; text in an unknown form is a continuation of the line before and has level `Debug`.
    pub fn parse(raw: &[u8]) -> LogLine {
        let raw = &raw[..raw.len().min(MAX_LINE)];
        let line: String = String::from_utf8_lossy(raw)
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        let mut rest = line.as_str();
        let level = match rest.get(..3) {
            Some("[D]") => Level::Debug,
            Some("[I]") => Level::Info,
            Some("[W]") => Level::Warning,
            Some("[E]") => Level::Error,
            Some("[F]") => Level::Fatal,
            _ => {
                return LogLine { level: Level::Debug, text: line };
            }
        };
        rest = &rest[3..];
        // Time, then for other levels than info the process id.
        for _ in 0..2 {
            if let Some(end) = rest.starts_with('[').then(|| rest.find(']')).flatten() {
                rest = &rest[end + 1..];
            }
        }
        rest = rest.trim_start();
        // "function():123 text"
        if let Some((place, text)) = rest.split_once(' ')
            && let Some((function, number)) = place.rsplit_once("():")
            && !function.is_empty()
            && !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
        {
            rest = text;
        }
        LogLine { level, text: rest.to_owned() }
    }

    /// True for the line that nsjail writes when set-up is over and the program comes next.
    pub(crate) fn is_start(&self) -> bool {
        self.level == Level::Info && self.text.starts_with("Executing ")
    }

    /// The program's end, if this line reports it.
    pub(crate) fn ending(&self) -> Option<Ending> {
        if self.level != Level::Info || !self.text.starts_with("pid=") {
            return None;
        }
        if let Some((_, rest)) = self.text.split_once("exited with status: ") {
            return leading_number(rest).map(Ending::Exited);
        }
        let (_, rest) = self.text.split_once("terminated with signal: ")?;
        let (_, number) = rest.split_once('(')?;
        leading_number(number).map(Ending::Signaled)
    }
}

fn leading_number(text: &str) -> Option<i32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

impl fmt::Display for LogLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.level.name(), self.text)
    }
}

/// Splits the byte stream of a log pipe into lines, without ever holding more than one line's bound.
#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    /// The writing end is gone.
    pub(crate) closed: bool,
    partial: Vec<u8>,
}

impl LineSplitter {
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(LogLine)) {
        for &byte in bytes {
            if byte == b'\n' {
                each(LogLine::parse(&self.partial));
                self.partial.clear();
            } else if self.partial.len() < MAX_LINE {
                self.partial.push(byte);
            }
        }
    }

    /// The last line, if it had no newline.
    pub(crate) fn finish(&mut self, each: impl FnOnce(LogLine)) {
        if !self.partial.is_empty() {
            each(LogLine::parse(&self.partial));
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (raw, level, text) in [
            ("[I][2026-11-23T18:04:32+0000] Mode: STANDALONE_ONCE", Level::Info, "Mode: STANDALONE_ONCE"),
            (
                "[E][2026-11-23T18:04:32+0000][77] mountPt():204 mount('x') failed: Permission denied",
                Level::Error,
                "mount('x') failed: Permission denied",
            ),
            ("[W][t][1] initNs():9 two (parts) here", Level::Warning, "two (parts) here"),
            ("[F][t][1] no place", Level::Fatal, "no place"),
            ("plain \x1b[31mtext", Level::Debug, "plain \u{fffd}[31mtext"),
            ("[I]", Level::Info, ""),
            ("", Level::Debug, ""),
        ] {
            assert_eq!(LogLine::parse(raw.as_bytes()), LogLine { level, text: text.to_owned() }, "{raw}");
        }
    }

    #[test]
    fn knows_start_and_end() {
        let line = |text: &str| LogLine::parse(format!("[I][t] {text}").as_bytes());
        assert!(line("Executing '/ktl' for '[STANDALONE MODE]'").is_start());
        assert!(!LogLine::parse(b"Executing '/ktl' for").is_start());
        for (text, want) in [
            ("pid=5 ([STANDALONE MODE]) exited with status: 7, (PIDs left: 0)", Some(Ending::Exited(7))),
            (
                "pid=5 ([STANDALONE MODE]) terminated with signal: SIGKILL (9), (PIDs left: 0)",
                Some(Ending::Signaled(9)),
            ),
            ("exited with status: 7", None),
            ("pid=5 exited with status: x", None),
        ] {
            assert_eq!(line(text).ending(), want, "{text}");
        }
    }

    #[test]
    fn splits_and_bounds() {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        splitter.push(b"[I][t] on", |l| lines.push(l.text));
        splitter.push(b"e\n[I][t] two\nrest", |l| lines.push(l.text));
        splitter.push(&vec![b'x'; 3 * MAX_LINE], |l| lines.push(l.text));
        splitter.finish(|l| lines.push(l.text));
        assert_eq!(lines[..2], ["one", "two"]);
        assert_eq!(lines[2].len(), MAX_LINE);
    }
}
