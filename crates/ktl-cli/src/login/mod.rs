//! Logins that `ktl login` gets and keeps: asked at the terminal, written where docker and every other builder look.

mod file;
mod json;
pub mod prompt;

pub use file::{ConfigFile, ConfigFileError};
