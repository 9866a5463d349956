//! An OpenSSH server of our own on loopback: own port, own keys, one user.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::supervised::{Isolation, Supervised};
use super::user::User;
use crate::{command, tools};

/// A running sshd that lets one user in, by one key; every connection ends with it.
///
/// It runs as that user: sshd of root wants an account and a directory of the system. Needs root for the namespaces
/// that take the connections' processes along.
#[derive(Debug)]
pub struct Sshd {
    server: Supervised,
    port: u16,
    dir: PathBuf,
}

impl Sshd {
    /// Starts one below `dir` (made when missing) for `user`, with further lines for its configuration.
    pub fn start(dir: &Path, user: &User, lines: &[&str]) -> Result<Sshd> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).context("open the directory")?;
        for key in ["host", "key"] {
            keygen(&dir.join(key))?;
        }
        chown(dir.join("host"), Some(user.uid()), Some(user.gid())).context("hand over the host key")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/key.pub\nStrictModes no\n\
             UsePAM no\nPidFile none\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPrintMotd no\n",
            dir = dir.display()
        );
        lines.iter().for_each(|line| {
            config.push_str(line);
            config.push('\n');
        });
        let config_file = dir.join("sshd_config");
        fs::write(&config_file, config).context("write sshd's configuration")?;
        // The checkout, and what lies in it, may be closed to the user.
        let sshd = dir.join("sshd");
        fs::copy(tools::sshd()?, &sshd).context("copy sshd")?;
        let mut start = Command::new(sshd);
        start.args(["-D", "-e", "-f"]).arg(&config_file);
        start.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        let log = dir.join("sshd.log");
        let mut server = Supervised::start_as(Some(user), &start, Isolation::Namespaces, &log)?;
        server.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        let sshd = Sshd { server, port, dir: dir.to_owned() };
        sshd.make_client(user)?;
        Ok(sshd)
    }

    /// A configuration for ssh in which `there` is this server, and an `ssh` that reads it.
    fn make_client(&self, user: &User) -> Result<()> {
        self.know(&fs::read_to_string(self.dir.join("host.pub")).context("read the host's key")?)?;
        let config = format!(
            "Host there\nHostName 127.0.0.1\nPort {port}\nUser {user}\nIdentityFile {dir}/key\nIdentitiesOnly yes\n\
             UserKnownHostsFile {dir}/known_hosts\nGlobalKnownHostsFile /dev/null\nStrictHostKeyChecking yes\nBatchMode yes\n",
            port = self.port,
            user = user.name(),
            dir = self.dir.display(),
        );
        fs::write(self.dir.join("ssh_config"), config).context("write ssh's configuration")?;
        let ssh = tools::on_path("ssh").context("ssh is not on PATH")?;
        let bin = self.bin();
        fs::create_dir_all(&bin).context("make the client's directory")?;
        let script =
            format!("#!/bin/sh\nexec {} -F {}/ssh_config \"$@\"\n", ssh.display(), self.dir.display());
        fs::write(bin.join("ssh"), script).context("write the client")?;
        fs::set_permissions(bin.join("ssh"), fs::Permissions::from_mode(0o755)).context("make it a program")
    }

    /// Has the client know `public_key`, and no other, as the server's.
    pub fn know(&self, public_key: &str) -> Result<()> {
        let line = format!("[127.0.0.1]:{} {}\n", self.port, public_key.trim());
        fs::write(self.dir.join("known_hosts"), line).context("write known_hosts")
    }

    /// To stand first on PATH: an `ssh` for which `there` is this server.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The key that opens the server, without a passphrase.
    pub fn key(&self) -> PathBuf {
        self.dir.join("key")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's public host key, as `known_hosts` has keys.
    pub fn host_key(&self) -> Result<String> {
        fs::read_to_string(self.dir.join("host.pub")).context("read the host's key")
    }

    /// Cuts all connections and ends the server. Does nothing the second time.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    pub fn log_text(&self) -> String {
        self.server.log_text()
    }
}

/// Makes a key pair at `path` and `path.pub`.
pub fn keygen(path: &Path) -> Result<()> {
    command::run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::ScratchDir;

    #[test]
    fn a_server_lets_its_user_in() -> Result<()> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: only root can make a user");
            return Ok(());
        }
        let scratch = ScratchDir::new("sshd-test")?;
        let user = User::create(&scratch)?;
        let mut server = Sshd::start(&scratch.dir("sshd")?, &user, &[])?;
        let ssh = server.bin().join("ssh");
        let output = command::output_of(Command::new(&ssh).args(["there", "id", "-un"]))?;
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), user.name());

        keygen(&scratch.path().join("other"))?;
        server.know(&fs::read_to_string(scratch.path().join("other.pub"))?)?;
        assert!(command::run(Command::new(&ssh).args(["there", "true"])).is_err(), "a key that changed");
        server.know(&server.host_key()?)?;
        command::run(Command::new(&ssh).args(["there", "true"]))?;
        server.stop();
        assert!(command::run(Command::new(&ssh).args(["there", "true"])).is_err());
        Ok(())
    }
}
