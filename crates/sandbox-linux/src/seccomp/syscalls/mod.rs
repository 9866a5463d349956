//! Numbers and arguments of the system calls, as Kafel knows them.
//!
//! The names are those of the kernel's entry points, which on x86_64 are not always the customary ones: newstat,
//! newlstat, newfstat, newuname, sendfile64, umount and sysctl. Widths are those of the entry points' parameters in
//! bytes: an `int` is compared by its low 32 bits, because the kernel ignores the others. The tables state the same
//! facts as google/kafel's `src/syscalls` (up to file_setattr of Linux 6.17).

mod aarch64;
mod x86_64;

use super::Arch;

/// One call.
#[derive(Debug)]
pub(super) struct Syscall {
    pub name: &'static str,
    pub number: u32,
    /// `name:width` with blanks between.
    pub arguments: &'static str,
}

impl Syscall {
    /// Position and width in bytes of an argument.
    pub(super) fn argument(&self, wanted: &str) -> Option<(usize, u8)> {
        let mut arguments = self.arguments.split(' ').enumerate();
        arguments.find_map(|(index, argument)| {
            let (name, width) = argument.split_once(':')?;
            if name != wanted {
                return None;
            }
            Some((index, width.parse().ok()?))
        })
    }
}

pub(super) fn table(arch: Arch) -> &'static [Syscall] {
    match arch {
        Arch::X86_64 => x86_64::CALLS,
        Arch::Aarch64 => aarch64::CALLS,
    }
}

pub(super) fn lookup(arch: Arch, name: &str) -> Option<&'static Syscall> {
    let table = table(arch);
    table.binary_search_by(|call| call.name.cmp(name)).ok().and_then(|index| table.get(index))
}

/// The name that a policy would use for a number.
#[must_use]
pub fn syscall_name(arch: Arch, number: u32) -> Option<&'static str> {
    table(arch).iter().find(|call| call.number == number).map(|call| call.name)
}

/// The seven names under which people look for calls that the table calls otherwise.
pub(super) fn customary(name: &str) -> Option<&'static str> {
    Some(match name {
        "stat" => "newstat",
        "lstat" => "newlstat",
        "fstat" => "newfstat",
        "uname" => "newuname",
        "sendfile" => "sendfile64",
        "umount2" => "umount",
        "_sysctl" => "sysctl",
        _ => return None,
    })
}
