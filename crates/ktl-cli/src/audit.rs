//! `--audit FILE`: what was asked of this build, line by line, as it happens.
//!
//! The host side writes, the guest only tells: a guest that is taken over can add lines of its own and take none away. A
//! line is one write to a file that is appended to, so what was written before a run was killed stays. Contents and secrets
//! are never in it, only names, numbers of bytes, and digests of what the user got. A flood of one kind is counted
//! instead of kept. The format is told in docs/distrust.md; [`VERSION`] is raised when a field changes its meaning or goes.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::broker::Record;
use crate::exit::Exit;
use crate::failure::Failure;

pub const VERSION: u32 = 1;

/// Lines of one kind; what comes after them is counted.
const LINES_OF_A_KIND: u64 = 1000;
/// Kinds that are told apart.
const KINDS: usize = 100;
/// Of one line. One that is longer is told of instead.
const MAX_LINE: usize = 64 << 10;

/// The file, for all who have something to write into it. Without one nothing is written.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Mutex<Book>>>);

#[derive(Debug)]
struct Book {
    file: File,
    lines: BTreeMap<String, u64>,
    refused: u64,
    /// The first line that could not be written, which makes the whole worthless.
    failure: Option<io::Error>,
}

impl Audit {
    /// Opens the file, made when missing; lines are added to what is in it.
    pub fn open(path: Option<&Path>) -> Result<Audit, Failure> {
        let Some(path) = path else { return Ok(Audit::default()) };
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(libc::O_NOCTTY)
            .open(path)
            .map_err(|error| Failure::usage(format!("--audit {}: {error}", path.display())))?;
        let book = Book { file, lines: BTreeMap::new(), refused: 0, failure: None };
        Ok(Audit(Some(Arc::new(Mutex::new(book)))))
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Writes one line. `kind` is what a flood is told by.
    pub fn tell(&self, kind: &str, refused: bool, event: &impl Serialize) {
        let Some(book) = &self.0 else { return };
        let mut book = book.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        book.refused += u64::from(refused);
        let known = book.lines.contains_key(kind);
        let kind = if known || book.lines.len() < KINDS { kind } else { "other" };
        let lines = book.lines.entry(kind.to_owned()).or_default();
        *lines += 1;
        if *lines > LINES_OF_A_KIND {
            return;
        }
        let event = serde_json::to_value(event).unwrap_or_else(|_| json!({ "event": "unwritable" }));
        book.write(event);
    }

    /// Ends the record of a run; how much was refused in it.
    pub fn end(&self, exit: u8) -> Result<u64, Failure> {
        let Some(book) = &self.0 else { return Ok(0) };
        let mut book = book.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let not_kept: BTreeMap<&String, u64> = book
            .lines
            .iter()
            .filter(|(_, lines)| **lines > LINES_OF_A_KIND)
            .map(|(kind, lines)| (kind, lines - LINES_OF_A_KIND))
            .collect();
        let line = json!({ "event": "end", "exit": exit, "refused": book.refused, "not_kept": not_kept });
        book.write(line);
        match book.failure.take() {
            Some(error) => Err(Failure::internal(format!("the audit could not be written: {error}"))),
            None => Ok(book.refused),
        }
    }
}

impl Book {
    fn write(&mut self, mut event: Value) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(object) = event.as_object_mut() {
            object.insert("time".to_owned(), json!(now.as_millis() as f64 / 1000.0));
        }
        let mut line = event.to_string();
        if line.len() > MAX_LINE {
            line = json!({ "event": "too long", "bytes": line.len(), "of": event.get("event") }).to_string();
        }
        line.push('\n');
        // One write, so that two runs that share a file do not tear each other's lines.
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.failure.get_or_insert(error);
        }
    }
}

/// The first line of a run.
#[derive(Debug, Serialize)]
pub struct Begin<'a> {
    event: &'static str,
    version: u32,
    ktl: &'static str,
    builder: &'a str,
    reference: &'a str,
}

impl<'a> Begin<'a> {
    pub fn of(builder: &'a str, reference: &'a str) -> Begin<'a> {
        Begin { event: "begin", version: VERSION, ktl: env!("CARGO_PKG_VERSION"), builder, reference }
    }
}

/// Which keys logged in, and where; told by the broker when all is over.
pub fn signatures(audit: &Audit, record: &Record) {
    for used in &record.signatures {
        let about = json!({ "agent": used.agent, "key": used.fingerprint, "user": used.user });
        let event = json!({
            "event": "broker", "kind": "ssh signature", "about": about, "end": "ok", "why": "", "count": used.count,
        });
        audit.tell("ssh signature", false, &event);
    }
}

/// What is in its place now: a file with its digest, a directory without.
pub fn output(audit: &Audit, landed: Option<PathBuf>) -> Result<(), Failure> {
    let Some(path) = landed.filter(|_| audit.is_on()) else { return Ok(()) };
    let fail = |error: io::Error| {
        Failure::new(Exit::BuildFailed, format!("failed to read {} for the audit: {error}", path.display()))
    };
    let mut event = json!({ "event": "output", "path": path.to_string_lossy() });
    if path.is_file() {
        let (bytes, digest) = digest(&path).map_err(fail)?;
        event["bytes"] = bytes.into();
        event["digest"] = digest.into();
    }
    audit.tell("output", false, &event);
    Ok(())
}

/// The digest of a file that was exported.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut sum, mut buffer, mut bytes) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => {
                sum.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    let hex: String = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, format!("sha256:{hex}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_flood_is_counted_and_a_file_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        for _ in 0..2 {
            let audit = Audit::open(Some(&path)).unwrap();
            for number in 0..LINES_OF_A_KIND + 7 {
                audit.tell("secret", number % 2 == 0, &json!({ "event": "secret", "id": number }));
            }
            audit.tell("long", false, &json!({ "event": "long", "text": "x".repeat(MAX_LINE) }));
            assert_eq!(audit.end(1).unwrap(), LINES_OF_A_KIND.div_ceil(2) + 4);
        }
        let lines = lines(&path);
        assert_eq!(lines.len() as u64, 2 * (LINES_OF_A_KIND + 2));
        let end = &lines[lines.len() - 1];
        assert_eq!((&end["event"], &end["not_kept"]["secret"]), (&json!("end"), &json!(7)));
        assert_eq!(lines[lines.len() - 2]["event"], "too long");
    }

    #[test]
    fn without_a_file_nothing_is_written() {
        let audit = Audit::open(None).unwrap();
        audit.tell("x", true, &json!({}));
        assert_eq!((audit.is_on(), audit.end(0).unwrap()), (false, 0));
        assert!(Audit::open(Some(Path::new("/nowhere/x"))).is_err());
    }
}
