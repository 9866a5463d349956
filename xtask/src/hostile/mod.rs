//! A daemon that means harm, for every client of BuildKit alike.
//!
//! It accepts a build like any other, opens the session, and then follows the script of one case: it asks for what it
//! must not have, sends what must not be sent, or does not stop. What it came by is recorded; the [`judge`] then says,
//! from that, from the client's own end and from what lies on the disk, whether the client was safe. Every case asks
//! for something honest as well, so that a daemon which is not heard at all is no success.
//!
//! [`case`] says what a case is, `cases` holds them all, [`ground`] is the user's world in which the client runs,
//! [`client`] knows how each client is told, and [`run`] puts them together.

pub mod case;
mod cases;
pub mod client;
mod control;
mod delivery;
mod ears;
pub mod ground;
pub mod judge;
mod memory;
pub mod progress;
mod raw;
pub mod record;
pub mod run;
mod serve;
mod tunnel;
pub mod visit;
mod wire;

pub use cases::all;
pub use serve::serve;
