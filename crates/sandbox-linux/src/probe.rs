//! Asks from inside what can be seen and reached. The answer is printed to people who decide by it whether to trust the
//! jail, so it must never be better than the truth: of a path only "does not exist" counts as hidden, of an endpoint only
//! what this side's kernel refuses.

mod reach;
mod target;

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD};
use serde::{Deserialize, Serialize};

pub(crate) use target::CAPABILITIES;
pub use target::Probe;

/// What an [`Answer`] comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not there, or out of reach for sure.
    Hidden,
    Visible,
    /// The kernel or the other side would not say. Counts neither as hidden nor as visible.
    Unknown,
}

/// What this process can make of a [`Probe`]. Displays as `hidden`, `VISIBLE (…)` or `unreachable (why)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub verdict: Verdict,
    pub words: String,
}

impl Answer {
    fn hidden(why: &str) -> Answer {
        let words = if why.is_empty() { "hidden".to_owned() } else { format!("hidden ({why})") };
        Answer { verdict: Verdict::Hidden, words }
    }

    fn visible(what: &str) -> Answer {
        Answer { verdict: Verdict::Visible, words: format!("VISIBLE ({what})") }
    }

    fn unknown(why: &str) -> Answer {
        Answer { verdict: Verdict::Unknown, words: format!("unreachable ({why})") }
    }
}

impl From<Visibility> for Answer {
    fn from(seen: Visibility) -> Answer {
        let verdict = match seen {
            Visibility::Hidden => Verdict::Hidden,
            Visibility::Visible { .. } => Verdict::Visible,
            Visibility::Unreachable { .. } => Verdict::Unknown,
        };
        Answer { verdict, words: seen.to_string() }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// Finds an answer with this process's rights. Takes two seconds at most.
pub fn ask(question: &Probe) -> Answer {
    match question {
        Probe::Path(path) => probe(path).into(),
        Probe::Tcp { host, port } => reach::tcp(host, *port),
        Probe::Unix(socket) => reach::unix(socket),
        Probe::Cap(name) => capability(name),
        Probe::Env(name) => variable(name),
    }
}

fn capability(name: &str) -> Answer {
    let Some(bit) = CAPABILITIES.iter().position(|known| *known == name) else {
        return Answer::unknown("no such capability");
    };
    let status = match fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => return Answer::unknown(&format!("/proc/self/status: {error}")),
    };
    let mut holding = Vec::new();
    for (field, set) in [
        ("CapEff", "effective"),
        ("CapPrm", "permitted"),
        ("CapInh", "inheritable"),
        ("CapBnd", "bounding"),
        ("CapAmb", "ambient"),
    ] {
        let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        match value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()) {
            Some(bits) if bits >> bit & 1 == 1 => holding.push(set),
            Some(_) => {}
            None => return Answer::unknown(&format!("the kernel does not tell {field}")),
        }
    }
    if holding.is_empty() { Answer::hidden("in no set") } else { Answer::visible(&holding.join(", ")) }
}

/// The environment that this process was started with.
fn variable(name: &str) -> Answer {
    match fs::read("/proc/self/environ") {
        Ok(environ) => {
            let named = |entry: &[u8]| entry.split(|byte| *byte == b'=').next() == Some(name.as_bytes());
            if environ.split(|byte| *byte == 0).any(named) {
                Answer::visible("set")
            } else {
                Answer::hidden("")
            }
        }
        Err(error) => Answer::unknown(&format!("/proc/self/environ: {error}")),
    }
}

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
    fn questions_have_answers() {
        for (text, verdict) in [
            ("/proc/self/status", Verdict::Visible),
            ("/no/such/thing", Verdict::Hidden),
            ("unix:/no/such/socket", Verdict::Hidden),
            ("env:PATH", Verdict::Visible),
            ("env:NO_SUCH_VARIABLE_OF_KTL", Verdict::Hidden),
        ] {
            assert_eq!(ask(&text.parse().unwrap()).verdict, verdict, "{text}");
        }
        // Whoever runs the tests has the bounding set or not; the answer is one of the two, never a failure.
        let answer = ask(&"cap:CHOWN".parse().unwrap());
        assert_ne!(answer.verdict, Verdict::Unknown, "{answer}");
    }

    #[test]
    fn says_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
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
