//! Whether a program needs a loader. The guest's root has neither loader nor libraries, so a binary that wants
//! one would fail there with a puzzling "no such file"; the host side asks first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// True when an ELF program names no interpreter (no `PT_INTERP` header), that is, starts in an empty root.
///
/// # Errors
/// `InvalidData` when the file is not a 64-bit little-endian ELF file; what reading says otherwise.
pub fn is_static_elf(file: &File) -> io::Result<bool> {
    const PT_INTERP: u32 = 3;
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
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(false);
        }
    }
    Ok(true)
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
}
