//! The broker: what the jailed build may ask of the world outside, and who answers.
//!
//! Inside the jail there is no home, no network and no agent socket. Yet a build needs registry logins, secrets, ssh
//! signatures, and now and then a context file that only the user may read. So one socket pair crosses the jail's
//! wall: the guest asks through [`BrokerClient`], and a [`Desk`] outside answers by the [`Rules`] that the command line
//! set, and keeps a [`Record`]. Neither trusts the other: the guest may have been taken over by what it builds, and
//! frames are bounded and checked on both ends.
//!
//! The desk runs on plain threads, started after the jail was forked, and goes with all that it started when the guest's
//! end closes. The guest's side is asynchronous and holds one reading thread.

mod agent;
mod announce;
pub mod client;
pub mod desk;
#[cfg(test)]
pub mod fuzz_tests;
mod helper;
mod keyring;
mod message;
pub mod names;
mod opening;
mod program;
mod realm;
mod record;
mod registry;
pub mod rules;
mod secret;
mod seed;
mod signature;
mod stop;
mod token;
mod verify;
pub mod wire;

pub use client::BrokerClient;
pub use desk::Desk;
pub use helper::{HelperError, Helpers, TIME as HELPER_TIME};
pub use message::Ask;
pub use names::{Allowed, HUB, HUB_HOST, Names, Scheme, canonical};
pub use program::{ProgramError, Reaped, find as find_program, run as run_program};
pub use realm::{hostname, is_loopback};
pub use record::{Book, Record};
pub use registry::{Registry, login_host};
pub use rules::{AgentKind, AgentSource, Rules, SecretOrigin, SecretSource};
pub use stop::Stop;
pub use verify::{Verified, VerifyError, verify};
