//! What comes on standard input: a Dockerfile, or the whole context as an archive; and a Dockerfile that came from the web.
//!
//! Which of the two it is, the first bytes tell. A Dockerfile is put into a directory of this run, and builds whose context is
//! no directory get an empty one to stand in; both go when ktl ends, however that ends. Follows docker buildx
//! (`build/opt.go`, `build/utils.go`).

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use buildsvc::remote;

use crate::cli::BuildArgs;
use crate::failure::Failure;
use crate::outputs;
use crate::plan::{Facts, Kind};
use crate::tidy::Tidier;

/// Names in the directory of a run.
pub const CONTEXT: &str = "context";
pub const DOCKERFILE: &str = "dockerfile";

/// A Dockerfile is text that somebody wrote.
const DOCKERFILE_LIMIT: u64 = 16 << 20;
/// Of a tar, and enough to tell the others.
const HEADER: usize = 512;

/// What came on standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piped {
    /// Lies in the run's directory.
    Dockerfile,
    /// Begins with these bytes; what follows is still to be read.
    Archive { head: Vec<u8> },
}

/// The inputs of a run that are no directories of the user's.
#[derive(Debug, Default)]
pub struct Intake {
    /// Made for this run; holds [`CONTEXT`], which is empty, and [`DOCKERFILE`].
    pub dir: Option<PathBuf>,
    pub piped: Option<Piped>,
    _tidier: Option<Tidier>,
}

impl Intake {
    /// Reads from standard input what `args` say is there. `cache` is where the directory is made, `downloaded` the Dockerfile
    /// where `args` name a URL for it.
    pub fn take(
        args: &BuildArgs,
        facts: &Facts,
        cache: &Path,
        downloaded: Option<&[u8]>,
    ) -> Result<Intake, Failure> {
        let of_stdin = args.context == Path::new("-");
        let file_of_stdin = args.build.file.as_deref() == Some(Path::new("-"));
        if of_stdin && file_of_stdin {
            return Err(Failure::usage("the context and the Dockerfile cannot both come on standard input"));
        }
        let is_directory = (facts.kind_of)(&facts.cwd.join(&args.context)) == Kind::Directory;
        let is_remote = !is_directory && args.context.to_str().is_some_and(remote::is_remote);
        if !of_stdin && !file_of_stdin && !is_remote && downloaded.is_none() {
            return Ok(Intake::default());
        }
        let failed = |what: &str, error: io::Error| Failure::usage(format!("failed to {what}: {error}"));
        let mut stdin = File::from(stdin().map_err(|error| failed("read standard input", error))?);
        let mut head = Vec::new();
        if of_stdin || file_of_stdin {
            let peeked = (&mut stdin).take(HEADER as u64).read_to_end(&mut head);
            peeked.map_err(|error| failed("read standard input", error))?;
            if head.is_empty() {
                return Err(Failure::usage("nothing came on standard input"));
            }
        }
        let dir = cache.join(outputs::staging_name(&facts.nonce));
        let mut tidier = Tidier::start()
            .map_err(|error| Failure::internal(format!("failed to start a second ktl: {error}")))?;
        tidier.watch(&dir).map_err(|error| failed("have somebody watch over the inputs", error))?;
        let make = |dir: &Path| DirBuilder::new().recursive(true).mode(0o700).create(dir);
        make(&dir.join(CONTEXT)).map_err(|error| failed("make a directory for the inputs", error))?;
        let mut intake = Intake { dir: Some(dir.clone()), piped: None, _tidier: Some(tidier) };
        let keep = |text: &[u8]| {
            let path = dir.join(DOCKERFILE);
            make(&path)
                .and_then(|()| fs::write(path.join("Dockerfile"), text))
                .map_err(|error| failed("keep the Dockerfile", error))
        };
        downloaded.map(keep).transpose()?;
        if of_stdin && is_archive(&head) {
            intake.piped = Some(Piped::Archive { head });
        } else if of_stdin || file_of_stdin {
            let rest = stdin.take(DOCKERFILE_LIMIT + 1).read_to_end(&mut head);
            rest.map_err(|error| failed("read standard input", error))?;
            if head.len() as u64 > DOCKERFILE_LIMIT {
                return Err(Failure::usage(
                    "what came on standard input is no archive, and too large for a Dockerfile",
                ));
            }
            keep(&head)?;
            intake.piped = Some(Piped::Dockerfile);
        }
        Ok(intake)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Standard input as it is, without anything read ahead.
pub fn stdin() -> io::Result<OwnedFd> {
    io::stdin().as_fd().try_clone_to_owned()
}

/// bzip2, gzip, xz, or a tar with a header that is one.
fn is_archive(head: &[u8]) -> bool {
    const COMPRESSED: [&[u8]; 3] = [b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0"];
    COMPRESSED.iter().any(|magic| head.starts_with(magic)) || is_tar(head)
}

/// The sum of a header's bytes stands in it, in octal; its own place counts as blanks.
fn is_tar(head: &[u8]) -> bool {
    const SUM: std::ops::Range<usize> = 148..156;
    let Some(header) = head.get(..HEADER) else { return false };
    let told = String::from_utf8_lossy(&header[SUM]);
    let told = i64::from_str_radix(told.trim_matches([' ', '\0']), 8);
    let sum = |value: fn(u8) -> i64| -> i64 {
        let byte = |(at, byte): (usize, &u8)| value(if SUM.contains(&at) { b' ' } else { *byte });
        header.iter().enumerate().map(byte).sum()
    };
    // Old tars summed up signed bytes.
    told.is_ok_and(|told| told == sum(i64::from) || told == sum(|byte| i64::from(byte.cast_signed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_and_dockerfiles() {
        let mut tar = [0u8; HEADER];
        tar[..4].copy_from_slice("\u{e9}.x".as_bytes());
        tar[SIZE].copy_from_slice(b"00000000000");
        let sum: i64 = tar.iter().map(|byte| i64::from(*byte)).sum::<i64>() + 8 * i64::from(b' ');
        tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        assert!(is_archive(&tar));
        tar[0] ^= 1;
        assert!(!is_archive(&tar), "the sum is another");
        for (head, archive) in [
            (&b"FROM scratch\n"[..], false),
            (b"\x1f\x8b\x08\0", true),
            (b"BZh9", true),
            (b"\xfd7zXZ\0\0", true),
            (&[0; HEADER], false),
            (b"", false),
        ] {
            assert_eq!(is_archive(head), archive, "{head:?}");
        }
    }

    const SIZE: std::ops::Range<usize> = 124..135;
}
