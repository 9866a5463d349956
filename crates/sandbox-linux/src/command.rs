//! What is run in a jail, and how its descriptors get the numbers they have there: the two runtimes agree on both.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// Descriptors that are passed on are first moved to here, out of the way of the numbers they get in the guest.
const PARKED: RawFd = 256;

/// The command to run inside.
#[derive(Debug)]
pub struct Command {
    /// Absolute path inside the jail.
    pub program: PathBuf,
    /// Arguments after the program's name.
    pub args: Vec<OsString>,
    /// Descriptors for the guest and the numbers they have there (3 to 255, as listed in the jail's overrides).
    pub fds: Vec<(OwnedFd, RawFd)>,
}

/// Why a descriptor cannot be passed on.
#[derive(Debug)]
pub(crate) enum Unfit {
    Number { number: RawFd, reason: &'static str },
    Kernel(io::Error),
}

/// A copy of a descriptor with a high number.
pub(crate) fn high(fd: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, PARKED)
}

/// The command's descriptors at high numbers, each with its number in the guest.
pub(crate) fn park(fds: &[(OwnedFd, RawFd)], promised: &[RawFd]) -> Result<Vec<(OwnedFd, RawFd)>, Unfit> {
    let mut parked: Vec<(OwnedFd, RawFd)> = Vec::new();
    for (fd, number) in fds {
        let bad = |reason| Unfit::Number { number: *number, reason };
        if !(3..PARKED).contains(number) {
            return Err(bad("the number must be 3 to 255"));
        }
        if !promised.contains(number) {
            return Err(bad("is not in the jail's list"));
        }
        if parked.iter().any(|(_, taken)| taken == number) {
            return Err(bad("is given twice"));
        }
        parked.push((high(fd.as_fd()).map_err(|error| Unfit::Kernel(error.into()))?, *number));
    }
    Ok(parked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn parks_what_was_promised_and_nothing_else() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let parked = park(&[(null(), 10), (null(), 3)], &[3, 10]).unwrap();
        assert_eq!(parked.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [10, 3]);
        assert!(parked.iter().all(|(fd, _)| fd.as_raw_fd() >= PARKED));
        for (numbers, reason) in [(vec![2], "3 to 255"), (vec![5], "list"), (vec![10, 10], "twice")] {
            let fds: Vec<_> = numbers.into_iter().map(|number| (null(), number)).collect();
            match park(&fds, &[2, 10]).unwrap_err() {
                Unfit::Number { reason: got, .. } => assert!(got.contains(reason), "{got}"),
                Unfit::Kernel(error) => panic!("{error}"),
            }
        }
    }
}
