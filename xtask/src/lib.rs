//! Everything around the code of ktl: getting the real programs it talks to, running the checks, the demo and the
//! bench. One library, so that integration tests start daemons and registries in the same way as the demo does.
//!
//! Start at [`setup`] for what a fresh machine needs, at [`tools`] for where a program lies, and at [`parts`] for
//! a buildkitd, a registry and base images that live as long as a value does.

pub mod attack;
pub mod bench;
pub mod command;
pub mod demo;
pub mod dist;
pub mod fuzz;
pub mod hostile;
pub mod parts;
pub mod setup;
pub mod test;
pub mod tools;
pub mod workspace;
