//! Sealed memory files: how the host side hands a document to the guest.
//!
//! A plan or a policy that travels through a path could be swapped on the way. A memfd with every seal set cannot
//! change after it was made, so both sides read the same bytes; the reader checks the seals before it believes.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{MemfdFlags, SealFlags};

const ALL_SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// A memory file with these bytes, which nobody can change any more. The name shows in `/proc` only.
///
/// # Errors
/// What the kernel says: no memory, no descriptor left, memfd refused by a filter.
pub fn sealed_memfd(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag that says the file is never executed.
    let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| rustix::fs::memfd_create(name, flags))?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, ALL_SEALS)?;
    Ok(file.into())
}

/// The bytes of a [`sealed_memfd`], whatever the descriptor's position is.
///
/// # Errors
/// `InvalidData` when a seal is missing or the file is longer than `limit` bytes, EINVAL when it is no memfd.
pub fn read_sealed_memfd(fd: impl AsFd, limit: usize) -> io::Result<Vec<u8>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if !rustix::fs::fcntl_get_seals(&fd)?.contains(ALL_SEALS) {
        return Err(bad("memory file is not sealed"));
    }
    let file = File::from(rustix::io::fcntl_dupfd_cloexec(fd, 3)?);
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    if length > limit {
        return Err(bad("memory file is too long"));
    }
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads what is in a non-blocking pipe now, up to `limit` bytes.
pub(crate) fn drain(pipe: &mut File, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while bytes.len() < limit {
        match pipe.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(n) => bytes.extend_from_slice(&chunk[..n]),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_bytes_come_back_and_cannot_change() {
        let fd = sealed_memfd("t", b"plan").unwrap();
        assert_eq!(read_sealed_memfd(&fd, 4).unwrap(), b"plan");
        assert_eq!(read_sealed_memfd(&fd, 4).unwrap(), b"plan", "twice");
        assert!(read_sealed_memfd(&fd, 3).is_err());
        let mut file = File::from(fd);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }

    #[test]
    fn unsealed_files_are_not_believed() {
        let fd = rustix::fs::memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read_sealed_memfd(&fd, 9).is_err());
        assert!(read_sealed_memfd(File::open("/dev/null").unwrap(), 9).is_err());
    }
}
