//! Blobs by their digest, in a directory: `blobs/ALGORITHM/HEX` of the OCI image layout.
//!
//! A store is read beneath the directory that was opened, through [`LocalDir`], and written to in another one, which only this
//! process fills: what was there before is never changed, and the caller takes over what has arrived when all has gone
//! well. Names are made of checked digests alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::context::LocalDir;
use crate::digest::Digest;

/// Uploads that may be under way at once.
const MAX_INGESTS: usize = 256;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ContentStore {
    existing: Option<LocalDir>,
    arriving: Option<Arc<Arriving>>,
}

#[derive(Debug)]
struct Arriving {
    dir: PathBuf,
    ingests: Mutex<BTreeMap<String, Option<Ingest>>>,
}

/// A blob on its way in.
#[derive(Debug)]
pub struct Ingest {
    file: File,
    path: PathBuf,
    pub offset: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("there is no blob {0}")]
    NoBlob(Digest),
    #[error("there is no upload {0:?}")]
    NoIngest(String),
    #[error("the upload {0:?} is in use")]
    InUse(String),
    #[error("the blob {0} is there already")]
    Exists(Digest),
    #[error("nothing may be written to this store")]
    ReadOnly,
    #[error("more than {MAX_INGESTS} uploads at once")]
    TooMany,
    #[error("the upload goes on at {expected}, not at {got}")]
    Offset { expected: u64, got: u64 },
    #[error("the blob has {got} bytes, not {expected}")]
    Size { expected: u64, got: u64 },
    #[error("the blob is {got}, not {expected}")]
    Digest { expected: Digest, got: Digest },
    #[error("failed to {0} a blob")]
    Io(&'static str, #[source] io::Error),
}

impl ContentStore {
    /// Reads what lies in `existing`, if there is anything; writes nothing.
    pub fn reading(existing: Option<LocalDir>) -> ContentStore {
        ContentStore { existing, arriving: None }
    }

    /// Takes new blobs into `dir`, which belongs to this store alone.
    pub fn writing_to(self, dir: PathBuf) -> ContentStore {
        ContentStore { arriving: Some(Arc::new(Arriving { dir, ingests: Mutex::default() })), ..self }
    }

    /// Opens the blob and tells its size.
    pub fn open(&self, digest: &Digest) -> Result<(File, u64), StoreError> {
        let name = blob(digest);
        let arrived = self.arriving.as_ref().map(|arriving| File::open(arriving.dir.join(&name)));
        let existing = || self.existing.as_ref().map(|dir| dir.read(name.as_bytes()).map(File::from));
        let opened = match arrived {
            Some(Ok(file)) => Some(Ok(file)),
            _ => existing(),
        };
        let file = match opened {
            Some(Ok(file)) => file,
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::Io("open", error));
            }
            _ => return Err(StoreError::NoBlob(digest.clone())),
        };
        let meta = file.metadata().map_err(|error| StoreError::Io("stat", error))?;
        if !meta.is_file() {
            return Err(StoreError::NoBlob(digest.clone()));
        }
        Ok((file, meta.len()))
    }

    /// Begins the upload `name`, or goes on with it. Nobody else may until it is given back.
    pub fn begin(&self, name: &str) -> Result<Ingest, StoreError> {
        let arriving = self.arriving.as_ref().ok_or(StoreError::ReadOnly)?;
        let mut ingests = arriving.lock();
        let count = ingests.len();
        match ingests.get_mut(name) {
            Some(slot) => slot.take().ok_or_else(|| StoreError::InUse(name.to_owned())),
            None if count >= MAX_INGESTS => Err(StoreError::TooMany),
            None => {
                let ingest = arriving.create(name).map_err(|error| StoreError::Io("create", error))?;
                ingests.insert(name.to_owned(), None);
                Ok(ingest)
            }
        }
    }

    /// Gives an upload back that was not committed; it may be gone on with.
    pub fn suspend(&self, name: &str, ingest: Ingest) {
        if let Some(arriving) = &self.arriving {
            arriving.lock().insert(name.to_owned(), Some(ingest));
        }
    }

    /// How far the upload is, unless somebody is at it.
    pub fn progress(&self, name: &str) -> Result<u64, StoreError> {
        let arriving = self.arriving.as_ref().ok_or_else(|| StoreError::NoIngest(name.to_owned()))?;
        match arriving.lock().get(name) {
            Some(Some(ingest)) => Ok(ingest.offset),
            Some(None) => Err(StoreError::InUse(name.to_owned())),
            None => Err(StoreError::NoIngest(name.to_owned())),
        }
    }

    /// Forgets an upload.
    pub fn abort(&self, name: &str) -> Result<(), StoreError> {
        let arriving = self.arriving.as_ref().ok_or_else(|| StoreError::NoIngest(name.to_owned()))?;
        match arriving.lock().remove(name) {
            Some(Some(ingest)) => {
                fs::remove_file(ingest.path).map_err(|error| StoreError::Io("remove", error))
            }
            Some(None) => Ok(()),
            None => Err(StoreError::NoIngest(name.to_owned())),
        }
    }

    /// Makes the upload a blob when it is what it was to be. `size` 0 is any, as the wire has it.
    pub fn commit(
        &self,
        name: &str,
        mut ingest: Ingest,
        size: u64,
        expected: Option<&Digest>,
    ) -> Result<Digest, StoreError> {
        let arriving = self.arriving.as_ref().ok_or(StoreError::ReadOnly)?;
        let committed = ingest.check(size, expected).and_then(|digest| {
            if self.open(&digest).is_ok() {
                return Err(StoreError::Exists(digest));
            }
            let path = arriving.dir.join(blob(&digest));
            let dir = path.parent().unwrap_or(&arriving.dir);
            fs::create_dir_all(dir)
                .and_then(|()| fs::rename(&ingest.path, &path))
                .map_err(|error| StoreError::Io("keep", error))?;
            Ok(digest)
        });
        arriving.lock().remove(name);
        if committed.is_err() {
            let _ = fs::remove_file(&ingest.path);
        }
        committed
    }
}

impl Arriving {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Option<Ingest>>> {
        self.ingests.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn create(&self, name: &str) -> io::Result<Ingest> {
        let dir = self.dir.join(INGEST);
        fs::create_dir_all(&dir)?;
        // The name is the daemon's, so it is not used as one.
        let path = dir.join(hex(&Sha256::digest(name)));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
        Ok(Ingest { file, path, offset: 0 })
    }
}

/// Where uploads lie, beside `blobs`.
pub const INGEST: &str = "ingest";

impl Ingest {
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        if offset != self.offset {
            return Err(StoreError::Offset { expected: self.offset, got: offset });
        }
        self.file.write_all(data).map_err(|error| StoreError::Io("write", error))?;
        self.offset += data.len() as u64;
        Ok(())
    }

    fn check(&mut self, size: u64, expected: Option<&Digest>) -> Result<Digest, StoreError> {
        if size != 0 && size != self.offset {
            return Err(StoreError::Size { expected: size, got: self.offset });
        }
        self.file.seek(SeekFrom::Start(0)).map_err(|error| StoreError::Io("read", error))?;
        let algorithm = expected.map_or("sha256", Digest::algorithm);
        let got = digest_of(&mut self.file, algorithm).map_err(|error| StoreError::Io("read", error))?;
        match expected {
            Some(expected) if *expected != got => Err(StoreError::Digest { expected: expected.clone(), got }),
            _ => Ok(got),
        }
    }
}

/// Where a blob lies in a store.
pub fn blob(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The digest of all that `file` still has.
pub fn digest_of(file: &mut impl Read, algorithm: &str) -> io::Result<Digest> {
    fn sum<D: sha2::Digest>(file: &mut impl Read) -> io::Result<String> {
        let mut hash = D::new();
        let mut buffer = vec![0; 256 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hex(&hash.finalize())),
                read => hash.update(&buffer[..read]),
            }
        }
    }
    let sum = match algorithm {
        "sha384" => sum::<Sha384>(file)?,
        "sha512" => sum::<Sha512>(file)?,
        _ => sum::<Sha256>(file)?,
    };
    format!("{algorithm}:{sum}").parse().map_err(io::Error::other)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The blobs that a directory holds. Links are not followed: whoever filled it may have been somebody else.
pub fn arrived(dir: &Path) -> io::Result<Vec<Digest>> {
    let mut digests = Vec::new();
    let blobs = dir.join("blobs");
    match fs::symlink_metadata(&blobs) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Ok(digests),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(digests),
        Err(error) => return Err(error),
    }
    for algorithm in fs::read_dir(blobs)? {
        let algorithm = algorithm?;
        if !algorithm.file_type()?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(algorithm.path())? {
            let entry = entry?;
            let name = |name: std::ffi::OsString| name.to_string_lossy().into_owned();
            let text = format!("{}:{}", name(algorithm.file_name()), name(entry.file_name()));
            if entry.file_type()?.is_file()
                && let Ok(digest) = text.parse()
            {
                digests.push(digest);
            }
        }
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        format!("sha256:{}", hex(&Sha256::digest(text))).parse().unwrap()
    }

    fn read(store: &ContentStore, digest: &Digest) -> String {
        let mut text = String::new();
        store.open(digest).unwrap().0.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn blobs_arrive_beside_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs::create_dir_all(old.join("blobs/sha256")).unwrap();
        fs::create_dir(&new).unwrap();
        fs::write(old.join(blob(&digest("there"))), "there").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", old.join(blob(&digest("link")))).unwrap();
        let existing = LocalDir::open("store", &old).unwrap();
        let store = ContentStore::reading(Some(existing)).writing_to(new.clone());

        assert_eq!(read(&store, &digest("there")), "there");
        assert!(matches!(store.open(&digest("absent")), Err(StoreError::NoBlob(_))));
        assert!(store.open(&digest("link")).is_err(), "a link leads nowhere");

        let mut ingest = store.begin("../a").unwrap();
        assert!(matches!(store.begin("../a"), Err(StoreError::InUse(_))));
        ingest.write(0, b"ne").unwrap();
        assert!(matches!(ingest.write(0, b"ne"), Err(StoreError::Offset { expected: 2, got: 0 })));
        store.suspend("../a", ingest);
        assert_eq!(store.progress("../a").unwrap(), 2);
        let mut ingest = store.begin("../a").unwrap();
        ingest.write(2, b"w").unwrap();
        assert_eq!(store.commit("../a", ingest, 3, Some(&digest("new"))).unwrap(), digest("new"));
        assert_eq!(read(&store, &digest("new")), "new");
        assert_eq!(arrived(&new).unwrap(), [digest("new")]);
        assert_eq!(arrived(&old).unwrap(), [digest("there")], "links and their targets are nothing");
        assert_eq!(fs::read_dir(new.join(INGEST)).unwrap().count(), 0);

        let refused = |text: &str, size: u64, expected: &Digest| {
            let mut ingest = store.begin("b").unwrap();
            ingest.write(0, text.as_bytes()).unwrap();
            store.commit("b", ingest, size, Some(expected)).unwrap_err()
        };
        assert!(matches!(refused("x", 2, &digest("x")), StoreError::Size { .. }));
        assert!(matches!(refused("x", 1, &digest("y")), StoreError::Digest { .. }));
        assert!(matches!(refused("there", 5, &digest("there")), StoreError::Exists(_)));
        assert!(matches!(ContentStore::default().begin("c"), Err(StoreError::ReadOnly)));
        store.suspend("d", store.begin("d").unwrap());
        store.abort("d").unwrap();
        assert!(matches!(store.abort("d"), Err(StoreError::NoIngest(_))));
    }
}
