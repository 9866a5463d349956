//! The process on the server that handles the bytes: in a jail, with the builder's connection and its standard streams, and
//! nothing else.
//!
//! It carries and does not read. What it adds is the first line, the [`Reply`], because only from inside can be said what the
//! kernel has confirmed. It ends with either side.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::Shutdown;
use sandbox_linux::{Promises, Proof};
use serde::{Deserialize, Serialize};

use super::{Answer, REPLY, Reply};
use crate::carry::carry;
use crate::failure::Failure;

/// What the guest is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RelayPlan {
    pub version: u32,
    pub nonce: String,
    pub verbose: u8,
    pub probes: Vec<PathBuf>,
    /// Without what only the guest can say.
    pub answer: Answer,
    pub promises: Option<Promises>,
}

/// In the jail.
pub fn run(plan: RelayPlan, proof: &Proof, builder: OwnedFd) -> Result<(), Failure> {
    let mut answer = plan.answer;
    if let Some(jail) = &mut answer.jail {
        jail.proof = proof.to_string();
        jail.probes = plan
            .probes
            .into_iter()
            .map(|path| {
                let seen = sandbox_linux::probe(&path).to_string();
                (path, seen)
            })
            .collect();
    }
    say(&Reply::Ready(Box::new(answer)))?;
    // Nobody is left to answer to once the client is gone.
    carry(builder, Shutdown::Both)
}

/// Writes the line that the client waits for.
pub fn say(reply: &Reply) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::internal(format!("failed to answer the client: {error}"));
    let json = serde_json::to_string(reply).map_err(|error| failed(error.into()))?;
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    std::fs::File::from(stdout).write_all(format!("{REPLY}{json}\n").as_bytes()).map_err(failed)
}
