//! What a build with `--egress` asked of the network, and what became of it.
//!
//! The [`Ledger`] sits in the guest: it answers the daemon's questions by the list and remembers them. Which step a question is
//! about, and what came of it, the daemon tells elsewhere: in the progress and log of the step and in the provenance of the
//! build. [`Entry`]s bring the three together. What is said of the list as a whole is [`link`]'s.

mod entry;
mod ledger;
pub mod link;
mod reported;

pub use entry::{Entry, Told};
pub use ledger::Ledger;
#[cfg(test)]
pub use reported::Reported;
