//! What a plan needs to know of this machine, looked at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::ci;
use crate::env::Env;
use crate::failure::Failure;
use crate::plan::{Facts, Kind};
use crate::repository::Repository;

/// What a plan needs to know of this machine.
pub fn facts(env: &Env) -> Result<Facts, Failure> {
    let cwd = std::env::current_dir()
        .map_err(|error| Failure::usage(format!("the current directory cannot be read: {error}")))?;
    let host_name = nix::sys::utsname::uname()
        .map(|name| name.nodename().to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Facts {
        cwd,
        uid: nix::unistd::getuid().as_raw(),
        host_name,
        live_view: io::stderr().is_terminal() && !ci::is_ci(env) && !env.is_dumb_terminal(),
        nonce: random_hex::<16>()?,
        reference: random_hex::<12>()?,
        scratch: None,
        piped: None,
        kind_of,
        real: |path| path.canonicalize().ok(),
        repository: Repository::around,
        read: read_bounded,
    })
}

fn kind_of(path: &Path) -> Kind {
    match fs::metadata(path) {
        Err(_) => Kind::Missing,
        Ok(found) if found.is_dir() => Kind::Directory,
        Ok(found) if found.is_file() => Kind::File,
        Ok(_) => Kind::Other,
    }
}

/// Of a regular file: a pipe without a writer would hold ktl up before it has said anything.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

fn random_hex<const BYTES: usize>() -> Result<String, Failure> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom").map_err(no_random)?.read_exact(&mut bytes).map_err(no_random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_random(error: io::Error) -> Failure {
    Failure::internal(format!("failed to read /dev/urandom: {error}"))
}
