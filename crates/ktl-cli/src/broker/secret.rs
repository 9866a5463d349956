//! Build secrets, read when they are asked for.
//!
//! Follows `session/secrets/secretsprovider` of moby/buildkit.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use buildsvc::session::host::Secret;

use super::record::Denial;
use super::rules::{SecretOrigin, SecretSource};

/// As upstream: a secret is a key or a password, not a data set.
const LENGTH_LIMIT: u64 = 500 << 10;
/// Daemons ask for a few names of their own accord (git and http tokens); more wrong names than this are a search.
const WRONG_LIMIT: u64 = 100;

#[derive(Debug, thiserror::Error)]
enum SecretError {
    #[error("secret {id:?}: cannot read {path}")]
    Read { id: String, path: PathBuf, source: io::Error },
    #[error("secret {id:?}: {origin} is longer than {LENGTH_LIMIT} bytes")]
    TooLong { id: String, origin: String },
}

#[derive(Debug)]
pub struct Secrets {
    origins: BTreeMap<String, SecretOrigin>,
    wrong: AtomicU64,
}

impl Secrets {
    /// Of two with one id the later one counts, as on other command lines.
    pub fn new(sources: Vec<SecretSource>) -> Secrets {
        let origins = sources.into_iter().map(|source| (source.id, source.origin)).collect();
        Secrets { origins, wrong: AtomicU64::new(0) }
    }

    pub fn get(&self, id: &str) -> Result<Option<Secret>, Denial> {
        if self.wrong.load(Ordering::Relaxed) >= WRONG_LIMIT {
            return Err(Denial::Rule(format!("no secrets any more after {WRONG_LIMIT} wrong names")));
        }
        match self.origins.get(id) {
            Some(origin) => read(id, origin).map(Some).map_err(|error| Denial::failure(&error)),
            None => {
                self.wrong.fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
        }
    }
}

fn read(id: &str, origin: &SecretOrigin) -> Result<Secret, SecretError> {
    let too_long = |origin: String| SecretError::TooLong { id: id.to_owned(), origin };
    match origin {
        SecretOrigin::Env { name, value } if value.0.len() as u64 > LENGTH_LIMIT => {
            Err(too_long(format!("the variable {name}")))
        }
        SecretOrigin::Env { value, .. } => Ok(value.clone()),
        SecretOrigin::File(path) => {
            let mut bytes = Vec::new();
            File::open(path)
                .and_then(|file| file.take(LENGTH_LIMIT + 1).read_to_end(&mut bytes))
                .map_err(|source| SecretError::Read { id: id.to_owned(), path: path.clone(), source })?;
            if bytes.len() as u64 > LENGTH_LIMIT {
                return Err(too_long(path.display().to_string()));
            }
            Ok(Secret(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(id: &str, path: impl Into<PathBuf>) -> SecretSource {
        SecretSource { id: id.into(), origin: SecretOrigin::File(path.into()) }
    }

    fn env(id: &str, length: usize) -> SecretSource {
        let value = Secret(vec![b'e'; length]);
        SecretSource { id: id.into(), origin: SecretOrigin::Env { name: "VAR".into(), value } }
    }

    #[test]
    fn secrets_come_from_variables_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let limit = LENGTH_LIMIT as usize;
        let secrets = Secrets::new(vec![
            file("file", &path),
            file("dir", dir.path()),
            env("env", 3),
            env("limit", limit),
            env("long", limit + 1),
        ]);
        let text = |id: &str| match secrets.get(id) {
            Ok(Some(secret)) => format!("{} bytes", secret.0.len()),
            Ok(None) => "none".into(),
            Err(denial) => denial.text().to_owned(),
        };
        assert!(text("file").starts_with(&format!("secret \"file\": cannot read {}: No such file", path.display())));
        std::fs::write(&path, b"\xff\0x").unwrap();
        assert_eq!(text("file"), "3 bytes");
        std::fs::write(&path, vec![0; limit]).unwrap();
        assert_eq!(text("file"), "512000 bytes");
        std::fs::write(&path, vec![0; limit + 1]).unwrap();
        assert_eq!(text("file"), format!("secret \"file\": {} is longer than 512000 bytes", path.display()));
        assert!(text("dir").contains("cannot read"));
        assert_eq!(text("env"), "3 bytes");
        assert_eq!(text("limit"), "512000 bytes");
        assert_eq!(text("long"), "secret \"long\": the variable VAR is longer than 512000 bytes");
        assert_eq!(text("absent"), "none");
    }

    #[test]
    fn a_search_for_names_is_cut_off() {
        let secrets = Secrets::new(vec![env("env", 3)]);
        for index in 0..WRONG_LIMIT {
            assert_eq!(secrets.get(&format!("guess{index}")), Ok(None));
        }
        assert!(matches!(secrets.get("guess"), Err(Denial::Rule(_))));
        assert!(matches!(secrets.get("env"), Err(Denial::Rule(_))));
    }
}
