//! Network and host name of the guest's own namespaces.

use rustix::io::{Errno, Result};

use crate::proto::NsJailConfig;
use crate::sys::contain;

/// True when the policy wants the loopback device of a new network namespace up.
pub(super) fn wants_loopback(config: &NsJailConfig) -> bool {
    config.clone_newnet() && !config.iface_no_lo()
}

pub(super) fn loopback_up() -> Result<()> {
    contain::loopback_up()
}

pub(super) fn set_host_name(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).map_err(|errno| Errno::from_raw_os_error(errno as i32))
}
