//! Which secrets a build may read: the grammar of `--secret`.
//!
//! Only names are in here; the values are read on the host side, when the daemon asks. Follows docker buildx
//! (`util/buildflags/secrets.go`) and moby/buildkit `session/secrets/secretsprovider`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::csv::{self, CsvError};
use crate::repeated;

/// The largest secret that a daemon takes, in bytes.
pub const MAX_SECRET: usize = 500 * 1024;

/// One parsed `--secret`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretSpec {
    pub id: String,
    pub source: SecretSource,
}

/// Where a secret's value is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretSource {
    /// The environment variable of that name.
    Env(String),
    File(PathBuf),
    /// Nothing was said: the variable called as the secret when it is set, else the file called so.
    Id,
}

/// Why a `--secret` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Csv(#[from] CsvError),
    #[error("secret {0:?} must be key=value pairs, such as id=token,src=token.txt")]
    NotAPair(String),
    #[error("secret has no id")]
    NoId,
    #[error("secret type {0:?} is neither file nor env")]
    Type(String),
    #[error("secret has no key {0:?}: id, src, env and type are known")]
    UnknownKey(String),
}

impl SecretSpec {
    pub fn parse(text: &str) -> Result<SecretSpec, SecretError> {
        let (mut id, mut file, mut variable, mut of_environment) =
            (String::new(), String::new(), String::new(), false);
        for field in csv::fields(text)? {
            let Some((key, value)) = field.split_once('=') else { return Err(SecretError::NotAPair(field)) };
            let value = value.to_owned();
            match key.to_ascii_lowercase().as_str() {
                "id" => id = value,
                "src" | "source" => file = value,
                "env" => variable = value,
                "type" if value == "env" => of_environment = true,
                "type" if value == "file" => of_environment = false,
                "type" => return Err(SecretError::Type(value)),
                key => return Err(SecretError::UnknownKey(key.to_owned())),
            }
        }
        if id.is_empty() {
            return Err(SecretError::NoId);
        }
        if of_environment && variable.is_empty() {
            variable = std::mem::take(&mut file);
        }
        let source = match (variable.is_empty(), file.is_empty()) {
            (false, _) => SecretSource::Env(variable),
            (true, false) => SecretSource::File(file.into()),
            (true, true) => SecretSource::Id,
        };
        Ok(SecretSpec { id, source })
    }

    /// All values of the flag. Of several with one id the last counts, at the place of the first.
    pub fn list<S: AsRef<str>>(values: &[S]) -> Result<Vec<SecretSpec>, SecretError> {
        repeated::last_of_each(values, SecretSpec::parse, |spec| &spec.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        use SecretSource as S;
        for (text, id, source) in [
            ("id=a", "a", S::Id),
            ("id=a,src=f", "a", S::File("f".into())),
            ("ID=a,Source=f", "a", S::File("f".into())),
            ("id=a,env=V", "a", S::Env("V".into())),
            ("id=a,type=env,src=V", "a", S::Env("V".into())),
            ("id=a,type=env", "a", S::Id),
            ("id=a,type=file,src=f", "a", S::File("f".into())),
            (r#"id=a,"src=x,y""#, "a", S::File("x,y".into())),
        ] {
            assert_eq!(SecretSpec::parse(text).unwrap(), SecretSpec { id: id.into(), source }, "{text}");
        }
    }

    #[test]
    fn refusals() {
        use SecretError as E;
        for (text, want) in [
            ("a", E::NotAPair("a".into())),
            ("src=f", E::NoId),
            ("id=a,type=x", E::Type("x".into())),
            ("id=a,mode=1", E::UnknownKey("mode".into())),
        ] {
            assert_eq!(SecretSpec::parse(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn last_of_an_id_counts() {
        let specs = SecretSpec::list(&["id=a,src=1", "", "id=b", "id=a,env=V"]).unwrap();
        assert_eq!(specs.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(specs[0].source, SecretSource::Env("V".into()));
    }
}
