//! The ordered walk through a directory.
//!
//! fsutil demands depth-first order with siblings ascending bytewise, and every directory before what is in it, even one
//! that only some deep entry makes necessary. [`walk`] holds one directory's names per level and nothing else, stats
//! only what is kept, and never follows a symlink. Entries that vanish meanwhile are left out.
//! Follows fsutil `fs.go`, `filter.go` and `hardlinks.go`, except that a vanished file does not take the rest of its
//! directory with it, and that links are told by device and inode, not by inode alone.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::fs::{FileType, RawDir, fstat, readlinkat};
use rustix::io::Errno;

use super::ContextError;
use super::entries::{DirId, Entries};
use super::filter::{Filter, Matched, Verdict};
use super::guard::{Announced, LinkNames};
use super::local_dir::LocalDir;
use super::stat::{MODE_TYPE, XattrReader, describe};
use crate::proto::fsutil::types;

/// Levels whose directories stay open; those above are opened again on the way back.
const OPEN_LEVELS: usize = 64;

/// Visits what `filter` keeps of `dir`. Each entry is counted in `entries` and then handed to `emit`, whose error ends
/// the walk; `emit` is also called, with nothing, for what is not kept.
pub(super) fn walk(
    dir: &LocalDir,
    filter: &Filter,
    entries: &Mutex<Entries>,
    emit: &mut dyn FnMut(Option<types::Stat>) -> Result<(), ContextError>,
) -> Result<(), ContextError> {
    let root = dir.list(None, b"").map_err(|source| ContextError::read("open", b"", source))?;
    let mut walk = Walk {
        dir,
        filter,
        entries,
        emit,
        buffer: vec![MaybeUninit::uninit(); 32 << 10],
        xattrs: XattrReader::new(),
        path: Vec::with_capacity(256),
        levels: Vec::new(),
        link_names: None,
    };
    walk.descend(root, Matched::default(), true, Entries::ROOT)?;
    let mut matched = Matched::default();
    while let Some(level) = walk.levels.last_mut() {
        match level.names.order.get(level.next) {
            Some(&item) => {
                level.next += 1;
                walk.visit(item, &mut matched)?;
            }
            None => {
                walk.levels.pop();
            }
        }
    }
    Ok(())
}

struct Walk<'a> {
    dir: &'a LocalDir,
    filter: &'a Filter,
    entries: &'a Mutex<Entries>,
    emit: &'a mut dyn FnMut(Option<types::Stat>) -> Result<(), ContextError>,
    buffer: Vec<MaybeUninit<u8>>,
    xattrs: XattrReader,
    /// Of the entry being visited.
    path: Vec<u8>,
    levels: Vec<Level>,
    /// For the guard.
    link_names: Option<LinkNames>,
}

/// A directory on the way to the current entry; the first is the root.
struct Level {
    fd: Option<OwnedFd>,
    path_len: usize,
    names: Names,
    next: usize,
    matched: Matched,
    /// It was handed out. The root never is, and counts as if.
    sent: bool,
    id: DirId,
}

/// An entry that is no directory.
struct Leaf {
    entry: types::Stat,
    /// Device and inode.
    inode: (u64, u64),
    links: u64,
    size: u64,
    is_file: bool,
}

/// The sorted names of a directory.
#[derive(Default)]
pub(super) struct Names {
    /// Each ended by a zero byte.
    pub(super) text: Vec<u8>,
    pub(super) order: Vec<Item>,
}

#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) at: usize,
    pub(super) len: usize,
    pub(super) kind: FileType,
}

impl Names {
    fn get(&self, item: Item) -> &[u8] {
        &self.text[item.at..item.at + item.len]
    }
}

impl Walk<'_> {
    /// Reads the directory `fd` at the current path and makes it the innermost level.
    fn descend(&mut self, fd: OwnedFd, matched: Matched, sent: bool, id: DirId) -> Result<(), ContextError> {
        let names = match read_names(self.dir, fd.as_fd(), &mut self.buffer) {
            Ok(names) => names,
            Err(error) if vanished(&error) => Names::default(),
            Err(source) => return Err(ContextError::read("list", &self.path, source)),
        };
        self.levels.push(Level {
            fd: Some(fd),
            path_len: self.path.len(),
            names,
            next: 0,
            matched,
            sent,
            id,
        });
        if let Some(far) = self.levels.len().checked_sub(OPEN_LEVELS + 1) {
            self.levels[far].fd = None;
        }
        Ok(())
    }

    /// Visits an entry of the innermost level.
    fn visit(&mut self, item: Item, matched: &mut Matched) -> Result<(), ContextError> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        self.path.truncate(level.path_len);
        if level.path_len > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(level.names.get(item));
        let name = &level.names.text[item.at..=item.at + item.len];
        let Ok(name) = CStr::from_bytes_with_nul(name) else { return Ok(()) };
        if level.fd.is_none() {
            let path = &self.path[..level.path_len];
            match self.dir.list(None, path) {
                Ok(fd) => level.fd = Some(fd),
                Err(error) if vanished(&error) => {
                    level.next = level.names.order.len();
                    return Ok(());
                }
                Err(source) => return Err(ContextError::read("open", path, source)),
            }
        }
        let Some(parent) = &level.fd else { return Ok(()) };
        let mut kind = item.kind;
        if kind == FileType::Unknown {
            match self.dir.stat(parent.as_fd(), name, &self.path) {
                Ok((stat, _)) => kind = FileType::from_raw_mode(stat.st_mode),
                Err(error) if vanished(&error) => return Ok(()),
                Err(source) => return Err(ContextError::read("stat", &self.path, source)),
            }
        }
        let is_dir = kind == FileType::Directory;
        let inherited = (level.path_len > 0).then_some(&level.matched);
        let verdict = self.filter.judge(&self.path, is_dir, inherited, matched);
        if verdict == Verdict::Prune || verdict == Verdict::Pass && !is_dir {
            return (self.emit)(None);
        }
        if !is_dir {
            return self.visit_leaf(item);
        }
        let fd = match self.dir.list(Some((parent.as_fd(), name)), &self.path) {
            Ok(fd) => fd,
            Err(error) if vanished(&error) => return Ok(()),
            // Nothing of it may be wanted.
            Err(error) if verdict == Verdict::Pass && error.kind() == io::ErrorKind::PermissionDenied => {
                return Ok(());
            }
            Err(source) => return Err(ContextError::read("open", &self.path, source)),
        };
        let id = lock(self.entries).add_dir(level.id, name.to_bytes())?;
        self.descend(fd, matched.clone(), false, id)?;
        if verdict == Verdict::Keep { self.send_levels() } else { Ok(()) }
    }

    /// Hands out an entry of the innermost level that is no directory, after the directories it lies in.
    fn visit_leaf(&mut self, item: Item) -> Result<(), ContextError> {
        let Some(Leaf { mut entry, inode, links, size, is_file }) = self.describe_leaf(item)? else {
            return Ok(());
        };
        if is_file && let Some(guard) = self.dir.guard() {
            let file = Announced { path: &self.path, inode, links, size };
            guard.look(self.dir, &mut self.link_names, file)?;
        }
        self.send_levels()?;
        let Some(level) = self.levels.last() else { return Ok(()) };
        let requestable = entry.mode & MODE_TYPE == 0;
        let is_link = !entry.linkname.is_empty();
        {
            let mut entries = lock(self.entries);
            let several = links > 1 && !is_link;
            let place = if requestable || several {
                Some(entries.add_name(level.id, level.names.get(item))?)
            } else {
                None
            };
            if let Some(place) = place
                && several
                && let Some(first) = entries.first_link(inode, place)
            {
                entry.linkname = entries.path(first).into();
            }
            let identity = self.dir.identity(inode, size);
            entries.count(place.filter(|_| requestable).map(|place| (place, identity)))?;
        }
        (self.emit)(Some(entry))
    }

    /// What there is to say of an entry; `None` if it vanished.
    #[allow(clippy::useless_conversion)]
    fn describe_leaf(&mut self, item: Item) -> Result<Option<Leaf>, ContextError> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let name = &level.names.text[item.at..=item.at + item.len];
        let (Ok(name), Some(parent)) = (CStr::from_bytes_with_nul(name), &level.fd) else { return Ok(None) };
        let fail = |operation, source: io::Error, path: &[u8]| {
            if vanished(&source) { Ok(None) } else { Err(ContextError::read(operation, path, source)) }
        };
        let (stat, located) = match self.dir.stat(parent.as_fd(), name, &self.path) {
            Ok(found) => found,
            Err(source) => return fail("stat", source, &self.path),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            // It became one after the listing.
            return Ok(None);
        }
        let mut entry = describe(self.path.clone(), &stat, self.dir.times());
        if kind == FileType::Symlink {
            let target = match &located {
                Some(fd) => readlinkat(fd, c"", Vec::new()),
                None => readlinkat(parent, name, Vec::new()),
            };
            match target {
                Ok(target) => entry.linkname = target.into_bytes().into(),
                // No longer a symlink.
                Err(Errno::INVAL) => return Ok(None),
                Err(errno) => return fail("read link", errno.into(), &self.path),
            }
        }
        let xattrs = match &located {
            Some(fd) => self.xattrs.of_located(fd.as_fd()),
            None => self.xattrs.of_name(parent.as_fd(), name, kind),
        };
        match xattrs {
            Ok(xattrs) => entry.xattrs = xattrs,
            Err(source) => return fail("list extended attributes of", source, &self.path),
        }
        Ok(Some(Leaf {
            entry,
            inode: (stat.st_dev.into(), stat.st_ino.into()),
            links: stat.st_nlink.into(),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            is_file: kind == FileType::RegularFile,
        }))
    }

    /// Hands out the directories on the way that were not yet, outermost first.
    fn send_levels(&mut self) -> Result<(), ContextError> {
        // A sent directory lies in sent directories only.
        let from = self.levels.iter().rposition(|level| level.sent).map_or(0, |last| last + 1);
        for level in &mut self.levels[from..] {
            let path = &self.path[..level.path_len];
            if level.fd.is_none() {
                level.fd = Some(self.dir.list(None, path).map_err(|e| ContextError::read("open", path, e))?);
            }
            let Some(fd) = &level.fd else { continue };
            let stat = fstat(fd).map_err(|errno| ContextError::read("stat", path, errno))?;
            let mut entry = describe(path.to_vec(), &stat, self.dir.times());
            entry.xattrs = self
                .xattrs
                .of_fd(fd)
                .map_err(|source| ContextError::read("list extended attributes of", path, source))?;
            level.sent = true;
            lock(self.entries).count(None)?;
            (self.emit)(Some(entry))?;
        }
        Ok(())
    }
}

pub(super) fn read_names(
    root: &LocalDir,
    fd: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<Names> {
    let mut names = Names::default();
    let mut dir = RawDir::new(fd, buffer);
    while let Some(entry) = dir.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if root.leaves_out(name) {
            continue;
        }
        names.order.push(Item { at: names.text.len(), len: name.len(), kind: entry.file_type() });
        names.text.extend_from_slice(name);
        names.text.push(0);
    }
    let Names { text, order } = &mut names;
    order.sort_unstable_by(|a, b| text[a.at..a.at + a.len].cmp(&text[b.at..b.at + b.len]));
    Ok(names)
}

/// The entry went away, or a directory on the way to it turned into something else.
fn vanished(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
