//! Measures and fits text to the columns of a terminal.
//!
//! A row that is one column too wide wraps, and from then on every "move up" of the display is off by one. So each row is
//! measured in cells, not in bytes or characters, before it is written. Input is text that [`super::inert`] has passed:
//! the only escapes in it are colours.

use unicode_width::UnicodeWidthChar;

/// Columns that the text takes; colours take none.
pub fn width(text: &str) -> usize {
    pieces(text).map(|(_, cells)| cells).sum()
}

/// The text cut to at most `columns`, with an ellipsis where something is missing, and tabs as one space. Colours are
/// kept whole, also behind the cut, so that a reset is never lost.
pub fn fit(text: &str, columns: usize) -> String {
    let whole = width(text) <= columns;
    let room = if whole { columns } else { columns.saturating_sub(1) };
    let mut out = String::with_capacity(text.len());
    let mut used = 0;
    let mut cut = false;
    for (piece, cells) in pieces(text) {
        if piece.starts_with('\u{1b}') {
            out.push_str(piece);
        } else if !cut && used + cells <= room {
            out.push_str(if piece == "\t" { " " } else { piece });
            used += cells;
        } else if !cut {
            cut = true;
            if columns > 0 {
                out.push('…');
            }
        }
    }
    out
}

/// Single characters and whole colour sequences with the cells they take.
fn pieces(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let c = rest.chars().next()?;
        let (length, cells) = match c {
            '\u{1b}' => (rest.find('m').map_or(rest.len(), |at| at + 1), 0),
            '\t' => (1, 1),
            c => (c.len_utf8(), c.width().unwrap_or(0)),
        };
        let (piece, tail) = rest.split_at(length);
        rest = tail;
        Some((piece, cells))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        for (text, columns, want, cells) in [
            ("abc", 3, "abc", 3),
            ("abcd", 3, "ab…", 4),
            ("漢字漢字", 5, "漢字…", 8),
            ("漢字", 4, "漢字", 4),
            ("漢字", 2, "…", 4),
            ("a\tb", 3, "a b", 3),
            ("e\u{301}x", 2, "e\u{301}x", 2),
            ("\x1b[31mabcd\x1b[0m", 3, "\x1b[31mab…\x1b[0m", 4),
            ("abc", 0, "", 3),
            ("", 5, "", 0),
        ] {
            assert_eq!(fit(text, columns), want);
            assert_eq!(width(text), cells, "{text:?}");
        }
    }
}
