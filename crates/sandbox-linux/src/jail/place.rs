//! Where a mount point comes to lie. nsjail makes missing ones, and below a bound directory that means on the host.

use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::JailError;
use super::mounts::{Entry, is_within};

/// Refuses an entry whose mount point nsjail would have to make in a host directory or through a link.
pub(super) fn check_place(before: &[Entry], entry: &Entry) -> Result<(), JailError> {
    let dst = entry.point.dst.as_str();
    let refused = |why: String| Err(JailError::refused(&entry.field, &why));
    let Some(under) = before.iter().rev().find(|e| e.point.dst != "/" && is_within(dst, &e.point.dst)) else {
        return Ok(());
    };
    let over = under.point.dst.as_str();
    if under.point.is_symlink() {
        return refused(format!("{dst} leads through the symbolic link {over}"));
    }
    let below = dst[over.len()..].trim_start_matches('/');
    if below.is_empty() {
        return Ok(());
    }
    if !under.point.src_content().is_empty() {
        return refused(format!("{dst} is below the file {over}"));
    }
    let Some((host, metadata)) = &under.source else {
        return Ok(());
    };
    if entry.point.is_symlink() {
        return refused(format!("{dst} would be created in the host's {}", host.display()));
    }
    let want_dir = entry.source.as_ref().map_or(entry.point.src_content().is_empty(), |(_, m)| m.is_dir());
    let found = metadata.is_dir() && place_exists(host, below, want_dir);
    if !found {
        return refused(format!(
            "{dst} does not exist in the host's {} and would be created there",
            host.display()
        ));
    }
    Ok(())
}

/// True when `below` exists in `dir` without a symbolic link on the way and has the wanted kind.
fn place_exists(dir: &Path, below: &str, want_dir: bool) -> bool {
    let open = || -> rustix::io::Result<bool> {
        let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = rustix::fs::openat2(&dir, below, flags, Mode::empty(), resolve)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
        Ok(kind.is_dir() == want_dir)
    };
    open().unwrap_or(false)
}
