//! The symlinks on the way to what a build needs.
//!
//! `COPY a/b` of a context where `a` is a symlink needs the link as well as its target. The daemon cannot know, so it
//! names the paths and the client resolves them. Absolute targets begin at the directory's root, and no target leads out
//! of it. Follows fsutil `followlinks.go`, including that a symlink reached a second time is not followed again.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, RawDir, fstat, readlinkat};
use rustix::io::Errno;

use super::ContextError;
use super::gopath::{Glob, base, clean, dir, join};
use super::local_dir::LocalDir;

/// The paths to include for `paths`: sorted, none inside another. `None` if the root is among them.
pub(super) fn follow(root: &LocalDir, paths: &[String]) -> Result<Option<Vec<Vec<u8>>>, ContextError> {
    let mut resolved = BTreeSet::new();
    let mut work: Vec<Vec<u8>> = paths.iter().rev().map(|path| path.as_bytes().to_vec()).collect();
    while let Some(path) = work.pop() {
        // The first of several targets is the next to be worked on.
        work.extend(resolve(root, &path, &mut resolved)?.into_iter().rev());
    }
    Ok(without_nested(resolved.into_iter().collect()))
}

/// Walks along `path` up to the first symlink and gives what the rest of the path is from there.
fn resolve(
    root: &LocalDir,
    path: &[u8],
    resolved: &mut BTreeSet<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, ContextError> {
    let path = join(b".", path);
    let mut end = 0;
    loop {
        end = path[end..].iter().position(|byte| *byte == b'/').map_or(path.len(), |slash| end + slash);
        let current = &path[..end];
        let rest = path.get(end + 1..).unwrap_or_default();
        let targets = targets(root, current)?;
        if targets.is_empty() && !rest.is_empty() {
            end += 1;
            continue;
        }
        let first = resolved.insert(current.to_vec());
        return Ok(if first {
            targets.iter().map(|target| join(target, rest)).collect()
        } else {
            Vec::new()
        });
    }
}

/// The targets of the symlink at `path`, or of those that its last component matches if it is a pattern.
fn targets(root: &LocalDir, path: &[u8]) -> Result<Vec<Vec<u8>>, ContextError> {
    let name = base(path);
    if !has_wildcards(name) {
        return Ok(target(root, path)?.into_iter().collect());
    }
    let parent = dir(path);
    let names = match names(root, parent) {
        Ok(names) => names,
        Err(error) if missing(&error) => return Ok(Vec::new()),
        Err(source) => return Err(ContextError::read("list", parent, source)),
    };
    let Ok(glob) = Glob::parse(name) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in names.iter().filter(|name| glob.matches(name)) {
        found.extend(target(root, &join(parent, name))?);
    }
    Ok(found)
}

/// Where the symlink at `path` leads, from the root. `None` if there is no symlink at `path`.
fn target(root: &LocalDir, path: &[u8]) -> Result<Option<Vec<u8>>, ContextError> {
    if path == b"." || path == b".." || path.starts_with(b"../") || path.contains(&0) {
        return Ok(None);
    }
    let read = || -> io::Result<Option<Vec<u8>>> {
        let fd = root.locate(path)?;
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::Symlink {
            return Ok(None);
        }
        Ok(Some(readlinkat(&fd, c"", Vec::new())?.into_bytes()))
    };
    let link = match read() {
        Ok(None) => return Ok(None),
        Err(error) if missing(&error) => return Ok(None),
        Err(source) => return Err(ContextError::read("read link", path, source)),
        Ok(Some(link)) => clean(&link),
    };
    if link.starts_with(b"/") {
        return Ok(Some(link));
    }
    Ok(Some(join(b"/", &join(dir(path), &link))))
}

/// Sorted names in the directory at `path`.
fn names(root: &LocalDir, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let fd = root.list(None, if path == b"." { b"" } else { path })?;
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 8 << 10];
    let mut dir = RawDir::new(fd.as_fd(), &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = dir.next() {
        names.push(entry?.file_name().to_bytes().to_vec());
    }
    names.retain(|name| !root.leaves_out(name));
    names.sort_unstable();
    Ok(names)
}

/// Nothing that could be opened has that name.
pub(super) fn missing(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    // A path that leads out of the root or through a symlink names nothing in it.
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG))
}

fn has_wildcards(name: &[u8]) -> bool {
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// Leaves out what lies inside the path before it, and absolute paths. `None` if the root is among `paths`.
pub(super) fn without_nested(paths: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let mut kept: Vec<Vec<u8>> = Vec::with_capacity(paths.len());
    for path in paths {
        if path == b"." {
            return None;
        }
        let outer = kept.last().map_or(&b""[..], Vec::as_slice);
        if path.strip_prefix(outer).is_some_and(|rest| rest.starts_with(b"/")) {
            continue;
        }
        kept.push(path);
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_their_targets_are_followed_like_upstream() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir_all(at("dir/sub")).unwrap();
        std::fs::write(at("dir/sub/file"), "").unwrap();
        std::fs::create_dir(at("other")).unwrap();
        std::fs::write(at("other/file"), "").unwrap();
        for (link, target) in [
            ("to-dir", "dir"),
            ("dir/to-other", "../other"),
            ("dir/up", "../../../other"),
            ("absolute", "/other/file"),
            ("dangling", "nowhere"),
            ("loop", "loop"),
            ("ping", "pong"),
            ("pong", "ping"),
            ("growing", "growing/x"),
            ("to-root", "."),
            ("chain", "to-dir/to-other"),
            ("l1", "dir/sub"),
            ("l2", "other"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        let dir = LocalDir::open("context", root.path()).unwrap();
        for (paths, expected) in [
            (&["dir/sub/file"][..], Some(&["dir/sub/file"][..])),
            (&["/dir//sub/./file/"], Some(&["dir/sub/file"])),
            (&["not/there"], Some(&["not/there"])),
            (&["to-dir/sub/file"], Some(&["dir/sub/file", "to-dir"])),
            (&["dir/to-other/file"], Some(&["dir/to-other", "other/file"])),
            (&["dir/up"], Some(&["dir/up", "other"])),
            (&["absolute"], Some(&["absolute", "other/file"])),
            (&["dangling/x"], Some(&["dangling", "nowhere/x"])),
            (&["loop"], Some(&["loop"])),
            (&["ping"], Some(&["ping", "pong"])),
            (&["growing"], Some(&["growing"])),
            (&["to-root"], None),
            (&["to-root/dir"], Some(&["dir", "to-root"])),
            (&["chain/file"], Some(&["chain", "dir/to-other", "other/file", "to-dir"])),
            (&["l*"], Some(&["dir/sub", "l*", "loop", "other"])),
            (&["l?/file"], Some(&["dir/sub/file", "l?", "other/file"])),
            (&["l[12"], Some(&["l[12"])),
            (&["d*/sub"], Some(&["d*", "nowhere/sub"])),
            (&["other", "other/file", "dir"], Some(&["dir", "other"])),
            (&["../outside"], Some(&["../outside"])),
            (&["."], None),
            (&["x", "/"], None),
            // Upstream drops the second: the link was met already.
            (&["to-dir/a", "to-dir/b"], Some(&["dir/a", "to-dir"])),
        ] {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            let followed = follow(&dir, &paths).unwrap();
            let expected: Option<Vec<Vec<u8>>> =
                expected.map(|paths| paths.iter().map(|path| path.as_bytes().to_vec()).collect());
            assert_eq!(followed, expected, "{paths:?}");
        }
    }
}
