//! ktl as a user runs it: the built binary against a real buildkitd, a real nsjail and a real registry.
//!
//! One binary, one daemon and one registry for all tests; what needs a daemon of its own (to kill it) starts one.

mod clients;
mod container;
mod context;
mod exec;
mod failures;
mod help;
mod invariants;
mod jail;
mod kill;
mod ktl;
mod parity;
mod private;
mod results;
mod sandbox;
mod stdio;
mod trust;
mod user;
mod wrappers;
