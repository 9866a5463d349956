//! Names of a file that lie outside of the context.
//!
//! A hard link is a second name of a file that may belong anywhere, and nothing in the context says so but the number of its
//! names. The names within are counted once per walk, in the whole directory and not only in what is sent, and only if some
//! file has several: what is kept back is still within.

use std::collections::HashMap;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::fs::FileType;

use super::super::LocalDir;
use super::super::walk::read_names;

/// Entries that are counted. In a larger directory a file with several names counts as one from outside.
const MAX_ENTRIES: usize = 2_000_000;

/// How many names each file with several has in a directory.
#[derive(Debug, Default)]
pub struct LinkNames(HashMap<(u64, u64), u64>);

impl LinkNames {
    /// Names in `dir` and everything below. What cannot be listed has none.
    #[allow(clippy::useless_conversion)]
    pub fn count(dir: &LocalDir) -> LinkNames {
        let mut names = LinkNames::default();
        let mut buffer = vec![MaybeUninit::uninit(); 32 << 10];
        let mut directories: Vec<Vec<u8>> = vec![Vec::new()];
        let mut entries = 0;
        while let Some(path) = directories.pop() {
            let Ok(fd) = dir.list(None, &path) else { continue };
            let Ok(listed) = read_names(dir, fd.as_fd(), &mut buffer) else { continue };
            for (name, mut kind) in listed.entries() {
                entries += 1;
                if entries > MAX_ENTRIES {
                    return names;
                }
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(name.to_bytes());
                if !matches!(kind, FileType::RegularFile | FileType::Unknown) {
                    if kind == FileType::Directory {
                        directories.push(child);
                    }
                    continue;
                }
                let Ok((stat, _)) = dir.stat(fd.as_fd(), name, &child) else { continue };
                kind = FileType::from_raw_mode(stat.st_mode);
                match kind {
                    FileType::Directory => directories.push(child),
                    FileType::RegularFile if u64::from(stat.st_nlink) > 1 => {
                        *names.0.entry((stat.st_dev.into(), stat.st_ino.into())).or_default() += 1;
                    }
                    _ => {}
                }
            }
        }
        names
    }

    pub fn of(&self, inode: (u64, u64)) -> u64 {
        self.0.get(&inode).copied().unwrap_or_default()
    }
}

impl super::super::walk::Names {
    /// In their order.
    fn entries(&self) -> impl Iterator<Item = (&CStr, FileType)> {
        self.order.iter().filter_map(|item| {
            let name = CStr::from_bytes_with_nul(&self.text[item.at..=item.at + item.len]).ok()?;
            Some((name, item.kind))
        })
    }
}
