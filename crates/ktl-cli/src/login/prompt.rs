//! Asking at the terminal, for a password without showing it.
//!
//! Keys are read one by one with the terminal's own line editing and signals off, so that an interrupt too leaves a terminal
//! that echoes again.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use buildsvc::session::host::Secret;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Longer than any password or token.
const LENGTH_LIMIT: usize = 64 << 10;
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const ERASE_LINE: u8 = 21;

#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    #[error("interrupted")]
    Interrupted,
    #[error("input ended before an answer")]
    Ended,
    #[error("the answer is longer than {LENGTH_LIMIT} bytes")]
    TooLong,
    #[error("cannot ask at the terminal")]
    Terminal(#[from] io::Error),
}

/// A line, as it is typed.
pub fn shown(input: impl AsFd, question: &str) -> Result<String, PromptError> {
    ask(question)?;
    let typed = typed(&mut Keys(input.as_fd()))?;
    Ok(String::from_utf8_lossy(&typed.0).trim().to_owned())
}

/// A line that is not shown.
pub fn hidden(input: impl AsFd, question: &str) -> Result<Secret, PromptError> {
    let fd = input.as_fd();
    let quiet = Quiet::new(fd)?;
    ask(question)?;
    let answer = typed(&mut Keys(fd));
    drop(quiet);
    // The Enter that was not shown either.
    ask("\n")?;
    answer
}

fn ask(question: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    stderr.write_all(question.as_bytes())?;
    stderr.flush()
}

struct Keys<'fd>(BorrowedFd<'fd>);

impl Read for Keys<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(self.0, &mut *buffer))?)
    }
}

/// What was typed up to Enter, with the keys obeyed that a terminal would obey. Nothing behind Enter is read.
fn typed(keys: &mut impl Read) -> Result<Secret, PromptError> {
    let mut line = Secret::default();
    let mut key = [0];
    loop {
        match keys.read(&mut key)? {
            0 if line.0.is_empty() => return Err(PromptError::Ended),
            0 => return Ok(line),
            _ => {}
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(line),
            INTERRUPT => return Err(PromptError::Interrupted),
            END if line.0.is_empty() => return Err(PromptError::Ended),
            END => return Ok(line),
            ERASE_LINE => line.0.clear(),
            8 | 127 => {
                // A whole character, however many bytes it has.
                while line.0.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.0.len() >= LENGTH_LIMIT => return Err(PromptError::TooLong),
            byte => line.0.push(byte),
        }
    }
}

/// A terminal that shows nothing and sends no signals; as it was again when this is dropped.
struct Quiet<'fd> {
    fd: BorrowedFd<'fd>,
    before: Termios,
}

impl<'fd> Quiet<'fd> {
    fn new(fd: BorrowedFd<'fd>) -> io::Result<Quiet<'fd>> {
        let before = tcgetattr(fd)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(fd, OptionalActions::Now, &quiet)?;
        Ok(Quiet { fd, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.fd, OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_obeyed() {
        for (keys, line) in [
            (&b"pass word \nmore"[..], Some(&b"pass word "[..])),
            (b"ab\x7fc\x08d\r", Some(b"ad")),
            ("a\u{e9}\u{7f}\u{7f}\u{7f}b\n".as_bytes(), Some(b"b")),
            (b"wrong\x15right\n", Some(b"right")),
            (b"ended", Some(b"ended")),
            (b"x\x04y", Some(b"x")),
            (b"\n", Some(b"")),
            (b"", None),
            (b"\x04", None),
            (b"ab\x03c\n", None),
        ] {
            let mut rest = keys;
            let found = typed(&mut rest).ok();
            assert_eq!(found.as_ref().map(|line| &line.0[..]), line, "{keys:?}");
        }
        assert!(matches!(typed(&mut &b"ab\x03"[..]), Err(PromptError::Interrupted)));
        assert!(matches!(typed(&mut io::repeat(b'x')), Err(PromptError::TooLong)));
    }

    #[test]
    fn a_password_is_not_echoed_and_the_terminal_is_as_before() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let modes = || tcgetattr(&pty.slave).unwrap().local_modes;
        let before = modes();
        assert!(before.contains(LocalModes::ECHO));
        for keys in ["hidden-1\n", "hidden-2\u{3}"] {
            // Echo happens as a key arrives: only once the terminal is quiet may one be pressed.
            let quiet = Quiet::new(pty.slave.as_fd()).unwrap();
            rustix::io::write(&pty.master, keys.as_bytes()).unwrap();
            let found = typed(&mut Keys(pty.slave.as_fd()));
            drop(quiet);
            match keys.strip_suffix('\n') {
                Some(password) => assert_eq!(found.unwrap().0, password.as_bytes()),
                None => assert!(matches!(found, Err(PromptError::Interrupted))),
            }
            assert_eq!(modes(), before);
        }
        // The control: with its echo back the terminal shows what is typed, and nothing came before that.
        rustix::io::write(&pty.master, b"seen\n").unwrap();
        assert_eq!(shown(&pty.slave, "").unwrap(), "seen");
        let mut echoed = [0; 64];
        let count = rustix::io::read(&pty.master, &mut echoed).unwrap();
        assert_eq!(&echoed[..count], b"seen\r\n");
    }
}
