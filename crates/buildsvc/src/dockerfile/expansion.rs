//! Variables in a word of a Dockerfile, and its quotes.
//!
//! What cannot be known gives nothing: a word with such a part is no reference, rather than a guess at one.
//!
//! Follows `frontend/dockerfile/shell/lex.go` of moby/buildkit. Left out: `${name/pattern/text}`.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// A reference has less than half of it.
const LENGTH_LIMIT: usize = 1 << 10;
const DEPTH_LIMIT: usize = 16;
/// More variables than this are not kept, and unknown.
const VARIABLES_LIMIT: usize = 1_000;

/// The variables that can be seen at one place of a Dockerfile.
#[derive(Debug, Clone, Default)]
pub(super) struct Scope {
    pub values: BTreeMap<String, String>,
    /// There are more of them, whose values are not known: one that is not listed is unknown instead of unset.
    pub open: bool,
}

impl Scope {
    /// `None` is a value that is not known. It must not pass for one that is not set, and therefore empty.
    pub(super) fn set(&mut self, name: &str, value: Option<String>) {
        match value.filter(|_| self.values.len() < VARIABLES_LIMIT) {
            Some(value) => drop(self.values.insert(name.to_owned(), value)),
            None => {
                self.values.remove(name);
                self.open = true;
            }
        }
    }

    /// `word` with its variables replaced and its quotes gone; `None` when that cannot be known.
    pub(super) fn expand(&self, word: &str, escape: char) -> Option<String> {
        let mut reader = Reader { scope: self, escape, chars: word.chars().peekable(), depth: 0 };
        let text = reader.until(None)?;
        (text.len() <= LENGTH_LIMIT).then_some(text)
    }
}

struct Reader<'a> {
    scope: &'a Scope,
    escape: char,
    chars: Peekable<Chars<'a>>,
    depth: usize,
}

impl Reader<'_> {
    /// Up to `stop`, which is taken as well, or to the end.
    fn until(&mut self, stop: Option<char>) -> Option<String> {
        let mut text = String::new();
        loop {
            if text.len() > LENGTH_LIMIT {
                return None;
            }
            match self.chars.next() {
                None if stop.is_none() => return Some(text),
                None => return None,
                Some(c) if Some(c) == stop => return Some(text),
                Some('\'') => loop {
                    match self.chars.next()? {
                        '\'' => break,
                        c => text.push(c),
                    }
                },
                Some('"') => self.quoted(&mut text)?,
                Some('$') => text.push_str(&self.variable()?),
                Some(c) if c == self.escape => text.extend(self.chars.next()),
                Some(c) => text.push(c),
            }
        }
    }

    fn quoted(&mut self, text: &mut String) -> Option<()> {
        loop {
            match self.chars.next()? {
                '"' => return Some(()),
                '$' => text.push_str(&self.variable()?),
                c if c == self.escape => {
                    match self.chars.peek() {
                        Some('"' | '$') => {}
                        Some(next) if *next == self.escape => {}
                        _ => text.push(c),
                    }
                    text.extend(self.chars.next_if(|next| matches!(next, '"' | '$') || *next == self.escape));
                }
                c => text.push(c),
            }
            if text.len() > LENGTH_LIMIT {
                return None;
            }
        }
    }

    fn variable(&mut self) -> Option<String> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return if name.is_empty() {
                Some("$".to_owned())
            } else {
                self.value(&name)?.or(Some(String::new()))
            };
        }
        let name = self.name();
        if name.is_empty() {
            return None;
        }
        let mut operator = self.chars.next()?;
        if operator == '}' {
            return Some(self.value(&name)?.unwrap_or_default());
        }
        let empty_is_unset = operator == ':';
        if empty_is_unset {
            operator = self.chars.next()?;
        }
        self.depth += 1;
        if self.depth > DEPTH_LIMIT {
            return None;
        }
        let doubled = matches!(operator, '#' | '%') && self.chars.next_if_eq(&operator).is_some();
        // The word is read even where the variable stands: something in it may be unknown without mattering.
        let word = self.until_brace(operator)?;
        self.depth -= 1;
        let value = self.value(&name)?;
        let value = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match operator {
            '-' => value.or(word),
            '+' => {
                if value.is_some() {
                    word
                } else {
                    Some(String::new())
                }
            }
            '?' => value,
            '#' if !empty_is_unset => Some(without_prefix(&value.unwrap_or_default(), &word?, doubled)),
            '%' if !empty_is_unset => Some(without_suffix(&value.unwrap_or_default(), &word?, doubled)),
            _ => None,
        }
    }

    /// The word after an operator. `Some(None)` when it holds something unknown; its end is found all the same.
    fn until_brace(&mut self, operator: char) -> Option<Option<String>> {
        if matches!(operator, '#' | '%') {
            let mut pattern = String::new();
            loop {
                match self.chars.next()? {
                    '}' => return Some(Some(pattern)),
                    '$' | '\'' | '"' | '[' => return None,
                    c => pattern.push(c),
                }
            }
        }
        let before = self.chars.clone();
        match self.until(Some('}')) {
            Some(word) => Some(Some(word)),
            None => {
                self.chars = before;
                let mut open = 1;
                while open > 0 {
                    match self.chars.next()? {
                        '{' => open += 1,
                        '}' => open -= 1,
                        _ => {}
                    }
                }
                Some(None)
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        name
    }

    /// `None` when it cannot be known, `Some(None)` when it is not set.
    fn value(&self, name: &str) -> Option<Option<String>> {
        match self.scope.values.get(name) {
            Some(value) => Some(Some(value.clone())),
            None if self.scope.open => None,
            None => Some(None),
        }
    }
}

/// `value` without the shortest, or longest, beginning that fits `pattern`.
fn without_prefix(value: &str, pattern: &str, longest: bool) -> String {
    let cuts = value.char_indices().map(|(at, _)| at).chain([value.len()]);
    let mut fitting = cuts.filter(|cut| fits(&value[..*cut], pattern));
    let cut = if longest { fitting.next_back() } else { fitting.next() };
    value[cut.unwrap_or(0)..].to_owned()
}

fn without_suffix(value: &str, pattern: &str, longest: bool) -> String {
    let cuts = value.char_indices().map(|(at, _)| at).chain([value.len()]);
    let mut fitting = cuts.filter(|cut| fits(&value[*cut..], pattern));
    let cut = if longest { fitting.next() } else { fitting.next_back() };
    value[..cut.unwrap_or(value.len())].to_owned()
}

/// Whether `text` fits a pattern of `*`, `?` and characters that stand for themselves.
fn fits(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut place) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(place) {
            Some('*') => {
                star = Some((place, at));
                place += 1;
            }
            Some(c) if *c == '?' || *c == text[at] => {
                at += 1;
                place += 1;
            }
            _ => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (place, at) = (*after + 1, *from);
                }
                None => return false,
            },
        }
    }
    pattern[place..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_expanded() {
        let values = [("A", "a"), ("V", "1.2.3"), ("E", ""), ("N", "r.example/n")];
        let values = values.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let closed = Scope { values, open: false };
        let open = Scope { open: true, ..closed.clone() };
        let table = [
            // word, in a closed scope, in an open one
            ("plain", Some("plain"), Some("plain")),
            ("$A/${A}x$", Some("a/ax$"), Some("a/ax$")),
            ("\"$A b\"'$A'", Some("a b$A"), Some("a b$A")),
            ("\\$A", Some("$A"), Some("$A")),
            ("\"\\$A\\x\"", Some("$A\\x"), Some("$A\\x")),
            ("${X}y$X", Some("y"), None),
            ("${X:-$N}:1", Some("r.example/n:1"), None),
            ("${E:-d}${E-d}", Some("d"), Some("d")),
            ("${A:+set}${E:+no}${E+yes}", Some("setyes"), Some("setyes")),
            ("${A:-${X}}", Some("a"), Some("a")),
            ("${A?gone}", Some("a"), Some("a")),
            ("${X?gone}", None, None),
            ("${V%.*}-${V%%.*}-${V#*.}-${V##*.}", Some("1.2-1-2.3-3"), Some("1.2-1-2.3-3")),
            ("${V%9}", Some("1.2.3"), Some("1.2.3")),
            ("${A/a/b}", None, None),
            ("${A", None, None),
            ("${}", None, None),
            ("${:-x}", None, None),
            ("'open", None, None),
            ("\"open", None, None),
        ];
        for (word, in_closed, in_open) in table {
            assert_eq!(closed.expand(word, '\\').as_deref(), in_closed, "{word}");
            assert_eq!(open.expand(word, '\\').as_deref(), in_open, "{word}");
        }
        assert_eq!(closed.expand("`$A\\", '`').as_deref(), Some("$A\\"));
        assert_eq!(closed.expand(&"${A:-".repeat(100), '\\'), None);
        assert_eq!(closed.expand(&"x".repeat(LENGTH_LIMIT + 1), '\\'), None);
    }
}
