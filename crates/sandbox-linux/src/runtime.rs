//! The two ways to enforce a jail. They take the same values and come to the same outcomes, so that whoever starts
//! a jail picks one and forgets which.

use std::fmt;

use crate::command::Command;
use crate::jail::Jail;
use crate::native::{self, NativeError};
use crate::nsjail::{Nsjail, NsjailError};
use crate::supervise::Running;

/// What enforces a jail. Displays as the name that users pick it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// The nsjail program.
    Nsjail(Nsjail),
    /// This crate itself; see [`native`].
    Native,
}

/// The chosen runtime could not start a jail. There is no falling back from one to the other.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    #[error(transparent)]
    Nsjail(#[from] NsjailError),
    #[error(transparent)]
    Native(#[from] NativeError),
}

impl RuntimeError {
    /// What to change on this host so that the jail can start; empty when its settings do not explain the error.
    pub fn hints(&self) -> &[String] {
        match self {
            RuntimeError::Native(NativeError::Start { hint, .. }) => hint,
            _ => &[],
        }
    }
}

impl Runtime {
    /// Starts the jail; see [`Nsjail::spawn`] and [`native::spawn`].
    ///
    /// # Errors
    /// Those of the runtime.
    pub fn spawn(&self, jail: &Jail, command: Command) -> Result<Running, RuntimeError> {
        Ok(match self {
            Runtime::Nsjail(nsjail) => nsjail.spawn(jail, command)?,
            Runtime::Native => native::spawn(jail, command)?,
        })
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Nsjail(_) => "nsjail",
            Runtime::Native => "native",
        })
    }
}
