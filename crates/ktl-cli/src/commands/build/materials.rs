//! What the builder says went in, compared with what was allowed to.

use std::collections::BTreeSet;
use std::io;

use buildsvc::lock::{self, Lock};
use buildsvc::provenance::Material;

use super::facts::read_bounded;
use crate::claims::{Claim, State};
use crate::failure::Failure;
use crate::plan::{self, Hermetic, HostPlan};

const ABOUT: &str = "materials";
/// Of those that are named in a claim.
const NAMED: usize = 5;

/// The lock that the build goes by, or else the one beside its Dockerfile, where there are both.
pub fn lock(host: &HostPlan) -> Result<Option<Lock>, Failure> {
    if let Some(locked) = &host.locked {
        return Ok(Some(locked.lock.clone()));
    }
    let Some(file) = host.dockerfile.as_deref().map(plan::beside) else { return Ok(None) };
    let wrong = |why: String| Failure::usage(format!("{}: {why}", file.display()));
    match read_bounded(&file, lock::SIZE_LIMIT) {
        Ok(bytes) => Lock::read(&bytes).map(Some).map_err(|error| wrong(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// A claim about what the provenance tells. Without a lock a hermetic build's are those that its source policy let in, which are
/// images by digest and what this machine holds; of any other build nothing is known.
pub fn claim(told: &Result<Vec<Material>, String>, lock: Option<&Lock>, hermetic: Hermetic) -> Claim {
    let materials = match told {
        Ok(materials) => materials,
        Err(why) => return Claim::new(ABOUT, State::Unproven, why),
    };
    let count = materials.len();
    let without: Vec<&str> = uris(materials.iter().filter(|material| material.digests.is_empty()));
    if !without.is_empty() {
        return Claim::new(ABOUT, State::Broken, format!("without a digest: {}", list(&without)));
    }
    let Some(lock) = lock else {
        return match hermetic {
            Hermetic::Off => {
                Claim::new(ABOUT, State::Unproven, format!("{count}, and no lock to compare them with"))
            }
            Hermetic::BestEffort | Hermetic::Required => Claim::held(
                ABOUT,
                format!("{count}, each by its digest; no lock, the source policy denies all others"),
            ),
        };
    };
    let locked = digests(lock);
    let known = |material: &Material| material.digests.values().any(|digest| locked.contains(digest));
    let unlisted = uris(materials.iter().filter(|material| !known(material)));
    if unlisted.is_empty() {
        return Claim::held(ABOUT, format!("{count}, all of them in the lock {}", lock.digest()));
    }
    Claim::new(ABOUT, State::Broken, format!("not in the lock {}: {}", lock.digest(), list(&unlisted)))
}

fn uris<'a>(materials: impl Iterator<Item = &'a Material>) -> Vec<&'a str> {
    materials.map(|material| material.uri.as_str()).collect()
}

fn list(uris: &[&str]) -> String {
    let named = uris.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match uris.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// All that the lock knows, without the names of algorithms.
fn digests(lock: &Lock) -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for image in lock.images() {
        known.insert(image.digest.hex().to_owned());
        known.extend(image.platforms.values().map(|manifest| manifest.hex().to_owned()));
    }
    known.extend(lock.urls().map(|url| url.checksum.hex().to_owned()));
    for git in lock.gits() {
        known.insert(git.commit.clone());
        known.extend(git.trees.values().map(|tree| tree.hex().to_owned()));
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildsvc::lock::LockedUrl;

    #[test]
    fn materials_are_compared_with_the_lock() {
        let hex = "a".repeat(64);
        let mut lock = Lock::default();
        let checksum = format!("sha256:{hex}").parse().unwrap();
        lock.add_url(LockedUrl { url: "https://example.org/a".to_owned(), checksum, size: 1 }).unwrap();
        let material = |uri: &str, digest: &str| Material {
            uri: uri.to_owned(),
            digests: (!digest.is_empty())
                .then(|| ("sha256".to_owned(), digest.to_owned()))
                .into_iter()
                .collect(),
        };
        let (known, other, bare) =
            (material("known", &hex), material("other", &"b".repeat(64)), material("bare", ""));
        let (off, required) = (Hermetic::Off, Hermetic::Required);
        for (materials, lock, hermetic, state, words) in [
            (vec![known.clone()], Some(&lock), required, State::Held, "1, all of them in the lock sha256:"),
            (vec![], Some(&lock), required, State::Held, "0, all"),
            (vec![known.clone(), other.clone()], Some(&lock), required, State::Broken, ": other"),
            (vec![known.clone(), bare], None, required, State::Broken, "without a digest: bare"),
            (vec![other.clone()], None, required, State::Held, "1, each by its digest"),
            (vec![other.clone()], None, off, State::Unproven, "no lock"),
            (vec![other; 7], Some(&lock), off, State::Broken, "and 2 more"),
        ] {
            let claim = claim(&Ok(materials), lock, hermetic);
            assert_eq!(claim.state, state, "{claim}");
            assert!(claim.detail.contains(words), "{claim}");
        }
        assert_eq!(claim(&Err("none".to_owned()), None, required).state, State::Unproven);
    }
}
