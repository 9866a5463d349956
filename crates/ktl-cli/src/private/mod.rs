//! A private buildkitd in a jail of its own: `jail://NAME`.
//!
//! A plain daemon gives RUN steps its own view of the machine, network included, and a jail around the client cannot change
//! that. So ktl starts a daemon whose view is a jail's: the programs, their libraries, a state directory and nothing else of
//! the host ([`policy`], sandbox/daemon.cfg). It serves whoever holds a [`lock`] on its lease and stops when nobody has for a
//! while.
//!
//! [`start::ensure`] is what a command calls. It starts a second ktl, the [`supervisor`], which outlives the command, makes the
//! jail, and is the one to be told to stop. What is on disk for one daemon is a [`place::Place`].

mod ids;
pub mod limits;
mod lock;
mod only;
pub mod outlet;
pub mod peer;
mod place;
mod policy;
mod record;
pub mod remove;
mod room;
mod settings;
pub mod start;
pub mod stop;
pub mod supervisor;
mod terms;
pub mod trust;

pub use lock::Lock;
pub use only::only;
pub use place::{Network, Place, Way};
pub use policy::common as policy;
pub use record::Record;
