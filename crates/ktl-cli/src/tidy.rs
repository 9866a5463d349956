//! Clears up after a ktl that was killed.
//!
//! A directory that results are received into lies beside its destination until the build has succeeded. A ktl that ends by
//! itself removes it; one that is killed cannot. So, for builds that have such directories, a second process waits on a pipe
//! that only ktl holds: when the pipe ends, whatever directory is still there is left over, and goes.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
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
    /// Must be called before any thread exists, and before what is to be watched is made: a ktl that is killed in between
    /// would leave it behind.
    pub fn start() -> io::Result<Tidier> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(COMMAND).env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(Tidier)
    }

    /// Puts a directory that is about to be made into the other process's care.
    pub fn watch(&mut self, dir: &Path) -> io::Result<()> {
        let pipe = self.0.stdin.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(dir.as_os_str().as_bytes())?;
        pipe.write_all(b"\0")
    }
}

impl Drop for Tidier {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The hidden command: reads paths, each ended by a NUL, until standard input ends, then removes the directories that they
/// name. Only those that are named as ktl names its own are touched.
pub fn run() -> Exit {
    // Out of reach of the terminal's signals, which end ktl.
    let _ = nix::unistd::setsid();
    let mut paths = Vec::new();
    let _ = io::stdin().lock().read_to_end(&mut paths);
    let ours = |path: &&Path| {
        path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(STAGING_PREFIX.as_bytes()))
    };
    // A path without its end is one that ktl did not live to use.
    let whole = paths.split_inclusive(|byte| *byte == 0).filter_map(|path| path.strip_suffix(b"\0"));
    for dir in whole.map(|path| Path::new(OsStr::from_bytes(path))).filter(ours) {
        // The guest is being ended at this very moment and may still be writing.
        for _ in 0..40 {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                _ => break,
            }
        }
    }
    Exit::Ok
}
