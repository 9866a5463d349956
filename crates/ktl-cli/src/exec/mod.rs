//! Any program in ktl's jail: what `ktl sandbox exec` brings in for it, and how the guest runs it.
//!
//! Outside, before the fork: the program, its loader and its libraries are found ([`program`], [`loader`]) and bound one by
//! one; the builder gets a [`door`]; sockets of daemons are kept out ([`sockets`]). Inside, after the proof, [`run`] starts
//! the program and stays its parent, so that under either runtime signals arrive, orphans are collected and the end is told
//! as it was.

pub mod door;
pub mod errand;
mod loader;
pub mod program;
pub mod room;
mod run;
pub mod sockets;

pub use run::{Ended, run};
