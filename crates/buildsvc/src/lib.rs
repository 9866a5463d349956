//! A BuildKit client: control, session and build context, without terminals, environment or jails.

pub mod annotation;
pub mod build;
pub mod client;
pub mod context;
pub mod csv;
pub mod digest;
pub mod dockerconfig;
pub mod entitlement;
pub mod error;
pub mod event;
pub mod export;
mod failure;
pub mod identity;
pub mod output;
pub mod platform;
mod proto;
pub mod reference;
mod repeated;
pub mod secret;
pub mod session;
pub mod sourcepolicy;
pub mod ssh;
mod status;
pub mod steps;
pub mod version;
