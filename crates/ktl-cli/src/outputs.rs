//! Where a build's result lands on the host side.
//!
//! The guest never opens a destination. It is handed an open file, or a fresh staging directory that is bound into the jail,
//! and the host side moves the whole to its place after the build has succeeded: a build that fails, is cancelled or dies
//! leaves what was there before, and a hostile builder neither sees nor touches what the destination already holds.

mod directory;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use buildsvc::output::Destination;

pub use self::directory::take_back;
use self::directory::{Existing, PendingDirectory};

use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::tidy::Tidier;

/// Names of what is not yet whole begin with this.
pub const STAGING_PREFIX: &str = ".ktl-";

/// What the names of all that this run has not yet made whole begin with.
pub fn staging_name(nonce: &str) -> String {
    format!("{STAGING_PREFIX}{nonce}")
}

/// A destination made ready. Dropped without [`Opened::commit`] it leaves nothing behind.
#[derive(Debug)]
pub enum Opened {
    /// The builder keeps the result or sends it to a registry.
    None,
    File(PendingFile),
    /// Written to as the result arrives: stdout, or a destination that is no regular file.
    Stream(OwnedFd),
    Directory(PendingDirectory),
    Load {
        child: Child,
        pipe: Option<OwnedFd>,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("failed to {operation} {path}")]
pub struct OutputError {
    operation: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutputError {
    let path = path.display().to_string();
    move |source| OutputError { operation, path, source }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Failure {
        Failure::new(Exit::BuildFailed, chain(&error))
    }
}

/// Makes `destinations` ready to receive. `nonce` makes the names of staged things unique. With directories among them, the
/// process that clears up after a killed ktl comes along; it is to be dropped last.
///
/// A mirror takes the place of what ktl did not put there only when `delete_anything`.
pub fn open(
    destinations: &[Destination],
    nonce: &str,
    delete_anything: bool,
) -> Result<(Vec<Opened>, Option<Tidier>), Failure> {
    let mut tidier = None;
    if destinations
        .iter()
        .any(|destination| matches!(destination, Destination::Directory(_) | Destination::Mirror(_)))
    {
        let started = Tidier::start();
        tidier = Some(
            started.map_err(|error| Failure::internal(format!("failed to start a second ktl: {error}")))?,
        );
    }
    let opened = destinations
        .iter()
        .map(|destination| open_one(destination, nonce, delete_anything, tidier.as_mut()))
        .collect::<Result<_, _>>()?;
    Ok((opened, tidier))
}

fn open_one(
    destination: &Destination,
    nonce: &str,
    delete_anything: bool,
    tidier: Option<&mut Tidier>,
) -> Result<Opened, Failure> {
    match destination {
        Destination::None => Ok(Opened::None),
        Destination::Stdout => {
            let stdout =
                io::stdout().as_fd().try_clone_to_owned().map_err(at("duplicate", Path::new("stdout")))?;
            Ok(Opened::Stream(stdout))
        }
        Destination::File(path) => open_file(path, nonce),
        Destination::Directory(path) => {
            Ok(Opened::Directory(PendingDirectory::create(path, Existing::Merge, nonce, tidier)?))
        }
        Destination::Mirror(path) => {
            if !delete_anything {
                directory::may_delete(path)?;
            }
            Ok(Opened::Directory(PendingDirectory::create(path, Existing::Delete, nonce, tidier)?))
        }
        Destination::Engine => start_docker_load(),
    }
}

fn open_file(path: &Path, nonce: &str) -> Result<Opened, Failure> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Failure::usage(format!("the output file {} is a directory", path.display()))
                .hint("Name a file, or use type=local for a directory."))
        }
        Ok(found) if !found.is_file() => {
            let special = OpenOptions::new().write(true).open(path).map_err(at("open", path))?;
            Ok(Opened::Stream(special.into()))
        }
        _ => Ok(Opened::File(PendingFile::create(path, nonce)?)),
    }
}

fn start_docker_load() -> Result<Opened, Failure> {
    let mut child = Command::new("docker")
        .args(["load", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            Failure::usage(format!("--load needs the docker program to load the image: {error}"))
                .hint("Write the image to a file instead: -o type=docker,dest=image.tar")
        })?;
    let pipe = child.stdin.take().map(OwnedFd::from);
    Ok(Opened::Load { child, pipe })
}

impl Opened {
    /// The descriptor that the guest writes to, where there is one. It is duplicated: the guest's copy closes with the guest.
    pub fn descriptor(&mut self) -> Result<Option<OwnedFd>, Failure> {
        let fd = match self {
            Opened::None | Opened::Directory(_) => return Ok(None),
            Opened::File(file) => file.file.as_fd().try_clone_to_owned(),
            Opened::Stream(fd) => fd.try_clone(),
            Opened::Load { pipe, .. } => return Ok(pipe.take()),
        };
        fd.map(Some).map_err(|error| {
            Failure::internal(format!("failed to duplicate an output's descriptor: {error}"))
        })
    }

    /// What messages of the guest call the descriptor that it writes to, where there is one.
    pub fn descriptor_name(&self) -> Option<String> {
        match self {
            Opened::None | Opened::Directory(_) => None,
            Opened::File(file) => {
                Some(file.path.file_name().unwrap_or_default().to_string_lossy().into_owned())
            }
            Opened::Stream(_) => Some("standard output or a special file".to_owned()),
            Opened::Load { .. } => Some("`docker load`".to_owned()),
        }
    }

    /// The directory that the guest fills, where there is one.
    pub fn staging(&self) -> Option<&Path> {
        match self {
            Opened::Directory(directory) => Some(&directory.staging),
            _ => None,
        }
    }

    /// Where it will be once it is committed, if that is a file or a directory.
    pub fn landed(&self) -> Option<PathBuf> {
        match self {
            Opened::File(file) => Some(file.path.clone()),
            Opened::Directory(directory) => Some(directory.path.clone()),
            Opened::None | Opened::Stream(_) | Opened::Load { .. } => None,
        }
    }

    /// How many bytes the disk of the destination has left for it, where it has a disk.
    pub fn room(&self) -> Result<Option<u64>, Failure> {
        let found = match self {
            Opened::None | Opened::Stream(_) | Opened::Load { .. } => return Ok(None),
            Opened::File(file) => rustix::fs::fstatvfs(&file.file),
            Opened::Directory(directory) => rustix::fs::statvfs(&directory.staging),
        };
        let found = found.map_err(|errno| {
            Failure::new(Exit::BuildFailed, format!("failed to learn the free space of an output: {errno}"))
        })?;
        Ok(Some(room(found.f_bavail.saturating_mul(found.f_frsize))))
    }

    /// Moves the result to its place; how many files of it lost a set-user-id bit that only `privileged` ones may have. Called
    /// after the build has succeeded and nothing writes any more.
    pub fn commit(self, privileged: bool) -> Result<u64, Failure> {
        match self {
            Opened::None | Opened::Stream(_) => Ok(0),
            Opened::File(file) => file.commit().map(|()| 0).map_err(Failure::from),
            Opened::Directory(directory) => Ok(directory.commit(privileged)?),
            Opened::Load { child, pipe } => {
                drop(pipe);
                finish_docker_load(child).map(|()| 0)
            }
        }
    }

    /// Gives the result up.
    pub fn abandon(self) {
        if let Opened::Load { mut child, pipe } = self {
            let _ = child.kill();
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// What of the free bytes a result may take: a disk that is filled to the last one harms others.
fn room(free: u64) -> u64 {
    free - (free / 10).min(256 << 20)
}

fn finish_docker_load(child: Child) -> Result<(), Failure> {
    let output = child.wait_with_output().map_err(|error| {
        Failure::new(Exit::BuildFailed, format!("failed to wait for `docker load`: {error}"))
    })?;
    if output.status.success() {
        Ok(())
    } else {
        Err(Failure::new(Exit::BuildFailed, format!("`docker load` failed: {}", output.status))
            .hint("Its message stands above. Is the Docker Engine running, and may you use it?"))
    }
}

/// A file without a name until it is whole.
#[derive(Debug)]
pub struct PendingFile {
    file: File,
    path: PathBuf,
    /// Name under which the file lies where the file system has no unnamed files; the same name is used, for an instant, to
    /// replace a file that exists.
    temporary: PathBuf,
    named: bool,
}

impl PendingFile {
    pub fn create(path: &Path, nonce: &str) -> Result<PendingFile, OutputError> {
        let dir = parent(path);
        fs::create_dir_all(dir).map_err(at("create", dir))?;
        let temporary = sibling(path, nonce);
        let unnamed = OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).mode(0o666).open(dir);
        let (file, named) = match unnamed {
            Ok(file) => (file, false),
            Err(_) => {
                let named = OpenOptions::new().write(true).create_new(true).mode(0o666).open(&temporary);
                (named.map_err(at("create", &temporary))?, true)
            }
        };
        Ok(PendingFile { file, path: path.to_owned(), temporary, named })
    }

    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        io::Write::write_all(&mut self.file, bytes).map_err(at("write", &self.path))
    }

    pub fn commit(mut self) -> Result<(), OutputError> {
        if !self.named {
            let source = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
            rustix::fs::linkat(
                rustix::fs::CWD,
                &source,
                rustix::fs::CWD,
                &self.temporary,
                rustix::fs::AtFlags::SYMLINK_FOLLOW,
            )
            .map_err(|errno| at("create", &self.temporary)(errno.into()))?;
            self.named = true;
        }
        fs::rename(&self.temporary, &self.path).map_err(at("move the result to", &self.path))?;
        self.named = false;
        Ok(())
    }
}

impl Drop for PendingFile {
    fn drop(&mut self) {
        if self.named {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sibling(path: &Path, nonce: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(staging_name(nonce));
    let own = path.file_name().unwrap_or_default();
    // A name that is near the limit leaves no room for the prefix.
    if own.len() < 150 {
        name.push("-");
        name.push(own);
    }
    parent(path).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/out.tar");
        let mut pending = PendingFile::create(&path, "n").unwrap();
        pending.write_all(b"half").unwrap();
        drop(pending);
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            0,
            "nothing remains of an abandoned file"
        );
        write(&path, "old");
        let mut pending = PendingFile::create(&path, "n").unwrap();
        pending.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        pending.commit().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_full_disk_is_left_some_room() {
        assert_eq!([0, 1000, 100 << 30].map(room), [0, 900, (100 << 30) - (256 << 20)]);
    }

    #[test]
    fn names_at_the_limit_have_a_sibling() {
        let long = "n".repeat(255);
        assert_eq!(sibling(&Path::new("/d").join(long), "7"), Path::new("/d/.ktl-7"));
        assert_eq!(sibling(Path::new("out"), "7"), Path::new("./.ktl-7-out"));
    }
}
