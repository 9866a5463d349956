//! ktl as a user runs it: the built binary against a real buildkitd, a real nsjail and a real registry.
//!
//! One binary, one daemon and one registry for all tests; what needs a daemon of its own (to kill it) starts one.

mod attestations;
mod attributes;
mod audit;
mod builders;
mod caches;
mod calls;
mod canaries;
mod clients;
mod container;
mod context;
mod demos;
mod doctor;
mod egress;
mod engine;
mod exec;
mod failures;
mod guard;
mod help;
mod hermetic;
mod hostile;
mod inputs;
mod invariants;
mod jail;
mod kill;
mod ktl;
mod limits;
mod names;
mod offline;
mod ordinary;
mod outputs;
mod parallel;
mod parity;
mod private;
mod proof;
mod reproducible;
mod results;
mod sandbox;
mod sandbox_log;
mod ssh;
mod stage;
mod stdio;
mod trust;
mod user;
mod wrappers;
