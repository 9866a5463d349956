//! The jail of a private daemon: what is bound into it, whatever program runs there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use buildsvc::egress::Egress;
use sandbox_linux::{Bind, Overrides, Tenant};

use super::ids::Ids;
use super::{Place, policy};
use crate::env;
use crate::exec::program::Programs;
use crate::failure::{Failure, chain};
use crate::guest::fd;
use crate::launch::{self, Prepared};
use crate::log::Log;
use crate::plan::{self, ExecPlan, SandboxPlan, guest_path};
use crate::runtime;
use crate::ui::Ui;

/// The daemon's state inside.
pub const STATE: &str = "/var/lib/buildkit";
/// Its sockets inside.
pub const SOCKETS: &str = "/run/buildkit";

/// What a jail for the daemon at `place` is made of.
#[derive(Debug)]
pub struct Room<'a> {
    pub place: &'a Place,
    pub ids: &'a Ids,
    pub sandbox: &'a SandboxPlan,
    /// ktl's cache, for the copy of it that starts first.
    pub cache: &'a Path,
    /// Of its resources, as lines of a policy.
    pub limits: &'a str,
    /// Names or paths of programs that are brought in.
    pub programs: &'a [&'a OsStr],
    /// The list that the way out leads to, where there is one.
    pub egress: Option<&'a Egress>,
}

impl Room<'_> {
    /// Makes the jail, and the plan for the first of the programs with these arguments. Also says who makes the jail.
    pub fn prepare<'l>(
        &self,
        arguments: Vec<OsString>,
        log: &'l Log,
        ui: &Ui,
    ) -> Result<(Prepared<'l>, ExecPlan, String), Failure> {
        let search = self.sandbox.path_var.clone().unwrap_or_default();
        let mut programs = Programs::new(search, Path::new("/"), Path::new("/nonexistent"), Vec::new());
        let mut paths = Vec::new();
        for name in self.programs {
            paths.push(programs.add(name)?);
        }
        let program = paths.into_iter().next().ok_or_else(|| Failure::internal("no program for the jail"))?;
        let policy = policy::of(self.place.network, self.ids, self.limits)
            .map_err(|error| Failure::internal(format!("ktl's own policy: {}", chain(&error))))?;
        let runtime = runtime::find(self.sandbox)?;
        let name = runtime.to_string();
        let settled = launch::jail(policy, self.overrides(&programs)?, Vec::new())?;
        let prepared = launch::ready(runtime, settled, self.sandbox, None, log, ui)?;
        let nonce = self.sandbox.env.iter().find(|(name, _)| name == env::KTL_SANDBOX_NONCE);
        let plan = ExecPlan {
            version: plan::VERSION,
            nonce: nonce.map_or_else(String::new, |(_, nonce)| nonce.clone()),
            verbose: u8::from(ui.verbose),
            argv: std::iter::once(OsString::from(&program)).chain(arguments).collect(),
            program,
            files: Vec::new(),
            outlet: self.egress.map(Egress::ports),
            promises: Some(prepared.promises()),
        };
        Ok((prepared, plan, name))
    }

    fn overrides(&self, programs: &Programs<'_>) -> Result<Overrides, Failure> {
        let mut binds = programs.binds();
        binds.push(launch::bind(&launch::staged(self.cache)?, guest_path::BINARY, false));
        for (dir, dst) in [(self.place.state(), STATE), (self.place.sockets(), SOCKETS)] {
            self.hand_over(&dir)?;
            binds.push(Bind { src: dir, dst: dst.into(), rw: true, idmap: false, is_dir: true });
        }
        let mut env = self.sandbox.env.clone();
        env.push(("PATH".to_owned(), programs.path_var()));
        let mut pass_fds = vec![fd::PLAN, fd::CONTROL, fd::RESULT];
        pass_fds.extend(self.egress.map(|_| fd::OUTLET));
        Ok(Overrides {
            tenant: Tenant::Program,
            binds,
            env,
            cwd: PathBuf::from("/"),
            pass_fds,
            ..Overrides::default()
        })
    }

    /// A plain user is the containers' root himself.
    fn hand_over(&self, dir: &Path) -> Result<(), Failure> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let (uid, gid) = self.ids.root();
        std::os::unix::fs::chown(dir, Some(uid), Some(gid)).map_err(|error| {
            Failure::sandbox(format!("failed to give {} to the daemon: {error}", dir.display()))
        })
    }
}
