//! Build secrets, read when they are asked for.
//!
//! Follows `session/secrets/secretsprovider` of moby/buildkit.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use buildsvc::session::host::Secret;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::record::{Book, Denial};
use super::rules::{SecretOrigin, SecretSource};
use super::stop::Stop;

/// As upstream: a secret is a key or a password, not a data set.
pub const LENGTH_LIMIT: u64 = 500 << 10;
/// Daemons ask for a few names of their own accord (git and http tokens); more wrong names than this are a search.
const WRONG_LIMIT: u64 = 100;
/// How long a pipe may stay silent.
const PIPE_TIME: Duration = Duration::from_secs(60);

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
    /// What came out of pipes, which give it once: a shell's `<(command)` is one.
    drained: Mutex<BTreeMap<String, Secret>>,
}

impl Secrets {
    /// Of two with one id the later one counts, as on other command lines.
    pub fn new(sources: Vec<SecretSource>) -> Secrets {
        let origins = sources.into_iter().map(|source| (source.id, source.origin)).collect();
        Secrets { origins, wrong: AtomicU64::new(0), drained: Mutex::default() }
    }

    pub fn get(&self, id: &str, stop: &Stop, book: &Book) -> Result<Option<Secret>, Denial> {
        if self.wrong.load(Ordering::Relaxed) >= WRONG_LIMIT {
            return Err(Denial::Rule(format!("no secrets any more after {WRONG_LIMIT} wrong names")));
        }
        match self.origins.get(id) {
            Some(origin) => {
                let secret = self.read(id, origin, stop).map_err(|error| Denial::failure(&error))?;
                book.secret(id, true);
                Ok(Some(secret))
            }
            None => {
                self.wrong.fetch_add(1, Ordering::Relaxed);
                book.secret(id, false);
                Ok(None)
            }
        }
    }

    fn read(&self, id: &str, origin: &SecretOrigin, stop: &Stop) -> Result<Secret, SecretError> {
        let too_long = |origin: String| SecretError::TooLong { id: id.to_owned(), origin };
        let path = match origin {
            SecretOrigin::Env { name, value } if value.0.len() as u64 > LENGTH_LIMIT => {
                return Err(too_long(format!("the variable {name}")));
            }
            SecretOrigin::Env { value, .. } => return Ok(value.clone()),
            SecretOrigin::File(path) => path,
        };
        if let Some(secret) = self.drained().get(id) {
            return Ok(secret.clone());
        }
        let (bytes, is_pipe) = read_file(path, stop).map_err(|source| SecretError::Read {
            id: id.to_owned(),
            path: path.clone(),
            source,
        })?;
        if bytes.len() as u64 > LENGTH_LIMIT {
            return Err(too_long(path.display().to_string()));
        }
        let secret = Secret(bytes);
        if is_pipe {
            self.drained().insert(id.to_owned(), secret.clone());
        }
        Ok(secret)
    }

    fn drained(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Secret>> {
        self.drained.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A regular file's content, or what a pipe gives until its writers close it.
fn read_file(path: &Path, stop: &Stop) -> io::Result<(Vec<u8>, bool)> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let mut bytes = Vec::new();
    let is_pipe = !file.metadata()?.is_file();
    if is_pipe {
        drain(file, &mut bytes, stop)?;
    } else {
        file.take(LENGTH_LIMIT + 1).read_to_end(&mut bytes)?;
    }
    Ok((bytes, is_pipe))
}

fn drain(mut pipe: File, bytes: &mut Vec<u8>, stop: &Stop) -> io::Result<()> {
    let deadline = Instant::now() + PIPE_TIME;
    let mut part = [0; 16 << 10];
    while bytes.len() as u64 <= LENGTH_LIMIT {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // A named pipe that nobody opened for writing yet would read as ended; only poll knows the difference.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut watched =
            [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        match poll(&mut watched, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if watched[0].any().unwrap_or(false) {
            return Err(io::Error::other("the build ended before it came"));
        }
        if !watched[1].any().unwrap_or(false) {
            continue;
        }
        match pipe.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(secrets: &Secrets, id: &str, stop: &Stop) -> Result<Option<Secret>, Denial> {
        secrets.get(id, stop, &Book::default())
    }

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
        let stop = Stop::new().unwrap();
        let secrets = Secrets::new(vec![
            file("file", &path),
            file("dir", dir.path()),
            env("env", 3),
            env("limit", limit),
            env("long", limit + 1),
        ]);
        let text = |id: &str| match get(&secrets, id, &stop) {
            Ok(Some(secret)) => format!("{} bytes", secret.0.len()),
            Ok(None) => "none".into(),
            Err(denial) => denial.text().to_owned(),
        };
        assert!(
            text("file")
                .starts_with(&format!("secret \"file\": cannot read {}: No such file", path.display()))
        );
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
        let stop = Stop::new().unwrap();
        for index in 0..WRONG_LIMIT {
            assert_eq!(get(&secrets, &format!("guess{index}"), &stop), Ok(None));
        }
        assert!(matches!(get(&secrets, "guess", &stop), Err(Denial::Rule(_))));
        assert!(matches!(get(&secrets, "env", &stop), Err(Denial::Rule(_))));
    }

    #[test]
    fn a_pipe_is_drained_once_and_not_waited_for_beyond_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let stop = Stop::new().unwrap();
        let secrets = Secrets::new(vec![file("pipe", &path), file("null", "/dev/null")]);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| get(&secrets, "pipe", &stop));
            std::fs::write(&path, "from a command").unwrap();
            assert_eq!(reading.join().unwrap(), Ok(Some(Secret(b"from a command".to_vec()))));
        });
        assert_eq!(get(&secrets, "pipe", &stop), Ok(Some(Secret(b"from a command".to_vec()))));
        assert_eq!(get(&secrets, "null", &stop), Ok(Some(Secret::default())));
        let secrets = Secrets::new(vec![file("pipe", &path)]);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| get(&secrets, "pipe", &stop));
            stop.tell();
            assert!(reading.join().unwrap().unwrap_err().text().ends_with("the build ended before it came"));
        });
    }
}
