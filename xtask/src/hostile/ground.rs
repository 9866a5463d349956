//! The world of one run: a user's home, context, secrets and agent, with canaries in all that is not for the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ears::Ears;
use super::record::Record;

/// Removed with the value.
#[derive(Debug)]
pub struct Ground {
    dir: PathBuf,
    pub record: Record,
    pub ears: Ears,
}

/// What of a file shows that somebody was at it: mode, links, content.
pub type Trace = (u32, u64, Vec<u8>);

impl Ground {
    /// Makes one below `parent`.
    pub fn new(parent: &Path) -> Result<std::sync::Arc<Ground>> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = parent.join(format!("{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let ground = std::sync::Arc::new_cyclic(|own| Ground {
            ears: Ears::listen(&dir, own.clone()),
            dir,
            record: Record::default(),
        });
        ground.fill()?;
        Ok(ground)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    fn fill(&self) -> Result<()> {
        let registry = self.ears.registry();
        self.write("ctx/Dockerfile", format!("FROM {registry}/base\nCOPY open.txt /\n"))?;
        self.write("ctx/.dockerignore", "secret.env\nprivate\n")?;
        self.write("ctx/open.txt", "PERMITTED content\n")?;
        self.write("ctx/sub/more.txt", "more\n")?;
        self.write("ctx/secret.env", "CANARY of an ignored file\n")?;
        self.write("ctx/private/CANARY-name", "CANARY of an ignored directory\n")?;
        self.write("outside/file", "CANARY of a file beside the context\n")?;
        self.write("outside/victim", "untouched\n")?;
        self.write("home/.ssh/id_ed25519", "CANARY of a private key\n")?;
        self.write("given.txt", "PERMITTED secret\n")?;
        symlink("../outside/file", self.path("ctx/way-out")).context("link")?;
        symlink("../outside", self.path("ctx/dir-out")).context("link")?;
        symlink(self.path("outside/file"), self.path("ctx/absolute-out")).context("link")?;
        nix::unistd::mkfifo(&self.path("ctx/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644))
            .context("make a fifo")?;
        let login =
            |password: &str| serde_json::json!({ "auth": STANDARD.encode(format!("user:{password}")) });
        let config = serde_json::json!({ "auths": {
            registry: login("CANARY-password"),
            "other.example": login("CANARY-other"),
        }});
        self.write("home/.docker/config.json", config.to_string())?;
        Ok(())
    }

    /// What must be the same afterwards.
    pub fn trace(&self) -> BTreeMap<PathBuf, Trace> {
        let mut traces = BTreeMap::new();
        for name in ["outside", "home/.ssh", "ctx"] {
            visit(&self.path(name), &mut |path, meta| {
                let content = if meta.is_file() { fs::read(path).unwrap_or_default() } else { Vec::new() };
                traces.insert(path.to_owned(), (meta.mode(), meta.nlink(), content));
            });
        }
        traces
    }

    /// What the client wrote that no output may hold.
    pub fn ill_output(&self) -> Option<String> {
        let owner = nix::unistd::geteuid().as_raw();
        let mut ill = None;
        visit(&self.path("out"), &mut |path, meta| {
            let kind = meta.file_type();
            use std::os::unix::fs::FileTypeExt;
            let what = if meta.mode() & 0o6000 != 0 && !meta.is_dir() {
                "with the set-user-id bit"
            } else if kind.is_block_device() || kind.is_char_device() {
                "a device"
            } else if meta.uid() != owner {
                "of a foreign owner"
            } else {
                return;
            };
            ill.get_or_insert(format!("{}: {what}", path.display()));
        });
        ill
    }
}

fn visit(path: &Path, see: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    see(path, &meta);
    if meta.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            visit(&entry.path(), see);
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What a script made unreadable is still ours.
        let _ = fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755));
        let _ = fs::remove_dir_all(&self.dir);
    }
}
