//! A program whose standard streams are the connection: `ssh`, `docker exec`, `kubectl exec`.
//!
//! Follows moby/buildkit `client/connhelper`. The program ends when the stream is closed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::RecvFlags;

/// Of what a program says on its standard error, this much is kept.
const SAID_LIMIT: u64 = 16 << 10;
/// How long the other end may take to say its first word. A person may have to touch a key meanwhile.
const FIRST_WORD: Duration = Duration::from_secs(30);
/// How long an ended connection's program may take to end as well.
const FAREWELL: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(5);

/// A running program. Dropping it waits for its end, and helps after a while.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    said: File,
}

/// Why a program is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("{program} cannot be started: {error}")]
    Start { program: String, error: io::Error },
    #[error("{program}: {end}{}", if said.is_empty() { String::new() } else { format!(": {said}") })]
    Ended { program: String, end: ExitStatus, said: String },
    /// A login script's greeting, for one: it stands where the builder's first frame should be.
    #[error("what came first is not a builder's answer but {0:?}")]
    Noise(String),
    #[error("nothing came for {} seconds", FIRST_WORD.as_secs())]
    Silent,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Starts `command` with one end of a socket pair as its standard input and output, and returns the other end once a builder
/// has spoken on it.
///
/// Servers of gRPC send their settings before they read a word (RFC 9113, 3.4), so a frame of that type is what must come
/// first; it is looked at, not taken.
pub fn start(mut command: Command) -> Result<(UnixStream, Program), ProgramError> {
    let (near, mut started) = open(&mut command)?;
    // The command holds the far end open as well.
    drop(command);
    match await_settings(&near)? {
        FirstWord::Settings => Ok((near, started)),
        FirstWord::Closed => Err(started.ended()?),
    }
}

/// As [`start`], but for a server that waits to be asked.
pub fn open(command: &mut Command) -> Result<(UnixStream, Program), ProgramError> {
    let (near, far) = UnixStream::pair()?;
    let far = OwnedFd::from(far);
    let said = record()?;
    command.stdin(far.try_clone()?).stdout(far).stderr(said.try_clone()?);
    // A Ctrl-C on the terminal cancels the build first and does not cut the line under it.
    command.process_group(0);
    let name = name(command);
    let child = command.spawn().map_err(|error| ProgramError::Start { program: name.clone(), error })?;
    // In place of the far end, which the command would keep open.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok((near, Program { name, child, said }))
}

/// How a program ended, and what it printed, both streams cut at [`SAID_LIMIT`].
#[derive(Debug)]
pub struct Output {
    pub end: ExitStatus,
    /// On its standard output.
    pub answer: String,
    /// On its standard error.
    pub said: String,
}

/// Runs `command` to its end, with nothing to read.
pub fn run(command: Command) -> Result<Output, ProgramError> {
    feed(command, Stdio::null())
}

/// Runs `command` to its end, with this to read.
pub fn feed(mut command: Command, input: Stdio) -> Result<Output, ProgramError> {
    let (answer, said) = (record()?, record()?);
    command.stdin(input).stdout(answer.try_clone()?).stderr(said.try_clone()?);
    let end = command.status().map_err(|error| ProgramError::Start { program: name(&command), error })?;
    Ok(Output { end, answer: text_of(&answer)?, said: text_of(&said)? })
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// A file that takes [`SAID_LIMIT`] bytes and no more: the writer may be a server's.
fn record() -> io::Result<File> {
    let file = rustix::fs::memfd_create("ktl-said", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, SAID_LIMIT)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(File::from(file))
}

/// What was written to a record so far. The writers' offset stays where it is.
fn text_of(record: &File) -> io::Result<String> {
    let mut bytes = vec![0; usize::try_from(SAID_LIMIT).unwrap_or_default()];
    record.read_exact_at(&mut bytes, 0)?;
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).replace("\r\n", "\n").trim().to_owned())
}

/// What came first on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstWord {
    /// A builder speaks.
    Settings,
    /// The other end hung up without a word.
    Closed,
}

/// Waits until something has come, and leaves it in the stream.
pub fn await_settings(stream: &UnixStream) -> Result<FirstWord, ProgramError> {
    let deadline = Instant::now() + FIRST_WORD;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
            Ok(0) => return Err(ProgramError::Silent),
            Ok(_) => {}
        }
        let mut head = [0; 256];
        let (read, _) = rustix::net::recv(stream, &mut head, RecvFlags::PEEK).map_err(io::Error::from)?;
        match speaks(&head[..read]) {
            _ if read == 0 => return Ok(FirstWord::Closed),
            Some(true) => return Ok(FirstWord::Settings),
            Some(false) => {
                let text = String::from_utf8_lossy(&head[..read]);
                return Err(ProgramError::Noise(text.lines().next().unwrap_or_default().to_owned()));
            }
            // The rest is on its way; poll(2) would return at once.
            None if !left.is_zero() => std::thread::sleep(TICK),
            None => return Err(ProgramError::Silent),
        }
    }
}

impl Program {
    /// The end of a program that has closed its stream.
    fn ended(&mut self) -> Result<ProgramError, ProgramError> {
        let end = self.wait_or_kill()?;
        Ok(ProgramError::Ended { program: self.name.clone(), end, said: text_of(&self.said)? })
    }

    /// Its end, which it may take this long for, and what it has said on its standard error.
    pub fn end(mut self, patience: Duration) -> io::Result<(ExitStatus, String)> {
        let end = self.wait(patience)?;
        Ok((end, text_of(&self.said)?))
    }

    fn wait_or_kill(&mut self) -> io::Result<ExitStatus> {
        self.wait(FAREWELL)
    }

    fn wait(&mut self, patience: Duration) -> io::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(end) = self.child.try_wait()? {
                return Ok(end);
            }
            std::thread::sleep(TICK);
        }
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nobody is left to tell of a program that cannot be killed.
        let _ = self.wait_or_kill();
    }
}

/// Whether bytes begin with an HTTP/2 settings frame; `None` while that cannot be told.
///
/// RFC 9113, 4.1 and 6.5: three bytes of length, a multiple of six, then type 4, no flags, stream 0.
fn speaks(head: &[u8]) -> Option<bool> {
    let shape = [Some(0), None, None, Some(4), Some(0), Some(0), Some(0), Some(0), Some(0)];
    let fits = head.iter().zip(shape).all(|(byte, want)| want.is_none_or(|want| *byte == want));
    if !fits {
        return Some(false);
    }
    let length = u16::from_be_bytes([*head.get(1)?, *head.get(2)?]);
    if !length.is_multiple_of(6) {
        return Some(false);
    }
    (head.len() >= shape.len()).then_some(true)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const SETTINGS: &str = r"printf '\000\000\006\004\000\000\000\000\000\000\005\000\000\100\000'";

    #[test]
    fn settings_are_known_by_their_head() {
        for (head, told) in [
            (&b""[..], None),
            (b"\0\0", None),
            (b"\0\0\x06\x04", None),
            (b"\0\0\x06\x04\0\0\0\0\0more", Some(true)),
            (b"\0\0\0\x04\0\0\0\0\0", Some(true)),
            (b"\0\0\x05\x04\0\0\0\0\0", Some(false)),
            (b"\0\0\x06\x04\x01\0\0\0\0", Some(false)),
            (b"Welcome", Some(false)),
            (b"HTTP/1.1 400", Some(false)),
        ] {
            assert_eq!(speaks(head), told, "{head:?}");
        }
    }

    #[test]
    fn a_builders_first_word_is_left_in_the_stream() {
        let (mut stream, program) = start(shell(&format!("{SETTINGS}; exec cat"))).unwrap();
        let mut head = [0; 15];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[..4], [0, 0, 6, 4]);
        drop((stream, program));
    }

    #[test]
    fn what_is_no_builder_is_told() {
        let told = |script: &str| start(shell(script)).unwrap_err().to_string();
        assert_eq!(told("echo no such container >&2; exit 3"), "sh: exit status: 3: no such container");
        assert_eq!(told("exit 4"), "sh: exit status: 4");
        assert_eq!(
            told("echo Welcome to the server; exec cat"),
            "what came first is not a builder's answer but \"Welcome to the server\""
        );
        let missing = start(Command::new("/no/such/program")).unwrap_err().to_string();
        assert!(missing.starts_with("/no/such/program cannot be started: No such file"), "{missing}");
    }

    #[test]
    fn a_talkative_program_fills_its_record_and_no_more() {
        let output = run(shell("yes abcdefg | head -c 100000 >&2; echo answer")).unwrap();
        assert_eq!(output.said.len() as u64, SAID_LIMIT - 1, "the last line break is cut");
        assert!(output.end.success() && output.answer == "answer", "{output:?}");
    }
}
