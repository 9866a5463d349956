//! Which ssh agents a build may use: the grammar of `--ssh`.
//!
//! Only names are in here; sockets are opened on the host side, when the daemon asks. Follows docker buildx
//! (`util/buildflags/ssh.go`) and moby/buildkit `session/sshforward/sshprovider`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::repeated;

/// The agent of a mount that names none.
pub const DEFAULT_AGENT: &str = "default";

/// One parsed `--ssh`: `default`, `id`, or `id=socket-or-key[,key…]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshSpec {
    pub id: String,
    /// One agent socket, or key files; empty for the agent of the user's environment.
    pub paths: Vec<PathBuf>,
}

/// Why an `--ssh` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshError {
    #[error("ssh {0:?} has an empty path")]
    EmptyPath(String),
}

impl SshSpec {
    pub fn parse(text: &str) -> Result<SshSpec, SshError> {
        let (id, paths) = match text.split_once('=') {
            Some((id, paths)) => (id, paths.split(',').map(PathBuf::from).collect()),
            None => (text, Vec::new()),
        };
        if paths.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(SshError::EmptyPath(text.to_owned()));
        }
        let id = if id.is_empty() { DEFAULT_AGENT } else { id };
        Ok(SshSpec { id: id.to_owned(), paths })
    }

    /// All values of the flag. Of several with one id the last counts, at the place of the first.
    pub fn list<S: AsRef<str>>(values: &[S]) -> Result<Vec<SshSpec>, SshError> {
        repeated::last_of_each(values, SshSpec::parse, |spec| &spec.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammar() {
        for (text, id, paths) in [
            ("default", "default", &[][..]),
            ("github", "github", &[]),
            ("=/run/agent", "default", &["/run/agent"]),
            ("github=/k1,/k2", "github", &["/k1", "/k2"]),
        ] {
            let want = SshSpec { id: id.into(), paths: paths.iter().map(PathBuf::from).collect() };
            assert_eq!(SshSpec::parse(text).unwrap(), want, "{text}");
        }
        assert_eq!(SshSpec::parse("a=").unwrap_err(), SshError::EmptyPath("a=".into()));
        assert_eq!(
            SshSpec::list(&["a=/1", "a=/2"]).unwrap(),
            [SshSpec { id: "a".into(), paths: vec!["/2".into()] }]
        );
    }
}
