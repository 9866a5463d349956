//! Parts appear whole or not at all: they are made in a staging directory beside their place, on the same file
//! system, and renamed when complete.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result};

use crate::workspace;

const PREFIX: &str = ".stage-";

/// Makes `place` (a file or a directory) by calling `fill` with a path beside it, then renaming that path.
///
/// `fill` gets the path of an entry that does not exist yet, in an empty directory of its own.
pub fn install(place: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = place.file_name().context("a part needs a name")?;
    let stage = workspace::tools_dir().join(format!("{PREFIX}{}-{}", name.display(), std::process::id()));
    fs::create_dir(&stage).with_context(|| format!("create {}", stage.display()))?;
    let result = fill(&stage.join(name)).and_then(|()| {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        remove(place)?;
        fs::rename(stage.join(name), place).with_context(|| format!("rename into {}", place.display()))
    });
    remove(&stage)?;
    result
}

/// Points `.tools/bin/<name>` at a program below `.tools`, replacing an older link in one step.
pub fn link(name: &str, program: &Path) -> Result<()> {
    let tools = workspace::tools_dir();
    let target =
        Path::new("..").join(program.strip_prefix(&tools).context("a linked program lies below .tools")?);
    let place = tools.join("bin").join(name);
    let fresh = tools.join("bin").join(format!("{PREFIX}{name}"));
    remove(&fresh)?;
    symlink(&target, &fresh).with_context(|| format!("link {}", fresh.display()))?;
    fs::rename(&fresh, &place).with_context(|| format!("rename into {}", place.display()))
}

/// Removes what earlier runs left when they were killed. Call it with setup's lock held.
///
/// A program that a killed run had started may still be writing there; then the next run removes it.
pub fn remove_abandoned(dir: &Path) -> Result<()> {
    for dir in [dir.to_path_buf(), dir.join("bin")] {
        for entry in fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))? {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let _later = remove(&entry.path());
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.with_context(|| format!("remove {}", path.display()))
}
