//! The most memory that a process and its descendants had at once each, by the kernel's own high-water marks.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks. The mark of a process is read until it ends, so only what it takes in its last moment is missed.
const PAUSE: Duration = Duration::from_millis(15);

/// Watches a process tree.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    pub fn over(pid: u32) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut marks = BTreeMap::new();
            while !stopped.load(Ordering::Relaxed) {
                look(pid, &mut marks);
                std::thread::sleep(PAUSE);
            }
            marks.values().sum()
        });
        Watch { stop, thread }
    }

    /// The sum of all processes' marks in KiB: at least what they had together at any time.
    pub fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(u64::MAX)
    }
}

fn look(pid: u32, marks: &mut BTreeMap<u32, u64>) {
    let mut waiting = vec![pid];
    while let Some(pid) = waiting.pop() {
        if let Some(mark) = mark(pid) {
            let known = marks.entry(pid).or_default();
            *known = mark.max(*known);
        }
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            waiting.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
}

/// `VmHWM` in KiB.
fn mark(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_counts_too() {
        let mut child = std::process::Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn().expect("sh");
        let mut marks = BTreeMap::new();
        while marks.len() < 2 {
            look(child.id(), &mut marks);
        }
        assert!(marks.values().all(|mark| *mark > 0));
        let grandchild = marks.keys().copied().find(|pid| *pid != child.id());
        for pid in grandchild.into_iter().chain([child.id()]) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
        }
        child.wait().expect("wait");
    }
}
