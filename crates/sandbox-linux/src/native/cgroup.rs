//! Control groups: the limits of `cgroup_…` fields, in version 1 and 2, with nsjail's places and names.
//!
//! The parent makes a group for each limit and puts the jail's first process in before it may go on. A directory is
//! not taken away by anybody's death, so a keeper process waits for the jail's end and removes it even when the
//! parent was killed. See cgroups(7); nsjail's cgroup.cc and cgroup2.cc.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};

use super::NativeError;
use crate::proto::NsJailConfig;
use crate::sys::contain;

/// The period that quotas are given for, in microseconds.
const PERIOD: u32 = 1_000_000;
/// How often and how long the keeper tries: a group stays busy until the kernel has buried its last process.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
const TRIES: u32 = 1000;

/// One group to be made: what is written to which of its files, the process id last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// The directory that the group is made in; it must exist.
    parent: PathBuf,
    /// Controllers that have to be handed down to the group (version 2).
    controllers: Vec<&'static str>,
    settings: Vec<(&'static str, String)>,
    members: &'static str,
}

/// The groups that a policy asks for; none, mostly.
pub(super) fn wanted(config: &NsJailConfig) -> Result<Vec<Group>, NativeError> {
    let both = config.cgroup_mem_memsw_max() > 0 && config.cgroup_mem_swap_max() >= 0;
    if both {
        return Err(NativeError::Value {
            field: "cgroup_mem_memsw_max".to_owned(),
            reason: "stands beside cgroup_mem_swap_max; one of them says it",
        });
    }
    let unified = if config.detect_cgroupv2() {
        is_unified(Path::new(config.cgroupv2_mount()))
    } else {
        config.use_cgroupv2()
    };
    Ok(if unified { version_2(config) } else { version_1(config) })
}

fn is_unified(mount: &Path) -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs(mount).is_ok_and(|found| found.f_type == CGROUP2_SUPER_MAGIC)
}

/// One process more than the policy counts: init.
fn with_init(pids_max: u64) -> String {
    pids_max.saturating_add(1).to_string()
}

fn version_1(config: &NsJailConfig) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut group = |mount: &str, parent: &str, settings| {
        let parent = Path::new(mount).join(parent.trim_start_matches('/'));
        groups.push(Group { parent, controllers: Vec::new(), settings, members: "tasks" });
    };
    let memory = config.cgroup_mem_max();
    let both = u64::try_from(config.cgroup_mem_swap_max())
        .map_or(config.cgroup_mem_memsw_max(), |swap| swap.saturating_add(memory));
    if memory > 0 || both > 0 {
        // Kill rather than let everything hang.
        let mut settings = vec![("memory.oom_control", "0".to_owned())];
        if memory > 0 {
            settings.push(("memory.limit_in_bytes", memory.to_string()));
        }
        if both > 0 {
            settings.push(("memory.memsw.limit_in_bytes", both.to_string()));
        }
        group(config.cgroup_mem_mount(), config.cgroup_mem_parent(), settings);
    }
    if config.cgroup_pids_max() > 0 {
        let settings = vec![("pids.max", with_init(config.cgroup_pids_max()))];
        group(config.cgroup_pids_mount(), config.cgroup_pids_parent(), settings);
    }
    if config.cgroup_net_cls_classid() > 0 {
        let settings = vec![("net_cls.classid", format!("{:#x}", config.cgroup_net_cls_classid()))];
        group(config.cgroup_net_cls_mount(), config.cgroup_net_cls_parent(), settings);
    }
    if config.cgroup_cpu_ms_per_sec() > 0 {
        let quota = config.cgroup_cpu_ms_per_sec().saturating_mul(1000);
        let settings =
            vec![("cpu.cfs_period_us", PERIOD.to_string()), ("cpu.cfs_quota_us", quota.to_string())];
        group(config.cgroup_cpu_mount(), config.cgroup_cpu_parent(), settings);
    }
    groups
}

fn version_2(config: &NsJailConfig) -> Vec<Group> {
    let (mut controllers, mut settings) = (Vec::new(), Vec::new());
    let memory = config.cgroup_mem_max();
    let both = config.cgroup_mem_memsw_max();
    let swap = match u64::try_from(config.cgroup_mem_swap_max()) {
        Ok(swap) => Some(swap),
        Err(_) => (both > 0).then(|| both.saturating_sub(memory)),
    };
    if memory > 0 || swap.is_some() {
        controllers.push("memory");
        if memory > 0 {
            settings.push(("memory.max", memory.to_string()));
        }
        settings.extend(swap.map(|swap| ("memory.swap.max", swap.to_string())));
    }
    if config.cgroup_pids_max() > 0 {
        controllers.push("pids");
        settings.push(("pids.max", with_init(config.cgroup_pids_max())));
    }
    if config.cgroup_cpu_ms_per_sec() > 0 {
        controllers.push("cpu");
        let quota = config.cgroup_cpu_ms_per_sec().saturating_mul(1000);
        settings.push(("cpu.max", format!("{quota} {PERIOD}")));
    }
    if settings.is_empty() {
        return Vec::new();
    }
    let parent = config.cgroupv2_mount().into();
    vec![Group { parent, controllers, settings, members: "cgroup.procs" }]
}

/// The groups of a running jail. They are gone when this is dropped after the jail's end.
#[derive(Debug)]
pub(super) struct Groups {
    keeper: Pid,
    paths: Vec<CString>,
}

impl Groups {
    /// Sets a keeper over the groups that are to be made for `child`; `None` when there are none. It comes before
    /// them, so that there is no moment in which nobody would remove them.
    pub(super) fn keep(wanted: &[Group], child: Pid, pidfd: BorrowedFd<'_>) -> io::Result<Option<Groups>> {
        if wanted.is_empty() {
            return Ok(None);
        }
        let paths: Vec<CString> = wanted
            .iter()
            .map(|group| {
                CString::new(group.directory(child).into_os_string().into_vec()).map_err(io::Error::other)
            })
            .collect::<Result<_, _>>()?;
        let keeper = contain::fork(|| keep(pidfd, &paths))?;
        Ok(Some(Groups { keeper, paths }))
    }
}

impl Group {
    fn directory(&self, child: Pid) -> PathBuf {
        self.parent.join(format!("NSJAIL.{}", child.as_raw_nonzero()))
    }

    /// Makes the group and puts `child` in.
    pub(super) fn make(&self, child: Pid) -> io::Result<()> {
        self.hand_down()?;
        let directory = self.directory(child);
        fs::DirBuilder::new().mode(0o700).create(&directory).map_err(|error| named(&directory, &error))?;
        for (file, value) in &self.settings {
            write(&directory.join(file), value)?;
        }
        write(&directory.join(self.members), &child.as_raw_nonzero().to_string())
    }

    /// Lets the parent's children have the controllers.
    fn hand_down(&self) -> io::Result<()> {
        if self.controllers.is_empty() {
            return Ok(());
        }
        let file = self.parent.join("cgroup.subtree_control");
        let have = fs::read_to_string(&file).map_err(|error| named(&file, &error))?;
        for controller in &self.controllers {
            if !have.split_ascii_whitespace().any(|name| name == *controller) {
                write(&file, &format!("+{controller}"))?;
            }
        }
        Ok(())
    }
}

fn write(file: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(file)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(|error| named(file, &error))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cgroup {}: {error}", path.display()))
}

impl Drop for Groups {
    fn drop(&mut self) {
        // It ends when the jail has ended, which whoever drops this has seen to.
        let _ = rustix::process::waitpid(Some(self.keeper), WaitOptions::empty());
        // Somebody may have killed it.
        remove(&self.paths);
    }
}

/// The keeper's life. Runs on a copy of the parent's memory and allocates nothing.
fn keep(jail: BorrowedFd<'_>, paths: &[CString]) -> i32 {
    if contain::block_signals().is_err()
        || rustix::process::setsid().is_err()
        || contain::close_all_but(jail).is_err()
    {
        return 1;
    }
    let mut fds = [PollFd::from_borrowed_fd(jail, PollFlags::IN)];
    while rustix::event::poll(&mut fds, None) == Err(Errno::INTR) {}
    remove(paths);
    0
}

fn remove(paths: &[CString]) {
    for path in paths {
        let mut tries = 0;
        while rustix::fs::rmdir(path.as_c_str()) == Err(Errno::BUSY) && tries < TRIES {
            tries += 1;
            let _ = rustix::event::poll(&mut [], Some(&PAUSE));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use std::os::fd::AsFd as _;
    use std::os::unix::ffi::OsStrExt as _;

    fn plan(text: &str) -> Vec<String> {
        let config = Policy::parse("p", format!("#\n{text}").as_bytes()).unwrap().into_config();
        wanted(&config)
            .unwrap()
            .iter()
            .map(|group| {
                let settings: Vec<String> = group.settings.iter().map(|(f, v)| format!("{f}={v}")).collect();
                format!("{} {} {}", group.parent.display(), settings.join(" "), group.members)
            })
            .collect()
    }

    #[test]
    fn fields_become_files() {
        for (text, want) in [
            ("", vec![]),
            ("use_cgroupv2: true", vec![]),
            (
                "cgroup_mem_max: 4096 cgroup_mem_swap_max: 0",
                vec![
                    "/sys/fs/cgroup/memory/NSJAIL memory.oom_control=0 memory.limit_in_bytes=4096 memory.memsw.limit_in_bytes=4096 tasks",
                ],
            ),
            (
                "cgroup_pids_max: 5 cgroup_pids_mount: \"/p\" cgroup_pids_parent: \"/a\" cgroup_cpu_ms_per_sec: 100",
                vec![
                    "/p/a pids.max=6 tasks",
                    "/sys/fs/cgroup/cpu/NSJAIL cpu.cfs_period_us=1000000 cpu.cfs_quota_us=100000 tasks",
                ],
            ),
            (
                "cgroup_net_cls_classid: 1048577",
                vec!["/sys/fs/cgroup/net_cls/NSJAIL net_cls.classid=0x100001 tasks"],
            ),
            (
                "use_cgroupv2: true cgroupv2_mount: \"/u\" cgroup_mem_max: 10 cgroup_mem_memsw_max: 30 cgroup_pids_max: 1 cgroup_cpu_ms_per_sec: 1500",
                vec!["/u memory.max=10 memory.swap.max=20 pids.max=2 cpu.max=1500000 1000000 cgroup.procs"],
            ),
            (
                "detect_cgroupv2: true cgroupv2_mount: \"/tmp\" use_cgroupv2: true cgroup_pids_max: 1",
                vec!["/sys/fs/cgroup/pids/NSJAIL pids.max=2 tasks"],
            ),
        ] {
            assert_eq!(plan(text), want, "{text}");
        }
        let both = Policy::parse("p", b"cgroup_mem_memsw_max: 1 cgroup_mem_swap_max: 0").unwrap();
        assert!(wanted(&both.into_config()).is_err());
    }

    /// Needs no controller, so it also works where version 1 has them all.
    #[test]
    fn a_real_group_of_version_2_is_joined_set_and_removed() {
        let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let Some(mount) = mounts.into_iter().find(|mount| is_unified(mount)) else {
            return eprintln!("skipped: no control groups of version 2 are mounted");
        };
        let parent = mount.join(format!("ktl-unit-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&parent) {
            return eprintln!("skipped: {}: {error}", parent.display());
        }
        let controllers = fs::read_to_string(parent.join("cgroup.controllers")).unwrap();
        let known = ["pids", "memory", "cpu", "hugetlb", "io", "cpuset"];
        let group = Group {
            parent: parent.clone(),
            controllers: known
                .into_iter()
                .filter(|name| controllers.split_whitespace().any(|have| have == *name))
                .collect(),
            settings: vec![("cgroup.max.descendants", "0".to_owned())],
            members: "cgroup.procs",
        };
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let jail = contain::clone_into(0, || {
            contain::close_copy(writer.as_fd());
            rustix::io::read(&reader, &mut [0]).map_or(1, |_| 0)
        })
        .unwrap();
        let groups =
            Groups::keep(std::slice::from_ref(&group), jail.pid, jail.pidfd.as_fd()).unwrap().unwrap();
        group.make(jail.pid).unwrap();
        let own = group.directory(jail.pid);
        let of_jail = fs::read_to_string(format!("/proc/{}/cgroup", jail.pid.as_raw_nonzero())).unwrap();
        let end = own.strip_prefix(mount).unwrap().display().to_string();
        assert!(of_jail.lines().any(|line| line.starts_with("0::/") && line.ends_with(&end)), "{of_jail}");
        assert_eq!(fs::read_to_string(own.join("cgroup.max.descendants")).unwrap(), "0\n");
        assert!(fs::create_dir(own.join("more")).is_err());
        for controller in &group.controllers {
            assert!(fs::read_to_string(own.join("cgroup.controllers")).unwrap().contains(controller));
        }
        drop((reader, writer));
        rustix::process::waitpid(Some(jail.pid), WaitOptions::empty()).unwrap();
        drop(groups);
        assert!(!own.exists());
        fs::remove_dir(&parent).unwrap();
    }

    #[test]
    fn a_keeper_removes_what_its_parent_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("group");
        fs::create_dir(&path).unwrap();
        let paths = [CString::new(path.as_os_str().as_bytes()).unwrap()];
        let jail = contain::clone_into(0, || 0).unwrap();
        let keeper = contain::fork(|| keep(jail.pidfd.as_fd(), &paths)).unwrap();
        let ended = rustix::process::waitpid(Some(keeper), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(ended.1.exit_status(), Some(0));
        assert!(!path.exists());
        rustix::process::waitpid(Some(jail.pid), WaitOptions::empty()).unwrap();
    }
}
