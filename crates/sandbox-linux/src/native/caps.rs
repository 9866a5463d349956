//! Capabilities: the guest has none, in any of the five sets, and cannot get one by exec. See capabilities(7).

use rustix::io::Result;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::sys::contain;

/// The bounding set first, because emptying it takes a capability.
pub(super) fn drop_all() -> Result<()> {
    contain::drop_bounding_set()?;
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
}
