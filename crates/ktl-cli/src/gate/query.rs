//! Query parameters, taken apart, checked one by one, and written anew.
//!
//! An Engine reads them with Go's `net/url`: the first value of a name counts for most, all values for some, and older ones
//! take `;` for a separator. Written anew, with everything but letters and digits encoded and no name twice where one value
//! counts, a query has one meaning to all of them.

use std::collections::BTreeSet;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What a parameter may say. The error is the reason, without the parameter's name.
pub type Check = fn(&str) -> Result<(), &'static str>;

/// A parameter that a call may have.
#[derive(Debug)]
pub struct Parameter {
    pub name: &'static str,
    /// May be there more than once.
    pub many: bool,
    pub check: Check,
}

/// One value, any text.
pub const fn any(name: &'static str) -> Parameter {
    Parameter { name, many: false, check: |_| Ok(()) }
}

/// Any number of values, any text.
pub const fn list(name: &'static str) -> Parameter {
    Parameter { name, many: true, check: |_| Ok(()) }
}

/// One value that passes a check.
pub const fn checked(name: &'static str, check: Check) -> Parameter {
    Parameter { name, many: false, check }
}

/// Parameters in one query; a build has one `t` for each tag.
const MOST: usize = 256;

/// Rewrites `raw` if every parameter of it is in `allowed` and says what it may. The error is the whole reason.
pub fn rewrite(raw: &str, allowed: &[Parameter]) -> Result<String, String> {
    let mut seen = BTreeSet::new();
    let mut out = String::new();
    for (count, pair) in raw.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        if count == MOST {
            return Err("the query has too many parameters".to_owned());
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decode(name), decode(value)) else {
            return Err("the query is not UTF-8".to_owned());
        };
        let Some(parameter) = allowed.iter().find(|parameter| parameter.name == name) else {
            return Err(format!("the parameter {:?} is not part of what a build needs", shortened(&name)));
        };
        if !seen.insert(parameter.name) && !parameter.many {
            return Err(format!("the parameter {:?} is there twice", parameter.name));
        }
        (parameter.check)(&value).map_err(|reason| format!("the parameter {:?} {reason}", parameter.name))?;
        out.push(if out.is_empty() { '?' } else { '&' });
        out.extend(utf8_percent_encode(&name, NON_ALPHANUMERIC));
        out.push('=');
        out.extend(utf8_percent_encode(&value, NON_ALPHANUMERIC));
    }
    Ok(out)
}

fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: [Parameter; 3] =
        [any("q"), list("t"), checked("mode", |value| if value == "bad" { Err("is bad") } else { Ok(()) })];

    #[test]
    fn queries_are_written_anew() {
        for (raw, want) in [
            ("", Ok("")),
            ("&&", Ok("")),
            ("q", Ok("?q=")),
            ("q=1&t=a&t=b:c", Ok("?q=1&t=a&t=b%3Ac")),
            ("t=a+b%20c", Ok("?t=a%20b%20c")),
            // To an old Engine this would be two parameters.
            ("q=1;mode=bad", Ok("?q=1%3Bmode%3Dbad")),
            ("%71=1", Ok("?q=1")),
            ("q=1&q=2", Err("the parameter \"q\" is there twice")),
            ("q=1&%71=2", Err("the parameter \"q\" is there twice")),
            ("mode=ok&mode=bad", Err("the parameter \"mode\" is there twice")),
            ("mode=b%61d", Err("the parameter \"mode\" is bad")),
            ("Mode=bad", Err("the parameter \"Mode\" is not part of what a build needs")),
            ("q=%ff", Err("the query is not UTF-8")),
        ] {
            assert_eq!(rewrite(raw, &ALLOWED), want.map(str::to_owned).map_err(str::to_owned), "{raw}");
        }
        assert!(rewrite(&"t=a&".repeat(300), &ALLOWED).is_err());
    }
}
