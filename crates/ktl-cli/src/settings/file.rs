//! `ktl.toml` as keys and values with their lines. What they mean is for [`super::places`] to say.
//!
//! ```toml
//! [build]
//! platform = ["linux/amd64", "linux/arm64"]
//! [sandbox]
//! hermetic = "best-effort"
//! [egress]
//! allow = ["pypi.org", "files.pythonhosted.org"]
//! ```

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Name of the file.
pub const FILE: &str = "ktl.toml";
/// A larger file is not read.
pub const SIZE_LIMIT: u64 = 64 << 10;

/// One key of one table.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub table: String,
    pub name: String,
    pub line: usize,
    /// As they would be typed.
    pub values: Vec<String>,
    pub is_list: bool,
}

/// Why a file says nothing, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct FileError {
    pub line: usize,
    pub why: String,
}

pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, FileError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| FileError { line: line(bytes, error.valid_up_to()), why: "not UTF-8".to_owned() })?;
    let at = |place: usize, why: String| FileError { line: line(bytes, place), why };
    let document = DeTable::parse(text)
        .map_err(|error| at(error.span().map_or(0, |span| span.start), error.message().replace('\n', " ")))?;
    let mut entries = Vec::new();
    for (table, inner) in document.get_ref() {
        let Some(keys) = inner.get_ref().as_table() else {
            let why = format!("`{}` is in no table, such as [build]", table.get_ref());
            return Err(at(table.span().start, why));
        };
        for (key, value) in keys {
            let entry = Entry {
                table: table.get_ref().clone().into_owned(),
                name: key.get_ref().clone().into_owned(),
                line: line(bytes, key.span().start),
                values: values(value)
                    .map_err(|why| at(key.span().start, format!("`{}`: {why}", key.get_ref())))?,
                is_list: value.get_ref().is_array(),
            };
            entries.push(entry);
        }
    }
    // The tables come sorted; people read from above.
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn values(value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    match value.get_ref() {
        DeValue::Array(items) if items.is_empty() => {
            Err("an empty list says nothing; leave it out".to_owned())
        }
        DeValue::Array(items) => items
            .iter()
            .map(|item| {
                item.get_ref().as_str().map(str::to_owned).ok_or_else(|| "a list holds strings".to_owned())
            })
            .collect(),
        DeValue::String(text) => Ok(vec![text.clone().into_owned()]),
        DeValue::Boolean(said) => Ok(vec![said.to_string()]),
        DeValue::Integer(number) if number.radix() == 10 => Ok(vec![number.as_str().to_owned()]),
        DeValue::Float(number) => Ok(vec![number.as_str().to_owned()]),
        other => Err(format!("no flag takes a TOML {}", other.type_str())),
    }
}

fn line(bytes: &[u8], place: usize) -> usize {
    bytes.iter().take(place).filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_tables_and_lines() {
        let text =
            "# mine\n[sandbox]\nhermetic = true\n[build]\ntag = [\n 'a',\n \"b\\nc\"]\nn = 1_0\nf = 1.5\n";
        let entries = parse(text.as_bytes()).unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|entry| (entry.table.as_str(), entry.name.as_str(), entry.line, entry.values.join("|")))
            .collect();
        assert_eq!(
            found,
            [
                ("sandbox", "hermetic", 3, "true".to_owned()),
                ("build", "tag", 5, "a|b\nc".to_owned()),
                ("build", "n", 8, "10".to_owned()),
                ("build", "f", 9, "1.5".to_owned()),
            ]
        );
        assert!(parse(b"").unwrap().is_empty());
        for (text, line, part) in [
            (&b"[build]\n\nx = \xff"[..], 3, "UTF-8"),
            (b"[build]\nx = ", 2, ""),
            (b"[build]\nx = 1\nx = 2", 3, "duplicate"),
            (b"\nx = 1", 2, "in no table"),
            (b"[build]\nx = []", 2, "empty list"),
            (b"[build]\nx = [1]", 2, "strings"),
            (b"[build]\nx = 1979-05-27", 2, "datetime"),
            (b"[build.x]\ny = 1", 1, "table"),
            (b"[build]\nx = 0x10", 2, "integer"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.line == line && error.why.contains(part), "{error:?}");
        }
        let deep = format!("[build]\nx = {}", "[".repeat(50_000));
        assert!(parse(deep.as_bytes()).is_err());
    }
}
