//! The session keyring, which namespaces do not part: without a new one the guest could read the caller's keys.
//! See session-keyring(7). nsjail leaves the caller's in place.

use rustix::io::{Errno, Result};

use crate::sys::contain;

pub(super) fn replace() -> Result<()> {
    match contain::join_new_session_keyring() {
        // The kernel has no keys, or a container's filter keeps them from everybody in it, the guest included.
        Err(Errno::NOSYS | Errno::PERM) => Ok(()),
        other => other,
    }
}
