//! Control groups for real: version 1 where its controllers are mounted, version 2 where it has the controllers.

use std::fs;
use std::path::{Path, PathBuf};

use sandbox_linux::{NativeError, Outcome, Policy, Runtime, RuntimeError};

use crate::rig::{Rig, is_root, run_with};

/// An administrator's group in each hierarchy that a jail's limits need; removed when this is dropped.
pub struct Parents {
    pub name: String,
    paths: Vec<PathBuf>,
}

impl Parents {
    /// `None`, with a word on stderr, where this host has no such controllers.
    pub fn of_version_1() -> Option<Parents> {
        let hierarchies = ["memory", "pids", "cpu"].map(|name| Path::new("/sys/fs/cgroup").join(name));
        Parents::new(&hierarchies, "tasks")
    }

    /// The same in the one hierarchy of version 2, which is at one of two places.
    pub fn of_version_2() -> Option<Parents> {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.controllers").exists());
        Parents::new(&[mount.unwrap_or_default()], "cgroup.procs")
    }

    fn new(hierarchies: &[PathBuf], members: &str) -> Option<Parents> {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("ktl-test-{}-{number}", std::process::id());
        let mut parents = Parents { name, paths: Vec::new() };
        for hierarchy in hierarchies {
            let path = hierarchy.join(&parents.name);
            let made = hierarchy.is_absolute() && fs::create_dir(&path).is_ok();
            if made {
                parents.paths.push(path.clone());
            }
            if !made || !path.join(members).exists() {
                eprintln!("skipped: no control groups with {members} may be made at {}", hierarchy.display());
                return None;
            }
        }
        Some(parents)
    }

    /// What jails have left.
    pub fn children(&self) -> Vec<PathBuf> {
        let entries = self.paths.iter().flat_map(|path| fs::read_dir(path).unwrap());
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Parents {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = fs::remove_dir(path);
        }
    }
}

fn parse(text: &str) -> Policy {
    let mounts = r#"
        mount { dst: "/tmp" fstype: "tmpfs" rw: true }
        mount { src: "/dev/zero" dst: "/dev/zero" is_bind: true rw: true }
        mount { src: "/dev/null" dst: "/dev/null" is_bind: true rw: true }"#;
    Policy::parse("p", format!("{text}{mounts}").as_bytes()).unwrap()
}

/// The shell and two more, no third.
const MANY: &str = "b=/ktl-bin/busybox; $b sleep 5 & $b sleep 5 & $b true 2>&10; echo $? >&10; kill %1 %2; ";
/// A file system in memory counts.
const LARGE: &str = "/ktl-bin/busybox dd if=/dev/zero of=/tmp/x bs=1M count=64 2>/dev/null; echo $? >&10; ";

fn rig() -> Option<Rig> {
    Rig::with(Runtime::Native).filter(|_| is_root())
}

#[test]
fn version_1_limits_and_goes() {
    let Some(rig) = rig() else { return };
    let Some(parents) = Parents::of_version_1() else { return };
    let parent = &parents.name;
    let text = format!(
        "cgroup_pids_max: 3 cgroup_pids_parent: \"{parent}\" cgroup_mem_max: 33554432 \
         cgroup_mem_parent: \"{parent}\" cgroup_cpu_ms_per_sec: 500 cgroup_cpu_parent: \"{parent}\""
    );
    let run = rig.shell(&rig.jail(parse(&text), rig.overrides()), &format!("{MANY}{LARGE}"));
    assert!(run.report.contains("fork: Resource temporarily unavailable"), "{run:#?}");
    assert!(!run.report.ends_with("\n0\n"), "{run:#?}");
    assert_eq!(parents.children(), Vec::<PathBuf>::new());
    // The same script without limits comes through, so it was they.
    let run = rig.shell(&rig.jail(parse("#\n"), rig.overrides()), &format!("{MANY}{LARGE}"));
    assert_eq!(run.report, "0\n0\n", "{run:#?}");

    let missing = rig.jail(parse("cgroup_pids_max: 3 cgroup_pids_parent: \"ktl/none\""), rig.overrides());
    let error = run_with(&rig.runtime, &missing, "/ktl-bin/busybox", &["true"]).unwrap_err();
    let RuntimeError::Native(NativeError::Start { stage, hint, .. }) = error else { panic!("{error}") };
    assert_eq!(stage, "control groups");
    assert!(hint[0].contains("cgroup_ fields"), "{hint:?}");
}

/// Each controller for itself: a host that is in the middle of its way from version 1 to 2 has some of them here.
#[test]
fn version_2_limits_and_goes_or_refuses() {
    let Some(rig) = rig() else { return };
    let Some(parents) = Parents::of_version_2() else { return };
    let have = fs::read_to_string(parents.paths[0].join("cgroup.controllers")).unwrap();
    for (controller, limit, script) in [
        ("pids", "cgroup_pids_max: 3", MANY),
        ("memory", "cgroup_mem_max: 33554432", LARGE),
        ("cpu", "cgroup_cpu_ms_per_sec: 500", "echo 1 >&10"),
    ] {
        let mount = parents.paths[0].display();
        let text = format!("use_cgroupv2: true cgroupv2_mount: \"{mount}\" {limit}");
        let jail = rig.jail(parse(&text), rig.overrides());
        if have.split_whitespace().any(|name| name == controller) {
            let run = rig.shell(&jail, script);
            assert_ne!(run.report, "0\n", "{controller}: {run:#?}");
            assert!(matches!(run.outcome, Outcome::Exited(_)), "{controller}: {run:#?}");
        } else {
            eprintln!("no limits by {controller}: version 2 does not have the controller here");
            let error = run_with(&rig.runtime, &jail, "/ktl-bin/busybox", &["true"]).unwrap_err();
            let RuntimeError::Native(NativeError::Start { stage, source, .. }) = error else {
                panic!("{error}")
            };
            assert_eq!(stage, "control groups");
            assert!(source.to_string().contains("cgroup.subtree_control"), "{source}");
        }
        assert_eq!(parents.children(), Vec::<PathBuf>::new(), "{controller}");
    }
}
