//! Bytes between a builder's connection and this process's standard streams, which nobody here reads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::Shutdown;

use crate::exit::Exit;
use crate::failure::Failure;

/// Carries until the builder ends. When standard input ends, the connection is shut down like this.
pub fn carry(builder: OwnedFd, at_end: Shutdown) -> Result<(), Failure> {
    let lost = |what: &'static str| {
        move |error: io::Error| Failure::new(Exit::Builder, format!("failed to {what}: {error}"))
    };
    let requests = builder.try_clone().map_err(lost("duplicate the connection"))?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(lost("read stdin"))?;
    std::thread::spawn(move || {
        let mut builder = File::from(requests);
        // What went wrong shows on the other way as well.
        let _ = pump(File::from(stdin), &mut builder);
        let _ = rustix::net::shutdown(&builder, at_end);
    });
    // Not `io::Stdout`, which keeps back what does not end in a line break.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(lost("write to stdout"))?;
    match pump(File::from(builder), File::from(stdout)) {
        Ok(()) => Ok(()),
        // Either side hung up in the middle of something, which is theirs to complain about.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(())
        }
        Err(error) => Err(lost("pass on what the builder sends")(error)),
    }
}

/// Carries bytes until the end.
///
/// Not `io::copy`, which lets the kernel splice a socket into a pipe: that waits for the socket with the pipe locked, and
/// whoever reads the pipe, an sshd, waits for bytes that are there already.
fn pump(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&chunk[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
