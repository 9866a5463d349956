//! A policy in JSON, read by the descriptors of the schema.
//!
//! Follows google/protobuf's util/json_util.cc in the release that distributions ship (3.21), with the liberties that it
//! takes where they leave one meaning only: a trailing comma, single quotes, names without quotes, a number that is
//! integral though it has a point, numbers and bools in quotes, one value for a list. Where it guesses, this refuses: a
//! name given twice, null or a list as an element, an escape that JSON has not, an enum's value that the schema has not.

use std::collections::BTreeSet;
use std::ops::Range;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};

use super::json_tree::{Name, Node, Tree, parse};
use super::{Mistake, value};
use crate::lines::Lines;

pub(super) fn read(text: &str, descriptor: MessageDescriptor) -> Result<(DynamicMessage, Lines), Mistake> {
    let root = parse(text)?;
    let Tree::Object(entries) = &root.tree else { return Err(wrong(&root, "an object")) };
    let mut lines = Lines::default();
    for (name, node) in entries {
        let Some(field) = find(&descriptor, name) else { continue };
        match &node.tree {
            Tree::List(nodes) if field.is_list() => {
                nodes.iter().for_each(|node| lines.record(field.name(), text, node.span.start));
            }
            Tree::Null => {}
            _ => lines.record(field.name(), text, node.span.start),
        }
    }
    Ok((message(entries, &root.span, descriptor)?, lines))
}

/// A name as it stands in the file, and its value.
type Entry = (Name, Node);

fn find(descriptor: &MessageDescriptor, name: &Name) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(&name.text).or_else(|| descriptor.get_field_by_json_name(&name.text))
}

fn message(
    entries: &[Entry],
    span: &Range<usize>,
    descriptor: MessageDescriptor,
) -> Result<DynamicMessage, Mistake> {
    let mut seen = BTreeSet::new();
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, node) in entries {
        let field = find(&descriptor, name)
            .ok_or_else(|| Mistake::new(name.span.clone(), value::unknown(&descriptor, &name.text)))?;
        if node.tree == Tree::Null {
            continue;
        }
        if !seen.insert(field.number()) {
            return Err(Mistake::new(
                name.span.clone(),
                format!("`{}` is given a second time", field.name()),
            ));
        }
        match &node.tree {
            Tree::List(nodes) if field.is_list() => {
                for node in nodes {
                    value::put(&mut message, &field, one(node, &field.kind())?);
                }
            }
            _ => value::put(&mut message, &field, one(node, &field.kind())?),
        }
    }
    match value::missing(&message) {
        Some(name) => {
            let message = format!("the required field `{name}` is missing in here");
            Err(Mistake::new(span.start..span.start + 1, message))
        }
        None => Ok(message),
    }
}

fn one(node: &Node, kind: &Kind) -> Result<Value, Mistake> {
    let refuse = |message: String| Mistake::new(node.span.clone(), message);
    match (kind, &node.tree) {
        (Kind::Message(descriptor), Tree::Object(entries)) => {
            message(entries, &node.span, descriptor.clone()).map(Value::Message)
        }
        (Kind::Message(_), _) => Err(wrong(node, "an object")),
        (Kind::String, Tree::Text(text)) => value::text(kind, text.clone().into_bytes()).map_err(refuse),
        (Kind::String, _) => Err(wrong(node, "a string")),
        (Kind::Bytes, Tree::Text(text)) => decode(text)
            .ok_or_else(|| refuse("is not base64".to_owned()))
            .and_then(|bytes| value::text(kind, bytes).map_err(refuse)),
        (Kind::Bytes, _) => Err(wrong(node, "base64 in a string")),
        (Kind::Bool, Tree::Bool(value)) => Ok(Value::Bool(*value)),
        (Kind::Bool, Tree::Text(text)) if text == "true" => Ok(Value::Bool(true)),
        (Kind::Bool, Tree::Text(text)) if text == "false" => Ok(Value::Bool(false)),
        (Kind::Bool, _) => Err(wrong(node, "true or false")),
        (Kind::Enum(known), tree) => {
            let found = match tree {
                Tree::Text(text) => value::named(known, text)
                    .or_else(|| digits(text, false).and_then(|number| value::numbered(known, number))),
                Tree::Number(number) => integral(number).and_then(|number| value::numbered(known, number)),
                _ => None,
            };
            found.ok_or_else(|| wrong(node, &value::names(known)))
        }
        (_, Tree::Number(number)) => {
            let number = integral(number).ok_or_else(|| wrong(node, "an integer"))?;
            value::integer(kind, number).map_err(refuse)
        }
        (_, Tree::Text(text)) => {
            let number = digits(text, value::is_signed(kind)).ok_or_else(|| wrong(node, "an integer"))?;
            value::integer(kind, number).map_err(refuse)
        }
        _ => Err(wrong(node, "an integer")),
    }
}

fn wrong(node: &Node, wanted: &str) -> Mistake {
    let found = match &node.tree {
        Tree::Null => "null",
        Tree::Bool(_) => "a bool",
        Tree::Number(_) => "a number",
        Tree::Text(_) => "a string",
        Tree::List(_) => "a list",
        Tree::Object(_) => "an object",
    };
    Mistake::new(node.span.clone(), format!("expected {wanted}, found {found}"))
}

/// The value of a JSON number that has no fraction.
fn integral(number: &str) -> Option<i128> {
    if !number.contains(['.', 'e', 'E']) {
        return number.parse().ok();
    }
    let number: f64 = number.parse().ok()?;
    // Beyond this, no integer of the schema.
    (number.fract() == 0.0 && number.abs() < 1e30).then_some(number as i128)
}

/// A number in quotes.
fn digits(text: &str, signed: bool) -> Option<i128> {
    let bare = text.strip_prefix('+').or_else(|| text.strip_prefix('-').filter(|_| signed)).unwrap_or(text);
    (!bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// Either alphabet, with or without padding.
fn decode(text: &str) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [STANDARD, URL_SAFE].iter().find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())
}
