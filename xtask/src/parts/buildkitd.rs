//! A buildkitd of our own: state, socket and log in one directory, containers on the host's network (the only mode
//! that needs no network plug-ins).

use std::fmt::Write;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::certificates;
use super::supervised::{Isolation, Supervised};
use crate::{command, tools};

/// `sun_path` holds 108 bytes; the rest is for those who put the socket below another root.
const LONGEST_SOCKET: usize = 99;

/// How a daemon differs from a plain one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Registries (`host:port`) that speak plain http.
    pub plain_http: Vec<String>,
    /// Also listen on a loopback TCP port with TLS, and demand a client certificate there.
    pub tls: bool,
    /// Group id that may use the socket (mode 0660), for tests as an unprivileged user.
    pub socket_group: Option<u32>,
    /// Environment of the daemon beside our own.
    pub environment: Vec<(String, String)>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// A running daemon; stopped, with its containers and mounts, when dropped.
#[derive(Debug)]
pub struct Buildkitd {
    daemon: Supervised,
    socket: PathBuf,
    tls: Option<Tls>,
}

/// How to reach a daemon's TLS listener.
#[derive(Debug, Clone)]
pub struct Tls {
    /// `tcp://127.0.0.1:PORT`
    pub address: String,
    /// Holds `ca.pem`, `cert.pem` and `key.pem` of a client, as buildctl's `--tlsdir` wants them.
    pub client_dir: PathBuf,
}

impl Buildkitd {
    /// Starts a daemon with its state below `dir` (made when missing) and waits until a worker answers.
    pub fn start(dir: &Path, options: &Options) -> Result<Buildkitd> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let socket = dir.join("buildkitd.sock");
        if socket.as_os_str().len() > LONGEST_SOCKET {
            bail!("{} is too long for a socket", socket.display());
        }
        let config = dir.join("buildkitd.toml");
        fs::write(&config, config_text(options)).with_context(|| format!("write {}", config.display()))?;

        let mut command = Command::new(tools::buildkitd()?);
        command.arg("--config").arg(&config).arg("--root").arg(dir.join("root"));
        command.args(["--addr", &unix_address(&socket)]);
        command.args([
            "--oci-worker=true",
            "--containerd-worker=false",
            "--oci-worker-net=host",
            "--cdi-disabled",
        ]);
        command.arg("--oci-worker-binary").arg(tools::runc()?);
        command.arg("--otel-socket-path").arg(dir.join("otel.sock"));
        // A daemon started through sudo is root's; its socket must be ours to use.
        let own_group = (!nix::unistd::geteuid().is_root()).then(|| nix::unistd::getegid().as_raw());
        if let Some(group) = options.socket_group.or(own_group) {
            command.args(["--group", &group.to_string()]);
        }
        let tls = if options.tls { Some(add_tls_listener(&mut command, dir)?) } else { None };
        command.args(&options.arguments);
        command.envs(options.environment.iter().map(|(name, value)| (name, value)));

        let mut daemon = Supervised::start(&command, Isolation::Namespaces, &dir.join("buildkitd.log"))?;
        daemon.wait_until(|| {
            UnixStream::connect(&socket).is_ok()
                && client(&unix_address(&socket))
                    .is_ok_and(|mut client| command::run(client.args(["debug", "workers"])).is_ok())
        })?;
        Ok(Buildkitd { daemon, socket, tls })
    }

    /// `unix:///…/buildkitd.sock`
    pub fn address(&self) -> String {
        unix_address(&self.socket)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The TLS listener, when [`Options::tls`] asked for one.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The daemon's process id as the host sees it; `None` when it has ended.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Kills the daemon at once, as a crash would, and waits until nobody answers on its socket.
    pub fn kill(&self) -> Result<()> {
        self.daemon.kill()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&self.socket).is_ok() {
            if Instant::now() > deadline {
                bail!("the killed daemon still answers on {}", self.socket.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Stops the daemon in order; the same as dropping it, without losing its directory's names.
    pub fn stop(&mut self) {
        self.daemon.stop();
    }

    pub fn log(&self) -> &Path {
        self.daemon.log()
    }

    /// BuildKit's own client, pointed at this daemon.
    pub fn buildctl(&self) -> Result<Command> {
        client(&self.address())
    }
}

fn unix_address(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

fn client(address: &str) -> Result<Command> {
    let mut command = Command::new(tools::buildctl()?);
    command.args(["--addr", address]);
    Ok(command)
}

fn config_text(options: &Options) -> String {
    let mut text = String::new();
    for registry in &options.plain_http {
        let _always_fits = writeln!(text, "[registry.{registry:?}]\nhttp = true");
    }
    text
}

fn add_tls_listener(command: &mut Command, dir: &Path) -> Result<Tls> {
    let certificates = dir.join("tls");
    certificates::make(&certificates)?;
    let server = certificates.join("server");
    let address = format!("tcp://127.0.0.1:{}", super::free_port()?);
    command.args(["--addr", &address]);
    command.arg("--tlscacert").arg(server.join("ca.pem"));
    command.arg("--tlscert").arg(server.join("cert.pem"));
    command.arg("--tlskey").arg(server.join("key.pem"));
    Ok(Tls { address, client_dir: certificates.join("client") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::ScratchDir;

    #[test]
    fn a_registry_is_configured_as_plain_http() {
        let options = Options { plain_http: vec!["127.0.0.1:5000".into()], ..Options::default() };
        assert_eq!(config_text(&options), "[registry.\"127.0.0.1:5000\"]\nhttp = true\n");
    }

    #[test]
    fn a_daemon_answers_with_tls_and_leaves_nothing() -> Result<()> {
        let scratch = ScratchDir::new("daemon-test")?;
        let dir = scratch.join("d");
        let mut daemon = Buildkitd::start(&dir, &Options { tls: true, ..Options::default() })?;
        let pid = daemon.pid().context("a running daemon has a process id")?;
        let tls = daemon.tls().context("a TLS listener")?.clone();

        let workers = |command: &mut Command| command::run(command.args(["debug", "workers"]));
        workers(client(&tls.address)?.arg("--tlsdir").arg(&tls.client_dir))?;
        let refused = workers(client(&tls.address)?.arg("--tlscacert").arg(tls.client_dir.join("ca.pem")));
        assert!(refused.is_err(), "a client without a certificate must be refused");

        daemon.stop();
        assert_eq!(daemon.pid(), None);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        assert!(!mounts.contains(&dir.display().to_string()), "mounts stay:\n{mounts}");
        Ok(())
    }

    #[test]
    fn a_killed_daemon_is_noticed() -> Result<()> {
        let scratch = ScratchDir::new("killed-test")?;
        let daemon = Buildkitd::start(&scratch.join("d"), &Options::default())?;
        daemon.kill()?;
        assert_eq!(daemon.pid(), None);
        assert!(daemon.kill().is_err(), "there is nothing left to kill");
        Ok(())
    }

    #[test]
    fn a_daemon_that_cannot_start_says_why() -> Result<()> {
        let scratch = ScratchDir::new("refused-test")?;
        let options = Options { arguments: vec!["--no-such-flag".into()], ..Options::default() };
        let error = Buildkitd::start(&scratch.join("d"), &options).expect_err("an unknown flag");
        let text = format!("{error:#}");
        assert!(text.contains("buildkitd ended before it answered"), "{text}");
        assert!(text.contains("no-such-flag"), "{text}");
        Ok(())
    }
}
