//! An unprivileged user of the machine, for tests of what a plain user can do. Making one needs root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use super::ScratchDir;
use crate::{command, tools};

/// A user with an entry in the machine's user database and a home directory of its own (mode 0700); removed when dropped.
#[derive(Debug)]
pub struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: PathBuf,
}

impl User {
    /// Makes a user whose home lies in `scratch`.
    pub fn create(scratch: &ScratchDir) -> Result<User> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            bail!("only root can make a user");
        }
        let name = format!("ktl-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let home = scratch.dir(&name)?;
        let useradd = tools::on_path("useradd").context("useradd is not on PATH")?;
        let mut add = Command::new(useradd);
        add.args(["--no-create-home", "--user-group", "--shell", "/bin/sh", "--home-dir"])
            .arg(&home)
            .arg(&name);
        command::run(&mut add)?;
        // From here on the user is removed again, whatever fails.
        let mut user = User { name, uid: 0, gid: 0, home };
        (user.uid, user.gid) = user.ids()?;
        chown(&user.home, Some(user.uid), Some(user.gid)).context("hand over the home directory")?;
        fs::set_permissions(&user.home, fs::Permissions::from_mode(0o700))
            .context("close the home directory")?;
        Ok(user)
    }

    /// Reads the numbers back from the machine's user database.
    fn ids(&self) -> Result<(u32, u32)> {
        let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
        let fields = users
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.first() == Some(&self.name.as_str()))
            .with_context(|| format!("useradd made no {}", self.name))?;
        let number =
            |index: usize| fields.get(index).and_then(|id| id.parse::<u32>().ok()).filter(|id| *id > 0);
        number(2).zip(number(3)).with_context(|| format!("{} has odd numbers: {fields:?}", self.name))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn uid(&self) -> u32 {
        self.uid
    }

    pub fn gid(&self) -> u32 {
        self.gid
    }

    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A command that runs as this user, in its home, without further groups and with no environment but HOME, USER and PATH.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // The standard library drops all supplementary groups when root sets another user id.
        command.uid(self.uid).gid(self.gid).current_dir(&self.home);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("USER", &self.name)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let removed = tools::on_path("userdel")
            .context("userdel is not on PATH")
            .and_then(|userdel| command::run(Command::new(userdel).arg(&self.name)));
        if let Err(error) = removed {
            eprintln!("parts: the user {} stays: {error:#}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_unprivileged_and_may_run_nsjail() -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can make a user");
            return Ok(());
        }
        let scratch = ScratchDir::new("user-test")?;
        let user = User::create(&scratch)?;
        let id = command::output_of(user.command("id").arg("-G"))?;
        assert_eq!(String::from_utf8_lossy(&id.stdout).trim(), user.gid().to_string());
        assert!(command::run(user.command("cat").arg("/etc/shadow")).is_err());

        let nsjail = tools::nsjail_for_all(&scratch.dir("nsjail")?)?;
        let mut jailed = user.command(&nsjail);
        jailed.args(["-Mo", "-Q", "-R", "/bin", "-R", "/lib", "-R", "/lib64", "-R", "/usr", "--"]);
        let output = command::output_of(jailed.args(["/bin/sh", "-c", "ls -d /etc/shadow || echo hidden"]))?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hidden\n");

        let name = user.name().to_owned();
        drop(user);
        assert!(!fs::read_to_string("/etc/passwd")?.contains(&name));
        Ok(())
    }
}
