//! Cuts the chunks of a step's output into lines.
//!
//! The daemon sends whatever a process wrote at once: half lines, many lines, half characters. A program that draws a
//! progress bar returns the carriage and writes over its own line, so of such a line only the last segment counts. A
//! line may be endless; what lies beyond [`LINE_MAX`] is counted and not kept.

use std::time::Duration;

/// Bytes kept of one line.
pub const LINE_MAX: usize = 8 * 1024;

/// A line of output.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    /// Since the step started: when its first piece came, or the one that replaced it.
    pub at: Duration,
    /// Untrusted bytes without a newline.
    pub text: Vec<u8>,
}

/// The line of which the end has not come yet.
#[derive(Debug, Default)]
pub struct LineBuffer {
    open: Line,
    /// Bytes beyond the bound.
    cut: u64,
    /// The carriage was returned; what follows replaces the line, unless it is the newline of `\r\n`.
    returned: bool,
    /// Something of the line has come, be it an empty piece before a carriage return.
    begun: bool,
}

impl LineBuffer {
    /// Takes a chunk and hands out each line that it ends. `at` is the time of the chunk since the step started.
    pub fn push(&mut self, chunk: &[u8], at: Duration, mut ended: impl FnMut(Line)) {
        let mut rest = chunk;
        // `contains` is much faster than `position`, and there may be megabytes without an end.
        while rest.contains(&b'\n')
            && let Some(newline) = rest.iter().position(|&b| b == b'\n')
        {
            self.extend(&rest[..newline], at);
            if !self.begun {
                self.open.at = at;
            }
            ended(self.take());
            rest = &rest[newline + 1..];
        }
        if !rest.is_empty() {
            self.extend(rest, at);
        }
    }

    /// The unfinished line as it stands, none if nothing of it has come.
    pub fn open(&self) -> Option<&Line> {
        (!self.open.text.is_empty()).then_some(&self.open)
    }

    /// Ends the line that is open, if any: its step is over.
    pub fn end(&mut self) -> Option<Line> {
        let line = (!self.open.text.is_empty()).then(|| self.take());
        *self = Self::default();
        line
    }

    fn take(&mut self) -> Line {
        let mut line = std::mem::take(&mut self.open);
        if self.cut > 0 {
            line.text.extend_from_slice(format!("… [{} bytes cut]", self.cut).as_bytes());
        }
        (self.cut, self.returned, self.begun) = (0, false, false);
        line
    }

    fn extend(&mut self, piece: &[u8], at: Duration) {
        if piece.is_empty() {
            return;
        }
        if !self.begun {
            self.open.at = at;
            self.begun = true;
        }
        let mut piece = piece;
        // A carriage return at the very end may belong to a newline that has not come yet.
        let bare = piece.len() - piece.iter().rev().take_while(|&&b| b == b'\r').count();
        let ends_returned = bare < piece.len();
        piece = &piece[..bare];
        if !piece.is_empty() {
            let segment = if piece.contains(&b'\r') { piece.iter().rposition(|&b| b == b'\r') } else { None };
            if self.returned || segment.is_some() {
                self.open.text.clear();
                self.open.at = at;
                self.cut = 0;
                self.returned = false;
            }
            let piece = &piece[segment.map_or(0, |at| at + 1)..];
            let room = LINE_MAX.saturating_sub(self.open.text.len()).min(piece.len());
            self.open.text.extend_from_slice(&piece[..room]);
            self.cut += (piece.len() - room) as u64;
        }
        self.returned |= ends_returned;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut buffer = LineBuffer::default();
        let mut out = Vec::new();
        for chunk in chunks {
            buffer.push(chunk, Duration::ZERO, |l| out.push(String::from_utf8_lossy(&l.text).into_owned()));
        }
        if let Some(l) = buffer.end() {
            out.push(format!("{}$", String::from_utf8_lossy(&l.text)));
        }
        out
    }

    #[test]
    fn chunks_to_lines() {
        for (chunks, want) in [
            (&[&b"a\nb\n"[..]][..], &["a", "b"][..]),
            (&[b"a", b"b\nc", b"d"], &["ab", "cd$"]),
            (&[b"\n\n"], &["", ""]),
            (&[b"gr\xc3", b"\xbc\xc3\x9fe\n"], &["grüße"]),
            (&[b"a\r\nb\r\n"], &["a", "b"]),
            (&[b"a\r", b"\nb\n"], &["a", "b"]),
            (&[b" 10%\r 50%\r100%\n"], &["100%"]),
            (&[b" 10%\r", b" 50%\r", b"100%\r"], &["100%$"]),
            (&[b" 10%\r", b" 50%\r\n"], &[" 50%"]),
            (&[b"\rx\n"], &["x"]),
            (&[b"\r\r\n"], &[""]),
            (&[b""], &[]),
        ] {
            assert_eq!(lines(chunks), want, "{chunks:?}");
        }
    }

    #[test]
    fn endless_lines_are_cut() {
        let mut buffer = LineBuffer::default();
        let mut ended = 0;
        for _ in 0..1000 {
            buffer.push(&[b'x'; 4096], Duration::ZERO, |_| ended += 1);
        }
        assert_eq!((buffer.open.text.len(), ended), (LINE_MAX, 0));
        let line = buffer.end().unwrap();
        assert!(line.text.ends_with("… [4087808 bytes cut]".as_bytes()));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(text in "[ab\r\n]{0,40}", cuts in prop::collection::vec(0usize..40, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|c| &text.as_bytes()[c[0]..c[1]]).collect();
            prop_assert_eq!(lines(&chunks), lines(&[text.as_bytes()]));
        }
    }

    #[test]
    fn a_line_has_the_time_of_its_start() {
        let mut buffer = LineBuffer::default();
        let mut times = Vec::new();
        for (chunk, at) in [(&b"a"[..], 1), (b"b\nc\n", 2), (b"\n", 3)] {
            buffer.push(chunk, Duration::from_secs(at), |l| times.push(l.at.as_secs()));
        }
        assert_eq!(times, [1, 2, 3]);
    }
}
