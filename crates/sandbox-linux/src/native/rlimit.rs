//! Resource limits, soft and hard alike. Units and words are nsjail's; that they fit the caller was settled before.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::io::{Errno, Result};

use crate::limits;
use crate::proto::NsJailConfig;

/// Values in the kernel's units.
pub(super) fn values(config: &NsJailConfig) -> Result<Vec<(Resource, u64)>> {
    if config.disable_rl() {
        return Ok(Vec::new());
    }
    limits::RESOURCES
        .into_iter()
        .map(|(name, resource)| {
            let (soft, hard) = getrlimit(resource).map_err(errno)?;
            Ok((resource, limits::wanted(config, name, soft, hard)))
        })
        .collect()
}

pub(super) fn set(values: &[(Resource, u64)]) -> Result<()> {
    for (resource, value) in values {
        setrlimit(*resource, *value, *value).map_err(errno)?;
    }
    Ok(())
}

fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}
