//! The sliver of regular expressions that ignore patterns can reach.
//!
//! moby/patternmatcher translates a pattern into a Go regular expression without looking into its character classes, so
//! `[*]` and `a\d` mean what the translated text means to Go. To match alike, [`Expression`] reads that text: literals,
//! classes with an optional `*`, `.*`, the group `(.*/)?`, `^`, and `|`, which upstream forgets to escape. It runs as a
//! set of states, so a hostile pattern costs the product of its length and the path's, never more. Follows Go's
//! `regexp/syntax` (Perl flags).

use super::gopath::next_char;

/// An expression between `^` and `$`.
#[derive(Debug)]
pub(crate) struct Expression {
    /// Alternatives. The outer `^` belongs to the first alone and the outer `$` to the last.
    branches: Vec<Vec<Step>>,
    /// Bytes that every match begins with, ends with, and contains: they turn most paths down without running the steps.
    prefix: Vec<u8>,
    suffix: Vec<u8>,
    needle: Vec<u8>,
}

#[derive(Debug)]
enum Step {
    Char(char),
    One(Class),
    Many(Class),
    /// `.*`: anything but a line feed.
    Line,
    /// `(.*/)?`, together with the [`Step::Inside`] behind it.
    Parents,
    Inside,
    /// `^`: only at the beginning.
    Start,
}

#[derive(Debug, Default)]
struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
}

impl Class {
    fn contains(&self, c: char) -> bool {
        self.ranges.iter().any(|(low, high)| *low <= c && c <= *high) != self.negated
    }

    /// Adds ASCII `ranges`, or all but them.
    fn add(&mut self, ranges: &[(char, char)], complement: bool) {
        if !complement {
            self.ranges.extend_from_slice(ranges);
            return;
        }
        let mut next = 0u32;
        for (low, high) in ranges {
            if let Some(before) = u32::from(*low).checked_sub(1)
                && next <= before
            {
                self.ranges.push((char_at(next), char_at(before)));
            }
            next = u32::from(*high) + 1;
        }
        self.ranges.push((char_at(next), char::MAX));
    }
}

fn char_at(code: u32) -> char {
    char::from_u32(code).unwrap_or(char::MAX)
}

type Ranges = &'static [(char, char)];

const DIGIT: Ranges = &[('0', '9')];
const SPACE: Ranges = &[('\t', '\n'), ('\u{c}', '\r'), (' ', ' ')];
const WORD: Ranges = &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')];
/// Sorted and disjoint, as [`Class::add`] wants them.
const POSIX: &[(&str, Ranges)] = &[
    ("alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("alpha", &[('A', 'Z'), ('a', 'z')]),
    ("ascii", &[('\0', '\u{7f}')]),
    ("blank", &[('\t', '\t'), (' ', ' ')]),
    ("cntrl", &[('\0', '\u{1f}'), ('\u{7f}', '\u{7f}')]),
    ("digit", DIGIT),
    ("graph", &[('!', '~')]),
    ("lower", &[('a', 'z')]),
    ("print", &[(' ', '~')]),
    ("punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("space", &[('\t', '\r'), (' ', ' ')]),
    ("upper", &[('A', 'Z')]),
    ("word", WORD),
    ("xdigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

impl Expression {
    /// Reads the translated text, which has no outer `^` and `$`.
    pub(crate) fn parse(text: &str) -> Result<Expression, &'static str> {
        let mut branches = Vec::new();
        let mut steps = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if let Some(tail) = rest.strip_prefix("(.*/)?") {
                rest = tail;
                steps.extend([Step::Parents, Step::Inside]);
                continue;
            }
            if let Some(tail) = rest.strip_prefix(".*") {
                rest = tail;
                steps.push(Step::Line);
                continue;
            }
            rest = &rest[c.len_utf8()..];
            let class = match c {
                '^' => {
                    steps.push(Step::Start);
                    continue;
                }
                '|' => {
                    branches.push(std::mem::take(&mut steps));
                    continue;
                }
                '{' if is_repetition(rest) => return Err("repetition is not supported"),
                '\\' => match escape(&mut rest)? {
                    Escape::Char(c) => {
                        steps.push(Step::Char(c));
                        continue;
                    }
                    Escape::Set(ranges, complement) => {
                        let mut class = Class::default();
                        class.add(ranges, complement);
                        class
                    }
                },
                '[' => class(&mut rest)?,
                _ => {
                    steps.push(Step::Char(c));
                    continue;
                }
            };
            steps.push(match rest.strip_prefix('*') {
                Some(tail) => {
                    rest = tail;
                    Step::Many(class)
                }
                None => Step::One(class),
            });
        }
        branches.push(steps);
        let (mut prefix, mut suffix, mut needle) = (Vec::new(), Vec::new(), Vec::new());
        if let [steps] = branches.as_slice() {
            // Runs of characters, one more than there are other steps. U+FFFD also stands for any byte that is no
            // character, so it is none.
            let mut runs = vec![String::new()];
            for step in steps {
                match (step, runs.last_mut()) {
                    (Step::Char(c), Some(run)) if *c != char::REPLACEMENT_CHARACTER => run.push(*c),
                    _ => runs.push(String::new()),
                }
            }
            let bytes = |run: Option<&String>| run.map(|run| run.as_bytes().to_vec()).unwrap_or_default();
            prefix = bytes(runs.first());
            suffix = bytes(runs.last());
            needle = bytes(runs.iter().max_by_key(|run| run.len()));
        }
        Ok(Expression { branches, prefix, suffix, needle })
    }

    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let last = self.branches.len() - 1;
        path.starts_with(&self.prefix)
            && path.ends_with(&self.suffix)
            && (self.needle.is_empty() || path.windows(self.needle.len()).any(|part| part == self.needle))
            && self.branches.iter().enumerate().any(|(at, steps)| run(steps, path, at == 0, at == last))
    }
}

/// Runs `steps` over `path`, from its beginning or from anywhere, to its end or to anywhere.
fn run(steps: &[Step], path: &[u8], from_start: bool, to_end: bool) -> bool {
    let end = steps.len();
    let mut active = vec![false; end + 1];
    let mut next = vec![false; end + 1];
    let mut at = 0;
    loop {
        active[0] |= at == 0 || !from_start;
        skip_optional(steps, &mut active, at == 0);
        if active[end] && !to_end {
            return true;
        }
        let Some((c, width)) = next_char(&path[at..]) else { return active[end] };
        next.fill(false);
        for (index, step) in steps.iter().enumerate().filter(|(index, _)| active[*index]) {
            match step {
                Step::Char(expected) if *expected == c => next[index + 1] = true,
                Step::One(class) if class.contains(c) => next[index + 1] = true,
                Step::Many(class) if class.contains(c) => next[index] = true,
                Step::Line if c != '\n' => next[index] = true,
                Step::Inside => {
                    next[index] |= c != '\n';
                    next[index + 1] |= c == '/';
                }
                _ => {}
            }
        }
        if from_start && !next.contains(&true) {
            return false;
        }
        std::mem::swap(&mut active, &mut next);
        at += width;
    }
}

/// Steps that may match nothing pass their state on. They only point forwards, so one pass is enough.
fn skip_optional(steps: &[Step], active: &mut [bool], at_start: bool) {
    for (index, step) in steps.iter().enumerate() {
        if !active[index] {
            continue;
        }
        match step {
            Step::Many(_) | Step::Line => active[index + 1] = true,
            Step::Parents => {
                active[index + 1] = true;
                active[index + 2] = true;
            }
            Step::Start if at_start => active[index + 1] = true,
            _ => {}
        }
    }
}

/// Whether what follows `{` makes a counted repetition rather than a literal brace. Upstream does not escape braces, so
/// `a{2}*` is `aa*` there; nobody means that, and it is refused.
fn is_repetition(rest: &str) -> bool {
    let Some((count, _)) = rest.split_once('}') else { return false };
    let (low, high) = count.split_once(',').unwrap_or((count, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

enum Escape {
    Char(char),
    Set(Ranges, bool),
}

/// Reads what follows a backslash.
fn escape(rest: &mut &str) -> Result<Escape, &'static str> {
    let c = rest.chars().next().ok_or("trailing backslash")?;
    *rest = &rest[c.len_utf8()..];
    Ok(match c {
        'd' => Escape::Set(DIGIT, false),
        'D' => Escape::Set(DIGIT, true),
        's' => Escape::Set(SPACE, false),
        'S' => Escape::Set(SPACE, true),
        'w' => Escape::Set(WORD, false),
        'W' => Escape::Set(WORD, true),
        'a' => Escape::Char('\u{7}'),
        'f' => Escape::Char('\u{c}'),
        'n' => Escape::Char('\n'),
        'r' => Escape::Char('\r'),
        't' => Escape::Char('\t'),
        'v' => Escape::Char('\u{b}'),
        _ if c.is_ascii() && !c.is_ascii_alphanumeric() => Escape::Char(c),
        // Go refuses most of the rest; anchors, octal, hexadecimal and \p mean nothing in a file name.
        _ => return Err("invalid escape sequence"),
    })
}

/// Reads what follows `[`, including the closing bracket.
fn class(rest: &mut &str) -> Result<Class, &'static str> {
    const UNCLOSED: &str = "missing closing ]";
    let mut class = Class::default();
    if let Some(tail) = rest.strip_prefix('^') {
        *rest = tail;
        class.negated = true;
    }
    let mut first = true;
    loop {
        if let Some(tail) = rest.strip_prefix(']')
            && !first
        {
            *rest = tail;
            return Ok(class);
        }
        first = false;
        if let Some((name, tail)) = rest.strip_prefix("[:").and_then(|inner| inner.split_once(":]")) {
            let complement = name.starts_with('^');
            let wanted = name.trim_start_matches('^');
            let (_, ranges) =
                POSIX.iter().find(|(known, _)| *known == wanted).ok_or("invalid character class")?;
            class.add(ranges, complement);
            *rest = tail;
            continue;
        }
        let low = match class_char(rest)?.ok_or(UNCLOSED)? {
            Escape::Char(c) => c,
            Escape::Set(ranges, complement) => {
                class.add(ranges, complement);
                continue;
            }
        };
        let mut high = low;
        if let Some(tail) = rest.strip_prefix('-')
            && !tail.is_empty()
            && !tail.starts_with(']')
        {
            *rest = tail;
            high = match class_char(rest)?.ok_or(UNCLOSED)? {
                Escape::Char(c) if c >= low => c,
                _ => return Err("invalid character class range"),
            };
        }
        class.ranges.push((low, high));
    }
}

fn class_char(rest: &mut &str) -> Result<Option<Escape>, &'static str> {
    let Some(c) = rest.chars().next() else { return Ok(None) };
    *rest = &rest[c.len_utf8()..];
    if c == '\\' { escape(rest).map(Some) } else { Ok(Some(Escape::Char(c))) }
}
