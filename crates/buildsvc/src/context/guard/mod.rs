//! What a context should not hold when it leaves: keys, logins, and files that belong elsewhere.
//!
//! Nobody means to send the private key that lies beside the sources. Every file is looked at when it is about to be
//! announced, which is before the daemon can ask for a byte of it, and only if what was asked for and the ignore file let it
//! through: what is not sent alarms nobody. [`rules`] names files by their names first, so that the many others cost
//! next to nothing, and then looks into the few; [`links`] finds names of a file that lie outside.

mod content;
mod links;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::Mutex;

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub(super) use self::links::LinkNames;
#[cfg(test)]
pub(crate) use self::rules::RULES;
use super::walk::lock;
use super::{ContextError, LocalDir};

/// Of a file that is looked into.
const HEAD: u64 = 64 << 10;
/// Findings that are kept; the rest is counted.
const KEPT: usize = 50;

/// What is done about a finding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Watch {
    /// Nobody looks.
    Off,
    /// It is told and sent.
    #[default]
    Warn,
    /// It ends the transfer before anything of that file was sent.
    Deny,
}

/// A file that should have stayed at home.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The directory, as the daemon calls it.
    pub local: String,
    /// Relative to that.
    pub path: String,
    /// Name of the rule.
    pub rule: &'static str,
    /// What the rule found, as the rest of a sentence that begins with the path.
    pub about: &'static str,
}

/// Looks at what is about to be sent. One for all directories of a build.
#[derive(Debug)]
pub struct Guard {
    watch: Watch,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    kept: BTreeSet<Finding>,
    more: u64,
}

/// What the walk knows of a regular file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced<'a> {
    pub path: &'a [u8],
    pub inode: (u64, u64),
    pub links: u64,
    pub size: u64,
}

impl Guard {
    pub fn new(watch: Watch) -> Guard {
        Guard { watch, found: Mutex::default() }
    }

    /// What was found so far, each once, and how much more there was.
    pub fn found(&self) -> (Vec<Finding>, u64) {
        let found = lock(&self.found);
        (found.kept.iter().cloned().collect(), found.more)
    }

    /// Whether a finding has ended a transfer.
    pub fn has_denied(&self) -> bool {
        self.watch == Watch::Deny && !lock(&self.found).kept.is_empty()
    }

    /// Looks at a file that is about to be announced. `names` is kept for the length of a walk.
    pub(super) fn look(
        &self,
        dir: &LocalDir,
        names: &mut Option<LinkNames>,
        file: Announced<'_>,
    ) -> Result<(), ContextError> {
        if self.watch == Watch::Off {
            return Ok(());
        }
        if file.links > 1 && !rules::is_shared_by_git(file.path) {
            let names = names.get_or_insert_with(|| LinkNames::count(dir));
            if names.of(file.inode) < file.links {
                self.report(dir, file.path, rules::HARD_LINK)?;
            }
        }
        if file.size == 0 || !rules::may_matter(file.path) {
            return Ok(());
        }
        let suspicions: Vec<_> = rules::suspicions(file.path).collect();
        if suspicions.is_empty() {
            return Ok(());
        }
        let Some(head) = head(dir, file)? else { return Ok(()) };
        for rule in suspicions {
            if (rule.holds)(&head) {
                self.report(dir, file.path, (rule.name, rule.about))?;
            }
        }
        Ok(())
    }

    fn report(
        &self,
        dir: &LocalDir,
        path: &[u8],
        (rule, about): (&'static str, &'static str),
    ) -> Result<(), ContextError> {
        let path = String::from_utf8_lossy(path).into_owned();
        let finding = Finding { local: dir.name().to_owned(), path: path.clone(), rule, about };
        let mut found = lock(&self.found);
        if !found.kept.contains(&finding) {
            if found.kept.len() < KEPT {
                found.kept.insert(finding);
            } else {
                found.more += 1;
            }
        }
        match self.watch {
            Watch::Deny => Err(ContextError::Guarded { path, rule, about }),
            Watch::Warn | Watch::Off => Ok(()),
        }
    }
}

/// The beginning of the file that was announced; `None` of one that may not be read and is therefore sent empty.
#[allow(clippy::useless_conversion)]
fn head(dir: &LocalDir, file: Announced<'_>) -> Result<Option<Vec<u8>>, ContextError> {
    let changed = || ContextError::Changed { path: String::from_utf8_lossy(file.path).into_owned() };
    let opened = match dir.read(file.path) {
        Ok(opened) => opened,
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::ACCESS | Errno::PERM) => return Ok(None),
            Some(Errno::LOOP | Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::NXIO) => {
                return Err(changed());
            }
            _ => return Err(ContextError::read("open", file.path, error)),
        },
    };
    let stat = fstat(&opened).map_err(|errno| ContextError::read("stat", file.path, errno))?;
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let inode = (stat.st_dev.into(), stat.st_ino.into());
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile
        || dir.identity(inode, size) != dir.identity(file.inode, file.size)
    {
        return Err(changed());
    }
    let mut head = Vec::new();
    std::fs::File::from(opened)
        .take(HEAD)
        .read_to_end(&mut head)
        .map_err(|source| ContextError::read("read", file.path, source))?;
    Ok(Some(head))
}
