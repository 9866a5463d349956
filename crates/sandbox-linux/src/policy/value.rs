//! What both notations of a policy have in common: which values a field of the schema can hold, and what proto2 demands
//! of a message.

use prost_reflect::{
    Cardinality, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor,
    ReflectMessage as _, Value,
};

/// Sets a field, or adds to it when it is repeated.
pub(super) fn put(message: &mut DynamicMessage, field: &FieldDescriptor, value: Value) {
    if !field.is_list() {
        message.set_field(field, value);
    } else if let Value::List(list) = message.get_field_mut(field) {
        list.push(value);
    }
}

/// The first field that proto2 requires and that has no value.
pub(super) fn missing(message: &DynamicMessage) -> Option<String> {
    let absent =
        |field: &FieldDescriptor| field.cardinality() == Cardinality::Required && !message.has_field(field);
    message.descriptor().fields().find(absent).map(|field| field.name().to_owned())
}

/// Says that there is no such field, and names the one that was meant if only its case is different.
pub(super) fn unknown(descriptor: &MessageDescriptor, name: &str) -> String {
    let near = descriptor.fields().find(|field| {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        same(field.name()) || same(field.json_name())
    });
    let hint = near.map(|field| format!("; did you mean `{}`?", field.name())).unwrap_or_default();
    format!("{} has no field `{}`{hint}", descriptor.name(), short(name))
}

pub(super) fn named(known: &EnumDescriptor, name: &str) -> Option<Value> {
    known.get_value_by_name(name).map(|value| Value::EnumNumber(value.number()))
}

pub(super) fn numbered(known: &EnumDescriptor, number: i128) -> Option<Value> {
    let number = i32::try_from(number).ok()?;
    known.get_value(number).map(|value| Value::EnumNumber(value.number()))
}

/// For a message: the values that there are.
pub(super) fn names(known: &EnumDescriptor) -> String {
    let names: Vec<String> = known.values().map(|value| value.name().to_owned()).collect();
    format!("one of {}", names.join(", "))
}

pub(super) fn is_signed(kind: &Kind) -> bool {
    matches!(kind, Kind::Int32 | Kind::Int64)
}

pub(super) fn integer(kind: &Kind, number: i128) -> Result<Value, String> {
    let value = match kind {
        Kind::Int32 => i32::try_from(number).map(Value::I32),
        Kind::Int64 => i64::try_from(number).map(Value::I64),
        Kind::Uint32 => u32::try_from(number).map(Value::U32),
        Kind::Uint64 => u64::try_from(number).map(Value::U64),
        other => return Err(format!("a field of the type {other:?} is not known here")),
    };
    value.map_err(|_| format!("{number} is out of range"))
}

/// A string or bytes. A string goes to the kernel, which reads it up to its first NUL.
pub(super) fn text(kind: &Kind, bytes: Vec<u8>) -> Result<Value, String> {
    if *kind == Kind::Bytes {
        return Ok(Value::Bytes(bytes.into()));
    }
    let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    if text.contains('\0') {
        return Err("contains a NUL byte".to_owned());
    }
    Ok(Value::String(text))
}

/// As much of a word as a message should repeat.
pub(super) fn short(word: &str) -> String {
    const MOST: usize = 40;
    let mut shown: String = word.chars().take(MOST).collect();
    if word.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
