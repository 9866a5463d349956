//! Makes untrusted text harmless before it is printed.
//!
//! Names, logs and errors come from the daemon, the frontend and the programs that a Dockerfile runs. Printed as they
//! are they could move the cursor, rewrite lines above, set the window title, reverse the reading order, or give
//! orders to a CI runner that reads our output (`::set-output …` at the start of a line on GitHub, `##[…]` and
//! `##vso[…]` anywhere in it on GitHub and Azure). After this module a text holds visible characters, tabs, and, where
//! asked for, colours. What was removed stays visible as a symbol, so that nobody is fooled by an absence.

use std::borrow::Cow;

/// What becomes of the colour sequences (SGR, `ESC [ … m`) in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sgr {
    /// Removed; the text stays.
    Drop,
    /// Weight, slant, underline and foreground colours stay and end with the text. Concealed and background colours go:
    /// they can hide text.
    Keep,
}

/// One line of untrusted bytes as harmless text. Newlines inside become visible too.
pub fn line(text: &[u8], sgr: Sgr) -> Cow<'_, str> {
    let plain = text.iter().all(|&b| (0x20..0x7f).contains(&b) || b == b'\t');
    let text = String::from_utf8_lossy(text);
    let text = if plain { text } else { Cow::Owned(visible(&text, sgr)) };
    if text.contains("##") { Cow::Owned(without_orders(&text)) } else { text }
}

/// [`line`] for text that is UTF-8 already.
pub fn text(text: &str) -> Cow<'_, str> {
    line(text.as_bytes(), Sgr::Drop)
}

/// A text of several lines, of which none can be read as an order when it starts a line of our output.
pub fn paragraph(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (n, piece) in text.trim_end().lines().enumerate() {
        if n > 0 {
            out.push('\n');
        }
        let piece = line(piece.as_bytes(), Sgr::Drop);
        if piece.trim_start().starts_with("::") {
            out.push_str("| ");
        }
        out.push_str(&piece);
    }
    out
}

/// At most `max` bytes of a text, cut between characters and marked with an ellipsis where something is missing.
pub fn bounded(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

fn visible(text: &str, sgr: Sgr) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut coloured = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '\u{1b}'
            && let Some((params, end)) = control_sequence(&rest[1..])
        {
            let kind = rest.as_bytes()[end];
            if kind == b'm' {
                if sgr == Sgr::Keep
                    && let Some(kept) = foreground_only(params)
                {
                    coloured = !matches!(kept.as_str(), "" | "0");
                    out.push_str("\u{1b}[");
                    out.push_str(&kept);
                    out.push('m');
                }
                rest = &rest[end + 1..];
                continue;
            }
            // Compilers end each colour with "erase to the end of the line", which says nothing in a log.
            if kind == b'K' {
                rest = &rest[end + 1..];
                continue;
            }
        }
        push_visible(&mut out, c);
        rest = &rest[c.len_utf8()..];
    }
    if coloured {
        out.push_str("\u{1b}[0m");
    }
    out
}

/// Splits `[` parameters final, as ECMA-48 has it, from the text behind an ESC: the parameters, and where the final byte
/// stands counted from the ESC.
fn control_sequence(after: &str) -> Option<(&str, usize)> {
    let body = after.strip_prefix('[')?;
    let length = body.bytes().take_while(|b| b.is_ascii_digit() || matches!(b, b';' | b':')).count();
    let last = *body.as_bytes().get(length)?;
    (length <= 64 && matches!(last, b'm' | b'K')).then(|| (&body[..length], length + 2))
}

/// The parameters of an SGR that only change how readable text looks; none when nothing is left of them.
fn foreground_only(params: &str) -> Option<String> {
    if params.is_empty() {
        return Some(String::new());
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut fields = params.split(';');
    while let Some(field) = fields.next() {
        match field.parse::<u16>() {
            Ok(0..=4 | 22..=24 | 30..=37 | 39 | 90..=97) => kept.push(field),
            Ok(selector @ (38 | 48)) => {
                let space = fields.next()?;
                let operands = match space {
                    "5" => 1,
                    "2" => 3,
                    _ => return None,
                };
                let start = kept.len();
                kept.extend([field, space]);
                for _ in 0..operands {
                    kept.push(fields.next().filter(|f| f.parse::<u8>().is_ok())?);
                }
                if selector == 48 {
                    kept.truncate(start);
                }
            }
            _ => {}
        }
    }
    (!kept.is_empty()).then(|| kept.join(";"))
}

fn push_visible(out: &mut String, c: char) {
    match c {
        '\t' => out.push(c),
        '\0'..='\u{1f}' => out.push(char::from_u32(0x2400 + c as u32).unwrap_or('\u{fffd}')),
        '\u{7f}' => out.push('␡'),
        c if deceives(c) => {
            out.push_str("\\u{");
            out.push_str(&format!("{:x}", c as u32));
            out.push('}');
        }
        c => out.push(c),
    }
}

/// C1 controls, marks that change the reading order, separators that some terminals break lines at, and invisible tags.
pub(super) fn deceives(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Runners look for these anywhere in a line, so that a prefix would not help; a space takes the meaning away.
fn without_orders(text: &str) -> String {
    let mut out = text.to_owned();
    for order in ["##[", "##vso[", "##teamcity["] {
        if out.contains(order) {
            out = out.replace(order, &format!("# {}", &order[1..]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes that terminals and runners react to, and some that they do not.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"\x1b[",
            b"\x1b]",
            b"##[",
            b"##vso[",
            b"#",
            b"::x::",
            b"31",
            b";",
            b"8;48;5",
            b"m",
            b"K",
            b"\n",
            b"\r",
            b"\t ",
            b"\xc2\x9b",
            b"\xe2\x80\xae",
            b"\xff",
            "ä漢".as_bytes(),
        ];
        let pieces = prop::sample::select(PIECES);
        prop::collection::vec(pieces, 0..24).prop_map(|pieces| pieces.concat())
    }

    fn is_inert(text: &str) -> bool {
        !text.contains("##[")
            && !text.contains("##vso[")
            && text.chars().all(|c| c == '\t' || !(c.is_control() || deceives(c)))
    }

    proptest! {
        #[test]
        fn nothing_live_comes_out(bytes in hostile()) {
            let dropped = line(&bytes, Sgr::Drop);
            prop_assert!(is_inert(&dropped), "{:?}", dropped);
            for row in paragraph(&String::from_utf8_lossy(&bytes)).split('\n') {
                prop_assert!(is_inert(row) && !row.trim_start().starts_with("::"), "{:?}", row);
            }
        }

        #[test]
        fn only_foreground_colours_come_out(bytes in hostile()) {
            let kept = line(&bytes, Sgr::Keep);
            let mut pieces = kept.split("\u{1b}[");
            let mut last = "";
            let mut text = pieces.next().unwrap_or_default().to_owned();
            for piece in pieces {
                let (params, rest) = piece.split_once('m').unwrap();
                let harmless = |p: &str| p.is_empty() || foreground_only(p).as_deref() == Some(p);
                prop_assert!(harmless(params), "{:?}", kept);
                last = params;
                text.push_str(rest);
            }
            prop_assert!(is_inert(&text.replace("##", "")), "{:?}", kept);
            prop_assert!(matches!(last, "" | "0"), "{:?} leaves a colour on", kept);
        }
    }

    #[test]
    fn lines_without_colour() {
        for (given, want) in [
            (&b"plain text\twith tab"[..], "plain text\twith tab"),
            (b"", ""),
            ("grüße 漢字 🦀".as_bytes(), "grüße 漢字 🦀"),
            (b"\x1b[31mred\x1b[0m and \x1b[1;38;5;200mbold\x1b[m", "red and bold"),
            (b"warning\x1b[m\x1b[K here", "warning here"),
            (b"\x1b[2Jclear", "␛[2Jclear"),
            (b"\x1b]0;title\x07", "␛]0;title␇"),
            (b"\x1b[31", "␛[31"),
            (b"\x1b", "␛"),
            (b"a\x08\x08b\0\x7f", "a␈␈b␀␡"),
            (b"two\nlines\r", "two␊lines␍"),
            (b"bad \xff\xfe utf8", "bad \u{fffd}\u{fffd} utf8"),
            (b"\x9b31m", "\u{fffd}31m"),
            ("\u{9b}31m".as_bytes(), "\\u{9b}31m"),
            ("a\u{202e}txt.exe".as_bytes(), "a\\u{202e}txt.exe"),
            ("x\u{2066}y\u{2028}z".as_bytes(), "x\\u{2066}y\\u{2028}z"),
            (b"##[add-mask]x", "# #[add-mask]x"),
            (b"a ##vso[task.setvariable]b", "a # #vso[task.setvariable]b"),
            (b"#\x1b[m#[group]x", "# #[group]x"),
            (b"###[x", "## #[x"),
            (b"## heading", "## heading"),
        ] {
            assert_eq!(line(given, Sgr::Drop), want, "{given:?}");
        }
    }

    #[test]
    fn colours_end_with_their_line() {
        for (given, want) in [
            ("\x1b[31mred", "\x1b[31mred\x1b[0m"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("\x1b[31mred\x1b[m", "\x1b[31mred\x1b[m"),
            ("\x1b[8mhidden", "hidden"),
            ("\x1b[41;97mon red", "\x1b[97mon red\x1b[0m"),
            ("\x1b[48;5;1;32mgreen", "\x1b[32mgreen\x1b[0m"),
            ("\x1b[38;2;1;2;3mrgb", "\x1b[38;2;1;2;3mrgb\x1b[0m"),
            ("\x1b[38;2;1mshort", "short"),
            ("\x1b[38;5;999mbad", "bad"),
            ("\x1b[1A\x1b[32mup", "␛[1A\x1b[32mup\x1b[0m"),
        ] {
            assert_eq!(line(given.as_bytes(), Sgr::Keep), want, "{given:?}");
        }
    }

    #[test]
    fn paragraphs_hold_no_orders() {
        assert_eq!(paragraph("one\n::error::two\n  ::three\n"), "one\n| ::error::two\n|   ::three");
        assert_eq!(paragraph("a\r\nb"), "a\nb");
    }

    #[test]
    fn bounds_cut_between_characters() {
        assert_eq!(bounded("short", 10), "short");
        assert_eq!(bounded("ääää", 7), "ää…");
        assert_eq!(bounded("abc", 0), "…");
    }
}
