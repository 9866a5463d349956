//! Clears up after a ktl that was killed.
//!
//! A directory that results are received into lies beside its destination until the build has succeeded. A ktl that ends by
//! itself removes it; one that is killed cannot. So, for builds that have such directories, a second process waits on a pipe
//! that only ktl holds: when the pipe ends, whatever directory is still there is left over, and goes.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::exit::Exit;
use crate::outputs::STAGING_PREFIX;

/// Name of the hidden command.
pub const COMMAND: &str = "__tidy";

/// The waiting process. When this is dropped it ends, after it has removed what is left.
#[derive(Debug)]
pub struct Tidier(Child);

impl Tidier {
    /// Watches over `dirs`; `None` when there are none. Must be called before any thread exists.
    pub fn start<'a>(dirs: impl Iterator<Item = &'a Path>) -> io::Result<Option<Tidier>> {
        let mut dirs = dirs.peekable();
        if dirs.peek().is_none() {
            return Ok(None);
        }
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(COMMAND)
            .args(dirs)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().map(|child| Some(Tidier(child)))
    }
}

impl Drop for Tidier {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The hidden command: waits for the end of standard input, then removes `dirs`. Only directories that are named as ktl names
/// its own are touched.
pub fn run(dirs: &[PathBuf]) -> Exit {
    // Out of reach of the terminal's signals, which end ktl.
    let _ = nix::unistd::setsid();
    let _ = io::stdin().lock().read_to_end(&mut Vec::new());
    let ours = |path: &&PathBuf| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(STAGING_PREFIX.as_bytes()))
    };
    for dir in dirs.iter().filter(ours) {
        // The guest is being ended at this very moment and may still be writing.
        for _ in 0..40 {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(50))
                }
                _ => break,
            }
        }
    }
    Exit::Ok
}
