//! Go's `path/filepath` on byte strings.
//!
//! Ignore patterns, follow-paths and the order checks of fsutil are all defined through Go's `filepath.Clean`, `Join` and
//! `Match`, whose corner cases differ from `std::path` (`a/../b` is folded, `..` at the root is dropped, `[^a]` negates).
//! Names are bytes: Go's strings are, and file names on Linux are.

/// Shortest equivalent of `path` by lexical folding: no `//`, no `.`, no `x/..`; the empty path is `.`.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => match kept.last() {
                Some(last) if *last != b".." => {
                    kept.pop();
                }
                _ if rooted => {}
                _ => kept.push(part),
            },
            _ => kept.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    if rooted {
        out.push(b'/');
    }
    out.extend_from_slice(&kept.join(&b'/'));
    if out.is_empty() {
        out.push(b'.');
    }
    out
}

/// `first/second`, cleaned; an empty side adds nothing.
pub(crate) fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Vec::new(),
        (true, false) => clean(second),
        (false, true) => clean(first),
        (false, false) => clean(&[first, second].join(&b'/')),
    }
}

/// The directory part of a clean path, `.` when it has none.
pub(crate) fn dir(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => b"/",
        Some(at) => &path[..at],
        None => b".",
    }
}

/// The last component of a clean path.
pub(crate) fn base(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) if path.len() > 1 => &path[at + 1..],
        _ => path,
    }
}

/// The first character and its width in bytes. A byte that begins no valid character is U+FFFD of width 1.
pub(crate) fn next_char(bytes: &[u8]) -> Option<(char, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((char::from(first), 1));
    }
    let width = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let decoded = bytes.get(..width).and_then(|head| std::str::from_utf8(head).ok());
    Some(
        decoded.and_then(|text| text.chars().next()).map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, width)),
    )
}

/// The pattern is malformed: an open `[`, an empty class, a trailing `\`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A parsed pattern of `filepath.Match`: `*` and `?` stop at `/`, `[a-z]`, `[^a]`, `\` escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Byte(u8),
    AnyChar,
    Star,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    pub(crate) fn parse(pattern: &[u8]) -> Result<Glob, BadPattern> {
        let mut parts = Vec::new();
        let mut rest = pattern;
        while let Some((&byte, tail)) = rest.split_first() {
            rest = tail;
            parts.push(match byte {
                b'*' => Part::Star,
                b'?' => Part::AnyChar,
                b'[' => class(&mut rest)?,
                b'\\' => {
                    let (&escaped, tail) = rest.split_first().ok_or(BadPattern)?;
                    rest = tail;
                    Part::Byte(escaped)
                }
                _ => Part::Byte(byte),
            });
        }
        Ok(Glob(parts))
    }

    /// Whether the whole of `name` matches.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        let (mut part, mut at) = (0, 0);
        // Where to resume when a literal run fails: the part after the last star, and how far that star has reached.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            let step = match self.0.get(part) {
                None if at == name.len() => return true,
                None => None,
                Some(Part::Star) => {
                    part += 1;
                    retry = Some((part, at));
                    continue;
                }
                Some(part) => part.width_at(&name[at..]),
            };
            if let Some(width) = step {
                part += 1;
                at += width;
                continue;
            }
            match retry {
                Some((after, reached)) if name.get(reached).is_some_and(|byte| *byte != b'/') => {
                    retry = Some((after, reached + 1));
                    (part, at) = (after, reached + 1);
                }
                _ => return false,
            }
        }
    }
}

impl Part {
    /// How many bytes of `rest` this part takes, or `None` when it does not match there.
    fn width_at(&self, rest: &[u8]) -> Option<usize> {
        match self {
            Part::Byte(byte) => (rest.first() == Some(byte)).then_some(1),
            Part::Star => None,
            Part::AnyChar => next_char(rest).filter(|(c, _)| *c != '/').map(|(_, width)| width),
            Part::Class { negated, ranges } => {
                let (c, width) = next_char(rest)?;
                let inside = ranges.iter().any(|(low, high)| *low <= c && c <= *high);
                (inside != *negated).then_some(width)
            }
        }
    }
}

/// Parses what follows `[`, including the closing bracket.
fn class(rest: &mut &[u8]) -> Result<Part, BadPattern> {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    while ranges.is_empty() || rest.first() != Some(&b']') {
        let low = class_char(rest)?;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            *rest = &rest[1..];
            high = class_char(rest)?;
        }
        ranges.push((low, high));
    }
    *rest = &rest[1..];
    Ok(Part::Class { negated, ranges })
}

fn class_char(rest: &mut &[u8]) -> Result<char, BadPattern> {
    if matches!(rest.first(), None | Some(b'-' | b']')) {
        return Err(BadPattern);
    }
    if rest.first() == Some(&b'\\') {
        *rest = &rest[1..];
    }
    let (c, width) = next_char(rest).ok_or(BadPattern)?;
    *rest = &rest[width..];
    let broken = c == char::REPLACEMENT_CHARACTER && width == 1;
    // A class is never the end of a pattern: its bracket is still to come.
    if broken || rest.is_empty() { Err(BadPattern) } else { Ok(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_folds_like_go() {
        for (path, expected) in [
            ("", "."),
            (".", "."),
            ("/", "/"),
            ("a", "a"),
            ("a/", "a"),
            ("a//b/./c", "a/b/c"),
            ("a/../b", "b"),
            ("../a", "../a"),
            ("a/../..", ".."),
            ("/..", "/"),
            ("/../a", "/a"),
            ("./a", "a"),
            ("!a/../b", "b"),
            ("a/b/../../..", ".."),
            ("../../a/..", "../.."),
        ] {
            assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn join_dir_base() {
        assert_eq!(join(b".", b"/a/b"), b"a/b");
        assert_eq!(join(b"/", b"../x"), b"/x");
        assert_eq!(join(b"", b""), b"");
        assert_eq!(join(b"/a", b""), b"/a");
        assert_eq!((dir(b"a/b/c"), base(b"a/b/c")), (&b"a/b"[..], &b"c"[..]));
        assert_eq!((dir(b"a"), base(b"a")), (&b"."[..], &b"a"[..]));
        assert_eq!((dir(b"/a"), base(b"/a")), (&b"/"[..], &b"a"[..]));
    }

    #[test]
    fn glob_follows_filepath_match() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^b-d]", "abc", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[\\-]", "-", true),
            ("[x\\-]", "-", true),
            ("[!a]x", "!x", true),
            ("{a,b}", "a", false),
            ("[-]x", "", false),
        ] {
            match Glob::parse(pattern.as_bytes()) {
                Ok(glob) => assert_eq!(glob.matches(name.as_bytes()), expected, "{pattern} {name}"),
                Err(BadPattern) => assert_eq!(pattern, "[-]x"),
            }
        }
        for bad in ["[]a]", "[-]", "[x-]", "[-x]", "[", "[^", "[^bc", "a[", "[a-b-c]", "\\", "[\\"] {
            assert_eq!(Glob::parse(bad.as_bytes()), Err(BadPattern), "{bad}");
        }
        assert!(Glob::parse(b"?").is_ok_and(|glob| glob.matches(b"\xff") && !glob.matches(b"\xff\xff")));
    }
}
