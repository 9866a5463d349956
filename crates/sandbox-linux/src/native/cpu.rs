//! Processors and priority: `max_cpus` and `nice_level`.

use rustix::io::{Errno, Result};
use rustix::thread::CpuSet;

/// As many of this process's processors as the policy allows, or `None` for all. The choice moves with `seed`, so
/// that jails do not crowd on the first ones.
pub(super) fn subset(max_cpus: u32, seed: u32) -> Result<Option<CpuSet>> {
    let own = rustix::thread::sched_getaffinity(None)?;
    let have = own.count();
    if max_cpus == 0 || max_cpus >= have {
        return Ok(None);
    }
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| own.is_set(*cpu)).collect();
    let mut set = CpuSet::new();
    for cpu in cpus.iter().cycle().skip((seed % have) as usize).take(max_cpus as usize) {
        set.set(*cpu);
    }
    Ok(Some(set))
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
        assert!(subset(0, 5).unwrap().is_none());
        assert!(subset(own.count(), 5).unwrap().is_none());
        if own.count() > 1 {
            for seed in 0..4 {
                let chosen = subset(1, seed).unwrap().unwrap();
                assert_eq!(chosen.count(), 1);
                assert!((0..CpuSet::MAX_CPU).all(|cpu| !chosen.is_set(cpu) || own.is_set(cpu)));
            }
        }
    }
}
