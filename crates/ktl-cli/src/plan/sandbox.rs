//! The jail that was asked for.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use clap::ValueEnum;

use super::{Facts, Kind, guest_path};
use crate::cli::{BuildArgs, JailFlags, LogFlags, RuntimeChoice};
use crate::env::{self, Env};
use crate::failure::Failure;

/// The jail that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPlan {
    /// Without one, [`SandboxPlan::hermetic`] chooses between ktl's own.
    pub config: Option<PathBuf>,
    pub hermetic: bool,
    pub runtime: RuntimeChoice,
    pub bin: Option<PathBuf>,
    pub binds: Vec<HostBind>,
    pub workdir: PathBuf,
    pub env: Vec<(String, String)>,
    pub path_var: Option<OsString>,
}

/// `--sandbox-bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostBind {
    pub src: PathBuf,
    pub dst: PathBuf,
    pub rw: bool,
}

/// Where the log of the sandbox goes, and in which form.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogPlan {
    /// To stderr, as it comes.
    pub stream: bool,
    /// Appended to this file.
    pub file: Option<PathBuf>,
    /// In lines of JSON.
    pub json: bool,
}

/// Settles `--sandbox-logs` and `--sandbox-log-file`.
pub fn log_plan(flags: &LogFlags, json: bool, facts: &Facts) -> LogPlan {
    let file = flags.sandbox_log_file.as_ref().map(|path| facts.cwd.join(path));
    LogPlan { stream: flags.sandbox_logs, file, json }
}

/// The log of a client in a jail, whose `--json` is about nothing else.
pub fn client_log_plan(flags: &LogFlags, json: bool, facts: &Facts) -> Result<LogPlan, Failure> {
    let plan = log_plan(flags, json, facts);
    if plan.json && !plan.stream && plan.file.is_none() {
        return Err(Failure::usage("--json means nothing without --sandbox-logs or --sandbox-log-file")
            .hint("For the progress as JSON there is --progress rawjson, for the result --metadata-file."));
    }
    Ok(plan)
}

pub fn refuse_jail_flags_without_jail(args: &BuildArgs) -> Result<(), Failure> {
    let flags = &args.sandbox.jail;
    let given = [
        ("--sandbox-config", flags.sandbox_config.is_some()),
        ("--sandbox-bind", !flags.sandbox_bind.is_empty()),
        ("--sandbox-bind-home", flags.sandbox_bind_home),
        ("--sandbox-workdir", flags.sandbox_workdir.is_some()),
        ("--sandbox-probe-path", !args.sandbox.sandbox_probe_path.is_empty()),
        ("--sandbox-logs", args.sandbox.log.sandbox_logs),
        ("--sandbox-log-file", args.sandbox.log.sandbox_log_file.is_some()),
        ("--json", args.sandbox.json),
        ("--hermetic", args.sandbox.hermetic.is_on()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => {
            Err(Failure::usage(format!("{flag} means nothing with --sandbox=off"))
                .hint("Leave one of them out."))
        }
        None => Ok(()),
    }
}

pub fn sandbox_plan(
    flags: &JailFlags,
    hermetic: bool,
    env: &Env,
    facts: &Facts,
) -> Result<SandboxPlan, Failure> {
    let mut binds =
        flags.sandbox_bind.iter().map(|spec| parse_bind(spec, facts)).collect::<Result<Vec<_>, _>>()?;
    if flags.sandbox_bind_home {
        let home = env.home().ok_or_else(|| Failure::usage("--sandbox-bind-home: HOME is not set"))?;
        binds.push(HostBind { src: home.clone(), dst: home, rw: false });
    }
    let (runtime, bin) = runtime(flags, env)?;
    let workdir = flags.sandbox_workdir.clone().unwrap_or_else(|| guest_path::CONTEXT.into());
    if !workdir.is_absolute() {
        return Err(Failure::usage(format!(
            "--sandbox-workdir {}: needs an absolute path",
            workdir.display()
        )));
    }
    let mut allowed: Vec<(String, String)> = vec![
        (env::KTL_SANDBOX_ACTIVE.to_owned(), "1".to_owned()),
        (env::KTL_SANDBOX_CONTEXT.to_owned(), guest_path::CONTEXT.to_owned()),
        (env::KTL_SANDBOX_NONCE.to_owned(), facts.nonce.clone()),
    ];
    allowed.extend(env::GUEST_ALLOWED.iter().filter_map(|name| Some(((*name).to_owned(), env.text(name)?))));
    Ok(SandboxPlan {
        hermetic,
        config: flags.sandbox_config.as_ref().map(|path| facts.cwd.join(path)),
        runtime,
        bin: bin.map(|path| facts.cwd.join(path)),
        binds,
        workdir,
        env: allowed,
        path_var: env.get("PATH"),
    })
}

/// Who makes the jail, and by which program. What was typed wins over what the environment says, and a program that is named
/// is an nsjail.
fn runtime(flags: &JailFlags, env: &Env) -> Result<(RuntimeChoice, Option<PathBuf>), Failure> {
    let chosen = match (flags.sandbox_runtime, &flags.sandbox_bin) {
        (Some(RuntimeChoice::Native), Some(_)) => {
            return Err(Failure::usage(
                "--sandbox-bin names an nsjail, and --sandbox-runtime native needs none",
            )
            .hint("Leave one of them out."));
        }
        (Some(chosen), _) => Some(chosen),
        (None, Some(_)) => Some(RuntimeChoice::Nsjail),
        (None, None) => env
            .text(env::KTL_SANDBOX_RUNTIME)
            .map(|text| RuntimeChoice::from_str(&text, false))
            .transpose()
            .map_err(|_| {
                Failure::usage(format!("{}: expected auto, nsjail or native", env::KTL_SANDBOX_RUNTIME))
            })?,
    };
    let chosen = chosen.unwrap_or_default();
    let bin = match chosen {
        RuntimeChoice::Native => None,
        RuntimeChoice::Auto | RuntimeChoice::Nsjail => {
            flags.sandbox_bin.clone().or_else(|| env.path(env::KTL_SANDBOX_BIN))
        }
    };
    Ok((chosen, bin))
}

/// Reads `HOST:GUEST[:ro|rw]` from the right, so that colons in the host path do no harm.
pub(super) fn parse_bind(spec: &OsStr, facts: &Facts) -> Result<HostBind, Failure> {
    let shown = spec.to_string_lossy();
    let wrong = |why: &str| {
        Failure::usage(format!("--sandbox-bind {shown}: {why}")).hint("The form is HOST:GUEST[:ro|rw].")
    };
    let bytes = spec.as_bytes();
    let (rest, rw) = if let Some(rest) = bytes.strip_suffix(b":rw") {
        (rest, true)
    } else {
        (bytes.strip_suffix(b":ro").unwrap_or(bytes), false)
    };
    let colon =
        rest.iter().rposition(|byte| *byte == b':').ok_or_else(|| wrong("names no path in the jail"))?;
    let (src, dst) = (OsStr::from_bytes(&rest[..colon]), Path::new(OsStr::from_bytes(&rest[colon + 1..])));
    if src.is_empty() {
        return Err(wrong("names no path on the host"));
    }
    if !dst.is_absolute()
        || dst.components().any(|part| part == Component::ParentDir)
        || dst == Path::new("/")
    {
        return Err(wrong("the path in the jail must be absolute, below /, and without `..`"));
    }
    let src = facts.cwd.join(src);
    let src = (facts.real)(&src).unwrap_or(src);
    if (facts.kind_of)(&src) == Kind::Missing {
        return Err(wrong(&format!("there is nothing at {}", src.display())));
    }
    Ok(HostBind { src, dst: dst.to_owned(), rw })
}
