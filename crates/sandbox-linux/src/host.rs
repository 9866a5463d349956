//! What this kernel and this container allow, and what to type when they do not.
//!
//! A jail that cannot start is nearly always stopped by a setting of the host. nsjail's own message names the call
//! that failed; the settings that explain it are read here, so the user gets the one that applies.

use std::fs;
use std::path::Path;

use crate::log::{Level, LogLine};

/// Settings that decide whether a jail can be started. `None` means that the kernel has no such setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// `/proc/sys/user/max_user_namespaces`
    pub max_user_namespaces: Option<u64>,
    /// `/proc/sys/kernel/unprivileged_userns_clone` (Debian's and some hardened kernels)
    pub unprivileged_userns_clone: Option<u64>,
    /// `/proc/sys/kernel/apparmor_restrict_unprivileged_userns` (Ubuntu since 23.10)
    pub apparmor_restrict: Option<u64>,
    /// The `Seccomp` line of `/proc/self/status`: 2 when a filter is on this process.
    pub seccomp: Option<u64>,
    /// Something is mounted over parts of `/proc`, as container engines do.
    pub masked_proc: bool,
}

impl HostFacts {
    /// Reads the settings of the running kernel.
    pub fn read() -> HostFacts {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mounts = crate::mountinfo::read().unwrap_or_default();
        HostFacts {
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp: status.lines().find_map(|line| line.strip_prefix("Seccomp:")?.trim().parse().ok()),
            masked_proc: mounts.iter().any(|mount| {
                mount.mount_point.starts_with(b"/proc/") && mount.mount_point != b"/proc/sys/fs/binfmt_misc"
            }),
        }
    }

    /// What to change so that a jail with this log can start; sentences for people, most likely cause first.
    /// `program` is what makes the jail: nsjail, or this program.
    pub fn hints(&self, by_root: bool, program: &Path, log: &[LogLine]) -> Vec<String> {
        let said = |words: &[&str]| {
            log.iter()
                .filter(|line| line.level >= Level::Warning)
                .any(|line| words.iter().all(|word| line.text.contains(word)))
        };
        let denied = said(&["Operation not permitted"]) || said(&["Permission denied"]);
        let no_namespace = said(&["clone"]) && (denied || said(&["No space left"]));
        let mut hints = Vec::new();
        if self.max_user_namespaces == Some(0) || said(&["clone", "No space left"]) {
            let now = self.max_user_namespaces.unwrap_or(0);
            hints.push(format!(
                "user namespaces are used up or off: user.max_user_namespaces is {now}; type: sudo sysctl -w user.max_user_namespaces=15000 (to keep it: a file in /etc/sysctl.d)"
            ));
        }
        if !by_root && self.unprivileged_userns_clone == Some(0) {
            hints.push(
                "this kernel gives user namespaces to root only: type: sudo sysctl -w kernel.unprivileged_userns_clone=1"
                    .to_owned(),
            );
        }
        if !by_root && self.apparmor_restrict == Some(1) {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            hints.push(format!(
                "AppArmor takes all rights in user namespaces from programs without a profile: add /etc/apparmor.d/{name} with `abi <abi/4.0>, include <tunables/global> profile {name} {} flags=(unconfined) {{ userns, }}` and type: sudo apparmor_parser -r /etc/apparmor.d/{name} (or, for every program: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)",
                program.display()
            ));
        }
        if no_namespace && self.seccomp == Some(2) {
            hints.push(
                "a system call filter of the container refuses new namespaces: start the container with --security-opt seccomp=unconfined, or a profile that allows clone3, unshare, mount, pivot_root and sethostname"
                    .to_owned(),
            );
        }
        let proc_refused = said(&["/proc", "Operation not permitted"]) || said(&["/proc/sys", "Read-only"]);
        if proc_refused && self.masked_proc {
            hints.push(
                "parts of /proc are masked or read-only, so the kernel refuses a fresh one: start the container with --security-opt systempaths=unconfined (Kubernetes: procMount: Unmasked)"
                    .to_owned(),
            );
        }
        if said(&["chmod o+x"]) {
            hints.push(
                "the guest's id may not enter a directory above that path, and this root may not handle mounts: give the container CAP_SYS_ADMIN, open the directory with chmod o+x, or run ktl as the plain user who owns it"
                    .to_owned(),
            );
        }
        if said(&["newuidmap"]) || said(&["newgidmap"]) {
            hints.push(
                "the policy's use_newidmap takes subordinate ids: install newuidmap and newgidmap (Debian: package uidmap), and give the user ranges that the policy keeps to: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME"
                    .to_owned(),
            );
        }
        if said(&["cgroup"]) {
            hints.push(
                "the policy limits control groups, which this user or container may not create; take the cgroup_ fields out of the policy"
                    .to_owned(),
            );
        }
        if said(&["seccomp"]) || said(&["kafel"]) || said(&["Could not compile policy"]) {
            hints.push(
                "the policy's seccomp_string does not compile; names are the kernel's entry points (newstat, newuname, sendfile64)"
                    .to_owned(),
            );
        }
        if said(&["Function not implemented"]) {
            hints.push(
                "this kernel is older than Linux 5.12, which the native runtime needs, or a filter of the container hides a call; install nsjail"
                    .to_owned(),
            );
        }
        if said(&["chdir"]) {
            hints.push("the policy's cwd does not exist inside; mount something there".to_owned());
        }
        hints
    }
}

/// Which part of the set-up a log line speaks of.
pub(crate) fn stage_of(text: &str) -> &'static str {
    const STAGES: [(&str, &[&str]); 11] = [
        ("start of the program", &["execve"]),
        (
            "user namespace",
            &["uid_map", "gid_map", "setgroups", "uidmap", "gidmap", "setresuid", "setresgid"],
        ),
        ("policy", &["config", "parse", "protobuf"]),
        ("system call filter", &["seccomp", "kafel", "olicy"]),
        ("working directory", &["chdir"]),
        ("control groups", &["cgroup"]),
        ("resource limits", &["rlimit"]),
        ("namespaces", &["clone", "unshare"]),
        ("mount tree", &["mount", "Mount", "pivot_root", "remount", "mkdir", "work director"]),
        ("network", &["iface", "tun", "netlink", "macvlan", "net namespace"]),
        ("privileges", &["prctl", "capset", "capabilit"]),
    ];
    STAGES
        .iter()
        .find(|(_, words)| words.iter().any(|word| text.contains(word)))
        .map_or("set-up", |(stage, _)| stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Vec<LogLine> {
        vec![LogLine::parse(format!("[E][t][1] f():1 {text}").as_bytes())]
    }

    #[test]
    fn names_the_setting_that_applies() {
        let clone = "clone(flags=CLONE_NEWUSER) failed: Operation not permitted";
        let facts = |edit: fn(&mut HostFacts)| {
            let mut facts = HostFacts { max_user_namespaces: Some(1000), ..HostFacts::default() };
            edit(&mut facts);
            facts
        };
        for (facts, by_root, text, want) in [
            (
                facts(|f| f.max_user_namespaces = Some(0)),
                true,
                "clone failed: No space left on device",
                "user.max_user_namespaces is 0",
            ),
            (
                facts(|f| f.unprivileged_userns_clone = Some(0)),
                false,
                clone,
                "kernel.unprivileged_userns_clone=1",
            ),
            (
                facts(|f| f.apparmor_restrict = Some(1)),
                false,
                "mount('/', MS_REC|MS_PRIVATE): Permission denied",
                "/etc/apparmor.d/nsjail",
            ),
            (facts(|f| f.seccomp = Some(2)), true, clone, "seccomp=unconfined"),
            (
                facts(|f| f.masked_proc = true),
                false,
                "mount('/proc'): Operation not permitted",
                "systempaths=unconfined",
            ),
            (
                facts(|f| f.masked_proc = true),
                true,
                "write('/proc/sys/user/max_user_namespaces') failed: Read-only file system",
                "systempaths=unconfined",
            ),
            (facts(|_| ()), false, "chdir('/workspace'): No such file", "cwd"),
            (facts(|_| ()), true, "mount('/') failed: Function not implemented", "Linux 5.12"),
            (facts(|_| ()), true, "Couldn't initialize cgroup", "cgroup_ fields"),
            (facts(|_| ()), false, "'/usr/bin/newuidmap' failed", "--add-subuids"),
            (facts(|_| ()), true, "mount('/x'): try 'chmod o+x' on source path", "CAP_SYS_ADMIN"),
        ] {
            let hints = facts.hints(by_root, Path::new("/opt/nsjail"), &log(text));
            assert_eq!(hints.len(), 1, "{text}: {hints:?}");
            assert!(hints[0].contains(want), "{hints:?}");
        }
        assert!(facts(|f| f.apparmor_restrict = Some(1)).hints(true, Path::new("/n"), &log("x")).is_empty());
    }

    #[test]
    fn stages_are_told_apart() {
        for (text, want) in [
            ("Couldn't write '6' bytes to file '/proc/9/gid_map'", "user namespace"),
            ("mount('/x' -> '/y'): No such file or directory", "mount tree"),
            ("execve('/ktl') failed: Permission denied", "start of the program"),
            ("chdir('/workspace'): No such file or directory", "working directory"),
            ("clone(flags=X) failed", "namespaces"),
            ("something new", "set-up"),
        ] {
            assert_eq!(stage_of(text), want, "{text}");
        }
        assert!(HostFacts::read().max_user_namespaces.is_some());
    }
}
