//! The document that crosses into the jail: what the guest is there for, and the terms on which it may start. The terms are
//! the same for every purpose, because the proof comes before any of them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;

use sandbox_linux::{Probe, Promises};
use serde::{Deserialize, Serialize};

use super::BuildPlan;
use crate::look::Question;
use crate::remote::relay::RelayPlan;

/// As the guest reads it.
#[derive(Debug, Deserialize)]
pub enum GuestPlan {
    Build(Box<BuildPlan>),
    Look(Box<LookPlan>),
    Exec(Box<ExecPlan>),
    Relay(Box<RelayPlan>),
}

/// As the host side writes it; the variants are those of [`GuestPlan`].
#[derive(Debug, Serialize)]
pub enum Sealing<'a> {
    Build(&'a BuildPlan),
    Look(&'a LookPlan),
    Exec(&'a ExecPlan),
    Relay(&'a RelayPlan),
}

/// A look around in the jail, without a build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LookPlan {
    pub version: u32,
    pub nonce: String,
    pub verbose: u8,
    pub targets: Vec<Probe>,
    /// A connection to the builder is handed in, and this is what it is asked.
    pub question: Option<Question>,
    pub promises: Option<Promises>,
}

/// Another program, run in the jail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExecPlan {
    pub version: u32,
    pub nonce: String,
    pub verbose: u8,
    /// Absolute path inside.
    pub program: PathBuf,
    /// What the program is told as its name, and its arguments.
    pub argv: Vec<OsString>,
    /// Small files that the guest makes first. Only it can do so safely: an earlier program may have left a link in their way.
    pub files: Vec<(PathBuf, String)>,
    /// The program's network leads nowhere but out through sockets at these ports, which are handed out before it starts.
    pub outlet: Option<BTreeSet<u16>>,
    pub promises: Option<Promises>,
}

impl GuestPlan {
    pub fn version(&self) -> u32 {
        match self {
            GuestPlan::Build(plan) => plan.version,
            GuestPlan::Look(plan) => plan.version,
            GuestPlan::Exec(plan) => plan.version,
            GuestPlan::Relay(plan) => plan.version,
        }
    }

    pub fn nonce(&self) -> &str {
        match self {
            GuestPlan::Build(plan) => &plan.nonce,
            GuestPlan::Look(plan) => &plan.nonce,
            GuestPlan::Exec(plan) => &plan.nonce,
            GuestPlan::Relay(plan) => &plan.nonce,
        }
    }

    pub fn verbose(&self) -> u8 {
        match self {
            GuestPlan::Build(plan) => plan.verbose,
            GuestPlan::Look(plan) => plan.verbose,
            GuestPlan::Exec(plan) => plan.verbose,
            GuestPlan::Relay(plan) => plan.verbose,
        }
    }

    pub fn promises(&self) -> Option<&Promises> {
        match self {
            GuestPlan::Build(plan) => plan.promises.as_ref(),
            GuestPlan::Look(plan) => plan.promises.as_ref(),
            GuestPlan::Exec(plan) => plan.promises.as_ref(),
            GuestPlan::Relay(plan) => plan.promises.as_ref(),
        }
    }
}
