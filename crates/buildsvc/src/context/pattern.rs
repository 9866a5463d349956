//! Include and exclude patterns as moby/patternmatcher understands them.
//!
//! The daemon's Dockerfile frontend reads `.dockerignore` itself and sends its lines as patterns, so what a build sees
//! depends on matching exactly as upstream does, which is neither gitignore nor shell globbing: patterns are anchored at
//! the root, cleaned like Go paths, the last match wins, and a directory's matches are inherited by what lies below it.
//! Upstream turns a pattern into a regular expression and so inherits some of its syntax; [`Expression`] is that
//! language and no more. Follows `patternmatcher.go` (`New`, `compile`, `MatchesUsingParentResults`).

use super::expression::Expression;
use super::gopath::{BadPattern, Glob, clean};

/// A list of patterns, tried in order.
#[derive(Debug)]
pub(crate) struct Matcher {
    patterns: Vec<Pattern>,
}

/// One cleaned pattern.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// Without the leading `!`.
    text: Vec<u8>,
    /// Begins with `!`: what it matches is taken back.
    exception: bool,
    form: Form,
}

/// How a pattern is matched; the first three cover most patterns without the expression.
#[derive(Debug)]
enum Form {
    Exact,
    /// `a/**`: what begins with `a/`.
    Prefix(Vec<u8>),
    /// `**/a` or `**a`: what ends in `/a` or `a`; `**/a` also matches `a`.
    Suffix(Vec<u8>),
    Expression(Expression),
}

/// A pattern that cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?}: {reason}")]
pub struct InvalidPattern {
    pub pattern: String,
    pub reason: &'static str,
}

impl Matcher {
    pub(crate) fn new<'a>(patterns: impl IntoIterator<Item = &'a [u8]>) -> Result<Matcher, InvalidPattern> {
        let mut compiled = Vec::new();
        for raw in patterns {
            let trimmed = trim(raw);
            if trimmed.is_empty() {
                continue;
            }
            compiled.push(Pattern::parse(trimmed).map_err(|reason| InvalidPattern {
                pattern: String::from_utf8_lossy(raw).into_owned(),
                reason,
            })?);
        }
        Ok(Matcher { patterns: compiled })
    }

    pub(crate) fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether `path` matches, given which patterns matched the directory it lies in (`None` for entries of the root).
    /// `results` is set to which patterns matched `path`, for use with the entries below it.
    pub(crate) fn matches(&self, path: &[u8], parent: Option<&[bool]>, results: &mut Vec<bool>) -> bool {
        results.clear();
        results.resize(self.patterns.len(), false);
        let mut matched = false;
        for (index, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.and_then(|parent| parent.get(index)).copied().unwrap_or(false);
            // An exception is of interest only once something matched, and a plain pattern only as long as nothing has.
            if !inherited && (pattern.exception != matched || !pattern.matches(path)) {
                continue;
            }
            results[index] = true;
            matched = !pattern.exception;
        }
        matched
    }
}

impl Pattern {
    fn parse(trimmed: &[u8]) -> Result<Pattern, &'static str> {
        // Cleaning comes before the `!` is looked at, so `!a/../b` is `b` and no exception.
        let cleaned = clean(trimmed);
        let (exception, text) = match cleaned.strip_prefix(b"!") {
            Some(b"") => return Err("illegal exclusion pattern"),
            Some(rest) => (true, rest.to_vec()),
            None => (false, cleaned),
        };
        if let Err(BadPattern) = Glob::parse(&text) {
            return Err("syntax error in pattern");
        }
        let form = compile(&text)?;
        Ok(Pattern { text, exception, form })
    }

    pub(crate) fn is_exception(&self) -> bool {
        self.exception
    }

    /// The pattern without a trailing `/**` or `/*`: below that directory alone it can match, if it has no wildcards.
    pub(crate) fn without_trailing_glob(&self) -> &[u8] {
        let text = self.text.strip_suffix(b"/**").unwrap_or(&self.text);
        text.strip_suffix(b"/*").unwrap_or(text)
    }

    fn matches(&self, path: &[u8]) -> bool {
        match &self.form {
            Form::Exact => path == self.text,
            Form::Prefix(prefix) => path.starts_with(prefix),
            Form::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|whole| whole == path)
            }
            Form::Expression(expression) => expression.matches(path),
        }
    }
}

/// Chooses the form and, where it is an expression, translates to upstream's regular expression.
fn compile(text: &[u8]) -> Result<Form, &'static str> {
    enum Kind {
        Exact,
        Prefix,
        Suffix,
        Expression,
    }
    let mut chars = Characters(text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text));
    let mut kind = Kind::Exact;
    let mut regular = String::with_capacity(text.len() + 16);
    let mut first = true;
    while let Some(c) = chars.next() {
        match c {
            '*' if chars.peek() == Some('*') => {
                chars.next();
                if chars.peek() == Some('/') {
                    chars.next();
                }
                if chars.peek().is_some() {
                    regular.push_str("(.*/)?");
                    kind = Kind::Expression;
                } else if matches!(kind, Kind::Exact) {
                    kind = Kind::Prefix;
                } else {
                    regular.push_str(".*");
                    kind = Kind::Expression;
                }
                if first {
                    kind = Kind::Suffix;
                }
            }
            '*' => {
                regular.push_str("[^/]*");
                kind = Kind::Expression;
            }
            '?' => {
                regular.push_str("[^/]");
                kind = Kind::Expression;
            }
            // Upstream means to escape `|`, `{` and `}` as well, but its table has no room for them.
            '.' | '+' | '(' | ')' | '$' => {
                regular.push('\\');
                regular.push(c);
            }
            '\\' => {
                regular.push('\\');
                if let Some(escaped) = chars.next() {
                    regular.push(escaped);
                    kind = Kind::Expression;
                }
            }
            '[' | ']' => {
                regular.push(c);
                kind = Kind::Expression;
            }
            _ => regular.push(c),
        }
        first = false;
    }
    Ok(match kind {
        Kind::Exact => Form::Exact,
        Kind::Prefix => Form::Prefix(text[..text.len() - 2].to_vec()),
        Kind::Suffix => Form::Suffix(text.get(2..).unwrap_or_default().to_vec()),
        Kind::Expression => Form::Expression(Expression::parse(&regular)?),
    })
}

struct Characters<'a>(&'a [u8]);

impl Characters<'_> {
    fn peek(&self) -> Option<char> {
        super::gopath::next_char(self.0).map(|(c, _)| c)
    }

    fn next(&mut self) -> Option<char> {
        let (c, width) = super::gopath::next_char(self.0)?;
        self.0 = &self.0[width..];
        Some(c)
    }
}

/// Go's `strings.TrimSpace`; of bytes that are no text only ASCII blanks are trimmed.
fn trim(raw: &[u8]) -> &[u8] {
    match std::str::from_utf8(raw) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => raw.trim_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(word: &str) -> Vec<u8> {
        let mut bytes = word.bytes();
        let mut out = Vec::new();
        while let Some(byte) = bytes.next() {
            let digits = [bytes.clone().next(), bytes.clone().nth(1)].map(|digit| digit.unwrap_or_default());
            if byte == b'%' {
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                bytes.nth(1);
            } else {
                out.push(byte);
            }
        }
        out
    }

    /// As the walk does: from the root down, each directory's results handed to the next.
    fn walk(matcher: &Matcher, path: &[u8]) -> bool {
        let mut parent: Option<Vec<bool>> = None;
        let mut ends: Vec<usize> = (0..path.len()).filter(|at| path[*at] == b'/').collect();
        ends.push(path.len());
        let mut matched = false;
        for end in ends {
            let mut results = Vec::new();
            matched = matcher.matches(&path[..end], parent.as_deref(), &mut results);
            parent = Some(results);
        }
        matched
    }

    #[test]
    fn matches_what_upstream_matches() {
        let mut paths = Vec::new();
        let mut wrong = Vec::new();
        let mut lists = 0;
        for line in include_str!("pattern_table.txt").lines().filter(|line| !line.starts_with('#')) {
            if let Some(path) = line.strip_prefix("path ") {
                paths.push(decode(path));
                continue;
            }
            let (expected, list) = line.split_once(' ').unwrap();
            let patterns: Vec<Vec<u8>> = list.split(' ').map(decode).collect();
            let answer = match Matcher::new(patterns.iter().map(Vec::as_slice)) {
                Err(_) => "error".to_owned(),
                Ok(matcher) => paths
                    .chunks(4)
                    .map(|four| {
                        let bits = four
                            .iter()
                            .enumerate()
                            .map(|(at, path)| u32::from(walk(&matcher, path)) << (3 - at));
                        char::from_digit(bits.sum(), 16).unwrap()
                    })
                    .collect(),
            };
            lists += 1;
            if answer != expected {
                wrong.push(format!("{list}\n  ours   {answer}\n  theirs {expected}"));
            }
        }
        assert!(lists > 500, "{lists} lists of patterns");
        assert!(wrong.is_empty(), "{} of {lists}:\n{}", wrong.len(), wrong.join("\n"));
    }

    proptest! {
        /// Whatever a daemon sends as a pattern, it is refused or matched, and soon.
        #[test]
        fn any_pattern_is_answered(patterns in prop::collection::vec("[ab*?/!\\[\\]^\\\\.x-]{0,24}", 0..4), path in "[abx/]{1,40}") {
            if let Ok(matcher) = Matcher::new(patterns.iter().map(String::as_bytes)) {
                walk(&matcher, path.as_bytes());
            }
        }

        /// A pattern without wildcards matches its own path, what lies below, and nothing else.
        #[test]
        fn a_plain_pattern_is_a_path(pattern in "[a-c]{1,2}(/[a-c]{1,2}){0,2}", path in "[a-c]{1,2}(/[a-c]{1,2}){0,3}") {
            let matcher = Matcher::new([pattern.as_bytes()]).unwrap();
            let below = path.strip_prefix(&pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            prop_assert_eq!(walk(&matcher, path.as_bytes()), below);
        }
    }
}
