//! JSON with the place of every value, and with the liberties that [`json`](super::json) lists.

use std::ops::Range;

use super::{Mistake, SPACE};

/// No policy nests deeper; the schema has four levels.
const DEEPEST: usize = 16;

#[derive(Debug, PartialEq)]
pub(super) struct Node {
    pub tree: Tree,
    pub span: Range<usize>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    /// As it stands in the text.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Object(Vec<(Name, Node)>),
}

#[derive(Debug, PartialEq)]
pub(super) struct Name {
    pub text: String,
    pub span: Range<usize>,
}

pub(super) fn parse(text: &str) -> Result<Node, Mistake> {
    let mut parser = Parser { text, at: 0 };
    let node = parser.node(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(parser.unexpected("the end of the file")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn node(&mut self, depth: usize) -> Result<Node, Mistake> {
        let first = self.peek();
        let start = self.at;
        if depth > DEEPEST {
            return Err(self.mistake("nested too deeply"));
        }
        let tree = match first {
            Some('{') => self.object(depth)?,
            Some('[') => self.list(depth)?,
            Some(quote @ ('"' | '\'')) => Tree::Text(self.string(quote)?),
            Some('-' | '0'..='9') => Tree::Number(self.number()?),
            Some(c) if c.is_ascii_alphabetic() => match self.bare() {
                "null" => Tree::Null,
                "true" => Tree::Bool(true),
                "false" => Tree::Bool(false),
                _ => {
                    let message = "expected a value; a string needs quotes";
                    return Err(Mistake::new(start..self.at, message));
                }
            },
            _ => return Err(self.unexpected("a value")),
        };
        Ok(Node { tree, span: start..self.at })
    }

    fn object(&mut self, depth: usize) -> Result<Tree, Mistake> {
        self.at += 1;
        let mut entries = Vec::new();
        while self.peek() != Some('}') {
            let start = self.at;
            let text = match self.peek() {
                Some(quote @ ('"' | '\'')) => self.string(quote)?,
                Some(c) if c.is_ascii_alphabetic() || c == '_' => self.bare().to_owned(),
                _ => return Err(self.unexpected("a name or `}`")),
            };
            let name = Name { text, span: start..self.at };
            if self.peek() != Some(':') {
                return Err(self.unexpected("`:`"));
            }
            self.at += 1;
            entries.push((name, self.node(depth + 1)?));
            self.comma('}')?;
        }
        self.at += 1;
        Ok(Tree::Object(entries))
    }

    fn list(&mut self, depth: usize) -> Result<Tree, Mistake> {
        self.at += 1;
        let mut nodes = Vec::new();
        while self.peek() != Some(']') {
            nodes.push(self.node(depth + 1)?);
            self.comma(']')?;
        }
        self.at += 1;
        Ok(Tree::List(nodes))
    }

    /// After an element: a comma, or the end in sight.
    fn comma(&mut self, closing: char) -> Result<(), Mistake> {
        match self.peek() {
            Some(',') => self.at += 1,
            Some(c) if c == closing => {}
            _ => return Err(self.unexpected(&format!("`,` or `{closing}`"))),
        }
        Ok(())
    }

    fn bare(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    fn number(&mut self) -> Result<String, Mistake> {
        let start = self.at;
        let rest = &self.text[start..];
        let within = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let word = &rest[..rest.find(|c| !within(c)).unwrap_or(rest.len())];
        self.at += word.len();
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let (mantissa, exponent) = word.split_once(['e', 'E']).map_or((word, "0"), |(m, e)| (m, e));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let whole = whole.strip_prefix('-').unwrap_or(whole);
        let canonical = digits(whole) && (whole == "0" || !whole.starts_with('0'));
        if canonical && digits(fraction) && digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)) {
            return Ok(word.to_owned());
        }
        Err(Mistake::new(start..self.at, "is not a number of JSON"))
    }

    fn string(&mut self, quote: char) -> Result<String, Mistake> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(c) = self.text[self.at..].chars().next() else {
                return Err(self.mistake("the string has no end"));
            };
            if c == '\\' {
                text.push(self.escape()?);
                continue;
            }
            self.at += c.len_utf8();
            if c == quote {
                return Ok(text);
            }
            text.push(c);
        }
    }

    fn escape(&mut self) -> Result<char, Mistake> {
        let start = self.at;
        let letter = self.text[start + 1..].chars().next().unwrap_or_default();
        let plain = match letter {
            '"' | '\'' | '\\' | '/' => letter,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => {
                let high = self.unit(start)?;
                let number = match high {
                    0xd800..0xdc00 => match self.unit(start)? {
                        low @ 0xdc00..0xe000 => 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00),
                        _ => high,
                    },
                    other => other,
                };
                return char::from_u32(number)
                    .ok_or_else(|| Mistake::new(start..self.at, "no such character"));
            }
            _ => return Err(Mistake::new(start..start + 1, "no such escape in JSON")),
        };
        self.at += 2;
        Ok(plain)
    }

    /// One `\uHHHH`.
    fn unit(&mut self, start: usize) -> Result<u32, Mistake> {
        let wrong =
            || Mistake::new(start..start + 1, "needs four hexadecimal digits, and a pair needs both halves");
        let rest = &self.text[self.at..];
        let digits = rest.strip_prefix("\\u").and_then(|rest| rest.get(..4)).ok_or_else(wrong)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        self.at += 6;
        u32::from_str_radix(digits, 16).map_err(|_| wrong())
    }

    /// The next character that is no space.
    fn peek(&mut self) -> Option<char> {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start_matches(SPACE).len();
        self.text[self.at..].chars().next()
    }

    fn unexpected(&mut self, wanted: &str) -> Mistake {
        match self.peek() {
            Some(c) => {
                Mistake::new(self.at..self.at + c.len_utf8(), format!("expected {wanted}, found `{c}`"))
            }
            None => self.mistake(&format!("expected {wanted}, the file ends")),
        }
    }

    fn mistake(&self, message: &str) -> Mistake {
        Mistake::new(self.at..self.at, message)
    }
}
