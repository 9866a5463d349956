//! The listing of a tree as it arrives.
//!
//! Whatever the daemon refers to later, by number or as the target of a hard link, must have been listed, in order and
//! under a proper name. [`Listing`] checks that and remembers the names compactly. Follows fsutil `validator.go` and
//! `hardlinks.go`.

use crate::context::gopath::{base, clean, dir};

/// Entries and bytes of names that a listing may have.
const MAX_ENTRIES: usize = 4 << 20;
const MAX_NAMES: usize = 64 << 20;
/// The kernel's limit for a path, with its zero byte.
const MAX_PATH: usize = 4096;

#[derive(Debug)]
pub(super) struct Listing {
    /// Names, each ended by a zero byte.
    names: Vec<u8>,
    entries: Vec<Entry>,
    /// The directories on the way to the last entry; the first is the root.
    levels: Vec<Level>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Number of the directory it lies in, [`ROOT`] at the top.
    parent: u32,
    name: u32,
    kind: Kind,
}

const ROOT: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    /// Something that a hard link may refer to.
    File,
    /// A symlink or a hard link.
    Link,
}

#[derive(Debug)]
struct Level {
    id: u32,
    path: Vec<u8>,
    /// Name of the last entry in it.
    last: Vec<u8>,
}

impl Listing {
    pub(super) fn new() -> Listing {
        Listing {
            names: Vec::new(),
            entries: Vec::new(),
            levels: vec![Level { id: ROOT, path: Vec::new(), last: Vec::new() }],
        }
    }

    /// Adds the next entry and gives its number, or says what is wrong with it.
    pub(super) fn add(&mut self, path: &[u8], kind: Kind) -> Result<u32, &'static str> {
        if path.contains(&0) || path.len() >= MAX_PATH {
            return Err("impossible path");
        }
        if path.starts_with(b"/") || path == b"." || path == b".." || path.starts_with(b"../") {
            return Err("path outside of the destination");
        }
        if clean(path) != path {
            return Err("unclean path");
        }
        if self.entries.len() >= MAX_ENTRIES || self.names.len() >= MAX_NAMES {
            return Err("too many entries");
        }
        let (parent, name) = match dir(path) {
            b"." => (&b""[..], path),
            parent => (parent, base(path)),
        };
        while self.levels.last().is_some_and(|level| level.path != parent) {
            self.levels.pop();
        }
        let level = self.levels.last_mut().ok_or("changes out of order")?;
        if *level.last >= *name {
            return Err("changes out of order");
        }
        level.last.clear();
        level.last.extend_from_slice(name);
        // Both fit: they were bounded above.
        let (id, at) = (self.entries.len() as u32, self.names.len() as u32);
        self.entries.push(Entry { parent: level.id, name: at, kind });
        self.names.extend_from_slice(name);
        self.names.push(0);
        if kind == Kind::Dir {
            self.levels.push(Level { id, path: path.to_vec(), last: Vec::new() });
        }
        Ok(id)
    }

    /// The number of the file listed at `path`, by binary search: the listing is sorted.
    pub(super) fn find_file(&self, path: &[u8]) -> Option<u32> {
        let wanted = || path.split(|byte| *byte == b'/');
        let index = self
            .entries
            .binary_search_by(|entry| self.entry_path(*entry).split(|byte| *byte == b'/').cmp(wanted()))
            .ok()?;
        (self.entries[index].kind == Kind::File).then_some(index as u32)
    }

    pub(super) fn path(&self, id: u32) -> Vec<u8> {
        self.entries.get(id as usize).map(|entry| self.entry_path(*entry)).unwrap_or_default()
    }

    fn entry_path(&self, entry: Entry) -> Vec<u8> {
        let mut chain = vec![entry];
        let mut parent = entry.parent;
        while let Some(entry) = self.entries.get(parent as usize) {
            chain.push(*entry);
            parent = entry.parent;
        }
        let mut path = Vec::with_capacity(64);
        for entry in chain.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(self.names[entry.name as usize..].iter().take_while(|byte| **byte != 0));
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str]) -> Result<(), &'static str> {
        let mut listing = Listing::new();
        for path in paths {
            let (path, kind) = match path.strip_suffix('/') {
                Some(dir) => (dir, Kind::Dir),
                None => (*path, Kind::File),
            };
            let id = listing.add(path.as_bytes(), kind)?;
            assert_eq!(listing.path(id), path.as_bytes());
            assert_eq!(listing.find_file(path.as_bytes()).is_some(), kind == Kind::File);
        }
        Ok(())
    }

    #[test]
    fn order_is_depth_first_with_the_slash_lowest() {
        assert_eq!(check(&["a/", "a/b", "a/c/", "a/c/d", "a-b", "b"]), Ok(()));
        for wrong in [
            &["a", "a"][..],
            &["b", "a"],
            &["a/", "a-b", "a/b"],
            &["a/b"],
            &["a", "a/b"],
            &["a/", "a/b/", "a/c", "a/b/d"],
        ] {
            assert_eq!(check(wrong), Err("changes out of order"), "{wrong:?}");
        }
    }

    #[test]
    fn names_cannot_leave_the_destination() {
        for (path, reason) in [
            ("../x", "path outside of the destination"),
            ("..", "path outside of the destination"),
            (".", "path outside of the destination"),
            ("/x", "path outside of the destination"),
            ("a/../../x", "unclean path"),
            ("a/./x", "unclean path"),
            ("a//x", "unclean path"),
            ("", "unclean path"),
            ("a\0b", "impossible path"),
        ] {
            assert_eq!(check(&[path]), Err(reason), "{path:?}");
        }
        assert_eq!(check(&["..a", "...", "a../"]), Err("changes out of order"));
        assert_eq!(check(&["...", "..a", "a../"]), Ok(()));
    }
}
