//! The guest's mount tree: the policy's entries, minus what would open the host, plus ktl's binds.
//!
//! nsjail makes mount points by walking paths in the host's tree, so a destination with `..`, through a symbolic
//! link, or missing below a bound directory would create files on the host. Such entries are refused here.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};

use super::place::check_place;
use super::points::{Rules, file_system, hosts_proc, settle_point};
use super::staging::BindSource;
use super::{Bind, Correction, HostIds, JailError, Overrides};
use crate::caller::Caller;
use crate::promises::PromisedMount;
use crate::proto::{MountPt, NsJailConfig};

/// More entries than any policy has a use for.
const MAX_MOUNTS: usize = 1024;
#[derive(Debug, Default)]
pub(super) struct Tree {
    pub promised: Vec<PromisedMount>,
    pub binds: Vec<BindSource>,
    pub raw_sources: Vec<(String, Vec<u8>)>,
    /// Indices of binds whose nosuid and nodev are the policy's to say.
    pub own_flags: Vec<usize>,
}

/// One settled entry with the facts that later steps need.
#[derive(Debug)]
pub(super) struct Entry {
    pub field: String,
    pub point: MountPt,
    /// For binds: the host path and what was found there.
    pub source: Option<(PathBuf, Metadata)>,
    pub idmap: bool,
    /// nosuid and nodev are the policy's to say.
    pub own_flags: bool,
}

/// Rewrites `config.mount` and says what came of it.
pub(super) fn settle(
    config: &mut NsJailConfig,
    overrides: &Overrides,
    caller: &Caller,
    staging: bool,
    corrections: &mut Vec<Correction>,
) -> Result<Tree, JailError> {
    let mut policy = std::mem::take(&mut config.mount);
    let rules = Rules::of(config, overrides.tenant);
    let wants_proc = config.mount_proc.take().unwrap_or(false);
    let mut entries = Vec::new();
    let mut dsts = Vec::new();
    for bind in &overrides.binds {
        dsts.push(guest_path("bind", &bind.dst)?);
    }
    for (index, point) in policy.drain(..).enumerate() {
        let field = format!("mount[{index}]");
        for entry in settle_point(field, point, overrides, rules, corrections)? {
            let dst = entry.point.dst.as_str();
            if let Some(over) = dsts.iter().find(|over| is_within(dst, over)) {
                let why = format!("ktl mounts its own {over}");
                corrections.push(Correction::new(&entry.field, dst, "left out", &why));
            } else {
                entries.push(entry);
            }
        }
    }
    let is_proc = |e: &Entry| e.point.fstype() == "proc" || (!rules.fresh_proc && e.point.is_bind());
    if !entries.iter().any(|e| e.point.dst == "/proc" && is_proc(e)) {
        if !wants_proc {
            let why = "the guest reads there what the kernel says about its jail";
            corrections.push(Correction::new("mount_proc", "unset", "/proc, read-only", why));
        }
        let proc = file_system("mount_proc".to_owned(), "/proc", "proc", "");
        entries.push(if rules.fresh_proc { proc } else { hosts_proc(proc, corrections)? });
    }
    for (bind, dst) in overrides.binds.iter().zip(dsts) {
        entries.extend(override_entries(bind, dst, caller, staging)?);
    }
    if entries.len() > MAX_MOUNTS {
        return Err(JailError::refused("mount", "has more than 1024 entries"));
    }
    for index in 0..entries.len() {
        check_place(&entries[..index], &entries[index])?;
    }
    Ok(finish(config, entries))
}

/// An override, and without staging the submounts of a read-only one: nsjail's read-only is for the top only.
fn override_entries(
    bind: &Bind,
    dst: String,
    caller: &Caller,
    staging: bool,
) -> Result<Vec<Entry>, JailError> {
    let failed = |source| JailError::Source { field: "bind".to_owned(), path: bind.src.clone(), source };
    if !bind.src.is_absolute() {
        return Err(JailError::refused("bind", "the source must be an absolute path"));
    }
    if dst == "/" || dst == "/proc" {
        return Err(JailError::refused("bind", "the guest's root and /proc are its own"));
    }
    let metadata = fs::metadata(&bind.src).map_err(failed)?;
    if metadata.is_dir() != bind.is_dir {
        let want = if bind.is_dir { "directory" } else { "file" };
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, format!("is not a {want}"))));
    }
    let entry = |src: PathBuf, dst: String, metadata: Metadata| Entry {
        field: "bind".to_owned(),
        point: MountPt { dst, is_bind: Some(true), rw: bind.rw.then_some(true), ..MountPt::default() },
        source: Some((src, metadata)),
        idmap: bind.idmap,
        own_flags: false,
    };
    let mut entries = vec![entry(bind.src.clone(), dst.clone(), metadata)];
    if !bind.rw && bind.is_dir && !staging {
        let top = fs::canonicalize(&bind.src).map_err(failed)?;
        for point in &caller.mount_points {
            let point = Path::new(OsStr::from_bytes(point));
            let Some(below) = point.strip_prefix(&top).ok().filter(|p| !p.as_os_str().is_empty()) else {
                continue;
            };
            let Some(below) = below.to_str() else {
                return Err(JailError::refused(
                    "bind",
                    "a mount below the source has a name that is not UTF-8",
                ));
            };
            if let Ok(metadata) = fs::metadata(point) {
                entries.push(entry(point.to_owned(), format!("{dst}/{below}"), metadata));
            }
        }
    }
    Ok(entries)
}

fn finish(config: &mut NsJailConfig, entries: Vec<Entry>) -> Tree {
    let mut tree = Tree::default();
    for (index, mut entry) in entries.into_iter().enumerate() {
        let point = &mut entry.point;
        let optional = !point.mandatory();
        if let Some((src, metadata)) = entry.source {
            point.is_dir = Some(metadata.is_dir());
            point.fstype = None;
            point.options = None;
            point.src = Some(match src.to_str() {
                Some(src) => src.to_owned(),
                None => {
                    let stand_in = format!("/ktl-raw-source-{index}/");
                    tree.raw_sources.push((stand_in.clone(), src.as_os_str().as_bytes().to_vec()));
                    stand_in
                }
            });
            let kind = metadata.file_type();
            let device = kind.is_char_device() || kind.is_block_device();
            if entry.own_flags {
                tree.own_flags.push(index);
            }
            tree.binds.push(BindSource {
                mount: index,
                field: entry.field,
                src,
                dst: point.dst.clone(),
                rw: point.rw(),
                idmap: entry.idmap,
                nosuid: !entry.own_flags || point.nosuid(),
                nodev: if entry.own_flags { point.nodev() } else { !device },
                is_dir: metadata.is_dir(),
                owner: HostIds { uid: metadata.uid(), gid: metadata.gid() },
            });
            tree.promised.push(PromisedMount {
                dst: point.dst.clone(),
                fstype: None,
                read_only: !point.rw(),
                optional,
            });
        } else if !point.is_symlink() {
            let made = !point.src_content().is_empty();
            tree.promised.push(PromisedMount {
                dst: point.dst.clone(),
                fstype: (!made).then(|| point.fstype().to_owned()),
                read_only: !point.rw(),
                optional,
            });
        }
        config.mount.push(entry.point);
    }
    if config.mount.first().is_none_or(|first| first.dst != "/") {
        // nsjail's own root: a small read-only tmpfs under everything.
        let root = PromisedMount {
            dst: "/".to_owned(),
            fstype: Some("tmpfs".to_owned()),
            read_only: true,
            optional: false,
        };
        tree.promised.insert(0, root);
    }
    tree
}

/// A path inside as nsjail shall have it: absolute, UTF-8, no `..`, no double or trailing slash.
pub(super) fn guest_path(field: &str, path: &Path) -> Result<String, JailError> {
    let refused = |why: &str| JailError::refused(field, why);
    let text = path.to_str().ok_or_else(|| refused("a path inside must be UTF-8"))?;
    if !path.is_absolute() || text.contains('\0') {
        return Err(refused(&format!("{text:?} is not an absolute path")));
    }
    let mut clean = String::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                clean.push('/');
                clean.push_str(name.to_str().unwrap_or_default());
            }
            Component::ParentDir => {
                return Err(refused(&format!(
                    "{text:?} has \"..\" in it, which nsjail would follow on the host"
                )));
            }
            _ => {}
        }
    }
    if clean.is_empty() {
        clean.push('/');
    }
    Ok(clean)
}

/// True when `path` is `dir` or lies below it; both clean.
pub(super) fn is_within(path: &str, dir: &str) -> bool {
    Path::new(path).starts_with(dir)
}
