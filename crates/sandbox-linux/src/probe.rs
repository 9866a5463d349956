//! Asks from inside whether a host path can be seen. The answer is printed to people who decide by it whether to
//! trust the jail, so it must never be better than the truth: only "does not exist" counts as hidden.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};

/// What this process can make of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visibility {
    /// No such file here.
    Hidden,
    /// It is there.
    Visible {
        /// `file`, `directory`, `symlink` (one that leads nowhere), `socket`, `pipe`, `device`.
        kind: &'static str,
        readable: bool,
        writable: bool,
    },
    /// Something is there, or may be: the kernel would not say.
    Unreachable { reason: String },
}

/// Looks at `path` with this process's rights, following symbolic links.
pub fn probe(path: &Path) -> Visibility {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) if is_absence(&error) => match path.symlink_metadata() {
            Ok(_) => {
                return Visibility::Visible { kind: "symlink", readable: false, writable: false };
            }
            Err(error) if is_absence(&error) => return Visibility::Hidden,
            Err(error) => return unreachable(&error),
        },
        Err(error) => return unreachable(&error),
    };
    let may = |access| rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS).is_ok();
    let kind = metadata.file_type();
    Visibility::Visible {
        kind: if kind.is_dir() {
            "directory"
        } else if kind.is_socket() {
            "socket"
        } else if kind.is_fifo() {
            "pipe"
        } else if kind.is_char_device() || kind.is_block_device() {
            "device"
        } else {
            "file"
        },
        readable: may(Access::READ_OK),
        writable: may(Access::WRITE_OK),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT) | Some(libc::ENOTDIR))
}

fn unreachable(error: &io::Error) -> Visibility {
    let reason = match error.kind() {
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Visibility::Unreachable { reason }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Visibility::Hidden => f.write_str("hidden"),
            Visibility::Visible { kind, readable, writable } => {
                let rights = match (readable, writable) {
                    (true, true) => "readable, writable",
                    (true, false) => "readable",
                    (false, true) => "writable",
                    (false, false) => "unreadable",
                };
                write!(f, "VISIBLE ({kind}, {rights})")
            }
            Visibility::Unreachable { reason } => write!(f, "unreachable ({reason})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let dangling = dir.path().join("l");
        symlink("nowhere", &dangling).unwrap();
        let round = dir.path().join("r");
        symlink("r", &round).unwrap();
        for (path, want) in [
            (file.clone(), "VISIBLE (file, readable, writable)"),
            (dir.path().to_owned(), "VISIBLE (directory, readable, writable)"),
            (dir.path().join("none"), "hidden"),
            (file.join("below"), "hidden"),
            (dangling, "VISIBLE (symlink, unreadable)"),
            ("/dev/null".into(), "VISIBLE (device, readable, writable)"),
        ] {
            assert_eq!(probe(&path).to_string(), want, "{}", path.display());
        }
        assert!(probe(&round).to_string().starts_with("unreachable ("));
    }
}
