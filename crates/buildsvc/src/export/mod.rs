//! Results of a build as files on this side.
//!
//! For a `local` export the daemon sends a tree by the same protocol by which contexts go to it. It is not trusted:
//! [`receive`] speaks the protocol, `listing` checks order and names, `tree` writes, and nothing is created outside of the
//! destination, whatever names, symlinks or hard links arrive.

mod listing;
#[cfg(test)]
mod loopback;
mod receive;
mod tree;

pub use receive::{ReceiveError, Receiver, receive};
