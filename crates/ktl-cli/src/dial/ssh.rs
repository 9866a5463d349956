//! A builder on a server, over the user's own OpenSSH: one connection, kept for later builds, and the builder's socket
//! forwarded over it.
//!
//! The first build starts a master (`ControlMaster`, `ControlPersist`) and asks it to forward a socket in ktl's cache to the
//! builder's. Later builds connect to that file and start no program at all. Where the server forbids forwarding, a program
//! there carries the bytes: `ktl dial-stdio` or `buildctl dial-stdio`. What a person has to answer is asked by ssh on the
//! terminal, once, while the master starts.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::program::{self, FirstWord, Program, ProgramError};
use super::refused;
use crate::builder::Ssh;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::ui::Ui;

/// Where a server's buildkitd listens unless told otherwise (moby/buildkit `util/appdefaults`).
const USUAL_SOCKET: &str = "/run/buildkit/buildkitd.sock";
/// How long a connection without a build is kept.
const KEPT: &str = "10m";
/// Of a unix socket's path, with the mark that ssh appends while it makes one (`.` and 16 letters).
const LONGEST_PATH: usize = 107 - 17;

/// The server as ssh is told of it, and ktl's files for it.
#[derive(Debug)]
struct Server<'a> {
    ssh: &'a Ssh,
    /// ktl's own directory for sockets of ssh, closed to others.
    dir: PathBuf,
}

/// A socket on the server, as seen from there.
#[derive(Debug, PartialEq, Eq)]
enum There {
    /// The user may open it.
    Open(PathBuf),
    Denied {
        path: PathBuf,
        user: String,
    },
    Missing,
}

/// Connects to the builder on `ssh`. `cache` is ktl's cache directory.
pub fn connect(ssh: &Ssh, cache: &Path, ui: &Ui) -> Result<(UnixStream, Option<Program>), Failure> {
    let server = Server::new(ssh, cache)?;
    let socket = ssh.socket.clone().unwrap_or_else(|| USUAL_SOCKET.into());
    if let Ok(stream) = server.forwarded(&socket) {
        ui.verbose(format_args!("ssh: the connection to {} is there already", ssh.host));
        return Ok((stream, None));
    }
    server.start_master(ui)?;
    if let Ok(stream) = server.forward(&socket) {
        return Ok((stream, None));
    }
    match server.look()? {
        There::Missing => Err(refused(ssh, "has no buildkitd that listens").hint(match &ssh.socket {
            Some(path) => format!("There is no socket at {} on that server. Is buildkitd running there?", path.display()),
            None => format!(
                "ktl looked for BUILDKIT_HOST, {USUAL_SOCKET} and the rootless daemon's socket of that user. Another place is \
                 named in the address: ssh://{}/path/to/buildkitd.sock",
                ssh.host
            ),
        })),
        There::Denied { path, user } => Err(refused(ssh, &format!("lets {user} not open {}", path.display())).hint(
            format!("Start buildkitd there with `--group GROUP` for a group of {user}, or name a user who may: ssh://USER@HOST"),
        )),
        There::Open(path) => {
            if path != socket && let Ok(stream) = server.forward(&path) {
                return Ok((stream, None));
            }
            ui.verbose(format_args!("ssh: {} forwards no sockets; a program there carries the bytes", ssh.host));
            server.by_program(&path)
        }
    }
}

impl Server<'_> {
    fn new<'a>(ssh: &'a Ssh, cache: &Path) -> Result<Server<'a>, Failure> {
        let server = Server { ssh, dir: cache.join("ssh") };
        let dir = &server.dir;
        let failed = |error: io::Error| {
            Failure::new(
                Exit::Builder,
                format!("failed to make {} for ssh's sockets: {error}", dir.display()),
            )
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
        let found = fs::metadata(dir).map_err(failed)?;
        if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o077 != 0 {
            return Err(failed(io::Error::other("it is not yours alone; remove it or close it (chmod 700)")));
        }
        if server.local(Path::new("")).as_os_str().len() > LONGEST_PATH {
            return Err(failed(io::Error::other(
                "the path is too long for sockets; set KTL_CACHE_DIR to a shorter one",
            )));
        }
        Ok(server)
    }

    /// Where the socket `remote` of the server is forwarded to.
    fn local(&self, remote: &Path) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(Ssh { socket: None, ..self.ssh.clone() }.to_string());
        hash.update([0]);
        hash.update(remote.as_os_str().as_encoded_bytes());
        self.dir.join(hash.finalize()[..20].iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    fn command(&self) -> Command {
        command(self.ssh, &self.dir)
    }

    fn asks(&self, what: &[&str]) -> Command {
        let mut command = self.command();
        // Of several values the first counts, so this one cannot stand above.
        command.args(what).args(["-o", "ClearAllForwardings=yes", "--", &self.ssh.host]);
        command
    }

    fn start_master(&self, ui: &Ui) -> Result<(), Failure> {
        if program::run(self.asks(&["-O", "check"])).is_ok_and(|output| output.end.success()) {
            return Ok(());
        }
        ui.verbose(format_args!("ssh: connecting to {}", self.ssh.host));
        let mut start = self.asks(&["-o", "ControlMaster=auto", "-o", &format!("ControlPersist={KEPT}")]);
        start.arg("true");
        let started = program::run(start).map_err(|error| self.no_ssh(&error))?;
        // An account without a shell may still forward.
        if started.end.success()
            || program::run(self.asks(&["-O", "check"])).is_ok_and(|output| output.end.success())
        {
            return Ok(());
        }
        Err(explained(self.ssh, &started.said))
    }

    fn no_ssh(&self, error: &ProgramError) -> Failure {
        Failure::new(Exit::Builder, format!("cannot reach the builder at {}: {error}", self.ssh))
            .hint("ssh:// needs OpenSSH's client on PATH (apt-get install openssh-client).")
    }

    /// Connects to a socket that is forwarded already.
    fn forwarded(&self, remote: &Path) -> Result<UnixStream, ProgramError> {
        let stream = UnixStream::connect(self.local(remote))?;
        match program::await_settings(&stream)? {
            FirstWord::Settings => Ok(stream),
            FirstWord::Closed => Err(io::Error::from(io::ErrorKind::ConnectionReset).into()),
        }
    }

    /// Has the master forward `remote`, and connects.
    fn forward(&self, remote: &Path) -> Result<UnixStream, ProgramError> {
        let mut ask = self.command();
        let mut pair = self.local(remote).into_os_string();
        pair.push(":");
        pair.push(remote);
        // Whoever asks twice gets the same; what a dead master left is replaced.
        ask.args(["-O", "forward", "-o", "StreamLocalBindUnlink=yes"]);
        ask.arg("-L").arg(pair).args(["--", &self.ssh.host]);
        program::run(ask)?;
        self.forwarded(remote)
    }

    /// Looks for the socket on the server, with the rights of the user there.
    fn look(&self) -> Result<There, Failure> {
        let places = match &self.ssh.socket {
            Some(path) => format!("'{}'", path.display()),
            None => format!(
                r#""${{BUILDKIT_HOST#unix://}}" {USUAL_SOCKET} "${{XDG_RUNTIME_DIR:-/run/user/$(id -u)}}/buildkit/buildkitd.sock""#
            ),
        };
        let script = format!(
            r#"for s in {places}; do if [ -S "$s" ]; then if [ -w "$s" ]; then echo "ktl-open $s"; else echo "ktl-denied $(id -un) $s"; fi; exit 0; fi; done; echo ktl-missing"#
        );
        let mut command = self.asks(&[]);
        command.args(["sh", "-c", &quoted(&script)]);
        let output = program::run(command).map_err(|error| self.no_ssh(&error))?;
        There::read(&output.answer).ok_or_else(|| explained(self.ssh, &output.said))
    }

    fn by_program(&self, socket: &Path) -> Result<(UnixStream, Option<Program>), Failure> {
        let address = format!("unix://{}", socket.display());
        let script = format!(
            "if command -v ktl >/dev/null; then exec ktl dial-stdio --builder {address}; \
             elif command -v buildctl >/dev/null; then exec buildctl --addr {address} dial-stdio; \
             else echo ktl-none >&2; exit 127; fi"
        );
        let mut command = self.asks(&[]);
        command.args(["sh", "-c", &quoted(&script)]);
        match program::start(command) {
            Ok((stream, program)) => Ok((stream, Some(program))),
            Err(ProgramError::Ended { said, .. }) if said.contains("ktl-none") => {
                Err(refused(self.ssh, "forwards no sockets, and has neither ktl nor buildctl to carry the bytes")
                    .hint("Allow it in the server's sshd_config (AllowStreamLocalForwarding yes), or put ktl on that user's PATH."))
            }
            Err(ProgramError::Noise(line)) => {
                Err(refused(self.ssh, "prints something before the builder's answer")
                    .hint(format!("It printed: {line}"))
                    .hint("A login script of that user greets. Let it do so in interactive shells only, as in `[ -t 0 ] && echo …`."))
            }
            Err(ProgramError::Ended { end, said, .. }) => {
                Err(explained(self.ssh, &said).hint(format!("The program there: {end}")))
            }
            Err(error) => Err(refused(self.ssh, &format!("gives no connection: {error}"))),
        }
    }
}

/// `ssh` with everything but what it is to do. The connection is the same for all commands.
pub fn command(ssh: &Ssh, dir: &Path) -> Command {
    let mut command = Command::new("ssh");
    let mut control = OsString::from("ControlPath=");
    control.push(dir.join("%C"));
    command.arg("-o").arg(control).args(["-T", "-x", "-a"]);
    for option in [
        // A line that is cut, or a server that is gone, ends the build within ten seconds.
        "ServerAliveInterval=3",
        "ServerAliveCountMax=2",
        "ConnectTimeout=20",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
    ] {
        command.args(["-o", option]);
    }
    if let Some(user) = &ssh.user {
        command.args(["-l", user]);
    }
    if let Some(port) = ssh.port {
        command.args(["-p", &port.to_string()]);
    }
    command
}

/// `ssh` that runs `script` on the server, over the connection that [`ready`] has made.
pub fn script(ssh: &Ssh, dir: &Path, script: &str) -> Command {
    let mut command = command(ssh, dir);
    command.args(["-o", "ClearAllForwardings=yes", "--", &ssh.host, "sh", "-c", &quoted(script)]);
    command
}

/// Has a connection to `ssh` that [`command`] finds. Returns the directory of its sockets.
pub fn ready(ssh: &Ssh, cache: &Path, ui: &Ui) -> Result<PathBuf, Failure> {
    let server = Server::new(ssh, cache)?;
    server.start_master(ui)?;
    Ok(server.dir)
}

impl There {
    /// Finds the script's line among whatever login scripts print.
    fn read(answer: &str) -> Option<There> {
        answer.lines().find_map(|line| {
            let line = line.trim_end();
            if line == "ktl-missing" {
                return Some(There::Missing);
            }
            if let Some(path) = line.strip_prefix("ktl-open ").filter(|path| Ssh::is_path(path)) {
                return Some(There::Open(path.into()));
            }
            let (user, path) = line.strip_prefix("ktl-denied ")?.split_once(' ')?;
            Some(There::Denied { path: path.into(), user: user.to_owned() })
        })
    }
}

/// One word for the shell of the user on the server, whichever that is.
fn quoted(script: &str) -> String {
    format!("'{}'", script.replace('\'', r"'\''"))
}

/// What ssh said, with the mend. The texts are OpenSSH's (`sshconnect.c`, `sshconnect2.c`, `clientloop.c`).
pub fn explained(ssh: &Ssh, said: &str) -> Failure {
    const MENDS: &[(&str, &str, &str)] = &[
        (
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            "has another host key than before",
            "Either the server was set up anew or somebody stands in between. If you know that it was, forget the old key: ssh-keygen -R HOST",
        ),
        (
            "Host key verification failed",
            "has a host key that is not known here",
            "Connect once by hand (ssh HOST), compare the fingerprint and accept it, or put the key into ~/.ssh/known_hosts.",
        ),
        (
            "Permission denied (",
            "does not let you in",
            "Check the user (ssh://USER@HOST), the key (ssh-add -l, IdentityFile) and try by hand: ssh HOST true",
        ),
        (
            "Too many authentication failures",
            "does not let you in",
            "Name the one key that is meant: IdentitiesOnly yes and IdentityFile in ~/.ssh/config.",
        ),
        (
            "Could not resolve hostname",
            "has a name that nobody knows",
            "Check the name; ssh takes names of DNS and of ~/.ssh/config.",
        ),
        (
            "Connection refused",
            "has no sshd that listens",
            "Check the port (ssh://HOST:PORT), and whether sshd runs.",
        ),
        ("timed out", "does not answer", "Check the name, the network and the firewalls between."),
        ("No route to host", "cannot be reached", "Check the name, the network and the firewalls between."),
    ];
    let found = MENDS.iter().find(|(text, ..)| said.contains(text));
    let (why, mend) = found
        .map_or(("cannot be reached by ssh", "Try by hand: ssh HOST true"), |(_, why, mend)| (why, mend));
    let mut failure = refused(ssh, why);
    // The last line is ssh's own; banners and warnings stand before it.
    if let Some(line) = said.lines().rev().find(|line| !line.trim().is_empty()) {
        failure = failure.hint(format!("ssh says: {}", line.trim()));
    }
    failure.hint(mend.replace("HOST", &ssh.host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Ssh {
        Ssh { host: "far".into(), user: None, port: None, socket: None }
    }

    #[test]
    fn the_answer_is_found_among_greetings() {
        for (answer, there) in [
            ("ktl-missing\n", Some(There::Missing)),
            ("Welcome!\r\nktl-open /run/b.sock\r\n", Some(There::Open("/run/b.sock".into()))),
            (
                "ktl-denied anna /run/b.sock\n",
                Some(There::Denied { path: "/run/b.sock".into(), user: "anna".into() }),
            ),
            ("ktl-open /run/b.sock:other:22\n", None),
            ("ktl-open /run/`reboot`\n", None),
            ("This account is not available.\n", None),
            ("", None),
        ] {
            assert_eq!(There::read(answer), there, "{answer}");
        }
    }

    #[test]
    fn what_ssh_says_is_told_with_the_mend() {
        for (said, why) in [
            (
                "@@@@\nWARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.",
                "another host key",
            ),
            ("Host key verification failed.", "not known here"),
            ("banner\nanna@far: Permission denied (publickey).", "does not let you in"),
            ("ssh: Could not resolve hostname far: Name or service not known", "nobody knows"),
            ("ssh: connect to host far port 22: Connection refused", "no sshd"),
            ("ssh: connect to host far port 22: Connection timed out", "does not answer"),
            ("something else", "cannot be reached by ssh"),
        ] {
            let failure = explained(&server(), said);
            assert!(failure.title.contains(why), "{said}: {}", failure.title);
            assert_eq!(failure.exit, Exit::Builder);
            assert!(failure.hints[0].contains(said.lines().last().unwrap()), "{:?}", failure.hints);
        }
    }

    #[test]
    fn scripts_are_one_word() {
        assert_eq!(quoted("echo 'a b'"), r"'echo '\''a b'\'''");
    }
}
