//! Seeds of the token authority, one per registry, kept between runs.
//!
//! A daemon caches the tokens it got through a session and gives one to a later session only if that session can sign
//! with the same key. So the key must be the same from run to run, must not be known to the daemon, and must not come
//! from the password. Its ground is sixteen random bytes per registry in `.token_seed` beside docker's config, shared
//! with every other client of the user.
//!
//! Follows `session/auth/authprovider/tokenseed.go` of moby/buildkit.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

const FILE: &str = ".token_seed";
const LOCK_FILE: &str = ".token_seed.lock";
const FILE_LIMIT: u64 = 4 << 20;
const SEED_LENGTH: usize = 16;
/// Others hold the lock for the writing of one small file.
const LOCK_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("{0} is held by another program")]
    Locked(PathBuf),
    #[error("the system gives no random bytes")]
    Random,
}

#[derive(Debug)]
pub struct Seeds {
    dir: PathBuf,
    /// Those used in this run, which must stay the same where the directory cannot be written.
    known: Mutex<BTreeMap<String, Vec<u8>>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "Seed")]
    seed: String,
}

impl Seeds {
    pub fn new(dir: PathBuf) -> Seeds {
        Seeds { dir, known: Mutex::default() }
    }

    /// The seed of `host`, made and kept when there is none yet. A directory that may not be written is no failure:
    /// the seed then lives as long as the run.
    pub fn get(&self, host: &str) -> Result<Vec<u8>, SeedError> {
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(seed) = known.get(host) {
            return Ok(seed.clone());
        }
        let seed = self.get_from_file(host)?;
        known.insert(host.to_owned(), seed.clone());
        Ok(seed)
    }

    fn get_from_file(&self, host: &str) -> Result<Vec<u8>, SeedError> {
        tolerate(std::fs::create_dir_all(&self.dir), "create", &self.dir)?;
        let _lock = self.lock()?;
        let path = self.dir.join(FILE);
        let mut entries = read(&path)?;
        if let Some(entry) = entries.get(host)
            && let Ok(seed) = STANDARD.decode(&entry.seed)
            && !seed.is_empty()
        {
            return Ok(seed);
        }
        let mut seed = vec![0; SEED_LENGTH];
        SystemRandom::new().fill(&mut seed).map_err(|_| SeedError::Random)?;
        entries.insert(host.to_owned(), Entry { seed: STANDARD.encode(&seed) });
        tolerate(self.write(&path, &entries), "write", &path)?;
        Ok(seed)
    }

    /// Whole or not at all, and readable by the user alone from its first byte.
    fn write(&self, path: &Path, entries: &BTreeMap<String, Entry>) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(entries)?;
        let mut file = tempfile::Builder::new().prefix(FILE).tempfile_in(&self.dir)?;
        file.write_all(&text)?;
        // A link stays a link: people keep their config elsewhere.
        let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        match file.persist(&target) {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::CrossesDevices => {
                OpenOptions::new().write(true).truncate(true).mode(0o600).open(target)?.write_all(&text)
            }
            Err(error) => Err(error.error),
        }
    }

    fn lock(&self) -> Result<Option<File>, SeedError> {
        let path = self.dir.join(LOCK_FILE);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let Some(file) = tolerate(opened, "open", &path)? else { return Ok(None) };
        let deadline = Instant::now() + LOCK_TIME;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(source)) => {
                    return Err(SeedError::File { operation: "lock", path, source });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => return Err(SeedError::Locked(path)),
            }
        }
    }
}

/// The file's entries. One that was cut short by a crash counts as empty, as upstream has it.
fn read(path: &Path) -> Result<BTreeMap<String, Entry>, SeedError> {
    let mut text = Vec::new();
    let result = File::open(path).and_then(|file| file.take(FILE_LIMIT).read_to_end(&mut text));
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => {
            tolerate(other, "read", path)?;
        }
    }
    Ok(serde_json::from_slice(&text).unwrap_or_default())
}

/// `None` for what a directory that may not be used brings about.
fn tolerate<T>(result: io::Result<T>, operation: &'static str, path: &Path) -> Result<Option<T>, SeedError> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem) => {
            Ok(None)
        }
        Err(source) => Err(SeedError::File { operation, path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn seeds_last_and_differ() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("docker");
        let seeds = Seeds::new(dir.clone());
        let (one, two) = (seeds.get("a").unwrap(), seeds.get("b").unwrap());
        assert_eq!((one.len(), two.len()), (SEED_LENGTH, SEED_LENGTH));
        assert_ne!(one, two);
        let again = Seeds::new(dir.clone());
        assert_eq!((again.get("a").unwrap(), again.get("b").unwrap()), (one, two));
        let mode = std::fs::metadata(dir.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
    }

    #[test]
    fn seeds_of_other_clients_are_used_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        std::fs::write(&path, "{\n  \"a\": {\n    \"Seed\": \"AAECAwQFBgcICQoLDA0ODw==\"\n  }\n}").unwrap();
        let seeds = Seeds::new(dir.path().into());
        assert_eq!(seeds.get("a").unwrap(), (0..16).collect::<Vec<u8>>());
        seeds.get("b").unwrap();
        assert!(std::fs::read_to_string(path).unwrap().contains("AAECAwQFBgcICQoLDA0ODw=="));
    }

    #[test]
    fn a_torn_file_is_replaced_and_a_link_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("elsewhere"), "{\"a\": {\"Se").unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join(FILE)).unwrap();
        let seed = Seeds::new(dir.path().into()).get("a").unwrap();
        assert_eq!(Seeds::new(dir.path().into()).get("a").unwrap(), seed);
        assert!(std::fs::symlink_metadata(dir.path().join(FILE)).unwrap().is_symlink());
    }

    #[test]
    fn without_a_usable_directory_a_seed_lives_for_the_run() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let seeds = Seeds::new(file.path().join("docker"));
        let seed = seeds.get("a").unwrap();
        assert_eq!(seeds.get("a").unwrap(), seed);
        assert_ne!(Seeds::new(file.path().join("docker")).get("a").unwrap(), seed);
    }

    #[test]
    fn many_clients_agree_on_one_seed() {
        let dir = tempfile::tempdir().unwrap();
        let seeds: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Seeds::new(dir.path().into()).get("a").unwrap())).collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(seeds.iter().all(|seed| *seed == seeds[0]));
    }
}
