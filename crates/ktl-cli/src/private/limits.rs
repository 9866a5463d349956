//! How much of the machine a private daemon may take, its RUN steps included: memory, processors, processes.
//!
//! Kept by control groups around the daemon's jail, which whoever makes the jail makes and removes; here is settled which
//! hierarchy has them. Steps cannot leave: the groups belong to ids that do not exist in the jail. That is not so for a plain
//! user, who is the containers' root himself, so his daemons have the limits that he puts around ktl. See cgroups(7).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde::{Deserialize, Serialize};

use super::only;
use crate::builder::Candidate;
use crate::cli::PrivateFlags;
use crate::env::{self, Env};
use crate::failure::Failure;

/// Processes and threads, where nobody says another number: a fork bomb ends before the machine does.
const PIDS: u64 = 8192;
/// Below these, buildkitd itself does not come up.
const LEAST_MEMORY: u64 = 256 << 20;
const LEAST_PIDS: u64 = 128;

/// What is limited, and to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpu: Option<u64>,
    /// 0 for no limit, nothing for ktl's own.
    pub pids: Option<u64>,
}

impl Limits {
    /// As flags and variables have it.
    pub fn asked(flags: &PrivateFlags, env: &Env) -> Result<Limits, Failure> {
        let read = |flag: Option<u64>, name: &str, parse: fn(&str) -> Result<u64, String>| match flag {
            Some(value) => Ok(Some(value)),
            None => env
                .text(name)
                .map(|text| parse(&text))
                .transpose()
                .map_err(|why| Failure::usage(format!("{name}: {why}"))),
        };
        Ok(Limits {
            memory: read(flags.builder_memory, env::KTL_BUILDER_MEMORY, memory)?,
            cpu: read(flags.builder_cpus, env::KTL_BUILDER_CPUS, cpus)?,
            pids: read(flags.builder_pids, env::KTL_BUILDER_PIDS, pids)?,
        })
    }

    /// The stricter of both in everything.
    pub fn and(self, other: Limits) -> Limits {
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(0), limit) | (limit, Some(0)) => limit,
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Limits {
            memory: least(self.memory, other.memory),
            cpu: least(self.cpu, other.cpu),
            pids: least(self.pids, other.pids),
        }
    }

    /// Whether a daemon with these limits serves who asks for `other`: what nobody asks for is as it was started.
    pub fn serve(self, other: Limits) -> bool {
        let same = |have: Option<u64>, want: Option<u64>| want.is_none() || want == have;
        same(self.memory, other.memory) && same(self.cpu, other.cpu) && same(self.pids, other.pids)
    }

    fn wanted(self) -> Vec<Wanted> {
        let limit = |controller, value: Option<u64>, asked| {
            Some(Wanted { controller, value: value.filter(|value| *value > 0)?, asked })
        };
        let own = self.pids.is_none().then_some(PIDS);
        [
            limit(Controller::Memory, self.memory, true),
            limit(Controller::Cpu, self.cpu, true),
            limit(Controller::Pids, self.pids.or(own), self.pids.is_some()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// The candidates that may be used where a flag asks for limits: those of ktl's. A variable says what private builders have.
pub fn keep(candidates: Vec<Candidate>, flags: &PrivateFlags) -> Result<Vec<Candidate>, Failure> {
    let asked = [
        (flags.builder_memory, Controller::Memory),
        (flags.builder_cpus, Controller::Cpu),
        (flags.builder_pids, Controller::Pids),
    ];
    match asked.iter().find(|(flag, _)| flag.is_some()) {
        None => Ok(candidates),
        Some((_, controller)) => {
            only(candidates, controller.flag(), "has limits of its own, which ktl cannot set")
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Pids => "pids",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Controller::Memory => "--builder-memory",
            Controller::Cpu => "--builder-cpus",
            Controller::Pids => "--builder-pids",
        }
    }

    /// Prefix of the policy's fields, and the name of the one that limits.
    fn fields(self) -> (&'static str, &'static str) {
        match self {
            Controller::Memory => ("cgroup_mem", "cgroup_mem_max"),
            Controller::Cpu => ("cgroup_cpu", "cgroup_cpu_ms_per_sec"),
            Controller::Pids => ("cgroup_pids", "cgroup_pids_max"),
        }
    }
}

struct Wanted {
    controller: Controller,
    value: u64,
    /// By the user, and not by ktl.
    asked: bool,
}

/// Limits as a policy has them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Lines of a policy.
    pub policy: String,
    /// What only ktl asked for and this machine cannot keep, and why.
    pub without: Option<String>,
}

/// Finds what keeps the limits on this machine.
///
/// # Errors
/// When the user has asked for one and there is nothing that keeps it.
pub fn settle(limits: Limits) -> Result<Settled, Failure> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let groups = Groups { own: read("/proc/self/cgroup"), mounts: read("/proc/self/mountinfo") };
    let root = nix::unistd::geteuid().is_root();
    let mut settled = Settled::default();
    let wanted = limits.wanted();
    let old = wanted.iter().any(|wanted| groups.of_version_1(wanted.controller).is_some());
    let controllers: Vec<&str> = wanted.iter().map(|wanted| wanted.controller.name()).collect();
    let unified = if old { Ok(String::new()) } else { groups.of_version_2(&controllers) };
    for Wanted { controller, value, asked } in wanted {
        let (prefix, field) = controller.fields();
        let place = match (&unified, old) {
            _ if !root => Err("only root's daemons have limits".to_owned()),
            (_, true) => match groups.of_version_1(controller) {
                Some((mount, parent)) => {
                    Ok(format!("{prefix}_mount: {mount:?} {prefix}_parent: {parent:?}\n"))
                }
                None => Err(format!("there is no {} hierarchy to make a group in", controller.name())),
            },
            // The same for all, and a field may stand once only.
            (Ok(mount), false) if settled.policy.is_empty() => {
                Ok(format!("use_cgroupv2: true cgroupv2_mount: {mount:?}\n"))
            }
            (Ok(_), false) => Ok("\n".to_owned()),
            (Err(why), false) => Err(why.clone()),
        };
        match place {
            Ok(place) => settled.policy += &format!("{field}: {value} {place}"),
            Err(why) if asked => {
                let title = format!("{} cannot be kept here: {why}", controller.flag());
                return Err(Failure::sandbox(title).hints((!root).then(|| WAY_OF_USERS.to_owned())));
            }
            Err(why) => settled.without = Some(why),
        }
    }
    Ok(settled)
}

const WAY_OF_USERS: &str = "Start ktl within limits, which its builder then keeps: \
                            systemd-run --user --scope -p MemoryMax=4G -p TasksMax=4096 ktl build …";

/// What the kernel says of this process's groups and of the hierarchies that are mounted.
struct Groups {
    own: String,
    mounts: String,
}

impl Groups {
    /// Hierarchies of this type: where each is mounted, which part of it that is, and its options.
    fn hierarchies(&self, kind: &str) -> impl Iterator<Item = (PathBuf, &str, &str)> {
        self.mounts.lines().filter_map(move |line| {
            let (mount, hierarchy) = line.split_once(" - ")?;
            let (mut mount, mut hierarchy) = (mount.split(' ').skip(3), hierarchy.split(' '));
            let (root, point) = (mount.next()?, mount.next()?);
            (hierarchy.next()? == kind).then_some(())?;
            Some((PathBuf::from(point), root, hierarchy.nth(1)?))
        })
    }

    /// Our group's path below where a hierarchy is mounted.
    fn below<'a>(&'a self, root: &str, is_it: impl Fn(&str) -> bool) -> Option<&'a str> {
        let own = self.own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            is_it(controllers).then_some(path)
        })?;
        let below = if root == "/" { own } else { own.strip_prefix(root)? };
        Some(below.trim_matches('/'))
    }

    fn of_version_1(&self, controller: Controller) -> Option<(String, String)> {
        let name = controller.name();
        let has = |list: &str| list.split(',').any(|other| other == name);
        let (mount, root, _) = self.hierarchies("cgroup").find(|(_, _, options)| has(options))?;
        let parent = self.below(root, has)?;
        is_ours(&mount.join(parent)).then(|| (mount.display().to_string(), parent.to_owned()))
    }

    /// The nearest group above us that hands the controllers down, or can be told to: no process may be in it.
    fn of_version_2(&self, controllers: &[&str]) -> Result<String, String> {
        let none = "no hierarchy of version 2 is mounted";
        let (mount, root, _) = self.hierarchies("cgroup2").next().ok_or(none)?;
        let own = self.below(root, str::is_empty).ok_or(none)?;
        let has_all = |file: PathBuf| {
            let text = fs::read_to_string(file).unwrap_or_default();
            controllers.iter().all(|name| text.split_whitespace().any(|other| other == *name))
        };
        let is_empty =
            |group: &Path| fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|text| text.is_empty());
        let fits = |group: &Path| {
            let may = is_empty(group) || group == mount && root == "/" && !group.join("cgroup.type").exists();
            is_ours(group)
                && (has_all(group.join("cgroup.subtree_control"))
                    || may && has_all(group.join("cgroup.controllers")))
        };
        let start = mount.join(own);
        let above = start.ancestors().take_while(|group| group.starts_with(&mount));
        above.into_iter().find(|group| fits(group)).map(|group| group.display().to_string()).ok_or_else(
            || format!("no group from {} up hands down {}", start.display(), controllers.join(" and ")),
        )
    }
}

fn is_ours(dir: &Path) -> bool {
    dir.is_dir() && rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// A size as docker's `--memory` has it.
pub fn memory(text: &str) -> Result<u64, String> {
    match crate::commands::builder::size::parse(text)? {
        bytes if bytes < LEAST_MEMORY => Err(format!("buildkitd needs {} MiB itself", LEAST_MEMORY >> 20)),
        bytes => Ok(bytes),
    }
}

/// A number of processors as docker's `--cpus` has it, such as 1.5; in thousandths.
pub fn cpus(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(number) if (0.01..=100_000.0).contains(&number) => Ok((number * 1000.0) as u64),
        _ => Err(format!("`{text}` is no number of processors, as in 1.5")),
    }
}

/// A number of processes as docker's `--pids-limit` has it.
pub fn pids(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Ok(0),
        Ok(number) if number < LEAST_PIDS => {
            Err(format!("buildkitd needs {LEAST_PIDS} itself; 0 is no limit"))
        }
        Ok(number) => Ok(number),
        Err(_) => Err(format!("`{text}` is no number of processes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read() {
        assert_eq!(memory("1g"), Ok(1 << 30));
        assert_eq!(cpus("1.5"), Ok(1500));
        assert_eq!(pids("0"), Ok(0));
        assert_eq!(pids("500"), Ok(500));
        for wrong in [memory("1m"), memory("x"), cpus("0"), cpus("-1"), cpus("NaN"), pids("5"), pids("-1")] {
            assert!(wrong.is_err());
        }
        let env = Env::of(&[("KTL_BUILDER_MEMORY", "2g"), ("KTL_BUILDER_PIDS", "300")]);
        let flags = PrivateFlags { builder_pids: Some(500), ..PrivateFlags::default() };
        let limits = Limits::asked(&flags, &env).unwrap();
        assert_eq!(limits, Limits { memory: Some(2 << 30), cpu: None, pids: Some(500) });
        assert!(Limits::asked(&flags, &Env::of(&[("KTL_BUILDER_CPUS", "x")])).is_err());
    }

    #[test]
    fn the_stricter_limit_counts_and_silence_takes_what_is_there() {
        let limits = |memory, pids| Limits { memory, cpu: None, pids };
        for (one, other, both) in [
            (limits(Some(5), None), limits(Some(3), Some(7)), limits(Some(3), Some(7))),
            (limits(None, Some(0)), limits(None, Some(7)), limits(None, Some(7))),
            (limits(None, Some(9)), limits(None, None), limits(None, Some(9))),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both));
        }
        assert!(limits(Some(5), Some(7)).serve(limits(None, None)));
        assert!(limits(Some(5), Some(7)).serve(limits(Some(5), None)));
        assert!(!limits(Some(5), Some(7)).serve(limits(Some(6), None)));
        assert!(!limits(None, None).serve(limits(None, Some(9))));
    }

    #[test]
    fn hierarchies_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        for group in ["memory/a/b", "pids", "two/user/app/run"] {
            fs::create_dir_all(dir.path().join(group)).unwrap();
        }
        let groups = Groups {
            own: "8:pids:/\n4:memory,hugetlb:/a/b\n0::/user/app/run\n".to_owned(),
            mounts: format!(
                "35 31 0:32 / {at}/memory rw - cgroup cgroup rw,memory,hugetlb\n39 31 0:36 / {at}/pids rw - cgroup cgroup rw,pids\n\
                 41 31 0:38 / {at}/two rw - cgroup2 cgroup2 rw\n"
            ),
        };
        assert_eq!(groups.of_version_1(Controller::Memory), Some((format!("{at}/memory"), "a/b".to_owned())));
        assert_eq!(groups.of_version_1(Controller::Pids), Some((format!("{at}/pids"), String::new())));
        assert_eq!(groups.of_version_1(Controller::Cpu), None);

        let two = |file: &str, text: &str| fs::write(dir.path().join("two").join(file), text).unwrap();
        assert!(groups.of_version_2(&["pids"]).is_err());
        two("user/app/run/cgroup.controllers", "memory pids");
        two("user/app/run/cgroup.procs", "7\n");
        assert!(groups.of_version_2(&["pids"]).is_err(), "we are in there");
        two("user/app/cgroup.subtree_control", "pids");
        assert_eq!(groups.of_version_2(&["pids"]), Ok(format!("{at}/two/user/app")));
        assert!(groups.of_version_2(&["pids", "memory"]).is_err());
        two("user/cgroup.controllers", "memory pids");
        two("user/cgroup.procs", "");
        assert_eq!(groups.of_version_2(&["pids", "memory"]), Ok(format!("{at}/two/user")));
    }
}
