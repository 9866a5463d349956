//! A BuildKit client: control, session and build context, without terminals, environment or jails.

pub mod event;
