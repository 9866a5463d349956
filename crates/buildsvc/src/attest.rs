//! What is attested of a build: the grammar of `--attest`, `--provenance` and `--sbom`.
//!
//! Follows docker buildx (`util/buildflags/attests.go`).

use std::collections::BTreeMap;

use crate::csv::{self, CsvError};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    #[error(transparent)]
    Csv(#[from] CsvError),
    #[error("{0:?} is not of the form KEY=VALUE")]
    NotAPair(String),
    #[error("{0:?} has no type, such as type=sbom")]
    NoType(String),
    #[error("disabled={0} is no boolean")]
    NotBoolean(String),
}

/// Attestations by their types, with the value of the frontend's attribute, or `None` where one is not wanted.
pub type Attestations = BTreeMap<String, Option<String>>;

/// All that the flags say; of several of one type the first counts, and `--attest` stands before the others.
pub fn list<S: AsRef<str>>(
    attest: &[S],
    provenance: Option<&str>,
    sbom: Option<&str>,
) -> Result<Attestations, AttestError> {
    let of_shorthand = |kind: &str, value: Option<&str>| match value {
        None | Some("") => None,
        Some(value) => Some(match csv::boolean(value) {
            Some(wanted) => format!("type={kind},disabled={}", !wanted),
            None => format!("type={kind},{value}"),
        }),
    };
    let given = attest.iter().map(|value| value.as_ref().to_owned());
    let mut attestations = Attestations::new();
    for text in given.chain(of_shorthand("provenance", provenance)).chain(of_shorthand("sbom", sbom)) {
        let (kind, value) = parse(&text)?;
        attestations.entry(kind).or_insert(value);
    }
    Ok(attestations)
}

fn parse(text: &str) -> Result<(String, Option<String>), AttestError> {
    let (mut kind, mut disabled, mut attrs) = (String::new(), false, BTreeMap::new());
    for field in csv::fields(text)? {
        let Some((key, value)) = field.split_once('=') else { return Err(AttestError::NotAPair(field)) };
        match key.trim().to_ascii_lowercase().as_str() {
            "type" => value.clone_into(&mut kind),
            "disabled" => {
                disabled = csv::boolean(value).ok_or_else(|| AttestError::NotBoolean(value.to_owned()))?;
            }
            _ => drop(attrs.insert(key.to_owned(), value.to_owned())),
        }
    }
    if kind.is_empty() {
        return Err(AttestError::NoType(text.to_owned()));
    }
    let pairs = attrs.iter().map(|(key, value)| format!("{key}={value}"));
    let fields: Vec<String> = std::iter::once(format!("type={kind}")).chain(pairs).collect();
    Ok((kind, (!disabled).then(|| csv::record(&fields))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attestations() {
        let none: &[&str] = &[];
        for (attest, provenance, sbom, want) in [
            (none, None, None, &[][..]),
            (
                none,
                Some("true"),
                Some("1"),
                &[("provenance", Some("type=provenance")), ("sbom", Some("type=sbom"))],
            ),
            (none, Some("false"), Some(""), &[("provenance", None)]),
            (none, Some("mode=max"), None, &[("provenance", Some("type=provenance,mode=max"))]),
            (
                &["type=sbom,generator=r/x:1,b=2"],
                None,
                Some("false"),
                &[("sbom", Some("type=sbom,b=2,generator=r/x:1"))],
            ),
            (&["type=provenance,disabled=true"], Some("mode=max"), None, &[("provenance", None)]),
            (&["type=x,\"a=b,c\""], None, None, &[("x", Some("type=x,\"a=b,c\""))]),
        ] {
            let got = list(attest, provenance, sbom).unwrap();
            let got: Vec<_> = got.iter().map(|(kind, value)| (kind.as_str(), value.as_deref())).collect();
            assert_eq!(got, want, "{attest:?} {provenance:?} {sbom:?}");
        }
        assert_eq!(list(&["mode=max"], None, None), Err(AttestError::NoType("mode=max".into())));
        assert_eq!(list(none, Some("max"), None), Err(AttestError::NotAPair("max".into())));
        assert!(list(&["type=sbom,disabled=maybe"], None, None).is_err());
    }
}
