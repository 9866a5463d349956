//! Builds on a real buildkitd.

mod connection;
mod failures;
mod fixture;
mod patience;
mod results;
mod services;
