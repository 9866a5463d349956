//! Where a build's result lands on the host side.
//!
//! The guest never opens a destination. It is handed an open file, or a fresh staging directory that is bound into the jail,
//! and the host side moves the whole to its place after the build has succeeded: a build that fails, is cancelled or dies
//! leaves what was there before, and a hostile builder neither sees nor touches what the destination already holds.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use buildsvc::output::Destination;

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
pub fn open(destinations: &[Destination], nonce: &str) -> Result<(Vec<Opened>, Option<Tidier>), Failure> {
    let mut tidier = None;
    if destinations.iter().any(|destination| matches!(destination, Destination::Directory(_))) {
        let started = Tidier::start();
        tidier = Some(
            started.map_err(|error| Failure::internal(format!("failed to start a second ktl: {error}")))?,
        );
    }
    let opened = destinations
        .iter()
        .map(|destination| open_one(destination, nonce, tidier.as_mut()))
        .collect::<Result<_, _>>()?;
    Ok((opened, tidier))
}

fn open_one(destination: &Destination, nonce: &str, tidier: Option<&mut Tidier>) -> Result<Opened, Failure> {
    match destination {
        Destination::None => Ok(Opened::None),
        Destination::Stdout => {
            let stdout =
                io::stdout().as_fd().try_clone_to_owned().map_err(at("duplicate", Path::new("stdout")))?;
            Ok(Opened::Stream(stdout))
        }
        Destination::File(path) => open_file(path, nonce),
        Destination::Directory(path) => Ok(Opened::Directory(PendingDirectory::create(path, nonce, tidier)?)),
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

    /// Moves the result to its place. Called after the build has succeeded and nothing writes any more.
    pub fn commit(self) -> Result<(), Failure> {
        match self {
            Opened::None | Opened::Stream(_) => Ok(()),
            Opened::File(file) => Ok(file.commit()?),
            Opened::Directory(directory) => Ok(directory.commit()?),
            Opened::Load { child, pipe } => {
                drop(pipe);
                finish_docker_load(child)
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

/// A directory that is filled beside its destination.
#[derive(Debug)]
pub struct PendingDirectory {
    staging: PathBuf,
    path: PathBuf,
}

impl PendingDirectory {
    fn create(path: &Path, nonce: &str, tidier: Option<&mut Tidier>) -> Result<PendingDirectory, Failure> {
        // Within the destination where there is one: it may be a mount point, or lie in a directory that is not ours. The
        // guest is shown the staging directory alone, so what else is there stays none of its business.
        let staging = match fs::metadata(path) {
            Ok(found) if found.is_dir() => path.join(staging_name(nonce)),
            Ok(_) => {
                return Err(Failure::usage(format!("the output directory {} is a file", path.display()))
                    .hint("Name a directory, or use type=tar for a file."));
            }
            Err(_) => {
                fs::create_dir_all(parent(path)).map_err(at("create", parent(path)))?;
                sibling(path, nonce)
            }
        };
        if let Some(tidier) = tidier {
            tidier.watch(&staging).map_err(at("have somebody watch over", &staging))?;
        }
        DirBuilder::new().mode(0o700).create(&staging).map_err(at("create", &staging))?;
        Ok(PendingDirectory { staging, path: path.to_owned() })
    }

    fn commit(self) -> Result<(), OutputError> {
        take_back(&self.staging)?;
        if self.path.exists() {
            merge(&self.staging, &self.path)?;
            return fs::remove_dir_all(&self.staging).map_err(at("remove", &self.staging));
        }
        // Made anew so that the user's umask has its say, then replaced by what was received.
        DirBuilder::new().mode(0o755).create(&self.path).map_err(at("create", &self.path))?;
        let mode = fs::symlink_metadata(&self.path).map_err(at("stat", &self.path))?.permissions();
        fs::set_permissions(&self.staging, mode).map_err(at("set the mode of", &self.staging))?;
        fs::rename(&self.staging, &self.path).map_err(at("move the result to", &self.path))
    }
}

impl Drop for PendingDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.staging);
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

/// Gives everything below `dir`, which a guest of another id has filled, to this process.
pub fn take_back(dir: &Path) -> Result<(), OutputError> {
    let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    match fs::symlink_metadata(dir).map_err(at("stat", dir))? {
        meta if meta.uid() != own.0 => take_over(dir, own),
        _ => Ok(()),
    }
}

/// Gives everything below `dir` to `own`: needed where the file system cannot map the guest's id.
fn take_over(dir: &Path, own: (u32, u32)) -> Result<(), OutputError> {
    std::os::unix::fs::lchown(dir, Some(own.0), Some(own.1)).map_err(at("take ownership of", dir))?;
    for entry in fs::read_dir(dir).map_err(at("read", dir))? {
        let entry = entry.map_err(at("read", dir))?;
        let path = entry.path();
        if entry.file_type().map_err(at("stat", &path))?.is_dir() {
            take_over(&path, own)?;
        } else {
            std::os::unix::fs::lchown(&path, Some(own.0), Some(own.1))
                .map_err(at("take ownership of", &path))?;
        }
    }
    Ok(())
}

/// Moves what lies in `from` into the existing directory `to`: directories are merged, everything else replaces what has its
/// name, as fsutil's disk writer does. Nothing is followed.
fn merge(from: &Path, to: &Path) -> Result<(), OutputError> {
    for entry in fs::read_dir(from).map_err(at("read", from))? {
        let entry = entry.map_err(at("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let is_dir = entry.file_type().map_err(at("stat", &source))?.is_dir();
        match fs::symlink_metadata(&target) {
            Ok(found) if found.is_dir() && is_dir => {
                merge(&source, &target)?;
                keep_metadata(&source, &target)?;
                continue;
            }
            Ok(found) if found.is_dir() => fs::remove_dir_all(&target).map_err(at("replace", &target))?,
            Ok(found) if is_dir || found.file_type().is_socket() => {
                fs::remove_file(&target).map_err(at("replace", &target))?;
            }
            _ => {}
        }
        fs::rename(&source, &target).map_err(at("move the result to", &target))?;
    }
    Ok(())
}

/// An existing directory takes mode and times of the one that was sent.
fn keep_metadata(source: &Path, target: &Path) -> Result<(), OutputError> {
    let meta = fs::symlink_metadata(source).map_err(at("stat", source))?;
    fs::set_permissions(target, meta.permissions()).map_err(at("set the mode of", target))?;
    let modified = meta.modified().map_err(at("stat", source))?;
    let times = fs::FileTimes::new().set_modified(modified).set_accessed(modified);
    File::open(target).and_then(|dir| dir.set_times(times)).map_err(at("set the times of", target))
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
    fn a_directory_is_merged_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        write(&outside.join("kept"), "kept");
        let path = dir.path().join("out");
        write(&path.join("stays"), "stays");
        write(&path.join("both/old"), "old");
        write(&path.join("dir-becomes-file/x"), "x");
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();

        let pending = PendingDirectory::create(&path, "n", None).unwrap();
        let staging = pending.staging.clone();
        write(&staging.join("both/new"), "new");
        write(&staging.join("dir-becomes-file"), "file");
        write(&staging.join("link/inside"), "inside");
        pending.commit().unwrap();

        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
        assert_eq!(
            ["stays", "both/old", "both/new", "dir-becomes-file", "link/inside"].map(read),
            ["stays", "old", "new", "file", "inside"]
        );
        assert!(fs::symlink_metadata(path.join("link")).unwrap().is_dir());
        assert!(!outside.join("inside").exists() && outside.join("kept").exists());
        assert!(!staging.exists());
    }

    #[test]
    fn an_abandoned_directory_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let pending = PendingDirectory::create(&dir.path().join("new"), "n", None).unwrap();
        write(&pending.staging.join("x"), "x");
        drop(pending);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn names_at_the_limit_have_a_sibling() {
        let long = "n".repeat(255);
        assert_eq!(sibling(&Path::new("/d").join(long), "7"), Path::new("/d/.ktl-7"));
        assert_eq!(sibling(Path::new("out"), "7"), Path::new("./.ktl-7-out"));
    }
}
