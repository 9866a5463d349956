//! Builds on a real buildkitd.

mod connection;
mod failures;
mod fixture;
mod results;
mod services;
