//! Words of protobuf's text format, each with its place.
//!
//! Follows google/protobuf's io/tokenizer.cc as text_format.cc sets it up: `#` comments, no line breaks within strings, a
//! space between a number and a name. Fractions are no integers here, since no field of a policy has any.

use super::{Mistake, SPACE};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Integer(u64),
    /// One quoted string, without its escapes.
    Quoted(Vec<u8>),
    Sign(char),
    End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, at: 0 }
    }

    pub(super) fn next(&mut self) -> Result<Token, Mistake> {
        self.skip()?;
        let start = self.at;
        let Some(first) = self.peek() else { return Ok(Token { kind: Kind::End, start, end: start }) };
        let kind = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                self.run(|c| c.is_ascii_alphanumeric() || c == '_');
                Kind::Word
            }
            '0'..='9' => self.integer()?,
            '"' | '\'' => self.quoted(first)?,
            _ => {
                self.at += first.len_utf8();
                Kind::Sign(first)
            }
        };
        Ok(Token { kind, start, end: self.at })
    }

    fn skip(&mut self) -> Result<(), Mistake> {
        loop {
            self.run(|c| SPACE.contains(&c));
            match self.peek() {
                Some('#') => self.run(|c| c != '\n' && c != '\0'),
                Some(c) if c < ' ' => return Err(self.mistake(self.at, "a control character")),
                _ => return Ok(()),
            }
        }
    }

    fn integer(&mut self) -> Result<Kind, Mistake> {
        let start = self.at;
        self.run(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
        let word = &self.text[start..self.at];
        let (digits, base) = match word.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&word[2..], 16),
            [b'0', _, ..] => (&word[1..], 8),
            _ => (word, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
            return Err(self.mistake(start, format!("`{word}` is not an integer")));
        }
        let value = u64::from_str_radix(digits, base);
        value.map(Kind::Integer).map_err(|_| self.mistake(start, format!("`{word}` is out of range")))
    }

    fn quoted(&mut self, quote: char) -> Result<Kind, Mistake> {
        let mut bytes = Vec::new();
        self.at += 1;
        loop {
            match self.peek() {
                None | Some('\0') => return Err(self.mistake(self.at, "the string has no end")),
                Some('\n') => {
                    let message = "the string does not end on its line; write a line break as \\n";
                    return Err(self.mistake(self.at, message));
                }
                Some('\\') => self.escape(&mut bytes)?,
                Some(c) => {
                    self.at += c.len_utf8();
                    if c == quote {
                        return Ok(Kind::Quoted(bytes));
                    }
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
        }
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), Mistake> {
        let start = self.at;
        self.at += 1;
        let letter = self.peek().unwrap_or_default();
        let plain = match letter {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' | '?' | '\'' | '"' => letter as u8,
            '0'..='7' => {
                let number = self.digits(3, 8);
                // As protobuf has it: \400 and above lose their ninth bit.
                bytes.push(number.0 as u8);
                return Ok(());
            }
            'x' => {
                self.at += 1;
                let (number, count) = self.digits(2, 16);
                if count == 0 {
                    return Err(self.mistake(start, "\\x needs a hexadecimal digit"));
                }
                bytes.push(number as u8);
                return Ok(());
            }
            'u' | 'U' => {
                let c = self.code_point(start)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(self.mistake(start, "no such escape")),
        };
        self.at += 1;
        bytes.push(plain);
        Ok(())
    }

    /// After the backslash: `uHHHH`, a pair of them, or `UHHHHHHHH`.
    fn code_point(&mut self, start: usize) -> Result<char, Mistake> {
        let one = |lexer: &mut Self| {
            let want = if lexer.peek() == Some('U') { 8 } else { 4 };
            lexer.at += 1;
            match lexer.digits(want, 16) {
                (number, count) if count == want => Ok(number),
                _ => Err(lexer.mistake(start, format!("needs {want} hexadecimal digits"))),
            }
        };
        let mut number = one(self)?;
        if (0xd800..0xdc00).contains(&number) && self.text[self.at..].starts_with("\\u") {
            self.at += 1;
            let low = one(self)?;
            if (0xdc00..0xe000).contains(&low) {
                number = 0x1_0000 + ((number - 0xd800) << 10) + (low - 0xdc00);
            }
        }
        char::from_u32(number).ok_or_else(|| self.mistake(start, "no such character"))
    }

    /// At most `most` digits: their value and number.
    fn digits(&mut self, most: usize, base: u32) -> (u32, usize) {
        let (mut value, mut count) = (0, 0);
        while let Some(digit) = self.peek().filter(|_| count < most).and_then(|c| c.to_digit(base)) {
            value = value * base + digit;
            count += 1;
            self.at += 1;
        }
        (value, count)
    }

    fn run(&mut self, within: impl Fn(char) -> bool) {
        let rest = &self.text[self.at..];
        self.at += rest.find(|c| !within(c)).unwrap_or(rest.len());
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn mistake(&self, start: usize, message: impl Into<String>) -> Mistake {
        Mistake::new(start..self.at.max(start), message)
    }
}
