//! The commands, one file each.

mod answer;
pub mod build;
pub mod sandbox;
