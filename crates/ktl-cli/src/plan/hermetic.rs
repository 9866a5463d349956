//! Whether a build is to be hermetic, and how much of that has to be proven.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// `--hermetic`: nothing in the build reaches a network, and nothing goes in that is not pinned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hermetic {
    #[default]
    Off,
    /// All that the client can force is forced, on any builder; what then is not proven is told.
    BestEffort,
    /// What is not proven ends the build.
    Required,
}

impl Hermetic {
    pub fn is_on(self) -> bool {
        self != Hermetic::Off
    }
}
