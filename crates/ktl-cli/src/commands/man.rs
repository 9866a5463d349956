//! `ktl man`: the manual pages, made of the same text as `--help`.

use std::path::PathBuf;

use clap::CommandFactory as _;

use crate::cli::{Cli, ManArgs};
use crate::exit::Exit;
use crate::failure::Failure;

/// Writes `ktl.1`, `ktl-build.1` and so on into the directory, which is made when missing.
pub fn run(args: &ManArgs) -> Result<Exit, Failure> {
    let fail = |path: PathBuf| {
        move |error: std::io::Error| Failure::usage(format!("failed to write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(&args.dir).map_err(fail(args.dir.clone()))?;
    clap_mangen::generate_to(Cli::command(), &args.dir).map_err(fail(args.dir.clone()))?;
    Ok(Exit::Ok)
}
