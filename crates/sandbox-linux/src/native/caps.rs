//! Capabilities: those that the policy keeps, in each of the five sets, as nsjail leaves them; none, mostly, and none to
//! be got by exec. See capabilities(7).

use rustix::io::Result;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::sys::contain;

/// The bounding set first, because emptying it takes a capability.
pub(super) fn drop_all() -> Result<()> {
    contain::limit_bounding_set(0)?;
    drop_held()
}

/// Drops what this process holds, for init, which never execs.
pub(super) fn drop_held() -> Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
}

/// Leaves `bits`, which an exec then keeps through the ambient set.
pub(super) fn keep(bits: u64) -> Result<()> {
    contain::limit_bounding_set(bits)?;
    rustix::thread::clear_ambient_capability_set()?;
    let kept = CapabilitySet::from_bits_retain(bits);
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: kept },
    )?;
    for number in (0..64).filter(|number| bits >> number & 1 == 1) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        rustix::thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}
