//! The commands, one file each.

mod answer;
pub mod audit;
pub mod build;
pub mod builder;
pub mod completion;
pub mod dial_stdio;
pub mod history;
pub mod lock;
pub mod login;
pub mod logout;
pub mod man;
pub mod sandbox;
pub mod stage;
