//! Where a cache lands that is written to a directory.
//!
//! The guest receives new blobs into a directory of its own; they join those that are there after the build has succeeded, and
//! the index is written last, so that it never names what is not there. Follows moby/buildkit `client/solve.go` and
//! `client/ociindex`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use buildsvc::digest::Digest;
use buildsvc::ocilayout::{INDEX, LayoutIndex, MAX_INDEX};
use buildsvc::store;
use rustix::fs::{FlockOperation, flock};

use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::outputs::{self, PendingFile};
use crate::plan::CacheStore;
use crate::tidy::Tidier;

/// Of a manifest that is looked through for what it refers to.
const MAX_MANIFEST: u64 = 32 << 20;

/// Directories made ready to receive caches. Dropped without [`PendingCaches::commit`] they are left as they were.
#[derive(Debug, Default)]
pub struct PendingCaches {
    stores: Vec<PendingStore>,
    _tidier: Option<Tidier>,
}

#[derive(Debug)]
struct PendingStore {
    store: CacheStore,
    /// The destination was not there before.
    made: bool,
}

fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Failure + 'a {
    move |error| {
        Failure::new(Exit::BuildFailed, format!("the cache: failed to {what} {}: {error}", path.display()))
    }
}

impl PendingCaches {
    pub fn open(stores: &[CacheStore]) -> Result<PendingCaches, Failure> {
        if stores.is_empty() {
            return Ok(PendingCaches::default());
        }
        let tidier = Tidier::start()
            .map_err(|error| Failure::internal(format!("failed to start a second ktl: {error}")))?;
        PendingCaches::watched(stores, Some(tidier))
    }

    fn watched(stores: &[CacheStore], mut tidier: Option<Tidier>) -> Result<PendingCaches, Failure> {
        let mut pending = PendingCaches::default();
        for store in stores {
            let made = !store.dest.exists();
            fs::create_dir_all(&store.dest).map_err(failed("create", &store.dest))?;
            if let Some(tidier) = &mut tidier {
                tidier.watch(&store.staging).map_err(failed("have somebody watch over", &store.staging))?;
            }
            pending.stores.push(PendingStore { store: store.clone(), made });
            DirBuilder::new().mode(0o700).create(&store.staging).map_err(failed("create", &store.staging))?;
        }
        pending._tidier = tidier;
        Ok(pending)
    }

    /// Takes over what has arrived. `manifest` is what the daemon calls the cache, when it made one.
    pub fn commit(mut self, manifest: Option<&str>, nonce: &str) -> Result<(), Failure> {
        for pending in &mut self.stores {
            pending.commit(manifest, nonce)?;
            pending.made = false;
        }
        Ok(())
    }
}

impl PendingStore {
    fn commit(&self, manifest: Option<&str>, nonce: &str) -> Result<(), Failure> {
        let CacheStore { dest, staging, tag, reset, .. } = &self.store;
        let Some(manifest) = manifest else { return Ok(()) };
        outputs::take_back(staging)?;
        let manifest: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(manifest).map_err(|error| {
                Failure::new(Exit::BuildFailed, format!("the builder's cache manifest: {error}"))
            })?;
        let lock = Lock::take(dest)?;
        let path = dest.join(INDEX);
        let mut index = match read(&path, MAX_INDEX) {
            Ok(json) => LayoutIndex::parse(&json).map_err(|error| {
                Failure::new(Exit::BuildFailed, format!("the cache: {}: {}", path.display(), chain(&error)))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => LayoutIndex::default(),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        for digest in store::arrived(staging).map_err(failed("read", staging))? {
            let (from, to) = (staging.join(store::blob(&digest)), dest.join(store::blob(&digest)));
            let dir = to.parent().unwrap_or(dest);
            fs::create_dir_all(dir)
                .and_then(|()| fs::set_permissions(&from, Permissions::from_mode(0o644)))
                .and_then(|()| fs::rename(&from, &to))
                .map_err(failed("move a blob to", &to))?;
        }
        index.put(manifest, tag);
        write(&dest.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#, nonce)?;
        write(&path, &index.to_json(), nonce)?;
        if *reset {
            remove_unreachable(dest)?;
        }
        drop(lock);
        Ok(())
    }
}

impl Drop for PendingStore {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.store.staging);
        if self.made {
            let _ = fs::remove_dir(&self.store.dest);
        }
    }
}

fn write(path: &Path, bytes: &[u8], nonce: &str) -> Result<(), Failure> {
    let mut file = PendingFile::create(path, nonce)?;
    file.write_all(bytes)?;
    Ok(file.commit()?)
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut io::Read::take(File::open(path)?, limit + 1), &mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::Error::other("it is too large")) } else { Ok(bytes) }
}

/// The lock that BuildKit's own clients take as well.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(dest: &Path) -> Result<Lock, Failure> {
        let path = dest.join("index.json.lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed("open", &path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(Lock { path, _file: file })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the blobs that the index does not lead to.
fn remove_unreachable(dest: &Path) -> Result<(), Failure> {
    let mut reached = BTreeSet::new();
    let mut next = vec![dest.join(INDEX)];
    while let Some(path) = next.pop() {
        let Ok(json) = read(&path, MAX_MANIFEST) else { continue };
        let Ok(json) = serde_json::from_slice(&json) else { continue };
        let mut digests = Vec::new();
        collect(&json, &mut digests);
        for digest in digests {
            let path = dest.join(store::blob(&digest));
            if reached.insert(digest) {
                next.push(path);
            }
        }
    }
    for digest in store::arrived(dest).map_err(failed("read", dest))? {
        if !reached.contains(&digest) {
            let path = dest.join(store::blob(&digest));
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

/// All digests of descriptors in a document.
fn collect(value: &serde_json::Value, digests: &mut Vec<Digest>) {
    match value {
        serde_json::Value::Object(object) => {
            digests.extend(object.get("digest").and_then(|text| text.as_str()?.parse().ok()));
            object.values().for_each(|value| collect(value, digests));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, digests)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha(c: char) -> Digest {
        format!("sha256:{}", c.to_string().repeat(64)).parse().unwrap()
    }

    #[test]
    fn blobs_and_index_arrive_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("new/cache");
        let store = |reset| CacheStore {
            dest: dest.clone(),
            staging: dest.join(".ktl-n-cache-0"),
            guest: PathBuf::new(),
            tag: "latest".to_owned(),
            reset,
        };
        drop(PendingCaches::watched(&[store(false)], None).unwrap());
        assert!(!dest.exists(), "a build that failed leaves nothing");

        for (layer, manifest, reset) in [('a', 'b', false), ('c', 'd', true)] {
            let pending = PendingCaches::watched(&[store(reset)], None).unwrap();
            let blobs = dest.join(".ktl-n-cache-0/blobs/sha256");
            fs::create_dir_all(&blobs).unwrap();
            fs::write(blobs.join(sha(layer).hex()), "layer").unwrap();
            fs::write(
                blobs.join(sha(manifest).hex()),
                format!(r#"{{"layers":[{{"digest":"{}"}}]}}"#, sha(layer)),
            )
            .unwrap();
            let descriptor = format!(r#"{{"digest":"{}","size":1}}"#, sha(manifest));
            pending.commit(Some(&descriptor), "n").unwrap();
            let index = LayoutIndex::parse(&fs::read(dest.join(INDEX)).unwrap()).unwrap();
            assert_eq!(index.find("latest").unwrap(), sha(manifest));
        }
        let mut left = store::arrived(&dest).unwrap();
        left.sort();
        assert_eq!(left, [sha('c'), sha('d')], "what nothing leads to is gone");
        let mut names: Vec<_> = fs::read_dir(&dest)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
    }

    #[test]
    fn a_cache_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).unwrap();
        assert!(Lock::take(dir.path()).is_err());
        drop(first);
        assert!(Lock::take(dir.path()).is_ok());
    }
}
