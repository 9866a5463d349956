//! The store that `ktl stage` fills and hermetic builds read: blobs by digest, in the form of an OCI image layout.
//!
//! It is shared by projects and by runs at the same time. A blob is either there whole or not there: what arrives lies under
//! `ingest` until its digest is right, and what an earlier run left there is gone on with. The daemon checks digests again when
//! it reads, so the store need not be believed; a blob of the wrong size counts as missing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use buildsvc::digest::Digest;
use buildsvc::lock::LockedImage;
use buildsvc::manifest::{DOCUMENT_LIMIT, Descriptor, Document, ManifestError};
use buildsvc::ocilayout::{INDEX, LayoutError, LayoutIndex, MAX_INDEX};
use buildsvc::platform::Platform;
use buildsvc::store::{self, INGEST};
use rustix::fs::{FlockOperation, flock};

use crate::outputs::{OutputError, PendingFile};
use crate::private::Lock;

/// Name of the store in ktl's cache.
pub const DIR: &str = "store";

#[derive(Debug)]
pub struct Depot {
    dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    #[error("failed to {operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store {dir} has no blob {digest}")]
    Missing { dir: PathBuf, digest: Digest },
    #[error("the blob has {got} bytes and not {expected}")]
    Size { expected: u64, got: u64 },
    #[error("the blob is {got} and not {expected}")]
    Digest { expected: Digest, got: Digest },
    #[error("the index of the store {dir}")]
    Index {
        dir: PathBuf,
        #[source]
        source: LayoutError,
    },
    #[error("{digest} in the store is no manifest")]
    Document {
        digest: Digest,
        #[source]
        source: ManifestError,
    },
    #[error(transparent)]
    Output(#[from] OutputError),
}

fn at<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> DepotError + 'a {
    move |source| DepotError::Io { operation, path: path.to_owned(), source }
}

impl Depot {
    pub fn at(dir: PathBuf) -> Depot {
        Depot { dir }
    }

    /// Makes what is not there yet.
    pub fn make(&self, nonce: &str) -> Result<(), DepotError> {
        for name in ["blobs/sha256", INGEST] {
            let path = self.dir.join(name);
            fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        let mark = self.dir.join("oci-layout");
        if !mark.exists() {
            let mut file = PendingFile::create(&mark, nonce)?;
            file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            file.commit()?;
        }
        Ok(())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join(store::blob(digest))
    }

    pub fn has(&self, digest: &Digest, size: u64) -> bool {
        fs::symlink_metadata(self.blob(digest)).is_ok_and(|found| found.is_file() && found.len() == size)
    }

    /// The bytes of a small blob, which are what the digest says.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>, DepotError> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DepotError::Missing { dir: self.dir.clone(), digest: digest.clone() });
            }
            Err(error) => return Err(at("open", &path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(DOCUMENT_LIMIT + 1).read_to_end(&mut bytes).map_err(at("read", &path))?;
        let got = store::digest_of(&mut bytes.as_slice(), digest.algorithm()).map_err(at("read", &path))?;
        if got == *digest { Ok(bytes) } else { Err(DepotError::Digest { expected: digest.clone(), got }) }
    }

    /// Puts a small blob in whose digest is known to be right.
    pub fn put(&self, digest: &Digest, bytes: &[u8]) -> Result<(), DepotError> {
        if let Some(mut arriving) = self.begin(digest, bytes.len() as u64)? {
            arriving.restart()?;
            arriving.write(bytes)?;
            arriving.finish()?;
        }
        Ok(())
    }

    /// Begins with a blob or goes on with it, alone; `None` when it is there.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Option<Arriving>, DepotError> {
        let path = self.dir.join(INGEST).join(format!("{}-{}", digest.algorithm(), digest.hex()));
        loop {
            if self.has(digest, size) {
                return Ok(None);
            }
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(at("open", &path))?;
            while let Err(errno) = flock(&file, FlockOperation::LockExclusive) {
                if errno != rustix::io::Errno::INTR {
                    return Err(at("lock", &path)(errno.into()));
                }
            }
            // Whoever held it may have made a blob of it, or thrown it away.
            if same_file(&file, &path).map_err(at("look at", &path))? {
                let mut arriving =
                    Arriving { file, path, blob: self.blob(digest), digest: digest.clone(), size, length: 0 };
                arriving.length = arriving.file.seek(SeekFrom::End(0)).map_err(at("read", &arriving.path))?;
                if arriving.length > size {
                    arriving.restart()?;
                }
                return Ok(Some(arriving));
            }
        }
    }

    /// Whether all is there that a builder reads of `image` for `platforms`.
    pub fn holds<'a>(
        &self,
        image: &LockedImage,
        platforms: impl Iterator<Item = &'a Platform>,
    ) -> Result<(), DepotError> {
        self.document(&image.digest)?;
        // An image of one platform is taken for others as well, with a warning.
        let alone = image.platforms.values().find(|manifest| **manifest == image.digest);
        for manifest in platforms.filter_map(|platform| image.manifest(platform).or(alone)) {
            self.holds_manifest(manifest)?;
        }
        Ok(())
    }

    /// Whether an image of one platform is there with all its blobs.
    pub fn holds_manifest(&self, manifest: &Digest) -> Result<(), DepotError> {
        let parsed = Document::parse(&self.document(manifest)?);
        let broken = |source| DepotError::Document { digest: manifest.clone(), source };
        let Document::Manifest { config, layers } = parsed.map_err(broken)? else {
            return Err(broken(ManifestError::Neither));
        };
        for blob in std::iter::once(config).chain(layers) {
            if !self.has(&blob.digest, blob.size) {
                return Err(DepotError::Missing { dir: self.dir.clone(), digest: blob.digest });
            }
        }
        Ok(())
    }

    /// An empty directory beside what arrives, for as long as it is held.
    pub fn scratch(&self) -> Result<tempfile::TempDir, DepotError> {
        let dir = self.dir.join(INGEST);
        tempfile::Builder::new().prefix("git-").tempdir_in(&dir).map_err(at("create a directory in", &dir))
    }

    /// A blob of which nothing is known beforehand.
    pub fn unnamed(&self, nonce: &str) -> Result<Unnamed, DepotError> {
        let path = self.dir.join(INGEST).join(format!("new-{nonce}"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(at("create", &path))?;
        Ok(Unnamed { file, path, blobs: self.dir.clone(), length: 0 })
    }

    /// Names images in the layout's index, for other programs that read such a directory.
    pub fn name(&self, images: &[(String, Descriptor)], nonce: &str) -> Result<(), DepotError> {
        let lock = self.dir.join("index.json.lock");
        let _lock = Lock::exclusive(&lock).map_err(at("lock", &lock))?;
        let path = self.dir.join(INDEX);
        let wrong = |source| DepotError::Index { dir: self.dir.clone(), source };
        let mut index = match File::open(&path) {
            Ok(file) => {
                let mut json = Vec::new();
                file.take(MAX_INDEX).read_to_end(&mut json).map_err(at("read", &path))?;
                LayoutIndex::parse(&json).map_err(wrong)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => LayoutIndex::default(),
            Err(error) => return Err(at("open", &path)(error)),
        };
        for (name, Descriptor { media_type, digest, size }) in images {
            let descriptor = [
                ("mediaType".to_owned(), media_type.clone().into()),
                ("digest".to_owned(), digest.to_string().into()),
                ("size".to_owned(), (*size).into()),
            ];
            index.put(descriptor.into_iter().collect(), name);
        }
        let mut file = PendingFile::create(&path, nonce)?;
        file.write_all(&index.to_json())?;
        Ok(file.commit()?)
    }
}

fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A blob on its way in. Dropped before it is whole it stays, to be gone on with.
#[derive(Debug)]
pub struct Arriving {
    file: File,
    path: PathBuf,
    blob: PathBuf,
    digest: Digest,
    size: u64,
    length: u64,
}

impl Arriving {
    /// How much of it is there.
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn restart(&mut self) -> Result<(), DepotError> {
        self.file.set_len(0).map_err(at("empty", &self.path))?;
        self.length = self.file.seek(SeekFrom::Start(0)).map_err(at("empty", &self.path))?;
        Ok(())
    }

    /// Appends. More than the blob has is an error.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DepotError> {
        let length = self.length + bytes.len() as u64;
        if length > self.size {
            return Err(DepotError::Size { expected: self.size, got: length });
        }
        self.file.write_all(bytes).map_err(at("write", &self.path))?;
        self.length = length;
        Ok(())
    }

    /// Makes a blob of it when it is what it was to be; otherwise it is thrown away.
    pub fn finish(mut self) -> Result<(), DepotError> {
        if self.length != self.size {
            return Err(DepotError::Size { expected: self.size, got: self.length });
        }
        self.file.seek(SeekFrom::Start(0)).map_err(at("read", &self.path))?;
        let got =
            store::digest_of(&mut self.file, self.digest.algorithm()).map_err(at("read", &self.path))?;
        if got != self.digest {
            let _ = fs::remove_file(&self.path);
            return Err(DepotError::Digest { expected: self.digest, got });
        }
        let dir = self.blob.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir)
            .and_then(|()| fs::rename(&self.path, &self.blob))
            .map_err(at("keep", &self.blob))
    }
}

/// A blob on its way in whose digest is found out. Dropped before that it is gone.
#[derive(Debug)]
pub struct Unnamed {
    file: File,
    path: PathBuf,
    blobs: PathBuf,
    length: u64,
}

impl Unnamed {
    pub fn length(&self) -> u64 {
        self.length
    }

    pub fn restart(&mut self) -> Result<(), DepotError> {
        self.file.set_len(0).map_err(at("empty", &self.path))?;
        self.length = self.file.seek(SeekFrom::Start(0)).map_err(at("empty", &self.path))?;
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), DepotError> {
        self.file.write_all(bytes).map_err(at("write", &self.path))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    pub fn digest(&mut self, algorithm: &str) -> Result<Digest, DepotError> {
        self.file.seek(SeekFrom::Start(0)).map_err(at("read", &self.path))?;
        store::digest_of(&mut self.file, algorithm).map_err(at("read", &self.path))
    }

    /// Makes it a blob under its sha256.
    pub fn keep(mut self) -> Result<(Digest, u64), DepotError> {
        let digest = self.digest("sha256")?;
        let blob = self.blobs.join(store::blob(&digest));
        fs::rename(&self.path, &blob).map_err(at("keep", &blob))?;
        Ok((digest, self.length))
    }
}

impl Write for Unnamed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Unnamed::write(self, bytes).map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // Gone already when it was kept.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(&Sha256::digest(text).into())
    }

    #[test]
    fn blobs_arrive_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let depot = Depot::at(dir.path().join("new/store"));
        depot.make("n").unwrap();
        let wanted = digest("hello");
        let mut arriving = depot.begin(&wanted, 5).unwrap().unwrap();
        arriving.write(b"hel").unwrap();
        assert!(matches!(arriving.write(b"lo!"), Err(DepotError::Size { expected: 5, got: 6 })));
        drop(arriving);
        assert!(!depot.has(&wanted, 5));
        let mut arriving = depot.begin(&wanted, 5).unwrap().unwrap();
        assert_eq!(arriving.length(), 3, "gone on with");
        arriving.write(b"lo").unwrap();
        arriving.finish().unwrap();
        assert!(depot.has(&wanted, 5) && !depot.has(&wanted, 4));
        assert!(depot.begin(&wanted, 5).unwrap().is_none());
        assert_eq!(depot.document(&wanted).unwrap(), b"hello");

        let mut wrong = depot.begin(&digest("x"), 1).unwrap().unwrap();
        wrong.write(b"y").unwrap();
        assert!(matches!(wrong.finish(), Err(DepotError::Digest { .. })));
        assert_eq!(depot.begin(&digest("x"), 1).unwrap().unwrap().length(), 0, "thrown away");
        fs::write(depot.blob(&wanted), "hullo").unwrap();
        assert!(matches!(depot.document(&wanted), Err(DepotError::Digest { .. })));
        assert!(matches!(depot.document(&digest("none")), Err(DepotError::Missing { .. })));
    }

    #[test]
    fn the_one_who_waits_for_a_blob_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let depot = Depot::at(dir.path().to_owned());
        depot.make("n").unwrap();
        let wanted = digest("hello");
        let mut first = depot.begin(&wanted, 5).unwrap().unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| depot.begin(&wanted, 5).unwrap().is_none());
            first.write(b"hello").unwrap();
            first.finish().unwrap();
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn images_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let depot = Depot::at(dir.path().to_owned());
        depot.make("n").unwrap();
        let descriptor = |text: &str| Descriptor { media_type: "m".into(), digest: digest(text), size: 1 };
        depot.name(&[("a".into(), descriptor("1")), ("b".into(), descriptor("2"))], "n").unwrap();
        depot.name(&[("a".into(), descriptor("3"))], "n").unwrap();
        let index = LayoutIndex::parse(&fs::read(dir.path().join(INDEX)).unwrap()).unwrap();
        assert_eq!((index.find("a").unwrap(), index.find("b").unwrap()), (digest("3"), digest("2")));
    }
}
