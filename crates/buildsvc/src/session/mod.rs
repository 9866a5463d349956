//! The session that a build offers to the daemon.

pub mod host;
