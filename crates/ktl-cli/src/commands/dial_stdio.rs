//! `ktl dial-stdio`: a connection to the builder over this process's standard streams.
//!
//! Whoever reaches this machine by a program alone (ssh, `docker exec`) gets the builder's socket through it. Nothing is
//! read of what passes: the caller at the other end is the client. Follows moby/buildkit `cmd/buildctl/dialstdio.go`: when
//! the builder ends, so does this, also while somebody still holds stdin open.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::net::Shutdown;

use crate::builder;
use crate::cli::DialStdioArgs;
use crate::dial;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::private::{Network, start};
use crate::tls::TlsFiles;
use crate::ui::Ui;

pub fn run(args: &DialStdioArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: false };
    let tls = TlsFiles::from_flags(&args.builder).map_err(Failure::usage)?;
    let candidates = builder::candidates(&args.builder, env)?;
    let (candidates, _lease) =
        start::ensure(candidates, &args.builder.private, &Network::Host.into(), env, &ui)?;
    let connection = dial::dial(&candidates, tls.as_ref(), env, &ui)?;
    let lost = |what: &'static str| {
        move |error: io::Error| Failure::new(Exit::Builder, format!("failed to {what}: {error}"))
    };
    if let Some(relay) = connection.relay {
        std::thread::spawn(move || drop(relay.run()));
    }
    let builder = connection.stream;
    let requests = builder.try_clone().map_err(lost("duplicate the connection"))?;
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(lost("read stdin"))?;
    std::thread::spawn(move || {
        let mut builder = File::from(requests);
        // What went wrong shows on the other way as well.
        let _ = pump(File::from(stdin), &mut builder);
        let _ = rustix::net::shutdown(&builder, Shutdown::Write);
    });
    // Not `io::Stdout`, which keeps back what does not end in a line break.
    let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(lost("write to stdout"))?;
    match pump(File::from(builder), File::from(stdout)) {
        Ok(()) => Ok(Exit::Ok),
        // Either side hung up in the middle of something, which is theirs to complain about.
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Ok(Exit::Ok)
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
