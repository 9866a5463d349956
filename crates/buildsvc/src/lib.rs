//! A BuildKit client: control, session and build context, without terminals, environment or jails.

pub mod error;
pub mod event;
mod proto;
pub mod session;
