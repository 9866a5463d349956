//! `--remote ssh://HOST`: a builder on a server whose ktl enforces what the client and the server's owner ask for.
//!
//! The client puts its own binary onto the server ([`client`], by content hash) and starts it there with the standard streams
//! as the line. What is said on it: one line of JSON with an [`Ask`], one line with a [`Reply`], and from then on BuildKit's
//! gRPC, byte for byte. On the server [`serve`] settles the terms, which a file of the server's may narrow ([`pinned`]), gets a
//! builder, and makes a jail for [`relay`]: the only process there that handles bytes of either side, with nothing but the two
//! streams. Its proof is part of the reply. Context, secrets and logins stay on the client's side.

pub mod client;
mod pinned;
pub mod relay;
pub mod serve;
mod stage;

use std::io::{self, Read};
use std::path::PathBuf;

use buildsvc::egress::Egress;
use serde::{Deserialize, Serialize};

use crate::claims::Claim;
use crate::cli::RuntimeChoice;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::inside::Question;
use crate::plan::Hermetic;
use crate::private::Network;

/// Name of the hidden command on the server.
pub const COMMAND: &str = "__remote";
/// Raised when an [`Ask`] or a [`Reply`] changes its meaning.
pub const PROTOCOL: u32 = 1;

/// Of one line, either way. A policy may be in it.
const LINE_LIMIT: usize = 1 << 20;
/// Before a [`Reply`], on its line: login scripts may have printed something before.
const REPLY: &str = "ktl-remote ";
/// Before the claims of the end, on a line of standard error.
const HEARD: &str = "ktl-heard ";

/// What the client wants of the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub protocol: u32,
    /// Of the client's run.
    pub nonce: String,
    /// The bytes are carried by a process in a jail.
    pub jailed: bool,
    pub hermetic: Hermetic,
    /// The policy of that jail, where the user has one.
    pub policy: Option<GivenPolicy>,
    pub runtime: RuntimeChoice,
    /// A socket or a private builder of the server's, by its address there.
    pub builder: Option<String>,
    pub egress: Option<Egress>,
    pub private: Private,
    /// Paths to look for from inside the jail.
    pub probes: Vec<PathBuf>,
    /// The server opens sockets for a look from inside a RUN step; with the builder's proxy for a network or not.
    pub looks_inside: Option<bool>,
}

/// A policy as text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenPolicy {
    pub name: String,
    pub text: String,
}

/// How a private builder is to be run; the flags of that name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Private {
    pub trust: Option<String>,
    pub memory: Option<u64>,
    pub cpus: Option<u64>,
    pub pids: Option<u64>,
    /// Seconds.
    pub idle: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The bytes that follow are the builder's.
    Ready(Box<Answer>),
    Refused(Refusal),
}

/// What the server enforces.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    pub protocol: u32,
    /// Nothing where the user wants none and the server does not insist.
    pub jail: Option<Jailed>,
    /// The builder's address there.
    pub builder: String,
    /// Of a private builder, the network of its steps.
    pub private: Option<Network>,
    /// What the kernel there says of a private builder.
    pub claims: Vec<Claim>,
    pub question: Option<Question>,
    /// What the server's own policy made of the wishes.
    pub pinned: Vec<String>,
}

/// The jail around the process that carries the bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Jailed {
    pub policy: String,
    pub digest: String,
    pub runtime: String,
    /// What the kernel has confirmed, told from inside.
    pub proof: String,
    /// What was asked for with [`Ask::probes`], and what was seen.
    pub probes: Vec<(PathBuf, String)>,
}

/// A [`Failure`] that crosses to the client.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub code: u8,
    pub title: String,
    pub hints: Vec<String>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal { code: failure.exit.code(), title: failure.title, hints: failure.hints }
    }
}

impl Refusal {
    /// As the client's own failure. The server is not believed that all went well.
    fn into_failure(self) -> Failure {
        let exit = match self.code {
            1 => Exit::BuildFailed,
            2 => Exit::Usage,
            4 => Exit::Sandbox,
            5 => Exit::Policy,
            _ => Exit::Builder,
        };
        Failure::new(exit, format!("the server says: {}", self.title)).hints(self.hints)
    }
}

/// The next line of `stream`, without its end and without a byte of what follows. `None` at the end of the stream.
fn line(mut stream: impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte[0] == b'\n' => return Ok(Some(line)),
            Ok(_) if line.len() == LINE_LIMIT => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line that does not end"));
            }
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_and_nothing_after_it() {
        let mut stream = &b"one\n\nrest"[..];
        assert_eq!(line(&mut stream).unwrap().unwrap(), b"one");
        assert_eq!(line(&mut stream).unwrap().unwrap(), b"");
        assert_eq!(stream, b"rest");
        assert_eq!(line(&mut stream).unwrap(), None, "a line without an end is none");
        let endless = io::repeat(b'x').take(LINE_LIMIT as u64 + 10);
        assert!(line(io::BufReader::new(endless)).is_err());
    }

    #[test]
    fn a_refusal_is_never_a_success() {
        for (code, exit) in [
            (0, Exit::Builder),
            (5, Exit::Policy),
            (4, Exit::Sandbox),
            (2, Exit::Usage),
            (200, Exit::Builder),
        ] {
            let refusal = Refusal { code, title: "no".into(), hints: vec![] };
            assert_eq!(refusal.into_failure().exit, exit);
        }
    }
}
