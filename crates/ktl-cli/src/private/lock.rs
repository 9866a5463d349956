//! Locks that a process holds as long as it lives, however it ends. See flock(2).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    /// The kernel lets go when it is closed.
    _file: File,
}

impl Lock {
    /// Waits until nobody holds it exclusively.
    pub fn shared(path: &Path) -> io::Result<Lock> {
        Lock::take(path, FlockOperation::LockShared)
    }

    /// Waits until nobody else holds it.
    pub fn exclusive(path: &Path) -> io::Result<Lock> {
        Lock::take(path, FlockOperation::LockExclusive)
    }

    /// `None` when somebody else holds it.
    pub fn try_exclusive(path: &Path) -> io::Result<Option<Lock>> {
        match Lock::take(path, FlockOperation::NonBlockingLockExclusive) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    fn take(path: &Path, how: FlockOperation) -> io::Result<Lock> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        loop {
            match flock(&file, how) {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_exclusive_or_many_shared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let (first, second) = (Lock::shared(&path).unwrap(), Lock::shared(&path).unwrap());
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(first);
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(second);
        let alone = Lock::try_exclusive(&path).unwrap();
        assert!(alone.is_some() && Lock::try_exclusive(&path).unwrap().is_none());
    }
}
