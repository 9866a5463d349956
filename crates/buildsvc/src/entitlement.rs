//! What a build may do beyond the ordinary: the grammar of `--allow`.
//!
//! Follows moby/buildkit `util/entitlements`. The daemon grants nothing that was not asked for, and refuses at once what its
//! own configuration does not allow.

use std::fmt;
use std::str::FromStr;

use crate::csv;

/// One entitlement, as the daemon reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entitlement {
    /// `network.host`: steps in the network of the daemon's host.
    HostNetwork,
    /// `security.insecure`: steps without seccomp and with all capabilities.
    Insecure,
    /// `device`, all of them, or `device=NAME[,alias=OTHER]`.
    Device(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntitlementError {
    #[error("there is no entitlement {0:?}; there are network.host, security.insecure and device[=NAME]")]
    Unknown(String),
    #[error("{0:?} does not name a device in the form device=NAME[,alias=NAME]")]
    Device(String),
}

impl FromStr for Entitlement {
    type Err = EntitlementError;

    fn from_str(text: &str) -> Result<Self, EntitlementError> {
        match text {
            "network.host" => Ok(Entitlement::HostNetwork),
            "security.insecure" => Ok(Entitlement::Insecure),
            "device" | "device=" => Ok(Entitlement::Device(String::new())),
            _ => {
                let device =
                    text.strip_prefix("device=").ok_or_else(|| EntitlementError::Unknown(text.to_owned()))?;
                let bad = || EntitlementError::Device(text.to_owned());
                let fields = csv::fields(device).map_err(|_| bad())?;
                match fields.split_first() {
                    Some((name, rest))
                        if !name.is_empty() && rest.iter().all(|f| f.starts_with("alias=")) =>
                    {
                        Ok(Entitlement::Device(device.to_owned()))
                    }
                    _ => Err(bad()),
                }
            }
        }
    }
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entitlement::HostNetwork => f.write_str("network.host"),
            Entitlement::Insecure => f.write_str("security.insecure"),
            Entitlement::Device(name) if name.is_empty() => f.write_str("device"),
            Entitlement::Device(name) => write!(f, "device={name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entitlements() {
        for text in [
            "network.host",
            "security.insecure",
            "device",
            "device=vendor.com/gpu=all",
            "device=a/b=c,alias=x",
        ] {
            assert_eq!(text.parse::<Entitlement>().unwrap().to_string(), text);
        }
        for bad in ["", "network", "network.host=1", "device=a,b", "device=\"a", "Device"] {
            assert!(bad.parse::<Entitlement>().is_err(), "{bad}");
        }
    }
}
