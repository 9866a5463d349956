//! An image with all that a builder needs of it, for some platforms.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use buildsvc::digest::Digest;
use buildsvc::lock::LockedImage;
use buildsvc::manifest::{self, DOCUMENT_LIMIT, Descriptor, Document, MEDIA_TYPES};
use buildsvc::platform::Platform;
use buildsvc::reference::ImageRef;
use buildsvc::store;
use sha2::{Digest as _, Sha256};

use super::agents::Agents;
use super::bounds::Bounds;
use super::registry::{Registries, patiently};
use super::{PullError, download};
use crate::depot::Depot;

/// Blobs that are fetched at the same time.
const AT_ONCE: usize = 4;

#[derive(Debug)]
pub struct Puller<'a> {
    pub(super) registries: Registries,
    pub(super) depot: &'a Depot,
    /// Of what is no registry.
    pub(super) bounds: Arc<Bounds>,
    pub(super) agents: Agents,
}

/// An image that is in the store now.
#[derive(Debug)]
pub struct Pulled {
    pub image: LockedImage,
    /// Of the index, or the manifest that stands alone.
    pub descriptor: Descriptor,
    /// What was fetched for it, beside what was there.
    pub fetched: u64,
    pub blobs: usize,
}

impl<'a> Puller<'a> {
    pub fn new(registries: Registries, depot: &'a Depot, bounds: Bounds) -> Puller<'a> {
        let bounds = Arc::new(bounds);
        let agents = Agents::new(&bounds);
        Puller { registries, depot, bounds, agents }
    }

    /// What the registry gives for `reference` now, without pulling it.
    pub fn resolve(&self, reference: &ImageRef) -> Result<Digest, PullError> {
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let (_, digest) = self.manifest(reference, name, None)?;
        Ok(digest)
    }

    /// Pulls `reference` for `platforms`; `pinned` is what it means, where that is known.
    pub fn pull(
        &self,
        reference: &ImageRef,
        pinned: Option<&Digest>,
        platforms: &BTreeSet<Platform>,
    ) -> Result<Pulled, PullError> {
        let (bytes, digest) = match pinned {
            Some(digest) => (self.document(reference, digest)?, digest.clone()),
            None => {
                let name = reference.digest().or(reference.tag()).unwrap_or("latest");
                let (bytes, digest) = self.manifest(reference, name, None)?;
                self.depot.put(&digest, &bytes)?;
                (bytes, digest)
            }
        };
        let mut found = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        let media_type;
        match parse(&digest, &bytes)? {
            Document::Index(entries) => {
                media_type = MEDIA_TYPES[0];
                for platform in platforms {
                    let Some(chosen) = manifest::choose(&entries, platform) else {
                        let there: Vec<String> = entries
                            .iter()
                            .filter_map(|(_, platform)| Some(platform.as_ref()?.to_string()))
                            .collect();
                        return Err(PullError::Platform {
                            what: reference.familiar(),
                            platform: platform.clone(),
                            there: there.join(", "),
                        });
                    };
                    let bytes = self.document(reference, &chosen.digest)?;
                    let Document::Manifest { config, layers } = parse(&chosen.digest, &bytes)? else {
                        return Err(PullError::Nested(chosen.digest.clone()));
                    };
                    blobs.extend(std::iter::once(config).chain(layers).map(|blob| (blob.digest, blob.size)));
                    let of_entry = entries.iter().find(|(entry, _)| entry == chosen);
                    let platform = of_entry.and_then(|(_, platform)| platform.clone());
                    found.extend(platform.map(|platform| (platform, chosen.digest.clone())));
                }
            }
            Document::Manifest { config, layers } => {
                media_type = MEDIA_TYPES[1];
                let bytes = self.blob_document(reference, &config)?;
                let platform = manifest::platform_of(&bytes)
                    .map_err(|source| PullError::Document { digest: config.digest.clone(), source })?;
                found.insert(platform, digest.clone());
                blobs.extend(std::iter::once(config).chain(layers).map(|blob| (blob.digest, blob.size)));
            }
        }
        let count = blobs.len();
        let fetched = self.blobs(reference, blobs)?;
        let descriptor = Descriptor {
            media_type: named_type(&bytes).unwrap_or_else(|| media_type.to_owned()),
            digest: digest.clone(),
            size: bytes.len() as u64,
        };
        let image = LockedImage { reference: reference.clone(), digest, platforms: found };
        Ok(Pulled { image, descriptor, fetched, blobs: count })
    }

    /// A manifest by tag or digest.
    fn manifest(
        &self,
        image: &ImageRef,
        name: &str,
        expected: Option<&Digest>,
    ) -> Result<(Vec<u8>, Digest), PullError> {
        let path = format!("manifests/{name}");
        let url = format!("{}/{path}", image.path());
        let bytes = patiently(
            || download::whole(&url, self.registries.get(image, &path, &MEDIA_TYPES, 0)?, DOCUMENT_LIMIT),
            || false,
        )?;
        let expected = expected.cloned().or_else(|| name.parse().ok());
        let got = match &expected {
            Some(expected) => store::digest_of(&mut bytes.as_slice(), expected.algorithm())
                .map_err(|source| PullError::Read { url: url.clone(), source })?,
            None => Digest::sha256(&Sha256::digest(&bytes).into()),
        };
        match expected {
            Some(expected) if expected != got => Err(PullError::Changed { url, expected, got }),
            _ => Ok((bytes, got)),
        }
    }

    /// A manifest that is known by its digest, from the store where it is there.
    fn document(&self, image: &ImageRef, digest: &Digest) -> Result<Vec<u8>, PullError> {
        if let Ok(bytes) = self.depot.document(digest) {
            return Ok(bytes);
        }
        let (bytes, _) = self.manifest(image, digest.as_str(), Some(digest))?;
        self.depot.put(digest, &bytes)?;
        Ok(bytes)
    }

    fn blob_document(&self, image: &ImageRef, blob: &Descriptor) -> Result<Vec<u8>, PullError> {
        self.blob(image, &blob.digest, blob.size)?;
        Ok(self.depot.document(&blob.digest)?)
    }

    /// Several at once; the first failure ends all.
    fn blobs(&self, image: &ImageRef, blobs: BTreeMap<Digest, u64>) -> Result<u64, PullError> {
        let queue: Mutex<VecDeque<(Digest, u64)>> = Mutex::new(blobs.into_iter().collect());
        let next = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop_front();
        let work = || {
            let mut fetched = 0;
            while let Some((digest, size)) = next() {
                match self.blob(image, &digest, size) {
                    Ok(count) => fetched += count,
                    Err(error) => {
                        queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
                        return Err(error);
                    }
                }
            }
            Ok(fetched)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_fold(0, |sum, worker| {
                let fetched = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                Ok(sum + fetched)
            })
        })
    }

    /// One blob; tells how much of it had to be fetched.
    fn blob(&self, image: &ImageRef, digest: &Digest, size: u64) -> Result<u64, PullError> {
        let Some(arriving) = self.depot.begin(digest, size)? else { return Ok(0) };
        let path = format!("blobs/{digest}");
        let url = format!("{}/{path}", image.path());
        let began = arriving.length();
        let arriving = std::cell::RefCell::new(arriving);
        let had = std::cell::Cell::new(began);
        patiently(
            || {
                let mut arriving = arriving.borrow_mut();
                if arriving.length() == size {
                    return Ok(());
                }
                let response = self.registries.get(image, &path, &[], arriving.length())?;
                download::into(&url, response, &mut arriving)
            },
            || {
                let now = arriving.borrow().length();
                now > had.replace(now)
            },
        )?;
        arriving.into_inner().finish()?;
        Ok(size.saturating_sub(began))
    }
}

fn parse(digest: &Digest, bytes: &[u8]) -> Result<Document, PullError> {
    Document::parse(bytes).map_err(|source| PullError::Document { digest: digest.clone(), source })
}

/// What a document says that it is, where that is one of the kinds that there are.
fn named_type(bytes: &[u8]) -> Option<String> {
    let json: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let named = json["mediaType"].as_str()?;
    MEDIA_TYPES.contains(&named).then(|| named.to_owned())
}
