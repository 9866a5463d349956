//! A policy in protobuf's text format, read by the descriptors of the schema.
//!
//! Follows google/protobuf's text_format.cc: what its parser refuses is refused, and each mistake has its place, which
//! libraries do not give. The depth of nesting is that of the schema, so it needs no bound.

use std::collections::BTreeSet;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind as Type, MessageDescriptor, ReflectMessage as _, Value,
};

use super::lexer::{Kind, Lexer, Token};
use super::{Mistake, value};
use crate::lines::Lines;

pub(super) fn read(text: &str, descriptor: MessageDescriptor) -> Result<(DynamicMessage, Lines), Mistake> {
    let mut reader = Reader { text, lexer: Lexer::new(text), ahead: None, lines: Lines::default(), depth: 0 };
    let message = reader.message(descriptor, None)?;
    Ok((message, reader.lines))
}

struct Reader<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    /// The next token, once it was looked at.
    ahead: Option<Token>,
    lines: Lines,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// The fields up to the closing sign, which is taken as well; `opened` is where the message began, and that sign.
    fn message(
        &mut self,
        descriptor: MessageDescriptor,
        opened: Option<(Token, char)>,
    ) -> Result<DynamicMessage, Mistake> {
        let mut message = DynamicMessage::new(descriptor);
        let mut seen = BTreeSet::new();
        loop {
            match (&self.look()?.kind, &opened) {
                (Kind::End, None) => break,
                (Kind::Sign('}' | '>'), Some((_, closing))) => {
                    self.expect(*closing)?;
                    break;
                }
                _ => self.field(&mut message, &mut seen)?,
            }
        }
        match (value::missing(&message), opened) {
            (Some(name), Some((token, _))) => {
                Err(at(&token, format!("the required field `{name}` is missing in here")))
            }
            _ => Ok(message),
        }
    }

    fn field(&mut self, message: &mut DynamicMessage, seen: &mut BTreeSet<u32>) -> Result<(), Mistake> {
        let name = self.take()?;
        if name.kind != Kind::Word {
            return Err(self.unexpected(&name, "the name of a field"));
        }
        let word = self.word(&name);
        let field = message
            .descriptor()
            .get_field_by_name(word)
            .ok_or_else(|| at(&name, value::unknown(&message.descriptor(), word)))?;
        if !seen.insert(field.number()) && !field.is_list() {
            return Err(at(&name, format!("`{word}` is given a second time")));
        }
        // A message needs no colon.
        if !self.accept(':')? && !matches!(field.kind(), Type::Message(_)) {
            let next = self.take()?;
            return Err(self.unexpected(&next, "`:`"));
        }
        if field.is_list() && self.accept('[')? {
            if !self.accept(']')? {
                loop {
                    self.one(message, &field)?;
                    if self.accept(']')? {
                        break;
                    }
                    self.expect(',')?;
                }
            }
        } else {
            self.one(message, &field)?;
        }
        if !self.accept(';')? {
            self.accept(',')?;
        }
        Ok(())
    }

    /// One value, put into its field.
    fn one(&mut self, message: &mut DynamicMessage, field: &FieldDescriptor) -> Result<(), Mistake> {
        if self.depth == 0 {
            let start = self.look()?.start;
            self.lines.record(field.name(), self.text, start);
        }
        let found = self.value(&field.kind())?;
        value::put(message, field, found);
        Ok(())
    }

    fn value(&mut self, kind: &Type) -> Result<Value, Mistake> {
        let first = self.take()?;
        match kind {
            Type::Message(descriptor) => {
                let closing = match first.kind {
                    Kind::Sign('{') => '}',
                    Kind::Sign('<') => '>',
                    _ => return Err(self.unexpected(&first, "`{`")),
                };
                self.depth += 1;
                let message = self.message(descriptor.clone(), Some((first, closing)));
                self.depth -= 1;
                message.map(Value::Message)
            }
            Type::String | Type::Bytes => {
                let Kind::Quoted(mut bytes) = first.kind else {
                    return Err(self.unexpected(&first, "a quoted string"));
                };
                let mut end = first.end;
                while let Kind::Quoted(more) = &mut self.look()?.kind {
                    bytes.append(more);
                    end = self.take()?.end;
                }
                value::text(kind, bytes).map_err(|message| Mistake::new(first.start..end, message))
            }
            Type::Bool => match (&first.kind, self.word(&first)) {
                (Kind::Integer(0), _) | (Kind::Word, "false" | "False" | "f") => Ok(Value::Bool(false)),
                (Kind::Integer(1), _) | (Kind::Word, "true" | "True" | "t") => Ok(Value::Bool(true)),
                _ => Err(self.unexpected(&first, "true or false")),
            },
            Type::Enum(known) => {
                let found = match &first.kind {
                    Kind::Word => value::named(known, self.word(&first)),
                    Kind::Integer(number) => value::numbered(known, (*number).into()),
                    _ => None,
                };
                found.ok_or_else(|| self.unexpected(&first, &value::names(known)))
            }
            _ => {
                let negative = first.kind == Kind::Sign('-') && value::is_signed(kind);
                let number = if negative { self.take()? } else { first.clone() };
                let Kind::Integer(magnitude) = number.kind else {
                    return Err(self.unexpected(&number, "an integer"));
                };
                let magnitude = i128::from(magnitude);
                value::integer(kind, if negative { -magnitude } else { magnitude })
                    .map_err(|message| Mistake::new(first.start..number.end, message))
            }
        }
    }

    fn look(&mut self) -> Result<&mut Token, Mistake> {
        if self.ahead.is_none() {
            self.ahead = Some(self.lexer.next()?);
        }
        Ok(self.ahead.as_mut().expect("was filled"))
    }

    fn take(&mut self) -> Result<Token, Mistake> {
        match self.ahead.take() {
            Some(token) => Ok(token),
            None => self.lexer.next(),
        }
    }

    fn accept(&mut self, sign: char) -> Result<bool, Mistake> {
        let found = self.look()?.kind == Kind::Sign(sign);
        if found {
            self.ahead = None;
        }
        Ok(found)
    }

    fn expect(&mut self, sign: char) -> Result<(), Mistake> {
        let token = self.take()?;
        if token.kind == Kind::Sign(sign) {
            return Ok(());
        }
        Err(self.unexpected(&token, &format!("`{sign}`")))
    }

    fn word(&self, token: &Token) -> &'a str {
        &self.text[token.start..token.end]
    }

    fn unexpected(&self, token: &Token, wanted: &str) -> Mistake {
        let found = match &token.kind {
            Kind::End => "the file ends".to_owned(),
            _ => format!("found `{}`", value::short(self.word(token))),
        };
        at(token, format!("expected {wanted}, {found}"))
    }
}

fn at(token: &Token, message: impl Into<String>) -> Mistake {
    Mistake::new(token.start..token.end, message)
}
