//! The files of a repository at one commit, as an image of one layer: the form in which a builder takes files from a store.
//!
//! The files are those that a builder's own `ADD` checks out, by the same commands of git (`source/git` of moby/buildkit), with
//! the modes and owner that it gives them. Their times are the commit's, where a builder gives the time of its checkout: so the
//! image is the same wherever it is made, and its digest can be locked. Nothing of the repository is run: no configuration is
//! read but what is written here, and so there are no filters and no hooks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use buildsvc::digest::Digest;
use buildsvc::lock::LockedGit;
use buildsvc::remote::GitSource;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::{PullError, Puller};
use crate::broker::Reaped;
use crate::depot::Unnamed;
use crate::repository;

const CHECKOUT_TIME: Duration = Duration::from_secs(10 * 60);
/// Files and directories of one commit.
const ENTRIES_LIMIT: usize = 1_000_000;
const SIZE_LIMIT: u64 = 16 << 30;
const MEDIA: &str = "application/vnd.oci.image";

impl Puller<'_> {
    /// `source` at its commit, with the files that it wants in the store. Tells how much had to be fetched.
    pub fn repository(
        &self,
        source: &GitSource,
        known: Option<&LockedGit>,
        search_path: &OsStr,
        nonce: &str,
    ) -> Result<(LockedGit, u64), PullError> {
        let url = source.pinned_name();
        if source.has_git_dir() {
            let why = "its .git is to be kept, and that is never twice the same".to_owned();
            return Err(PullError::Tree { name: url, why });
        }
        let commit = self.commit(source, known, search_path)?;
        let mut trees = known.map(|known| known.trees.clone()).unwrap_or_default();
        let locked = trees.get(&source.part()).cloned();
        if locked.as_ref().is_some_and(|tree| self.depot.holds_manifest(tree).is_ok()) {
            return Ok((LockedGit { url, commit, trees }, 0));
        }
        let scratch = self.depot.scratch()?;
        let (repository, files) = (scratch.path().join("git"), scratch.path().join("files"));
        for dir in [&repository, &files] {
            fs::create_dir(dir).map_err(at(dir))?;
        }
        self.objects(source, &commit, &repository, search_path)?;
        self.look(source, &commit, &repository, search_path)?;
        let mut checkout = self.own_git(search_path, &repository)?;
        checkout.arg("--work-tree").arg(&files).args(["checkout", "--quiet", "--no-overlay"]);
        checkout.args([&commit, "--", "."]);
        self.run(checkout, "checkout", &source.remote, CHECKOUT_TIME)?;
        let mut show = self.own_git(search_path, &repository)?;
        show.args(["cat-file", "commit", &commit]);
        let object = self.run(show, "cat-file", &source.remote, CHECKOUT_TIME)?;
        let time = repository::committer_time(&object).and_then(|time| u64::try_from(time).ok()).unwrap_or(0);

        let root = below(&files, source)?;
        let mut layer = Archive { layer: Builder::new(self.depot.unnamed(nonce)?), time };
        layer.directory(&root, Path::new("")).map_err(at(&root))?;
        let layer = layer.layer.into_inner().map_err(at(&root))?;
        let (layer, size) = layer.keep()?;
        let tree = self.image(&layer, size)?;
        if let Some(expected) = locked.filter(|locked| *locked != tree) {
            return Err(PullError::Changed { url, expected, got: tree });
        }
        trees.insert(source.part(), tree);
        Ok((LockedGit { url, commit, trees }, size))
    }

    /// Looks at what would be checked out before it is: at its number and size, and for submodules.
    fn look(
        &self,
        source: &GitSource,
        commit: &str,
        dir: &Path,
        search_path: &OsStr,
    ) -> Result<(), PullError> {
        let wrong = |why: String| PullError::Tree { name: source.pinned_name(), why };
        let mut list = self.own_git(search_path, dir)?;
        list.args(["ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit]);
        let listing = list.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        // Ended when it is dropped, however long it would have gone on.
        let mut listing = Reaped(listing.map_err(at(dir))?);
        let mut entries = BufReader::new(listing.0.stdout.take().ok_or_else(|| wrong("no list".to_owned()))?);
        let (mut count, mut size) = (0, 0u64);
        let mut entry = Vec::new();
        while entries.read_until(0, &mut entry).map_err(at(dir))? > 0 {
            let text = String::from_utf8_lossy(&entry);
            let (what, path) = text.split_once('\t').unwrap_or((&text, ""));
            let mut words = what.split_ascii_whitespace();
            count += 1;
            if words.next() == Some("160000") && source.submodules {
                let path = path.trim_end_matches('\0');
                return Err(wrong(format!("it has a submodule ({path:?}), and those are not fetched")));
            }
            size = size.saturating_add(words.nth(2).and_then(|size| size.parse().ok()).unwrap_or(0));
            if count > ENTRIES_LIMIT || size > SIZE_LIMIT {
                return Err(wrong(format!("it has more than {ENTRIES_LIMIT} files or {SIZE_LIMIT} bytes")));
            }
            entry.clear();
        }
        let ended = listing.0.wait().map_err(at(dir))?;
        if ended.success() { Ok(()) } else { Err(wrong(format!("git ls-tree failed ({ended})"))) }
    }

    /// Puts what makes an image of `layer` into the store: it is for no platform, and so for all.
    fn image(&self, layer: &Digest, size: u64) -> Result<Digest, PullError> {
        let put = |document: serde_json::Value| -> Result<(Digest, usize), PullError> {
            let bytes = document.to_string().into_bytes();
            let digest = Digest::sha256(&Sha256::digest(&bytes).into());
            self.depot.put(&digest, &bytes)?;
            Ok((digest, bytes.len()))
        };
        let (config, length) = put(json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.to_string()]},
        }))?;
        let (manifest, _) = put(json!({
            "schemaVersion": 2,
            "mediaType": format!("{MEDIA}.manifest.v1+json"),
            "config": {
                "mediaType": format!("{MEDIA}.config.v1+json"),
                "digest": config.to_string(),
                "size": length,
            },
            "layers": [{"mediaType": format!("{MEDIA}.layer.v1.tar"), "digest": layer.to_string(), "size": size}],
        }))?;
        Ok(manifest)
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> PullError {
    let path = path.to_owned();
    move |source| PullError::Files { path: path.clone(), source }
}

/// The directory that `source` names, which no link may lead to.
fn below(files: &Path, source: &GitSource) -> Result<PathBuf, PullError> {
    let mut root = files.to_owned();
    for part in source.subdir.split('/').filter(|part| !part.is_empty()) {
        root.push(part);
        if !fs::symlink_metadata(&root).is_ok_and(|found| found.is_dir()) {
            let why = format!("it has no directory {:?}", source.subdir);
            return Err(PullError::Tree { name: source.pinned_name(), why });
        }
    }
    Ok(root)
}

/// A layer on its way.
struct Archive {
    layer: Builder<Unnamed>,
    time: u64,
}

impl Archive {
    /// Appends what is in `dir`, by name, as lying in `name`.
    fn directory(&mut self, dir: &Path, name: &Path) -> io::Result<()> {
        let mut entries = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            entries.insert(entry?.file_name(), ());
        }
        for entry in entries.into_keys() {
            let (path, name) = (dir.join(&entry), name.join(&entry));
            let found = fs::symlink_metadata(&path)?;
            if found.is_dir() {
                let mut header = self.header(EntryType::Directory, 0o755, 0);
                self.layer.append_data(&mut header, name.join(""), io::empty())?;
                self.directory(&path, &name)?;
            } else if found.is_symlink() {
                let target = fs::read_link(&path)?;
                let target = target.as_os_str().as_bytes();
                let mut header = self.header(EntryType::Symlink, 0o777, 0);
                // As it is, where the library would tidy it up.
                if header.set_link_name_literal(target).is_err() {
                    self.layer.append_pax_extensions([("linkpath", target)])?;
                    header.set_link_name_literal("long")?;
                }
                self.layer.append_data(&mut header, &name, io::empty())?;
            } else {
                let mode = if found.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
                let mut header = self.header(EntryType::Regular, mode, found.len());
                self.layer.append_data(&mut header, &name, File::open(&path)?)?;
            }
        }
        Ok(())
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(size);
        header
    }
}
