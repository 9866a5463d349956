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
use super::staging::BindSource;
use super::{Bind, Correction, HostIds, JailError, Overrides, Tenant};
use crate::caller::Caller;
use crate::promises::PromisedMount;
use crate::proto::{MountPt, NsJailConfig};

/// More entries than any policy has a use for.
const MAX_MOUNTS: usize = 1024;
/// What a jail may mount without a device.
const FILE_SYSTEMS: [&str; 5] = ["tmpfs", "proc", "sysfs", "devpts", "mqueue"];
/// The nodes of a minimal `/dev`.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// Sockets of daemons that do for whoever connects what root may do, as they lie below `/run` or another directory of it.
const DAEMONS: [&str; 8] = [
    "docker.sock",
    "containerd.sock",
    "containerd/containerd.sock",
    "buildkitd.sock",
    "buildkit/buildkitd.sock",
    "podman.sock",
    "podman/podman.sock",
    "crio/crio.sock",
];
const STREAMS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

#[derive(Debug, Default)]
pub(super) struct Tree {
    pub promised: Vec<PromisedMount>,
    pub binds: Vec<BindSource>,
    pub raw_sources: Vec<(String, Vec<u8>)>,
    /// Indices of binds whose nosuid and nodev are the policy's to say.
    pub own_flags: Vec<usize>,
}

/// What the jail at large decides for its mounts.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// For any program: the policy's word counts.
    as_written: bool,
    /// A writable `/proc` is the guest's own: in a user namespace where it has capabilities. It is never the host's root, to
    /// whom the settings of the whole kernel belong.
    proc_rw: bool,
    /// The kernel mounts a fresh `/proc`.
    fresh_proc: bool,
    /// Capabilities over mounts are those of a user namespace, in which the host's flags are locked.
    locked: bool,
}

impl Rules {
    fn of(config: &NsJailConfig, tenant: Tenant) -> Rules {
        let (user, pid) = (config.clone_newuser(), config.clone_newpid());
        let as_written = tenant == Tenant::Program;
        Rules {
            as_written,
            proc_rw: as_written && user && pid && (config.keep_caps() || !config.cap.is_empty()),
            fresh_proc: pid || !user,
            locked: user,
        }
    }
}

/// One settled entry with the facts that later steps need.
#[derive(Debug)]
pub(super) struct Entry {
    pub field: String,
    pub point: MountPt,
    /// For binds: the host path and what was found there.
    pub source: Option<(PathBuf, Metadata)>,
    idmap: bool,
    own_flags: bool,
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

/// Checks one entry of the policy; yields none when it is left out, several for `/dev`.
fn settle_point(
    field: String,
    mut point: MountPt,
    overrides: &Overrides,
    rules: Rules,
    corrections: &mut Vec<Correction>,
) -> Result<Vec<Entry>, JailError> {
    let refused = |why: &str| Err(JailError::refused(&field, why));
    let prefixed = |name: Option<String>, path: &str| match name.filter(|name| !name.is_empty()) {
        None => Ok(path.to_owned()),
        Some(name) => match overrides.prefix_env.get(&name) {
            Some(value) => Ok(format!("{value}{path}")),
            None => {
                let why = format!("the prefix {name} is not set; nsjail would mount something else");
                Err(JailError::refused(&field, &why))
            }
        },
    };
    point.dst = prefixed(point.prefix_dst_env.take(), &point.dst)?;
    let src = prefixed(point.prefix_src_env.take(), point.src())?;
    point.src = (!src.is_empty()).then_some(src);
    point.dst = guest_path(&field, Path::new(&point.dst))?;
    if point.is_symlink() {
        return Ok(vec![made(field, point)]);
    }
    if point.dst == "/" && (field != "mount[0]" || point.is_bind() || point.fstype() != "tmpfs") {
        return refused("only a tmpfs as the first entry can be the root");
    }
    if !point.src_content().is_empty() {
        point.is_dir = None;
        return Ok(vec![made(field, point)]);
    }
    if !point.is_bind() {
        let known = FILE_SYSTEMS.contains(&point.fstype());
        if !known && !(rules.as_written && point.fstype() == "cgroup2") {
            return refused(&format!("{:?} is not a file system for a jail", point.fstype()));
        }
        if point.fstype() == "proc" && point.rw() && !rules.proc_rw {
            let why = "kernel settings could be written";
            corrections.push(Correction::new(&field, "proc, writable", "read-only", why));
            point.rw = None;
        }
        let is_proc = point.fstype() == "proc";
        let entry = made(field, point);
        return Ok(vec![if is_proc && !rules.fresh_proc { hosts_proc(entry, corrections)? } else { entry }]);
    }
    let src = PathBuf::from(point.src());
    if !src.is_absolute() {
        return refused("the source of a bind must be an absolute path");
    }
    let leave_out = |corrections: &mut Vec<Correction>, why: &str| {
        corrections.push(Correction::new(&field, point.src(), "left out", why));
        Ok(Vec::new())
    };
    let metadata = match fs::metadata(&src) {
        Ok(metadata) => metadata,
        Err(_) if !point.mandatory() => return Ok(Vec::new()),
        // Name resolution and trust stores: the guest does neither.
        Err(error)
            if !rules.as_written && src.starts_with("/etc") && error.kind() == io::ErrorKind::NotFound =>
        {
            return leave_out(corrections, "is not on this host, and the guest does not need it");
        }
        Err(source) => return Err(JailError::Source { field, path: src, source }),
    };
    let real = fs::canonicalize(&src).unwrap_or_else(|_| src.clone());
    if real == Path::new("/") {
        return refused("binds the host's root");
    }
    if real == Path::new("/dev") && rules.as_written {
        let why = "each of the host's devices whose node lets everybody in is open to the program";
        corrections.push(Correction::new(&field, "all of /dev", "kept", why));
    } else if real == Path::new("/dev") {
        let why = "the guest needs no host device; null, zero, full, random, urandom and the streams stay";
        corrections.push(Correction::new(&field, "all of /dev", "a minimal /dev", why));
        return Ok(minimal_dev(&field, &point.dst));
    }
    if real == Path::new("/proc") && !rules.fresh_proc {
        return Ok(vec![hosts_proc(file_system(field, &point.dst, "proc", ""), corrections)?]);
    }
    if real == Path::new("/proc") {
        corrections.push(Correction::new(
            &field,
            "the host's /proc",
            "the guest's own",
            "host processes would show",
        ));
        return Ok(vec![file_system(field, &point.dst, "proc", "")]);
    }
    if real.starts_with("/proc") || (real.starts_with("/sys") && !rules.as_written) {
        return leave_out(corrections, "is kernel state of the host");
    }
    if metadata.file_type().is_socket() && rules.as_written {
        return leave_out(
            corrections,
            "is a socket; read-only does not stop a connection. A bind besides the policy lets it in",
        );
    }
    if metadata.file_type().is_socket() {
        return leave_out(
            corrections,
            "is a socket; read-only does not stop a connection, and the builder's comes as a descriptor",
        );
    }
    if rules.as_written {
        if ["/run", "/var"].iter().any(|dir| real == Path::new(dir))
            || DAEMONS.iter().any(|name| real.join(name).exists())
        {
            return leave_out(
                corrections,
                "holds daemon sockets; a bind besides the policy lets single ones in",
            );
        }
        if point.rw() && !rules.locked && is_read_only(&src) {
            return refused("would make writable what the host has mounted read-only");
        }
    } else if ["/run", "/var", "/home", "/root"].iter().any(|dir| real == Path::new(dir))
        || ["/home", "/var/home"].iter().any(|dir| real.parent() == Some(Path::new(dir)))
    {
        return leave_out(corrections, "holds daemon sockets, or a home with keys and credentials");
    }
    let source = Some((src, metadata));
    Ok(vec![Entry { field, point, source, idmap: false, own_flags: rules.as_written }])
}

fn is_read_only(path: &Path) -> bool {
    let flags = rustix::fs::statvfs(path).map(|found| found.f_flag);
    // What cannot be asked cannot be trusted.
    flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY)) || flags.is_err()
}

/// An entry without a source on the host.
fn made(field: String, point: MountPt) -> Entry {
    Entry { field, point, source: None, idmap: false, own_flags: false }
}

/// In a user namespace the kernel mounts no fresh `/proc` for a process namespace of the host's, so the host's is bound.
fn hosts_proc(proc: Entry, corrections: &mut Vec<Correction>) -> Result<Entry, JailError> {
    let Entry { field, point, .. } = proc;
    let why = "without an own process namespace the kernel gives no other";
    corrections.push(Correction::new(&field, "/proc", "the host's /proc, read-only", why));
    let source = PathBuf::from("/proc");
    let metadata = fs::metadata(&source).map_err(|error| JailError::Source {
        field: field.clone(),
        path: source.clone(),
        source: error,
    })?;
    let point = MountPt {
        src: Some("/proc".to_owned()),
        dst: point.dst,
        is_bind: Some(true),
        nosuid: Some(true),
        nodev: Some(true),
        noexec: Some(true),
        mandatory: point.mandatory,
        ..MountPt::default()
    };
    Ok(Entry { field, point, source: Some((source, metadata)), idmap: false, own_flags: false })
}

fn file_system(field: String, dst: &str, fstype: &str, options: &str) -> Entry {
    let point = MountPt {
        dst: dst.to_owned(),
        fstype: Some(fstype.to_owned()),
        options: (!options.is_empty()).then(|| options.to_owned()),
        ..MountPt::default()
    };
    made(field, point)
}

fn minimal_dev(field: &str, dst: &str) -> Vec<Entry> {
    // In a sticky directory, tmpfs's default, opening a node that belongs to somebody else with O_CREAT fails.
    let mut entries = vec![file_system(field.to_owned(), dst, "tmpfs", "mode=755,size=64k")];
    for device in DEVICES {
        let src = Path::new("/dev").join(device);
        let Ok(metadata) = fs::metadata(&src) else {
            continue;
        };
        let point = MountPt {
            src: src.to_str().map(str::to_owned),
            dst: format!("{dst}/{device}"),
            is_bind: Some(true),
            rw: Some(true),
            ..MountPt::default()
        };
        let source = Some((src, metadata));
        entries.push(Entry { field: field.to_owned(), point, source, idmap: false, own_flags: false });
    }
    for (name, target) in STREAMS {
        let point = MountPt {
            src: Some(target.to_owned()),
            dst: format!("{dst}/{name}"),
            is_symlink: Some(true),
            ..MountPt::default()
        };
        entries.push(made(field.to_owned(), point));
    }
    entries
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
