//! The one-line CSV in which docker's tools take structured flag values: `type=oci,"name=a,b",dest=x.tar`.
//!
//! Follows RFC 4180 quoting as Go's `encoding/csv` reads a single record.

/// Why a flag value is not one CSV record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsvError {
    #[error("quote in the middle of a field, at byte {0}; quote the whole field instead: \"key=value\"")]
    BareQuote(usize),
    #[error("text after a closing quote, at byte {0}")]
    AfterQuote(usize),
    #[error("missing closing quote")]
    Unclosed,
    #[error("line break outside of quotes, at byte {0}")]
    LineBreak(usize),
}

/// The fields of one record. An empty text has one empty field.
pub fn fields(text: &str) -> Result<Vec<String>, CsvError> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let at = text.len() - rest.len();
        let (field, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(text, quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let field = &rest[..end];
                if let Some(quote) = field.find('"') {
                    return Err(CsvError::BareQuote(at + quote));
                }
                if let Some(line) = field.find(['\n', '\r']) {
                    return Err(CsvError::LineBreak(at + line));
                }
                (field.to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match tail.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Ok(fields),
        }
    }
}

/// One record of these fields, quoted where they have to be.
pub fn record<S: AsRef<str>>(fields: &[S]) -> String {
    let field = |field: &S| {
        let field = field.as_ref();
        match field.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", field.replace('"', "\"\"")),
            false => field.to_owned(),
        }
    };
    fields.iter().map(field).collect::<Vec<_>>().join(",")
}

/// The spellings of Go's `strconv.ParseBool`, which the daemon uses.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads behind an opening quote; returns the field and what follows its closing quote, which is empty or a comma.
fn quoted_field<'a>(text: &str, quoted: &'a str) -> Result<(String, &'a str), CsvError> {
    let mut field = String::new();
    let mut rest = quoted;
    loop {
        let Some(quote) = rest.find('"') else { return Err(CsvError::Unclosed) };
        field.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        if let Some(more) = rest.strip_prefix('"') {
            field.push('"');
            rest = more;
        } else if rest.is_empty() || rest.starts_with(',') {
            return Ok((field, rest));
        } else {
            return Err(CsvError::AfterQuote(text.len() - rest.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        for (text, want) in [
            ("", vec![""]),
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            ("a,", vec!["a", ""]),
            (r#"type=oci,"name=a,b",dest=x"#, vec!["type=oci", "name=a,b", "dest=x"]),
            (r#""say ""hi""""#, vec![r#"say "hi""#]),
            ("\"two\nlines\"", vec!["two\nlines"]),
        ] {
            assert_eq!(fields(text).unwrap(), want, "{text:?}");
            assert_eq!(fields(&record(&want)).unwrap(), want, "{text:?}");
        }
    }

    #[test]
    fn refusals() {
        for (text, want) in [
            (r#"name="a,b""#, CsvError::BareQuote(5)),
            (r#""a"b"#, CsvError::AfterQuote(3)),
            (r#"x,"a"#, CsvError::Unclosed),
            ("a\nb", CsvError::LineBreak(1)),
        ] {
            assert_eq!(fields(text).unwrap_err(), want, "{text:?}");
        }
    }
}
