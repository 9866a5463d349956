//! The mount tree: what of the host is bound in, and what can be written.

use std::path::{Component, Path, PathBuf};

use super::Report;
use crate::proto::{MountPt, NsJailConfig};

/// Sockets whose daemon does anything for whoever connects.
const DAEMONS: [&str; 7] = [
    "docker.sock",
    "buildkitd.sock",
    "containerd.sock",
    "podman.sock",
    "crio.sock",
    "libvirt-sock",
    "dockershim.sock",
];
/// Directories that hold such sockets.
const SOCKET_DIRS: [&str; 9] = [
    "/run",
    "/var/run",
    "/var",
    "/run/docker",
    "/run/containerd",
    "/run/buildkit",
    "/var/run/docker",
    "/run/user",
    "/var/lib/docker",
];
const SECRETS: [&str; 10] = [
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssl/private",
    "/etc/ssh",
    "/etc/kubernetes",
    "/etc/krb5.keytab",
    "/var/lib/kubelet",
    "/var/run/secrets",
];
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/boot", "/opt", "/var/lib", "/var/spool"];
/// Nodes that give nothing away.
const HARMLESS: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

pub(super) fn look(config: &NsJailConfig, report: &mut Report<'_>) {
    for (index, point) in config.mount.iter().enumerate() {
        let field = format!("mount[{index}]");
        place(&field, point, report);
        if point.is_symlink() || !point.src_content().is_empty() {
            continue;
        }
        if point.is_bind() {
            bind(&field, point, report);
        } else {
            file_system(&field, point, report);
        }
    }
}

fn place(field: &str, point: &MountPt, report: &mut Report<'_>) {
    if Path::new(&point.dst).components().any(|part| part == Component::ParentDir) {
        report.open(
            field,
            format!("dst {}", point.dst),
            "nsjail follows .. in the host's tree and makes directories there",
            "write the path without ..",
        );
    }
    for (name, what) in
        [(point.prefix_src_env(), "prefix_src_env"), (point.prefix_dst_env(), "prefix_dst_env")]
    {
        if name == "HOME" && what == "prefix_src_env" {
            report.open(
                field,
                format!("$HOME{}", point.src()),
                "a home directory holds keys, tokens and shell history",
                "bind the one directory that is needed",
            );
        } else if !name.is_empty() {
            report.weak(
                field,
                format!("{what} {name}"),
                "where the variable is not set nsjail goes on, and mounts something else or at another place",
                "write the path",
            );
        }
    }
}

fn file_system(field: &str, point: &MountPt, report: &mut Report<'_>) {
    match point.fstype() {
        "tmpfs" => {
            let bounded = point.options().split(',').any(|option| option.starts_with("size="));
            if point.rw() && !bounded {
                report.weak(
                    field,
                    format!("a writable tmpfs on {} without size", point.dst),
                    "it may take half of the host's memory",
                    "options: \"size=512M\"",
                );
            }
        }
        "proc" if point.rw() => report.open(
            field,
            "a writable proc",
            "kernel settings below /proc/sys can be written by whoever has the host's id 0, core_pattern among them, which runs \
             a program on the host",
            "leave rw out",
        ),
        "sysfs" if point.rw() => {
            report.open(field, "a writable sysfs", "devices and kernel settings of the host can be changed", "leave it out");
        }
        "sysfs" => report.weak(field, "sysfs", "it describes the host's devices and network", "leave it out"),
        "cgroup" | "cgroup2" if point.rw() => {
            report.weak(field, "writable control groups", "the program can lift its own limits", "leave rw out");
        }
        "" => report.note(
            field,
            format!("{} is neither a bind nor a file system", point.dst),
            "nsjail cannot mount it, and the jail does not start",
            "is_bind: true, or an fstype",
        ),
        "proc" | "cgroup" | "cgroup2" | "devpts" | "mqueue" => {}
        other => report.weak(
            field,
            format!("a file system of type {other}"),
            "it may come from a device or reach beyond the jail",
            "bind what is needed, read-only",
        ),
    }
}

fn bind(field: &str, point: &MountPt, report: &mut Report<'_>) {
    if !point.prefix_src_env().is_empty() {
        if point.rw() {
            writable(field, point.src(), report);
        }
        return;
    }
    let src = clean(point.src());
    let src = src.as_str();
    let path = Path::new(src);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let rw = if point.rw() { ", writable" } else { "" };
    let within = |dirs: &[&str]| dirs.iter().any(|dir| path.starts_with(dir));
    if !path.is_absolute() {
        report.note(
            field,
            format!("source {src}"),
            "it depends on where nsjail is started",
            "write an absolute path",
        );
    }
    if src == "/" {
        report.open(
            field,
            format!("the host's root{rw}"),
            "every file of the host is inside",
            "bind what is needed",
        );
    } else if DAEMONS.contains(&name.as_ref()) {
        report.open(
            field,
            src,
            "whoever can connect to it has the daemon do anything, as root, and a read-only bind does not stop a connection",
            "leave it out; ktl hands the one connection in that a build needs",
        );
    } else if SOCKET_DIRS.contains(&src) || (path.starts_with("/run/user") && path.components().count() == 4)
    {
        report.open(
            field,
            format!("{src}{rw}"),
            "it holds the sockets of the host's daemons, and read-only does not stop a connection",
            "bind the one file that is needed",
        );
    } else if [".sock", ".socket"].iter().any(|end| name.ends_with(end)) || name.starts_with("S.gpg-agent") {
        report.weak(
            field,
            src,
            "a socket gives what its daemon gives, and a read-only bind does not stop a connection",
            "leave it out unless the daemon asks who is there",
        );
    } else if src == "/dev" {
        report.open(
            field,
            format!("the host's /dev{rw}"),
            "started by root, kvm, loop devices, consoles and disks are open, and read-only does not keep a device from being written",
            "a tmpfs on /dev with null, zero, full, random and urandom bound into it, as in sandbox/linux-ci.cfg",
        );
    } else if path.starts_with("/dev") {
        if !HARMLESS.contains(&src) {
            report.weak(
                field,
                src,
                "the driver behind a device node is kernel code, and read-only does not keep a device from being written",
                "leave it out",
            );
        }
    } else if path.starts_with("/proc") {
        report.open(
            field,
            format!("the host's {src}{rw}"),
            "host processes show, their environment and open files among it",
            "mount { dst: \"/proc\" fstype: \"proc\" }",
        );
    } else if path.starts_with("/sys") {
        if point.rw() {
            report.open(
                field,
                format!("{src}, writable"),
                "devices and kernel settings can be changed",
                "leave it out",
            );
        } else {
            report.weak(field, src, "it describes the host's devices and network", "leave it out");
        }
    } else if is_home(path) || path.components().any(|part| part.as_os_str().to_str().is_some_and(holds_keys))
    {
        report.open(
            field,
            format!("{src}{rw}"),
            "a home directory holds keys, tokens and shell history",
            "bind the one directory that is needed, read-only",
        );
    } else if within(&SECRETS) {
        report.open(field, format!("{src}{rw}"), "it holds the host's secrets", "leave it out");
    } else if src == "/etc" {
        let why = "it holds password hashes and private keys, which an id 0 may read";
        if point.rw() {
            report.open(field, "/etc, writable", why, "bind the files that are needed, read-only");
        } else {
            report.weak(field, "/etc", why, "bind the files that are needed");
        }
    } else if point.rw() {
        writable(field, src, report);
    }
    if path.starts_with("/etc") && path.components().count() > 2 && point.mandatory() {
        report.note(
            field,
            format!("{src} must exist"),
            "on a host that does not have it the jail does not start",
            "mandatory: false, or leave it out where nothing is resolved and nothing verified",
        );
    }
    let maybe_directory = point.is_dir != Some(false) && !within(&["/etc", "/dev", "/proc", "/sys"]);
    if !point.rw() && maybe_directory && !name.contains(".sock") {
        report.note(
            field,
            format!("{src} is read-only at its top"),
            "a mount below the source comes along and stays writable, because nsjail remounts the top only",
            "bind a directory without mounts in it (ktl makes the whole tree read-only)",
        );
    }
}

fn writable(field: &str, src: &str, report: &mut Report<'_>) {
    if SYSTEM.iter().any(|dir| Path::new(src).starts_with(dir)) {
        report.open(
            field,
            format!("{src}, writable"),
            "what is changed there runs on the host, or decides what runs",
            "leave rw out",
        );
    } else {
        report.weak(
            field,
            format!("{src}, writable"),
            "what the program writes stays on the host, as a file that others may trust",
            "leave rw out, or give it a directory of its own",
        );
    }
}

fn is_home(path: &Path) -> bool {
    let homes = ["/home", "/root", "/var/home"];
    homes.iter().any(|home| path == Path::new(home))
        || ["/home", "/var/home"].iter().any(|home| path.parent() == Some(Path::new(home)))
}

fn holds_keys(name: &str) -> bool {
    [".ssh", ".gnupg", ".aws", ".azure", ".docker", ".kube", ".config", ".netrc", ".git-credentials"]
        .contains(&name)
}

/// Without doubled slashes, `.`, a trailing slash, and `..` as far as the text alone can tell.
fn clean(src: &str) -> String {
    let mut out = PathBuf::new();
    for part in Path::new(src).components() {
        match part {
            Component::ParentDir if out.is_absolute() => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out.display().to_string()
}
