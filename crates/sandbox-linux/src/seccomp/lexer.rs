//! Tokens of a Kafel source, as `src/lexer.l` of Kafel cuts them: the longest match wins, blanks are space, tab and
//! line feed only, and names start with a letter.

use std::fmt;
use std::ops::Range;

use super::{KafelError, Place};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Number(u64),
    Name(&'a str),
    /// A reserved word.
    Word(&'static str),
    /// Punctuation.
    Mark(&'static str),
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Number(n) => write!(f, "the number {n}"),
            Token::Name(name) => write!(f, "`{name}`"),
            Token::Word(word) => write!(f, "the word {word}"),
            Token::Mark(mark) => write!(f, "`{mark}`"),
            Token::End => f.write_str("the end"),
        }
    }
}

const WORDS: [&str; 16] = [
    "ALLOW",
    "DEFAULT",
    "DENY",
    "ERRNO",
    "KILL",
    "KILL_PROCESS",
    "KILL_THREAD",
    "LOG",
    "ON",
    "POLICY",
    "SYSCALL",
    "TRACE",
    "TRAP",
    "USE",
    "USER_NOTIF",
    "define",
];

/// Longer ones first.
const MARKS: [&str; 18] =
    ["==", "!=", "<=", ">=", "||", "&&", "<", ">", "|", "&", "[", "]", "(", ")", "{", "}", ",", "!"];

/// Reads tokens one by one; a mistake ends it.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    pub source: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(source: &'a str) -> Lexer<'a> {
        Lexer { source, at: 0 }
    }

    /// The next token and its bytes.
    pub(super) fn next(&mut self) -> Result<(Token<'a>, Range<usize>), KafelError> {
        self.skip_blanks()?;
        let start = self.at;
        let rest = &self.source[start..];
        let Some(first) = rest.chars().next() else {
            return Ok((Token::End, start..start));
        };
        if rest.starts_with("#include") {
            return Err(KafelError::Unsupported {
                place: self.place(start..start + "#include".len()),
                feature: "#include",
                reason: "a policy stands for itself, and nsjail finds no file to include either",
            });
        }
        let token = if first == '#' {
            self.at += 1;
            Token::Mark("#")
        } else if first.is_ascii_alphabetic() {
            let name = &rest[..prefix(rest, |c| c.is_ascii_alphanumeric() || c == b'_')];
            self.at += name.len();
            WORDS.iter().find(|word| **word == name).map_or(Token::Name(name), |word| Token::Word(word))
        } else if let Some((digits, radix)) = number(rest) {
            self.at += digits;
            Token::Number(self.value(start..self.at, radix)?)
        } else if let Some(mark) = MARKS.iter().find(|mark| rest.starts_with(**mark)) {
            self.at += mark.len();
            Token::Mark(mark)
        } else {
            return Err(KafelError::Syntax {
                place: self.place(start..start + first.len_utf8()),
                expected: "a word, a number or punctuation".to_owned(),
                found: format!("the character {first:?}"),
            });
        };
        Ok((token, start..self.at))
    }

    pub(super) fn place(&self, span: Range<usize>) -> Place {
        Place::new(self.source, span)
    }

    fn skip_blanks(&mut self) -> Result<(), KafelError> {
        loop {
            let rest = &self.source[self.at..];
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.skip_comment()?;
            } else {
                match prefix(rest, |c| matches!(c, b' ' | b'\t' | b'\n')) {
                    0 => return Ok(()),
                    blanks => self.at += blanks,
                }
            }
        }
    }

    /// In Kafel an asterisk takes the next character with it unless that is a slash, so `**/` does not end a
    /// comment. To a reader it does; a text that two readers take differently is refused.
    fn skip_comment(&mut self) -> Result<(), KafelError> {
        let start = self.at;
        let body = &self.source[start + 2..];
        let Some(end) = body.find("*/") else {
            return Err(KafelError::Syntax {
                place: self.place(start..start + 2),
                expected: "`*/` after this `/*`".to_owned(),
                found: "the end".to_owned(),
            });
        };
        let stars = body[..=end].bytes().rev().take_while(|c| *c == b'*').count();
        if stars % 2 == 0 {
            let close = start + 2 + end;
            return Err(KafelError::Syntax {
                place: self.place(close + 1 - stars..close + 2),
                expected: "`*/` with an odd number of asterisks, others do not end a comment for nsjail"
                    .to_owned(),
                found: format!("`{}/`", "*".repeat(stars.min(8))),
            });
        }
        self.at = start + 2 + end + 2;
        Ok(())
    }

    fn value(&self, span: Range<usize>, radix: u32) -> Result<u64, KafelError> {
        let text = &self.source[span.clone()];
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let digits = match radix {
            16 | 2 => &digits[2..],
            _ => digits,
        };
        match u64::from_str_radix(digits, radix) {
            Ok(value) => Ok(if negative { value.wrapping_neg() } else { value }),
            Err(error) => {
                let expected = match error.kind() {
                    std::num::IntErrorKind::PosOverflow => "a number of 64 bits",
                    _ => "octal digits after a leading zero",
                };
                let shown: String = text.chars().take(40).collect();
                Err(KafelError::Range {
                    place: self.place(span),
                    expected: expected.to_owned(),
                    number: shown,
                })
            }
        }
    }
}

fn prefix(text: &str, wanted: impl Fn(u8) -> bool) -> usize {
    text.bytes().take_while(|c| wanted(*c)).count()
}

/// Length and radix of the number that `text` starts with.
fn number(text: &str) -> Option<(usize, u32)> {
    let digits = |from: usize, radix: u32| {
        prefix(text.get(from..).unwrap_or_default(), |c| char::from(c).is_digit(radix))
    };
    let bytes = text.as_bytes();
    match (bytes.first()?, bytes.get(1)) {
        (b'0', Some(b'x')) if digits(2, 16) > 0 => Some((2 + digits(2, 16), 16)),
        (b'0', Some(b'b')) if digits(2, 2) > 0 => Some((2 + digits(2, 2), 2)),
        (b'0', Some(b'0'..=b'9')) => Some((digits(0, 10), 8)),
        (b'0'..=b'9', _) => Some((digits(0, 10).min(if bytes[0] == b'0' { 1 } else { usize::MAX }), 10)),
        (b'-', Some(b'1'..=b'9')) => Some((1 + digits(1, 10), 10)),
        _ => None,
    }
}
