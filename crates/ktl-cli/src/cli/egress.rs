//! Flags for which servers a build may reach.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Network")]
pub struct EgressFlags {
    /// Let the build reach this server and no other: steps get the builder's proxy for a network (BuildKit 0.31 or newer), and
    /// images, ADD and git obey as well. HOST means https; http://HOST, HOST:PORT, HOST/PATH and *.DOMAIN are understood, @FILE
    /// holds one a line. Addresses that are not public have to be named themselves (repeatable)
    #[arg(long, value_name = "HOST[:PORT][/PATH]")]
    pub egress: Vec<String>,
    /// Let the build reach every public server, and write the list of those it did reach, for --egress @FILE
    #[arg(long, value_name = "FILE")]
    pub egress_learn: Option<PathBuf>,
    /// Write what was asked of the network, allowed and denied, as lines of JSON (with --egress or --egress-learn)
    #[arg(long, value_name = "FILE")]
    pub egress_record: Option<PathBuf>,
}

impl EgressFlags {
    /// Whether the builder's network is not the builder's own affair.
    pub fn is_limited(&self) -> bool {
        !self.egress.is_empty() || self.egress_learn.is_some()
    }
}
