//! The memory of what was listed.
//!
//! The daemon requests contents by the number of an entry in the listing, long after the walk passed it, and a context
//! may have a million files. [`Entries`] therefore keeps a tree of names in one buffer and 24 bytes per file instead of
//! paths and what was said of them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use super::ContextError;

/// A directory of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DirId(u32);

/// A name in a directory of the listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    dir: DirId,
    name: u32,
}

/// What a file was when it was listed, and must be when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    /// Device and inode; zeros on a file system whose inode numbers do not last.
    pub inode: (u64, u64),
    pub size: u64,
}

/// A file of the listing that was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Requested {
    pub place: Place,
    /// See [`Entries::is_same`].
    identity: u64,
}

#[derive(Debug)]
pub(super) struct Entries {
    /// Names, each ended by a zero byte.
    names: Vec<u8>,
    dirs: Vec<Place>,
    /// Number in the listing and place of every requestable entry, ascending, with a hash of its identity.
    files: Vec<(u32, Requested)>,
    hasher: RandomState,
    /// A bit per element of `files`: it was requested.
    taken: Vec<u64>,
    /// First place of an inode that has several links, by device and inode.
    links: HashMap<(u64, u64), Place>,
    count: u32,
}

impl Entries {
    pub(super) const ROOT: DirId = DirId(0);

    pub(super) fn new() -> Entries {
        let root = Place { dir: Self::ROOT, name: 0 };
        Entries {
            names: vec![0],
            dirs: vec![root],
            files: Vec::new(),
            hasher: RandomState::new(),
            taken: Vec::new(),
            links: HashMap::new(),
            count: 0,
        }
    }

    pub(super) fn add_dir(&mut self, parent: DirId, name: &[u8]) -> Result<DirId, ContextError> {
        let place = self.add_name(parent, name)?;
        let id = u32::try_from(self.dirs.len()).map_err(|_| ContextError::TooMany)?;
        self.dirs.push(place);
        Ok(DirId(id))
    }

    pub(super) fn add_name(&mut self, dir: DirId, name: &[u8]) -> Result<Place, ContextError> {
        let at = u32::try_from(self.names.len()).map_err(|_| ContextError::TooMany)?;
        self.names.extend_from_slice(name);
        self.names.push(0);
        Ok(Place { dir, name: at })
    }

    /// Counts an entry that is about to be listed; with a `file`, its content may be requested.
    pub(super) fn count(&mut self, file: Option<(Place, Identity)>) -> Result<(), ContextError> {
        if let Some((place, identity)) = file {
            if self.files.len().is_multiple_of(64) {
                self.taken.push(0);
            }
            let identity = self.hasher.hash_one(identity);
            self.files.push((self.count, Requested { place, identity }));
        }
        self.count = self.count.checked_add(1).ok_or(ContextError::TooMany)?;
        Ok(())
    }

    /// The entry numbered `id`, once.
    pub(super) fn take(&mut self, id: u32) -> Result<Requested, ContextError> {
        let index =
            self.files.binary_search_by_key(&id, |(id, _)| *id).map_err(|_| ContextError::InvalidId(id))?;
        let bit = 1u64 << (index % 64);
        if self.taken[index / 64] & bit != 0 {
            return Err(ContextError::InvalidId(id));
        }
        self.taken[index / 64] |= bit;
        Ok(self.files[index].1)
    }

    /// Whether what was opened now is what was listed then.
    pub(super) fn is_same(&self, requested: Requested, now: Identity) -> bool {
        requested.identity == self.hasher.hash_one(now)
    }

    /// Where an inode with several links was listed first, if it was; otherwise that is `place` from now on.
    pub(super) fn first_link(&mut self, inode: (u64, u64), place: Place) -> Option<Place> {
        match self.links.entry(inode) {
            std::collections::hash_map::Entry::Occupied(first) => Some(*first.get()),
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(place);
                None
            }
        }
    }

    /// The path of `place`, relative to the root.
    pub(super) fn path(&self, place: Place) -> Vec<u8> {
        let mut chain = vec![place];
        let mut dir = place.dir;
        while dir != Self::ROOT {
            let place = self.dirs[dir.0 as usize];
            chain.push(place);
            dir = place.dir;
        }
        let mut path = Vec::with_capacity(64);
        for place in chain.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            let name = &self.names[place.name as usize..];
            path.extend(name.iter().take_while(|byte| **byte != 0));
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(size: u64) -> Identity {
        Identity { inode: (1, 2), size }
    }

    #[test]
    fn an_id_is_valid_once_and_only_for_files() {
        let mut entries = Entries::new();
        let dir = entries.add_dir(Entries::ROOT, b"dir").unwrap();
        entries.count(None).unwrap();
        for name in 0..100u8 {
            let place = entries.add_name(dir, &[b'f', name + 1]).unwrap();
            entries.count(Some((place, identity(u64::from(name))))).unwrap();
        }
        assert!(entries.take(0).is_err());
        let requested = entries.take(65).unwrap();
        assert_eq!(entries.path(requested.place), b"dir/fA");
        assert!(entries.is_same(requested, identity(64)) && !entries.is_same(requested, identity(65)));
        assert!(entries.take(65).is_err());
        assert!(entries.take(66).is_ok());
        assert!(entries.take(101).is_err());
    }

    #[test]
    fn the_first_place_of_an_inode_stays() {
        let mut entries = Entries::new();
        let a = entries.add_name(Entries::ROOT, b"a").unwrap();
        let b = entries.add_name(Entries::ROOT, b"b").unwrap();
        assert_eq!(entries.first_link((1, 1), a), None);
        assert_eq!(entries.first_link((2, 1), b), None);
        assert_eq!(entries.first_link((1, 1), b), Some(a));
    }
}
