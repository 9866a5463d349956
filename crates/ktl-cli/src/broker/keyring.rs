//! An agent of our own for key files that the user names.
//!
//! A build signs through an agent; a user who has none names key files. They go into an `ssh-agent` of the user's own
//! OpenSSH that lives as long as the desk, on a socket that only the user reaches. So this program never does
//! cryptography with the user's keys, and the build sees the same narrow protocol either way.
//!
//! Follows `session/sshforward/sshprovider` of moby/buildkit for the limits.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::program::{self, ProgramError};
use super::stop::Stop;

const KEY_LIMIT: u64 = 100 << 10;
/// For a local program to open a socket, or to take a key.
const TIME: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("{0} is not on the search path; it comes with OpenSSH (package openssh-client)")]
    Missing(&'static str),
    #[error("cannot make a place for the socket of ssh-agent")]
    Place(#[source] io::Error),
    #[error("cannot start ssh-agent")]
    Agent(#[source] io::Error),
    #[error("ssh-agent does not open its socket")]
    Silent,
    #[error("cannot read the ssh key {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the ssh key {path} is longer than {KEY_LIMIT} bytes")]
    TooLong { path: PathBuf },
    #[error("the ssh key {path} needs a passphrase: give it to your ssh-agent and forward that instead")]
    Passphrase { path: PathBuf },
    #[error("ssh-add was given the ssh key {path}")]
    Add { path: PathBuf, source: ProgramError },
    #[error("ssh-add does not take the ssh key {path}: {text}")]
    Refused { path: PathBuf, text: String },
    #[error("the build ended before the agent was ready")]
    Stopped,
}

/// Stands between this program and the agent: it waits for the end of its standard input, which is a pipe of ours, and then
/// ends the agent and takes the socket away. So the agent does not outlive a ktl that is killed either. Signals of the
/// terminal are for ktl alone.
const KEEPER: &str = r#"
trap '' HUP INT QUIT TERM
"$1" -D -a "$2/agent" </dev/null & agent=$!
read -r _
kill -KILL "$agent"
rm -rf -- "$2"
"#;

/// A running agent. Dropping it ends the process and takes the socket away.
#[derive(Debug)]
pub struct Keyring {
    keeper: Child,
    socket: PathBuf,
}

impl Drop for Keyring {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

impl Keyring {
    pub fn start(search_path: &OsStr, keys: &[PathBuf], stop: &Stop) -> Result<Keyring, KeyringError> {
        let agent = program::find(search_path, "ssh-agent").ok_or(KeyringError::Missing("ssh-agent"))?;
        let add = program::find(search_path, "ssh-add").ok_or(KeyringError::Missing("ssh-add"))?;
        // All keys are looked at before anything is started.
        let keys =
            keys.iter().map(|path| Ok((path, read(path)?))).collect::<Result<Vec<_>, KeyringError>>()?;
        let place = tempfile::Builder::new()
            .prefix("ktl-ssh-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .map_err(KeyringError::Place)?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", KEEPER, "ktl-ssh-agent"]).arg(agent).arg(place.path());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = command.spawn().map_err(KeyringError::Agent)?;
        // From here on the directory is the keeper's to remove.
        let mut keyring = Keyring { keeper, socket: place.keep().join("agent") };
        keyring.wait(stop)?;
        for (path, key) in keys {
            keyring.add(&add, path, &key, stop)?;
        }
        Ok(keyring)
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    #[cfg(test)]
    pub fn process(&self) -> u32 {
        self.keeper.id()
    }

    fn wait(&mut self, stop: &Stop) -> Result<(), KeyringError> {
        let deadline = Instant::now() + TIME;
        while UnixStream::connect(&self.socket).is_err() {
            if stop.told() {
                return Err(KeyringError::Stopped);
            }
            let ended = self.keeper.try_wait().map_err(KeyringError::Agent)?;
            if ended.is_some() || Instant::now() >= deadline {
                return Err(KeyringError::Silent);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn add(&self, program: &Path, path: &Path, key: &[u8], stop: &Stop) -> Result<(), KeyringError> {
        let mut command = Command::new(program);
        // From stdin: ssh-add would refuse a file that others may read, as key files in a context often are.
        command.arg("-q").arg("-");
        command.env("SSH_AUTH_SOCK", &self.socket);
        // Should it ask for a passphrase after all, it finds nobody to ask.
        command.env("SSH_ASKPASS_REQUIRE", "force").env("SSH_ASKPASS", "/nonexistent");
        let ended = program::run(command, key, TIME, stop)
            .map_err(|source| KeyringError::Add { path: path.to_owned(), source })?;
        if ended.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&ended.stderr);
        let text = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(256).collect();
        Err(KeyringError::Refused { path: path.to_owned(), text })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, KeyringError> {
    let mut key = Vec::new();
    File::open(path)
        .and_then(|file| file.take(KEY_LIMIT + 1).read_to_end(&mut key))
        .map_err(|source| KeyringError::Read { path: path.to_owned(), source })?;
    if key.len() as u64 > KEY_LIMIT {
        return Err(KeyringError::TooLong { path: path.to_owned() });
    }
    if is_encrypted(&key) {
        return Err(KeyringError::Passphrase { path: path.to_owned() });
    }
    Ok(key)
}

/// Whether a private key in one of the three usual forms is locked by a passphrase: PEM with a header that says so,
/// PKCS #8, or OpenSSH's own form (`PROTOCOL.key`), whose first field after the magic is the name of a cipher.
fn is_encrypted(key: &[u8]) -> bool {
    let text = String::from_utf8_lossy(key);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return true;
    }
    let Some((_, rest)) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----") else { return false };
    let body: String = rest.chars().take_while(|c| *c != '-').filter(|c| !c.is_whitespace()).collect();
    let Ok(bytes) = STANDARD.decode(body) else { return false };
    let Some(rest) = bytes.strip_prefix(b"openssh-key-v1\0") else { return false };
    !rest.starts_with(b"\0\0\0\x04none")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pipe ends in the same way when ktl is killed.
    #[test]
    fn the_agent_ends_with_the_pipe_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("id");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        let path = crate::env::Env::current().get("PATH").unwrap();
        let mut keyring = Keyring::start(&path, &[key], &Stop::new().unwrap()).unwrap();
        let place = keyring.socket.parent().unwrap().to_owned();
        let agents = || {
            let text = place.to_str().unwrap().to_owned();
            let of =
                |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let lines = std::fs::read_dir("/proc").unwrap().flatten().map(of);
            lines.filter(|line| String::from_utf8_lossy(line).contains(&text)).count()
        };
        assert_eq!(agents(), 2, "the agent and its keeper");
        drop(keyring.keeper.stdin.take());
        keyring.keeper.wait().unwrap();
        assert!(!place.exists());
        let end = Instant::now() + TIME;
        while agents() > 0 {
            assert!(Instant::now() < end, "the agent goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
