//! What this kernel offers a jail, and the settings that take it away. These are facts that were read; whether a jail can be had
//! is found out by making one.

use sandbox_linux::HostFacts;

use super::{About, Check};
use crate::failure::Failure;
use crate::launch;
use crate::plan::SandboxPlan;

/// The first version of Landlock that the native runtime uses, and the first that shuts abstract sockets and signals in.
const LANDLOCK: u32 = 3;
const LANDLOCK_SCOPES: u32 = 6;

const SYSCTL_NAMESPACES: &str = "user.max_user_namespaces";
const SYSCTL_CLONE: &str = "kernel.unprivileged_userns_clone";
const SYSCTL_APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";

/// One line for the settings, one for Landlock, one for control groups.
pub(super) fn checks(sandbox: &SandboxPlan) -> Vec<Check> {
    let root = nix::unistd::geteuid().is_root();
    vec![
        settings(&HostFacts::read(), root),
        landlock(sandbox_linux::landlock_version()),
        control_groups(sandbox_linux::cgroup_version(), limits(sandbox)),
    ]
}

fn settings(facts: &HostFacts, root: bool) -> Check {
    let name = "kernel settings";
    let shown = |setting: &str, value: Option<u64>| match value {
        Some(value) => format!("{setting} = {value}"),
        None => format!("no {setting}"),
    };
    let found = [
        shown(SYSCTL_NAMESPACES, facts.max_user_namespaces),
        shown(SYSCTL_CLONE, facts.unprivileged_userns_clone),
        shown(SYSCTL_APPARMOR, facts.apparmor_restrict),
    ]
    .join("; ");
    let mut mend = mends(facts);
    if mend.is_empty() {
        return Check::ok(About::Part, name, found);
    }
    if root && facts.max_user_namespaces != Some(0) {
        mend.insert(0, "For root it does not matter; for other users of this host:".to_owned());
    }
    let mut check = Check::warn(About::Part, name, found, "");
    check.mend = mend;
    check
}

fn landlock(version: u32) -> Check {
    let name = "landlock";
    match version {
        0 => Check::warn(
            About::Part,
            name,
            "this kernel has none",
            "The native runtime does without a second fence behind its mounts. lsm= on the kernel's command line adds it.",
        ),
        1..LANDLOCK => Check::warn(
            About::Part,
            name,
            format!("version {version}, of which the native runtime makes no use"),
            "Linux 6.2 is the first with what it needs for a second fence behind its mounts.",
        ),
        LANDLOCK..LANDLOCK_SCOPES => Check::ok(
            About::Part,
            name,
            format!("version {version}: the native runtime's second fence, for files"),
        ),
        _ => Check::ok(
            About::Part,
            name,
            format!(
                "version {version}: the native runtime's second fence, for files, abstract sockets and signals"
            ),
        ),
    }
}

/// The policy's limits of control groups, by the names of their fields.
fn limits(sandbox: &SandboxPlan) -> Result<Vec<&'static str>, Failure> {
    launch::policy(sandbox).map(|policy| policy.cgroup_limits())
}

fn control_groups(version: Option<u8>, limits: Result<Vec<&'static str>, Failure>) -> Check {
    let name = "control groups";
    let found = match version {
        Some(version) => format!("version {version}"),
        None => "none are mounted at /sys/fs/cgroup".to_owned(),
    };
    match (version, limits) {
        (_, Err(failure)) => {
            let mend = "The policy has to be read first.";
            Check::warn(
                About::Part,
                name,
                format!("{found}; its limits are unknown: {}", failure.title),
                mend,
            )
        }
        (_, Ok(limits)) if limits.is_empty() => {
            Check::ok(About::Part, name, format!("{found}; the policy sets no limit of theirs"))
        }
        (Some(_), Ok(limits)) => Check::ok(
            About::Part,
            name,
            format!("{found}; the policy sets {}, with which the jail below is started", limits.join(", ")),
        ),
        (None, Ok(limits)) => Check::warn(
            About::Part,
            name,
            format!("{found}, and the policy sets {}", limits.join(", ")),
            "Take the cgroup_ fields out of the policy, or mount the control groups.",
        ),
    }
}

/// The settings of this host that refuse namespaces, as hints; never empty.
pub(super) fn refusals() -> Vec<String> {
    let facts = HostFacts::read();
    let mut mend = mends(&facts);
    if facts.seccomp == Some(2) {
        mend.push(
            "a system call filter is on this process; in a container, start it with --security-opt seccomp=unconfined".to_owned(),
        );
    }
    if mend.is_empty() {
        mend.push(
            "no setting of this host explains it; an enclosing jail or a kernel without this namespace would"
                .to_owned(),
        );
    }
    mend
}

fn mends(facts: &HostFacts) -> Vec<String> {
    let mut mend = Vec::new();
    if facts.max_user_namespaces == Some(0) {
        mend.push(format!("{SYSCTL_NAMESPACES} is 0; type: sudo sysctl -w {SYSCTL_NAMESPACES}=15000"));
    }
    if facts.unprivileged_userns_clone == Some(0) {
        mend.push(format!("only root may make user namespaces; type: sudo sysctl -w {SYSCTL_CLONE}=1"));
    }
    if facts.apparmor_restrict == Some(1) {
        mend.push(format!(
            "AppArmor restricts user namespaces; type: sudo sysctl -w {SYSCTL_APPARMOR}=0, or give nsjail and ktl a profile \
             with `userns,`"
        ));
    }
    mend
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn settings_that_refuse_are_mended() {
        let facts = |namespaces, clone, apparmor| HostFacts {
            max_user_namespaces: Some(namespaces),
            unprivileged_userns_clone: clone,
            apparmor_restrict: apparmor,
            ..HostFacts::default()
        };
        for (facts, root, status, lines) in [
            (facts(1000, None, None), false, Status::Ok, 0),
            (facts(1000, Some(1), Some(0)), false, Status::Ok, 0),
            (facts(0, None, None), true, Status::Warn, 1),
            (facts(1000, Some(0), None), false, Status::Warn, 1),
            (facts(1000, Some(0), Some(1)), false, Status::Warn, 2),
            (facts(1000, None, Some(1)), true, Status::Warn, 2),
        ] {
            let check = settings(&facts, root);
            assert_eq!((check.status, check.mend.len()), (status, lines), "{check:?}");
        }
    }

    #[test]
    fn fences_and_groups() {
        for (version, status) in
            [(0, Status::Warn), (2, Status::Warn), (3, Status::Ok), (5, Status::Ok), (7, Status::Ok)]
        {
            assert_eq!(landlock(version).status, status, "{version}");
        }
        for (version, limits, status, part) in [
            (Some(2), Ok(vec![]), Status::Ok, "no limit"),
            (None, Ok(vec![]), Status::Ok, "none are mounted"),
            (Some(1), Ok(vec!["cgroup_pids_max"]), Status::Ok, "cgroup_pids_max"),
            (None, Ok(vec!["cgroup_pids_max"]), Status::Warn, "cgroup_pids_max"),
            (Some(2), Err(Failure::sandbox("broken")), Status::Warn, "broken"),
        ] {
            let check = control_groups(version, limits);
            assert_eq!(check.status, status, "{check:?}");
            assert!(check.found.contains(part), "{check:?}");
        }
    }
}
