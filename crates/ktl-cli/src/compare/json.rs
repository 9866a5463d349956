//! Where two JSON documents differ first.

use serde_json::Value;

/// Of a value that is shown.
const SHOWN: usize = 200;

/// The place, as in `history[2].created`, and the values there.
pub fn first_difference(a: &Value, b: &Value) -> Option<(String, String, String)> {
    if a == b {
        return None;
    }
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            let mut keys: Vec<&String> = one.keys().chain(other.keys()).collect();
            keys.sort();
            keys.iter().find_map(|key| {
                let (a, b) = (one.get(*key).unwrap_or(&Value::Null), other.get(*key).unwrap_or(&Value::Null));
                within(format!(".{key}"), first_difference(a, b))
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(at, (a, b))| within(format!("[{at}]"), first_difference(a, b)))
        }
        _ => Some((String::new(), shown(a), shown(b))),
    }
}

fn within(step: String, found: Option<(String, String, String)>) -> Option<(String, String, String)> {
    found.map(|(place, a, b)| (step + &place, a, b))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(_) => "an object".to_owned(),
        other => short(&other.to_string()),
    }
}

/// The beginning of a text that may be long.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_place() {
        let found = |a: Value, b: Value| first_difference(&a, &b).map(|(place, ..)| place);
        assert_eq!(found(json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 3}]})).unwrap(), ".a[1].b");
        assert_eq!(found(json!({"a": 1}), json!({"a": 1, "b": 2})).unwrap(), ".b");
        assert_eq!(found(json!([1]), json!([1, 2])).unwrap(), "");
        assert_eq!(found(json!({"a": [1]}), json!({"a": [1]})), None);
        assert!(short(&"é".repeat(500)).chars().count() == SHOWN + 1);
    }
}
