//! One mount of a policy: checked, corrected, or left out.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::mounts::{Entry, guest_path};
use super::{Correction, JailError, Overrides, Tenant};
use crate::proto::{MountPt, NsJailConfig};

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

/// What the jail at large decides for its mounts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// For any program: the policy's word counts.
    pub as_written: bool,
    /// A writable `/proc` is the guest's own: in a user namespace where it has capabilities. It is never the host's root, to
    /// whom the settings of the whole kernel belong.
    proc_rw: bool,
    /// The kernel mounts a fresh `/proc`.
    pub fresh_proc: bool,
    /// Capabilities over mounts are those of a user namespace, in which the host's flags are locked.
    locked: bool,
}

impl Rules {
    pub(super) fn of(config: &NsJailConfig, tenant: Tenant) -> Rules {
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

/// Checks one entry of the policy; yields none when it is left out, several for `/dev`.
pub(super) fn settle_point(
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
        let own_groups = rules.as_written && point.fstype() == "cgroup2";
        if !known && !own_groups {
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
pub(super) fn hosts_proc(proc: Entry, corrections: &mut Vec<Correction>) -> Result<Entry, JailError> {
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

pub(super) fn file_system(field: String, dst: &str, fstype: &str, options: &str) -> Entry {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::tests::caller;
    use crate::{Bind, Jail, Policy};

    fn settled(text: &str, uid: u32, overrides: Overrides) -> Result<Jail, JailError> {
        let overrides = Overrides { tenant: Tenant::Program, ..overrides };
        Jail::new(Policy::parse("p", format!("#\n{text}").as_bytes()).unwrap(), overrides, &caller(uid))
    }

    /// Mounts with what they let do, and what was said of them.
    fn shown(jail: &Jail) -> (String, String) {
        let entry = |point: &MountPt| {
            let kind = if point.is_bind() { point.src() } else { point.fstype() };
            format!("{}={kind}{}", point.dst, if point.rw() { "+rw" } else { "" })
        };
        let mounts: Vec<String> = jail.config().mount.iter().map(entry).collect();
        let about = jail.corrections().iter().filter(|c| c.field.starts_with("mount"));
        (mounts.join(" "), about.map(|c| c.now.as_str()).collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn the_policys_mounts_stay_but_for_ways_to_the_host() {
        let bind = |src: &str| format!("mount_proc: true mount {{ src: {src:?} dst: \"/x\" is_bind: true }}");
        let proc = "mount { dst: \"/proc\" fstype: \"proc\" rw: true }";
        for (text, mounts, said) in [
            ("".to_owned(), "/proc=proc", "/proc, read-only"),
            (bind("/root"), "/x=/root /proc=proc", ""),
            (bind("/sys/kernel"), "/x=/sys/kernel /proc=proc", ""),
            (bind("/dev"), "/x=/dev /proc=proc", "kept"),
            (bind("/run"), "/proc=proc", "left out"),
            (bind("/var/run"), "/proc=proc", "left out"),
            (bind("/var"), "/proc=proc", "left out"),
            (bind("/proc/sys"), "/proc=proc", "left out"),
            (bind("/proc"), "/x=proc /proc=proc", "the guest's own"),
            (proc.to_owned(), "/proc=proc", "read-only"),
            (format!("keep_caps: true {proc}"), "/proc=proc+rw", ""),
            (format!("cap: \"CAP_CHOWN\" {proc}"), "/proc=proc+rw", ""),
            (
                format!("clone_newpid: false keep_caps: true {proc}"),
                "/proc=/proc",
                "read-only, the host's /proc, read-only",
            ),
            (
                "clone_newpid: false".to_owned(),
                "/proc=/proc",
                "/proc, read-only, the host's /proc, read-only",
            ),
            (
                "mount_proc: true mount { dst: \"/c\" fstype: \"cgroup2\" rw: true }".to_owned(),
                "/c=cgroup2+rw /proc=proc",
                "",
            ),
        ] {
            let jail = settled(&text, 1001, Overrides::default()).unwrap();
            assert_eq!(shown(&jail), (mounts.to_owned(), said.to_owned()), "{text}");
        }
    }

    #[test]
    fn refuses_what_no_tenant_gets() {
        for (text, uid, want) in [
            ("mount { src: \"/\" dst: \"/x\" is_bind: true }", 1001, "the host's root"),
            ("mount { src: \"/etc/no-such-file\" dst: \"/x\" is_bind: true }", 1001, "/etc/no-such-file"),
            ("mount { dst: \"/../x\" fstype: \"tmpfs\" }", 1001, "\"..\""),
            ("mount { dst: \"/x\" fstype: \"overlay\" }", 1001, "not a file system"),
            ("mount { prefix_src_env: \"NO\" dst: \"/x\" is_bind: true }", 1001, "prefix NO is not set"),
        ] {
            let error = settled(text, uid, Overrides::default()).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn daemons_are_found_below_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("containerd");
        fs::create_dir(&inner).unwrap();
        let text = format!("mount {{ src: {:?} dst: \"/x\" is_bind: true }}", dir.path());
        let both = |text: &str| shown(&settled(text, 1001, Overrides::default()).unwrap()).0;
        assert!(both(&text).starts_with("/x="));
        let _socket = std::os::unix::net::UnixListener::bind(inner.join("containerd.sock")).unwrap();
        assert_eq!(both(&text), "/proc=proc");
        let own = Bind {
            src: inner.join("containerd.sock"),
            dst: "/run/containerd.sock".into(),
            rw: false,
            idmap: false,
            is_dir: false,
        };
        let jail = settled("#", 1001, Overrides { binds: vec![own], ..Overrides::default() }).unwrap();
        assert!(shown(&jail).0.contains(" /run/containerd.sock="));
    }
}
