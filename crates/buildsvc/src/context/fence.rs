//! What the daemon may have of a directory, whatever it asks for.
//!
//! The Dockerfile frontend asks for the context without what the ignore file names, and for the few files around the
//! Dockerfile. A hostile daemon leaves the excludes out, or asks for the whole directory that the Dockerfile lies in. So
//! the same limits are drawn here, before anything that was asked for is looked at. Which files the frontend reads:
//! moby/buildkit `frontend/dockerui/config.go` and `namedcontext.go`.

use std::collections::BTreeMap;
use std::io::Read as _;

use rustix::fs::{FileType, fstat};

use super::local_dir::LocalDir;
use super::{ContextError, followpaths, ignorefile};

/// Of an ignore file.
const MAX_BYTES: u64 = 1 << 20;
const IGNORE_FILE: &str = ".dockerignore";
const DOCKERFILE_DIR: &str = "dockerfile";
const CONTEXT: &str = "context";

/// The limits of one directory. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fence {
    /// Unless empty: these paths, with what symlinks on the way to them lead to, and nothing else.
    pub only: Vec<String>,
    /// Patterns of the ignore file, in order.
    pub ignore: Vec<String>,
    /// Paths that the ignore file does not apply to, with what symlinks lead to.
    pub spared: Vec<String>,
}

/// Draws the fence around each directory of a Dockerfile build, by the names that the frontend asks for: `dockerfile` is
/// the Dockerfile (`filename` in it) with its ignore file, the rest is contexts without what is ignored in them.
///
/// # Errors
/// An ignore file that exists and cannot be read, or is larger than 1 MiB.
pub fn fence(
    locals: BTreeMap<String, LocalDir>,
    filename: &str,
) -> Result<BTreeMap<String, LocalDir>, ContextError> {
    let beside = format!("{filename}{IGNORE_FILE}");
    let own = match locals.get(DOCKERFILE_DIR) {
        Some(dir) => ignored(dir, &beside)?,
        None => None,
    };
    locals
        .into_iter()
        .map(|(name, dir)| {
            let fence = if name == DOCKERFILE_DIR {
                Fence { only: around(filename, &beside), ..Fence::default() }
            } else {
                let ignore = match &own {
                    Some(own) if name == CONTEXT => own.clone(),
                    _ => ignored(&dir, IGNORE_FILE)?.unwrap_or_default(),
                };
                Fence { ignore, spared: vec![IGNORE_FILE.to_owned()], ..Fence::default() }
            };
            Ok((name, dir.fenced(fence)))
        })
        .collect()
}

/// What the frontend looks for around a Dockerfile: it, its ignore file, and the name in lower case.
fn around(filename: &str, beside: &str) -> Vec<String> {
    let lower = match filename.rsplit_once('/') {
        Some((dir, name)) => format!("{dir}/{}", name.to_lowercase()),
        None => filename.to_lowercase(),
    };
    let mut names = vec![filename.to_owned(), beside.to_owned()];
    if lower != filename {
        names.push(lower);
    }
    names
}

/// The patterns of the ignore file at `path`; `None` without one.
fn ignored(dir: &LocalDir, path: &str) -> Result<Option<Vec<String>>, ContextError> {
    let fail =
        |operation| move |source: std::io::Error| ContextError::read(operation, path.as_bytes(), source);
    let candidates = followpaths::follow(dir, &[path.to_owned()])?.unwrap_or_default();
    for candidate in candidates {
        let file = match dir.read(&candidate) {
            Ok(file) => file,
            // Of a chain of symlinks, only its end can be opened.
            Err(error) if followpaths::missing(&error) => continue,
            Err(source) => return Err(fail("open")(source)),
        };
        let stat = fstat(&file).map_err(|errno| fail("stat")(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let mut text = Vec::new();
        std::fs::File::from(file).take(MAX_BYTES + 1).read_to_end(&mut text).map_err(fail("read"))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(fail("read")(std::io::Error::other("is larger than 1 MiB")));
        }
        return Ok(Some(ignorefile::patterns(&text)));
    }
    Ok(None)
}
