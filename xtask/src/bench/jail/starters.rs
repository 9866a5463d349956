//! What starts a jail, and the one jail that all of them are told to make.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::{getegid, geteuid};

use crate::parts::ScratchDir;
use crate::{command, tools};

/// In the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Starter {
    /// No jail: what the program alone takes.
    Bare,
    Native,
    Nsjail,
    Bwrap,
    /// The library's two runtimes, without the process around them.
    NativeLibrary,
    NsjailLibrary,
}

impl Starter {
    pub const ALL: [Starter; 6] = [
        Starter::Bare,
        Starter::Native,
        Starter::Nsjail,
        Starter::Bwrap,
        Starter::NativeLibrary,
        Starter::NsjailLibrary,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Starter::Bare => "no jail",
            Starter::Native => "native",
            Starter::Nsjail => "nsjail",
            Starter::Bwrap => "bwrap",
            Starter::NativeLibrary => "native, library",
            Starter::NsjailLibrary => "nsjail, library",
        }
    }
}

/// A host id that owns nothing, for the guest of a jail that root makes.
const NOBODY: u32 = 65_534;
const PROGRAM: &str = "/busybox";

/// The program and the policy.
#[derive(Debug)]
pub struct Ground {
    starter: PathBuf,
    busybox: PathBuf,
    policy: PathBuf,
}

impl Ground {
    pub fn new(scratch: &ScratchDir, starter: PathBuf) -> Result<Ground> {
        let busybox = scratch.join("busybox");
        fs::copy(tools::busybox()?, &busybox).with_context(|| format!("copy to {}", busybox.display()))?;
        fs::set_permissions(&busybox, fs::Permissions::from_mode(0o755))
            .context("make busybox executable")?;
        let policy = scratch.join("policy.cfg");
        let outside = |own: u32| if geteuid().is_root() { NOBODY } else { own };
        let text = policy_text(
            &busybox.display().to_string(),
            outside(geteuid().as_raw()),
            outside(getegid().as_raw()),
        );
        fs::write(&policy, text).with_context(|| format!("write {}", policy.display()))?;
        Ok(Ground { starter, busybox, policy })
    }

    /// One start, from nothing to the end of everything. `None` for one that failed and then worked: another nsjail on this
    /// host, ending at the wrong moment, removes the directories that this one is mounting on.
    pub fn start(&self, starter: Starter) -> Result<Option<Duration>> {
        let mut command = self.command(starter)?;
        if matches!(starter, Starter::NativeLibrary | Starter::NsjailLibrary) {
            let output = command.output().with_context(|| format!("start {}", command::line(&command)))?;
            if !output.status.success() {
                return self.once_more(starter);
            }
            let said = String::from_utf8(output.stdout).context("read a time")?;
            return Ok(Some(Duration::from_nanos(said.trim().parse().context("read a time")?)));
        }
        command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
        let began = Instant::now();
        let status = command.status().with_context(|| format!("start {}", command::line(&command)))?;
        let took = began.elapsed();
        if status.success() { Ok(Some(took)) } else { self.once_more(starter) }
    }

    /// What fails twice is an error that says why.
    fn once_more(&self, starter: Starter) -> Result<Option<Duration>> {
        command::run(&mut self.command(starter)?).map(|()| None)
    }

    /// The command as a person would type it.
    pub fn shown(&self, starter: Starter) -> Result<String> {
        Ok(command::line(&self.command(starter)?))
    }

    fn command(&self, starter: Starter) -> Result<Command> {
        let library = |runtime: PathBuf, times: &[&str]| {
            let mut command = Command::new(&self.starter);
            command.args(times).arg(runtime).arg(&self.policy).args([PROGRAM, "true"]);
            command
        };
        Ok(match starter {
            Starter::Bare => {
                let mut command = Command::new(&self.busybox);
                command.arg("true");
                command
            }
            Starter::Native => library("native".into(), &[]),
            Starter::Nsjail => {
                let mut command = Command::new(tools::nsjail()?);
                command.arg("--config").arg(&self.policy).args(["--", PROGRAM, "true"]);
                command
            }
            Starter::Bwrap => {
                let mut command = Command::new(tools::bwrap()?);
                command.args(["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"]);
                command.args(["--uid", "0", "--gid", "0", "--tmpfs", "/", "--proc", "/proc", "--ro-bind"]);
                command.arg(&self.busybox).args([PROGRAM, "--", PROGRAM, "true"]);
                command
            }
            Starter::NativeLibrary => library("native".into(), &["--times", "1"]),
            Starter::NsjailLibrary => library(tools::nsjail()?, &["--times", "1"]),
        })
    }
}

/// Nothing that only one of them would do: no filter, no limits, no control groups.
fn policy_text(busybox: &str, uid: u32, gid: u32) -> String {
    format!(
        r#"name: "start"
mode: ONCE
hostname: "start"
cwd: "/"
time_limit: 0
nice_level: 0
log_level: WARNING
rlimit_as_type: HARD
rlimit_cpu_type: HARD
rlimit_fsize_type: HARD
rlimit_nofile_type: HARD
rlimit_core: 0
uidmap {{ inside_id: "0" outside_id: "{uid}" count: 1 }}
gidmap {{ inside_id: "0" outside_id: "{gid}" count: 1 }}
mount {{ dst: "/" fstype: "tmpfs" }}
mount {{ dst: "/proc" fstype: "proc" }}
mount {{ src: {busybox:?} dst: "{PROGRAM}" is_bind: true }}
"#
    )
}
