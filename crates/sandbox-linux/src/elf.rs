//! Whether a program needs a loader, and which. A jail's root has neither loader nor libraries, so a program that wants
//! them would fail there with a puzzling "no such file"; the host side asks first.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// True when an ELF program names no interpreter (no `PT_INTERP` header), that is, starts in an empty root.
///
/// # Errors
/// `InvalidData` when the file is not a 64-bit little-endian ELF file; what reading says otherwise.
pub fn is_static_elf(file: &File) -> io::Result<bool> {
    elf_interpreter(file).map(|interpreter| interpreter.is_none())
}

/// The loader that an ELF program names (its `PT_INTERP` header), as it names it.
///
/// # Errors
/// `InvalidData` when the file is not a 64-bit little-endian ELF file or names its loader in no readable way.
pub fn elf_interpreter(file: &File) -> io::Result<Option<PathBuf>> {
    const PT_INTERP: u32 = 3;
    /// `PATH_MAX`, which the kernel takes no longer name than.
    const LONGEST: u64 = 4096;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not a 64-bit ELF program");
    let mut header = [0_u8; 64];
    file.read_exact_at(&mut header, 0).map_err(|_| bad())?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(bad());
    }
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let mut start = [0; 8];
    start.copy_from_slice(&header[32..40]);
    let (start, size, count) = (u64::from_le_bytes(start), u16_at(54), u16_at(56));
    for index in 0..u64::from(count) {
        let at = start.checked_add(index * u64::from(size)).ok_or_else(bad)?;
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, at).map_err(|_| bad())?;
        if u32::from_le_bytes(kind) != PT_INTERP {
            continue;
        }
        let u64_at = |beside: u64| {
            let mut bytes = [0; 8];
            let at = at.checked_add(beside).ok_or_else(bad)?;
            file.read_exact_at(&mut bytes, at).map_err(|_| bad())?;
            Ok::<u64, io::Error>(u64::from_le_bytes(bytes))
        };
        let (offset, length) = (u64_at(8)?, u64_at(32)?);
        if !(2..=LONGEST).contains(&length) {
            return Err(bad());
        }
        let mut name = vec![0; usize::try_from(length).map_err(|_| bad())?];
        file.read_exact_at(&mut name, offset).map_err(|_| bad())?;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        return Ok(Some(PathBuf::from(OsStr::from_bytes(name))));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_static_from_dynamic_and_from_other_files() {
        let this = File::open("/proc/self/exe").unwrap();
        let built_static = cfg!(target_feature = "crt-static");
        assert_eq!(is_static_elf(&this).unwrap(), built_static);
        assert!(!is_static_elf(&File::open("/usr/bin/env").unwrap()).unwrap());
        assert!(is_static_elf(&File::open("/etc/passwd").unwrap()).is_err());
        assert!(is_static_elf(&File::open("/dev/null").unwrap()).is_err());
    }

    #[test]
    fn reads_the_loaders_name() {
        let loader = elf_interpreter(&File::open("/usr/bin/env").unwrap()).unwrap().unwrap();
        assert!(loader.is_absolute() && loader.exists(), "{}", loader.display());
    }

    #[test]
    fn a_name_of_no_sensible_length_is_refused() {
        let mut bytes = vec![0_u8; 64 + 56];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = 1;
        bytes[64] = 3;
        for length in [0, 1, 4097, u64::MAX] {
            bytes[64 + 32..64 + 40].copy_from_slice(&length.to_le_bytes());
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            assert!(elf_interpreter(&file).is_err(), "{length}");
        }
    }
}
