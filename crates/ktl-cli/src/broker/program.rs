//! Programs of the user that the host side runs to answer: credential helpers, `ssh-add`.
//!
//! They are the user's own, found on the search path that the caller gave, and run with the user's environment: a
//! helper may need a display, a bus or a terminal to ask its question. What they print is bounded, and none outlives
//! its time or the desk.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::stop::Stop;

/// More output than this is no answer.
const OUTPUT_LIMIT: usize = 256 << 10;
/// Of the error output only the beginning is kept.
const ERROR_OUTPUT_LIMIT: usize = 4 << 10;

#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    #[error("cannot start it")]
    Start(#[source] io::Error),
    #[error("cannot follow it")]
    Follow(#[source] io::Error),
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    #[error("it printed more than {OUTPUT_LIMIT} bytes")]
    Loud,
    #[error("the build ended before it answered")]
    Stopped,
}

/// The first executable file called `name` in the absolute directories of `search_path`.
pub fn find(search_path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(search_path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)).find(
        |file| {
            std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        },
    )
}

/// Runs `command` to its end with `input` on stdin. Whatever happens, the process itself is gone afterwards.
pub fn run(mut command: Command, input: &[u8], time: Duration, stop: &Stop) -> Result<Ended, ProgramError> {
    let deadline = Instant::now() + time;
    if stop.told() {
        return Err(ProgramError::Stopped);
    }
    // From a file in memory: a program that does not read cannot block or signal us.
    let mut stdin = std::fs::File::from(
        rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC).map_err(|e| ProgramError::Start(e.into()))?,
    );
    stdin.write_all(input).and_then(|()| io::Seek::rewind(&mut stdin)).map_err(ProgramError::Start)?;
    let child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ProgramError::Start)?;
    let mut child = Reaped(child);
    let result = follow(&mut child.0, deadline, stop);
    match result {
        Ok((stdout, stderr)) => {
            let status = child.0.wait().map_err(ProgramError::Follow)?;
            Ok(Ended { status, stdout, stderr })
        }
        Err(ProgramError::Late(_)) => Err(ProgramError::Late(time)),
        Err(error) => Err(error),
    }
}

/// A child that is ended when it is dropped. Killing one that was waited for is a no-op of the standard library.
#[derive(Debug)]
pub struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Collects output until the process ends. A grandchild that holds the pipes open is not waited for.
fn follow(child: &mut Child, deadline: Instant, stop: &Stop) -> Result<(Vec<u8>, Vec<u8>), ProgramError> {
    let follow = ProgramError::Follow;
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(follow(io::ErrorKind::Other.into()))?;
    let ended = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| follow(e.into()))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(follow(io::ErrorKind::Other.into()));
    };
    let mut stdout = Stream::new(stdout).map_err(follow)?;
    let mut stderr = Stream::new(stderr).map_err(follow)?;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ProgramError::Late(left));
        }
        let mut watched =
            vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
        watched.extend(stdout.source.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        watched.extend(stderr.source.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut watched, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(follow(error.into())),
        }
        let ready = |poll: &PollFd<'_>| poll.any().unwrap_or(false);
        let (stopped, over) = (ready(&watched[0]), ready(&watched[1]));
        if stopped {
            return Err(ProgramError::Stopped);
        }
        // Read after the end was seen: all that the process itself printed is in the pipes by then.
        stdout.read(OUTPUT_LIMIT + 1).map_err(follow)?;
        stderr.read(usize::MAX).map_err(follow)?;
        if stdout.bytes.len() > OUTPUT_LIMIT {
            return Err(ProgramError::Loud);
        }
        stderr.bytes.truncate(ERROR_OUTPUT_LIMIT);
        if over {
            return Ok((stdout.bytes, stderr.bytes));
        }
    }
}

/// One output of a program, read as far as it goes without waiting.
struct Stream<S> {
    source: Option<S>,
    bytes: Vec<u8>,
}

impl<S: Read + AsFd + AsRawFd> Stream<S> {
    fn new(source: S) -> io::Result<Stream<S>> {
        let flags = rustix::fs::fcntl_getfl(&source)?;
        rustix::fs::fcntl_setfl(&source, flags | OFlags::NONBLOCK)?;
        Ok(Stream { source: Some(source), bytes: Vec::new() })
    }

    /// Reads what there is, at most 64 KiB a call beyond which the caller's loop comes back, and not past `limit`.
    fn read(&mut self, limit: usize) -> io::Result<()> {
        let mut part = [0; 16 << 10];
        for _ in 0..64 {
            let Some(source) = &mut self.source else { return Ok(()) };
            if self.bytes.len() >= limit {
                return Ok(());
            }
            match source.read(&mut part) {
                Ok(0) => self.source = None,
                Ok(count) => self.bytes.extend_from_slice(&part[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use super::*;

    /// Puts an executable shell script called `name` into `dir`.
    pub fn script(dir: &Path, name: &str, body: &str) {
        let file = dir.join(name);
        // Written under another name, so that no other test's fork holds it open for writing when it is executed.
        let status = Command::new("/bin/sh")
            .args(["-c", "cat >\"$1.new\" && chmod 755 \"$1.new\" && mv \"$1.new\" \"$1\"", "sh"])
            .arg(&file)
            .stdin(Stdio::piped())
            .spawn()
            .and_then(|mut child| {
                child.stdin.take().unwrap().write_all(format!("#!/bin/sh\n{body}\n").as_bytes())?;
                child.wait()
            })
            .unwrap();
        assert!(status.success());
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn programs_are_found_as_a_shell_would() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(first.join("directory")).unwrap();
        std::fs::create_dir(&second).unwrap();
        std::fs::write(first.join("plain"), "").unwrap();
        script(&second, "plain", "");
        script(&second, "directory", "");
        let search = std::env::join_paths([Path::new("relative"), Path::new(""), &first, &second]).unwrap();
        assert_eq!(find(&search, "plain"), Some(second.join("plain")));
        assert_eq!(find(&search, "directory"), Some(second.join("directory")));
        assert_eq!(find(&search, "absent"), None);
        assert_eq!(find(OsStr::new(""), "sh"), None);
    }

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let stop = Stop::new().unwrap();
        let ended = run(shell("cat; echo oops >&2; exit 3"), b"question", LONG, &stop).unwrap();
        assert_eq!(
            (ended.status.code(), &ended.stdout[..], &ended.stderr[..]),
            (Some(3), &b"question"[..], &b"oops\n"[..])
        );
        // A program that reads nothing, and one that writes more errors than are kept.
        let ended =
            run(shell("head -c 1000000 /dev/zero >&2; echo done"), &[0; 1 << 20], LONG, &stop).unwrap();
        assert_eq!((ended.stdout.as_slice(), ended.stderr.len()), (&b"done\n"[..], ERROR_OUTPUT_LIMIT));
        // A grandchild that keeps the pipes is not waited for.
        let ended = run(shell("sleep 30 & echo $!"), b"", LONG, &stop).unwrap();
        let grandchild: i32 = String::from_utf8(ended.stdout).unwrap().trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(grandchild), nix::sys::signal::Signal::SIGKILL)
            .unwrap();
    }

    #[test]
    fn loud_late_and_unwanted_programs_are_ended() {
        let stop = Stop::new().unwrap();
        assert!(matches!(run(shell("exec cat /dev/zero"), b"", LONG, &stop), Err(ProgramError::Loud)));
        let late = run(shell("exec sleep 600"), b"", Duration::from_millis(50), &stop);
        assert!(matches!(late, Err(ProgramError::Late(_))));
        std::thread::scope(|scope| {
            let running = scope.spawn(|| run(shell("exec sleep 600"), b"", LONG, &stop));
            std::thread::sleep(Duration::from_millis(50));
            stop.tell();
            assert!(matches!(running.join().unwrap(), Err(ProgramError::Stopped)));
        });
        assert!(matches!(run(shell("true"), b"", LONG, &stop), Err(ProgramError::Stopped)));
    }
}
