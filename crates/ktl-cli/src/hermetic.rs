//! What stands behind `--hermetic` beside the request itself: see docs/hermetic.md.

use crate::claims::{Claim, State};

/// Links and what is not known of them when the builder is no private one, and a person has taken it nevertheless.
const UNPROVEN: &[(&str, &str)] = &[
    ("the builder", "which version it is, and that it keeps to the request, is its own word"),
    (
        "the builder's own network",
        "it has one, and what it fetches or tells through it cannot be seen from here",
    ),
    (
        "the host",
        "files, sockets and devices that its containers show; devices that its configuration allows to everybody need no \
         entitlement",
    ),
    ("the cache", "what other builds left there, cache mounts included, was made under their rules"),
];

pub fn unproven() -> Vec<Claim> {
    UNPROVEN.iter().map(|(about, why)| Claim::new(*about, State::Unproven, *why)).collect()
}
