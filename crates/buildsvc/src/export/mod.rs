//! Results of a build as files on this side.
//!
//! For a `local` export the daemon sends a tree by the same protocol by which contexts go to it. It is not trusted:
//! [`receive`] speaks the protocol, `listing` checks order and names, `tree` writes, and nothing is created outside of the
//! destination, whatever names, symlinks or hard links arrive. An archive of an image is read along by [`archive`], which hashes
//! what is in it again.

pub(crate) mod archive;
mod listing;
#[cfg(test)]
mod loopback;
mod receive;
mod tree;

pub(crate) use receive::too_large;
pub use receive::{ReceiveError, Receiver, receive};
