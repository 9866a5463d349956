//! `ktl dial-stdio`: a connection to the builder over this process's standard streams.
//!
//! Whoever reaches this machine by a program alone (ssh, `docker exec`) gets the builder's socket through it. Nothing is
//! read of what passes: the caller at the other end is the client. Follows moby/buildkit `cmd/buildctl/dialstdio.go`: when
//! the builder ends, so does this, also while somebody still holds stdin open.

use rustix::net::Shutdown;

use crate::builder;
use crate::carry::carry;
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
    if let Some(relay) = connection.relay {
        std::thread::spawn(move || drop(relay.run()));
    }
    carry(connection.stream, Shutdown::Write)?;
    Ok(Exit::Ok)
}
