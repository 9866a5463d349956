//! The copy of ktl's own binary that runs inside the jail.
//!
//! The jail's root is empty, so the guest needs a file to start from: `<cache>/sandbox-bin/ktl`. It is the very binary that
//! is running now, byte for byte, made under another name and moved into place, and it lies outside of everything that is
//! writable from inside.
//!
//! Comparing eight megabytes takes longer than everything else that a start does, so the result is remembered: as long as
//! neither file's inode, size or change time is another one, nobody has written to either.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Directory below the cache that holds the staged binary.
pub const DIR: &str = "sandbox-bin";

#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("failed to {operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this ktl is linked dynamically and cannot start in the jail's empty root")]
    Dynamic,
    #[error("{path} is owned by uid {owner}, who could replace what runs in the jail")]
    ForeignOwner { path: PathBuf, owner: u32 },
    #[error("{path} has mode {mode:o}: others could replace what runs in the jail")]
    OpenToOthers { path: PathBuf, mode: u32 },
}

/// Puts the running binary at `<cache>/sandbox-bin/ktl` and returns that path. A copy that is already there and equal stays.
pub fn stage(cache: &Path) -> Result<PathBuf, StageError> {
    let exe = Path::new("/proc/self/exe");
    let at = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| StageError::Io { operation, path, source }
    };
    let mut own = File::open(exe).map_err(at("open", exe))?;
    if !sandbox_linux::is_static_elf(&own).map_err(at("read", exe))? {
        return Err(StageError::Dynamic);
    }
    let dir = cache.join(DIR);
    DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(at("create", &dir))?;
    let found = fs::metadata(&dir).map_err(at("stat", &dir))?;
    if !is_trusted(found.uid()) {
        return Err(StageError::ForeignOwner { path: dir, owner: found.uid() });
    }
    // Somebody else's file under the record's name would vouch for somebody else's program.
    if found.mode() & 0o022 != 0 {
        return Err(StageError::OpenToOthers { path: dir, mode: found.mode() & 0o7777 });
    }
    let staged = dir.join("ktl");
    let record = dir.join("ktl.verified");
    if is_ready(&staged) {
        if fs::read_to_string(&record)
            .is_ok_and(|known| identities(&own, &staged).is_ok_and(|found| found == known))
        {
            return Ok(staged);
        }
        if same_bytes(&mut own, &staged).map_err(at("read", &staged))? {
            remember(&own, &staged, &record).map_err(at("write", &record))?;
            return Ok(staged);
        }
    }
    let mut copy =
        tempfile::Builder::new().prefix(".ktl-").tempfile_in(&dir).map_err(at("create a file in", &dir))?;
    let mut own = File::open(exe).map_err(at("open", exe))?;
    io::copy(&mut own, copy.as_file_mut()).map_err(at("write", copy.path()))?;
    copy.as_file()
        .set_permissions(Permissions::from_mode(0o755))
        .map_err(at("set the mode of", copy.path()))?;
    copy.persist(&staged).map_err(|error| StageError::Io {
        operation: "move the copy to",
        path: staged.clone(),
        source: error.error,
    })?;
    let mut own = File::open(exe).map_err(at("open", exe))?;
    if !same_bytes(&mut own, &staged).map_err(at("read", &staged))? {
        let source = io::Error::other("differs from the running binary just after it was written");
        return Err(StageError::Io { operation: "verify", path: staged, source });
    }
    remember(&own, &staged, &record).map_err(at("write", &record))?;
    Ok(staged)
}

/// What changes when either file is replaced or written to.
fn identities(own: &File, staged: &Path) -> io::Result<String> {
    let of = |meta: fs::Metadata| {
        format!("{} {} {} {}.{:09}", meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec())
    };
    Ok(format!("{}\n{}\n", of(own.metadata()?), of(fs::symlink_metadata(staged)?)))
}

fn remember(own: &File, staged: &Path, record: &Path) -> io::Result<()> {
    let dir = record.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new().prefix(".ktl-").tempfile_in(dir)?;
    io::Write::write_all(&mut file, identities(own, staged)?.as_bytes())?;
    file.persist(record)?;
    Ok(())
}

/// Whether a regular file of ours with the right mode is at `path`.
fn is_ready(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && is_trusted(found.uid()) && found.mode() & 0o7777 == 0o755)
}

/// Ours, or root's, who needs no file of ours.
fn is_trusted(owner: u32) -> bool {
    owner == nix::unistd::geteuid().as_raw() || owner == 0
}

fn same_bytes(own: &mut File, other: &Path) -> io::Result<bool> {
    let mut other = File::open(other)?;
    if own.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let mut left = vec![0; 256 << 10];
    let mut right = vec![0; 256 << 10];
    loop {
        let count = own.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_may_write_to_holds_no_program_for_the_jail() {
        let cache = tempfile::tempdir().unwrap();
        let dir = cache.path().join(DIR);
        fs::create_dir(&dir).unwrap();
        for mode in [0o777, 0o775, 0o757] {
            fs::set_permissions(&dir, Permissions::from_mode(mode)).unwrap();
            let refused = stage(cache.path()).unwrap_err();
            assert!(matches!(refused, StageError::OpenToOthers { .. }), "{mode:o}: {refused}");
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    }
}
