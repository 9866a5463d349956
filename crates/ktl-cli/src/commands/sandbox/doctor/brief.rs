//! Other programs, asked for a moment: what they print is bounded, and none outlives its time.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;

const OUTPUT_LIMIT: u64 = 1 << 20;

/// Runs `command` with `input` on its stdin, and returns how it ended and what it printed on either stream.
pub(super) fn run(mut command: Command, input: &[u8], time: Duration) -> io::Result<(ExitStatus, Vec<u8>)> {
    // Files take any amount and give it when it is wanted; a pipe that nobody reads would hold the program up.
    let mut asked = File::from(rustix::fs::memfd_create("ktl-asked", MemfdFlags::CLOEXEC)?);
    asked.write_all(input)?;
    asked.rewind()?;
    let mut said = File::from(rustix::fs::memfd_create("ktl-said", MemfdFlags::CLOEXEC)?);
    let mut child = command.stdin(asked).stdout(said.try_clone()?).stderr(said.try_clone()?).spawn()?;
    let end = Instant::now() + time;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            let late = format!("it says nothing for {} seconds", time.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, late));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut text = Vec::new();
    said.rewind()?;
    said.take(OUTPUT_LIMIT).read_to_end(&mut text)?;
    Ok((status, text))
}
