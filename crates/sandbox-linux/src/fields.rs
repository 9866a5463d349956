//! A policy as a list of fields, for reports that go through all of them. Done by reflection, so that a field that is added
//! to the format is in every report from then on.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, ReflectMessage as _, Value};

use crate::policy::Policy;
use crate::proto;

/// The policy as a message that can be walked.
pub(crate) fn message(policy: &Policy) -> DynamicMessage {
    proto::reflect(policy.config())
}

/// The fields that are set, in the order of the format.
pub(crate) fn set(message: &DynamicMessage) -> Vec<(FieldDescriptor, Value)> {
    message
        .descriptor()
        .fields()
        .filter(|field| message.has_field(field))
        .map(|field| {
            let value = message.get_field(&field).into_owned();
            (field, value)
        })
        .collect()
}

/// A value on one line, as the text form has it.
pub(crate) fn render(value: &Value, kind: &Kind) -> String {
    match (value, kind) {
        (Value::Bool(value), _) => value.to_string(),
        (Value::I32(value), _) => value.to_string(),
        (Value::I64(value), _) => value.to_string(),
        (Value::U32(value), _) => value.to_string(),
        (Value::U64(value), _) => value.to_string(),
        (Value::F32(value), _) => value.to_string(),
        (Value::F64(value), _) => value.to_string(),
        (Value::String(text), _) => quoted(text),
        (Value::Bytes(bytes), _) => quoted(&String::from_utf8_lossy(bytes)),
        (Value::EnumNumber(number), Kind::Enum(known)) => {
            known.get_value(*number).map_or(number.to_string(), |value| value.name().to_owned())
        }
        (Value::EnumNumber(number), _) => number.to_string(),
        (Value::List(items), _) => {
            let items: Vec<String> = items.iter().map(|item| render(item, kind)).collect();
            format!("[{}]", items.join(", "))
        }
        (Value::Message(inner), _) => {
            let mut out = String::from("{ ");
            for (field, value) in set(inner) {
                let items = match value {
                    Value::List(items) => items,
                    single => vec![single],
                };
                for item in items {
                    let colon = if matches!(item, Value::Message(_)) { " " } else { ": " };
                    out.push_str(field.name());
                    out.push_str(colon);
                    out.push_str(&render(&item, &field.kind()));
                    out.push(' ');
                }
            }
            out.push('}');
            out
        }
        (Value::Map(_), _) => "{}".to_owned(),
    }
}

/// In quotes and without control characters; text that a reader could be fooled by is escaped.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}
