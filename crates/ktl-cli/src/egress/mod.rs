//! What a build with `--egress` asked of the network, and what became of it.
//!
//! The [`Ledger`] sits in the guest: it answers the daemon's questions by the list and remembers them. Which step a question is
//! about, and what came of it, the daemon tells elsewhere: in the progress and log of the step and in the provenance of the
//! build. [`Entry`]s bring the three together.

mod entry;
mod ledger;
mod reported;

pub use entry::Told;
pub use ledger::Ledger;

/// What the list does not hold on a builder that has a network of its own.
pub const UNPROVEN: &[&str] = &[
    "where a listed name leads: the builder resolves it, and it may lead to any address, loopback included",
    "what the builder fetches unasked: what registries and ADD are redirected to, git submodules",
    "steps that another build has made under another list: the builder's cache has them (--no-cache makes them anew)",
];
