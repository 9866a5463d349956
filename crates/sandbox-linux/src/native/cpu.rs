//! Processors and priority: `max_cpus` and `nice_level`, and on which processor a jail is set up.

use rustix::io::{Errno, Result};
use rustix::thread::CpuSet;

/// As many of this process's processors as the policy allows, mostly all. The choice moves with `seed`, so that jails
/// do not crowd on the first ones.
pub(super) fn subset(max_cpus: u32, seed: u32) -> Result<CpuSet> {
    let own = rustix::thread::sched_getaffinity(None)?;
    let have = own.count();
    if max_cpus == 0 || max_cpus >= have {
        return Ok(own);
    }
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| own.is_set(*cpu)).collect();
    let mut set = CpuSet::new();
    for cpu in cpus.iter().cycle().skip((seed % have) as usize).take(max_cpus as usize) {
        set.set(*cpu);
    }
    Ok(set)
}

/// Keeps this thread, and what it clones, on the processor where it is until this is dropped.
///
/// The processes of a start never work side by side: each waits for the one before. On a busy machine a new process
/// that the kernel puts on another processor waits there for its turn, some milliseconds each time, while on the
/// same one it goes on in the time that its parent has left. What was cloned meanwhile is let go with [`spread`].
#[derive(Debug)]
pub(super) struct OneProcessor {
    before: CpuSet,
}

impl OneProcessor {
    /// `None` where the kernel, or a container's filter, does not let it: a start then only takes longer.
    pub(super) fn stay() -> Option<OneProcessor> {
        let before = rustix::thread::sched_getaffinity(None).ok()?;
        let mut here = CpuSet::new();
        let cpu = rustix::thread::sched_getcpu();
        if cpu >= CpuSet::MAX_CPU {
            return None;
        }
        here.set(cpu);
        spread(&here).ok()?;
        Some(OneProcessor { before })
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        let _ = spread(&self.before);
    }
}

/// Lets this thread run on these processors.
pub(super) fn spread(cpus: &CpuSet) -> Result<()> {
    rustix::thread::sched_setaffinity(None, cpus)
}

/// The policy's level. A caller that was itself made nicer cannot go back, and its guest stays at its level.
pub(super) fn set_priority(level: i32) -> Result<()> {
    match rustix::process::setpriority_process(None, level) {
        Err(Errno::ACCESS | Errno::PERM) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_among_its_own() {
        let own = rustix::thread::sched_getaffinity(None).unwrap();
        assert_eq!(subset(0, 5).unwrap(), own);
        assert_eq!(subset(own.count(), 5).unwrap(), own);
        if own.count() > 1 {
            for seed in 0..4 {
                let chosen = subset(1, seed).unwrap();
                assert_eq!(chosen.count(), 1);
                assert!((0..CpuSet::MAX_CPU).all(|cpu| !chosen.is_set(cpu) || own.is_set(cpu)));
            }
        }
    }

    #[test]
    fn stays_and_comes_back() {
        let own = || rustix::thread::sched_getaffinity(None).unwrap();
        let before = own();
        let staying = OneProcessor::stay().unwrap();
        assert_eq!(own().count(), 1);
        assert!(own().is_set(rustix::thread::sched_getcpu()));
        drop(staying);
        assert_eq!(own(), before);
    }
}
