//! Which program a jail is for: the one that was typed, or the one that its policy names.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use sandbox_linux::Policy;

use super::program::Programs;
use super::room;
use crate::failure::Failure;

/// What to run.
#[derive(Debug)]
pub struct Errand {
    /// The program's name for itself, and its arguments.
    pub argv: Vec<OsString>,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// To be found on this host and shown.
    Found(OsString),
    /// The policy's own, at a path that the policy itself shows.
    Shown(PathBuf),
}

impl Errand {
    pub fn of(command: &[OsString], policy: &Policy) -> Result<Errand, Failure> {
        if let Some(name) = command.first() {
            return Ok(Errand { argv: command.to_vec(), program: Program::Found(name.clone()) });
        }
        let Some(named) = room::exec_bin(policy) else {
            return Err(Failure::usage("no program is given")
                .hint("It stands after `--`, as in `ktl sandbox exec -- docker buildx build .`; or name a policy with an exec_bin."));
        };
        let name = named.arg0.unwrap_or_else(|| named.path.clone());
        let argv = std::iter::once(name).chain(named.args).map(OsString::from).collect();
        // What nsjail executes by its descriptor need not be in the jail; here it is shown.
        let program = match named.by_descriptor {
            true => Program::Found(named.path.into()),
            false => Program::Shown(named.path.into()),
        };
        Ok(Errand { argv, program })
    }

    /// The program's name without its directory.
    pub fn tool(&self) -> String {
        let path = match &self.program {
            Program::Found(name) => Path::new(name),
            Program::Shown(path) => path,
        };
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub fn is_dockers(&self) -> bool {
        ["docker", "buildx", "docker-buildx"].contains(&self.tool().as_str())
    }

    /// The path to start it by.
    pub fn add_to(&self, programs: &mut Programs<'_>) -> Result<PathBuf, Failure> {
        match &self.program {
            Program::Found(name) => programs.add(name),
            Program::Shown(path) => Ok(path.clone()),
        }
    }
}
