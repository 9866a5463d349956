//! Landlock as a second fence behind the mount tree: what is to be read-only is refused for writing by another
//! mechanism too, and sockets with abstract names, signals and tracing stop at the jail even where a policy shares
//! the host's network. See landlock(7).
//!
//! The rules follow files, not mounts: below a writable root everything is writable for this fence. A kernel without
//! Landlock leaves the first fence alone, as nsjail does everywhere.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};

use super::mnt::{MountTree, Source};
use super::setup::Setup;
use crate::command;
use crate::sys::contain::{self, RulesetAttributes};

/// The first version that can say no to truncation and yes to moves between directories.
const FIRST: u32 = 3;
/// The first version with scopes.
const SCOPES: u32 = 6;

const WRITE_FILE: u64 = 1 << 1;
const TRUNCATE: u64 = 1 << 14;
/// Removing, making and moving entries of directories: `REMOVE_DIR` to `REFER`.
const CHANGE_DIRECTORY: u64 = (1 << 14) - (1 << 4);
const ABSTRACT_SOCKETS: u64 = 1 << 0;
const SIGNALS: u64 = 1 << 1;

/// What this kernel can enforce of it, asked by the parent; `None` for nothing.
pub(super) fn supported() -> Option<RulesetAttributes> {
    let version = contain::landlock_version();
    (version >= FIRST).then_some(RulesetAttributes {
        handled_access_fs: WRITE_FILE | TRUNCATE | CHANGE_DIRECTORY,
        handled_access_net: 0,
        scoped: if version >= SCOPES { ABSTRACT_SOCKETS | SIGNALS } else { 0 },
        // Kernels before the scopes know the structure without them.
        size: if version >= SCOPES { 24 } else { 8 },
    })
}

/// The rules: writing where the tree says so, and to what is handed over open.
pub(super) fn rules(setup: &Setup) -> Result<Option<OwnedFd>> {
    let Some(attributes) = &setup.landlock else { return Ok(None) };
    let ruleset = contain::landlock_ruleset(attributes)?;
    for place in writable(&setup.tree) {
        allow(ruleset.as_fd(), place)?;
    }
    let handed = setup.fds.iter().map(|(fd, _)| fd.as_fd());
    for fd in contain::standard_streams().into_iter().chain(handed) {
        match allow(ruleset.as_fd(), fd) {
            // Pipes, sockets and memory files are not restricted; a stream may be closed.
            Err(Errno::BADFD | Errno::BADF) => {}
            other => other?,
        }
    }
    // Out of the way of the program's own numbers.
    command::high(ruleset.as_fd()).map(Some)
}

/// Puts this process under the rules.
pub(super) fn restrict(rules: Option<&OwnedFd>) -> Result<()> {
    rules.map_or(Ok(()), |rules| contain::landlock_restrict(rules.as_fd()))
}

fn writable(tree: &MountTree) -> impl Iterator<Item = BorrowedFd<'_>> {
    let root = tree.made.get().filter(|_| tree.root_rw).map(|root| root.as_fd());
    let points = tree.points.iter().filter(|point| point.rw).filter_map(|point| match &point.source {
        Source::Staged(tree) => Some(tree.as_fd()),
        Source::Content { .. } => Some(point.content.get()?.as_fd()),
        Source::Path(_) | Source::FileSystem(_) => Some(point.made.get()?.mount.as_fd()),
        Source::Symlink(_) => None,
    });
    root.into_iter().chain(points)
}

fn allow(ruleset: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<()> {
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(place)?.st_mode);
    let rights = WRITE_FILE | TRUNCATE | if kind.is_dir() { CHANGE_DIRECTORY } else { 0 };
    contain::landlock_allow(ruleset, place, rights)
}
