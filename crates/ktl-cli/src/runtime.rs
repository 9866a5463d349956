//! Who makes the jail: the nsjail program, or ktl's own runtime. Both read the same policies, and the guest proves either in
//! the same way. Neither ever falls through to no jail.

use sandbox_linux::{Nsjail, Runtime};

use crate::cli::RuntimeChoice;
use crate::failure::{Failure, chain};
use crate::plan::SandboxPlan;

/// The runtime that was asked for. `auto` takes nsjail where it is installed and the native one elsewhere; a program that is
/// named by `--sandbox-bin` is taken or nothing is.
pub fn find(sandbox: &SandboxPlan) -> Result<Runtime, Failure> {
    match (sandbox.runtime, &sandbox.bin) {
        (RuntimeChoice::Native, _) => Ok(Runtime::Native),
        (RuntimeChoice::Auto, None) => {
            Ok(Nsjail::find(None, sandbox.path_var.as_deref()).map_or(Runtime::Native, Runtime::Nsjail))
        }
        (RuntimeChoice::Auto, Some(_)) | (RuntimeChoice::Nsjail, _) => nsjail(sandbox).map(Runtime::Nsjail),
    }
}

/// Why it is this one, in a few words.
pub fn why(sandbox: &SandboxPlan, runtime: &Runtime) -> &'static str {
    match (sandbox.runtime, &sandbox.bin, runtime) {
        (RuntimeChoice::Native, ..) => "asked for",
        (RuntimeChoice::Auto, None, Runtime::Native) => "no nsjail is installed",
        (_, Some(_), _) => "the program was named",
        (RuntimeChoice::Nsjail, None, _) => "asked for, and found on PATH",
        (RuntimeChoice::Auto, None, Runtime::Nsjail(_)) => "found on PATH",
    }
}

/// The nsjail program that was asked for.
pub fn nsjail(sandbox: &SandboxPlan) -> Result<Nsjail, Failure> {
    Nsjail::find(sandbox.bin.as_deref(), sandbox.path_var.as_deref()).map_err(|error| {
        let ways = error.ways_to_get_it().iter().map(|way| format!("- {way}"));
        let failure = Failure::sandbox(format!("no jail: {}", chain(&error)));
        failure
            .hint(
                "nsjail can be had like this, or left out: --sandbox-runtime native needs no other program.",
            )
            .hints(ways)
    })
}
