//! Probes 1 to 5: the mount tree, what of the host can be read in it, and what can be written to.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use sandbox_linux::probe;

use super::{View, outcome, read, word};
use crate::guest::HOST_PATHS;

const PLACES: &[&str] = &[
    "/",
    "/tmp",
    "/proc",
    "/etc",
    "/dev",
    "/run",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
    "/dev/fd",
    "/dev/stdin",
    "/dev/pts",
    "/dev/pts/ptmx",
    "/dev/mqueue",
    "/etc/motd",
    "/etc/open",
    "/etc/link",
    "/deep/er/link",
    "/tmp/x/bytes",
    "/usr/share",
    "/usr/lib",
    "/etc/passwd",
    "/none",
    "/optional/l",
    "/a/b/c",
    "/a/b/c/d",
    "/a/b/c/d/e",
    "/proc/cpuinfo",
    "/proc/sys",
    "/proc/sys/kernel/hostname",
    "/p",
    "/odd: \"name\"",
    "/tmp/x",
    "/ktl-bin",
    "/ktl-bin/guest",
    "/rw",
    "/rw/sub",
    "/rw/file",
    "/ro",
    "/ro/sub",
    "/ro/file",
    "/ro/sub/below",
    "/file",
    "/place/ro",
    "/place/ro/file",
];

impl View {
    pub fn mounts(&mut self) {
        let info = read("/proc/self/mountinfo");
        let mut mounts = Vec::new();
        for line in info.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let Some(after) = fields.iter().position(|field| *field == "-") else { continue };
            mounts.push((
                fields[0],
                fields[1],
                fields[4].replace("\\040", " "),
                fields[3],
                fields[after + 1],
                fields[5],
            ));
        }
        let parent =
            |id: &str| mounts.iter().find(|mount| mount.0 == id).map_or("nothing", |mount| mount.2.as_str());
        // The list follows the order in which mounts were made, anywhere; what counts is what covers what.
        let mut points: Vec<_> = mounts
            .iter()
            .map(|(_, on, point, root, kind, options)| {
                let part = if *root == "/" { "" } else { " part of a tree" };
                (point.clone(), parent(on) == point, format!("{kind}{part} on {}", parent(on)), *options)
            })
            .collect();
        points.sort();
        for (number, (point, _, kind, options)) in points.iter().enumerate() {
            // Of several mounts on one point each has its own line.
            let nth = points[..number].iter().filter(|(other, ..)| other == point).count();
            let key = if nth == 0 { point.clone() } else { format!("{point} #{nth}") };
            self.say(1, &key, kind);
            for flag in ["ro", "nosuid", "nodev", "noexec"] {
                let set = options.split(',').any(|option| option == flag);
                self.say(2, format!("{key} {flag}"), if set { "yes" } else { "no" });
            }
        }
        for (point, _, kind, _) in &points {
            if let (Ok(found), true) = (rustix::fs::statvfs(point.as_str()), kind.starts_with("tmpfs")) {
                self.say(5, format!("size of {point}"), (found.f_blocks * found.f_frsize).to_string());
            }
            for dir in Path::new(point).ancestors() {
                if let Ok(m) = fs::symlink_metadata(dir) {
                    let modes = format!("{:o} {} {}", m.mode(), m.uid(), m.gid());
                    self.say(5, format!("mode of {}", dir.display()), modes);
                }
            }
        }
    }

    pub fn places(&mut self) {
        for path in HOST_PATHS {
            self.say(3, path, probe(Path::new(path)).to_string());
        }
        for path in PLACES {
            let Ok(m) = fs::symlink_metadata(path) else {
                self.say(4, path, "is not there");
                continue;
            };
            let kind = m.file_type();
            let writable = if kind.is_symlink() {
                format!(
                    "link to {}",
                    fs::read_link(path).map(|to| to.display().to_string()).unwrap_or_default()
                )
            } else if kind.is_dir() {
                let file = Path::new(path).join(".ktl-probe");
                let made = OpenOptions::new().write(true).create_new(true).open(&file).map(drop);
                let _ = fs::remove_file(&file);
                outcome(made)
            } else if kind.is_file() || kind.is_char_device() {
                let noctty = rustix::fs::OFlags::NOCTTY.bits() as i32;
                outcome(OpenOptions::new().write(true).custom_flags(noctty).open(path))
            } else {
                "of another kind".to_owned()
            };
            self.say(4, path, writable);
            self.say(5, format!("mode of {path}"), format!("{:o} {} {}", m.mode(), m.uid(), m.gid()));
            if kind.is_dir()
                && !["/proc", "/p"].contains(path)
                && !path.starts_with("/proc/")
                && !path.starts_with("/usr")
            {
                let entries = fs::read_dir(path).map(|entries| {
                    let mut names: Vec<String> =
                        entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
                    names.sort();
                    names.join(" ")
                });
                self.say(3, format!("names in {path}"), entries.unwrap_or_else(|error| word(&error)));
            }
        }
        for file in ["/etc/motd", "/etc/open", "/etc/link", "/tmp/x/bytes", "/ro/file", "/rw/file", "/file"] {
            let content = fs::read(file).map_or_else(|error| word(&error), |bytes| format!("{bytes:02x?}"));
            self.say(3, format!("content of {file}"), content);
        }
        self.say(
            9,
            "write a kernel setting",
            outcome(OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern")),
        );
        self.say(9, "trigger sysrq", outcome(OpenOptions::new().write(true).open("/proc/sysrq-trigger")));
    }
}
