//! The lines of an ignore file as patterns.
//!
//! The Dockerfile frontend reads the file on the daemon; here it is read once more, because what a user keeps out of a
//! context must not depend on what a daemon makes of it. Follows moby/patternmatcher `ignorefile/ignorefile.go`.

use super::gopath::clean;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The patterns in their order. What is not UTF-8 in them is replaced, as it would be on the wire.
pub(super) fn patterns(text: &[u8]) -> Vec<String> {
    let text = text.strip_prefix(BOM).unwrap_or(text);
    text.split(|byte| *byte == b'\n').filter_map(pattern).collect()
}

fn pattern(line: &[u8]) -> Option<String> {
    if line.first() == Some(&b'#') {
        return None;
    }
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let (sign, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if rest.is_empty() {
        return (!sign.is_empty()).then(|| sign.to_owned());
    }
    let cleaned = clean(rest.as_bytes());
    let anchored = if cleaned.len() > 1 { cleaned.strip_prefix(b"/").unwrap_or(&cleaned) } else { &cleaned };
    Some(format!("{sign}{}", String::from_utf8_lossy(anchored)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_patterns() {
        for (text, expected) in [
            ("", &[][..]),
            ("\u{feff}a\n\n  b  \n", &["a", "b"]),
            ("# a comment\n #not one\n", &["#not one"]),
            ("/rooted\n./dot/../x/\n/\n", &["rooted", "x", "/"]),
            ("!back\n! spaced \n", &["!back", "!spaced"]),
            ("windows\r\nlines\r\n", &["windows", "lines"]),
            ("**/*.pem\n!/keep/**\n", &["**/*.pem", "!keep/**"]),
        ] {
            assert_eq!(patterns(text.as_bytes()), expected, "{text:?}");
        }
    }
}
