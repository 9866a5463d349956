//! Damaged messages for whatever reads what others wrote: by the million, and never a panic, a wait or growth.
//!
//! There is no coverage to guide them; what guides them is a good message of each kind, of which every damaged one is a
//! descendant. The order is the same in each run, so a failure can be had again by its number. Each target plays in a
//! process of its own, so that the kernel's figures are its alone and a panic, an abort and a stack's end are told apart
//! from the others.
//!
//! The suite sends each target a few thousand; `cargo xtask fuzz` sends a million.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::workspace;

/// How many messages each target gets.
pub const COUNT: &str = "KTL_FUZZ_MESSAGES";
/// Parts of names of targets, parted by commas; the others are left out.
pub const ONLY: &str = "KTL_FUZZ_TARGETS";
/// The one that this process is for.
const SELF: &str = "KTL_FUZZ_SELF";
const USUAL: u64 = 2000;
/// Longer than any message takes on a machine that is busy with something else.
const HANG: Duration = Duration::from_secs(120);
/// What a target may add to what the test program holds before.
const ROOM: u64 = 64 << 20;
/// What its second half may add to the peak of its first: whatever is kept of each message shows in this.
const LEAK: u64 = 16 << 20;

/// Something that reads, by its name.
pub type Target = (&'static str, fn(&mut Messages));

/// The messages of one target.
#[derive(Debug)]
pub struct Messages {
    dice: u64,
    count: u64,
    sent: Arc<AtomicU64>,
    last: Vec<u8>,
    half: u64,
}

impl Messages {
    fn new(seed: u64, count: u64) -> Messages {
        Messages { dice: seed, count, sent: Arc::default(), last: Vec::new(), half: 0 }
    }

    /// Whether there are any left.
    pub fn more(&self) -> bool {
        self.sent.load(Ordering::Relaxed) < self.count
    }

    /// A number below `sides`, in a fixed disorder (splitmix64).
    pub fn roll(&mut self, sides: usize) -> usize {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }

    /// The next message, made of one of `good`; `None` at the end.
    pub fn next<T: AsRef<[u8]>>(&mut self, good: &[T]) -> Option<Vec<u8>> {
        let sent = self.sent.fetch_add(1, Ordering::Relaxed);
        if sent >= self.count {
            return None;
        }
        if sent == self.count / 2 {
            self.half = peak();
        }
        let mut bytes = good[self.roll(good.len())].as_ref().to_vec();
        // Mostly few mistakes: what is wrong all over is refused at its first byte.
        for _ in 0..self.roll(9) {
            self.damage(&mut bytes, good);
        }
        if self.roll(400) == 0 {
            self.pile_up(&mut bytes);
        }
        self.last.clone_from(&bytes);
        Some(bytes)
    }

    /// The same as text.
    pub fn text<T: AsRef<[u8]>>(&mut self, good: &[T]) -> Option<String> {
        self.next(good).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn damage<T: AsRef<[u8]>>(&mut self, bytes: &mut Vec<u8>, good: &[T]) {
        const SIGNS: &[u8] = b"\0\xff\x7f\x80\"'/.%\\:@#?*[]{}()<>$=,;-~ \t\r\n\x1b019";
        let at = self.roll(bytes.len() + 1);
        let end = at + self.roll((bytes.len() - at + 1).min(64));
        match self.roll(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.roll(8),
            1 if at < bytes.len() => bytes[at] = SIGNS[self.roll(SIGNS.len())],
            2 => bytes.insert(at, self.roll(256) as u8),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let other = good[self.roll(good.len())].as_ref();
                let from = self.roll(other.len() + 1);
                let to = from + self.roll((other.len() - from + 1).min(64));
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }

    /// Says a small piece very often, as whoever wants to be nested deeply or compared with everything.
    fn pile_up(&mut self, bytes: &mut Vec<u8>) {
        let at = self.roll(bytes.len() + 1);
        let end = at + self.roll((bytes.len() - at + 1).min(12));
        let piece = bytes[at..end].to_vec();
        let times = 1 << self.roll(15);
        bytes.splice(at..at, piece.repeat(times));
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (sent, last) = (self.sent.load(Ordering::Relaxed), self.last.escape_ascii());
            eprintln!("message {sent}, the last one read: {last}");
        }
    }
}

/// Plays all `targets`, each in a process that runs `test` of this test program again. To be called by that test.
pub fn run(test: &str, targets: &[Target]) {
    let mine = workspace::variable(SELF).and_then(|name| name.into_string().ok());
    if let Some(mine) = mine {
        let seed = targets.iter().position(|(name, _)| *name == mine).expect("a target of this test");
        return play(&mine, seed as u64 + 1, targets[seed].1);
    }
    let only = workspace::variable(ONLY).and_then(|list| list.into_string().ok());
    let wanted =
        |name: &str| only.as_ref().is_none_or(|list| list.split(',').any(|part| name.contains(part)));
    let mut failed = Vec::new();
    for (name, _) in targets.iter().filter(|(name, _)| wanted(name)) {
        let program = std::env::current_exe().expect("this program has a path");
        let output = Command::new(program)
            .args([test, "--exact", "--nocapture"])
            .env(SELF, name)
            .stdin(Stdio::null())
            .output()
            .expect("this program can be started again");
        let told = String::from_utf8_lossy(&output.stdout);
        // A test that was not found would be a success as well.
        match told.lines().find(|line| line.starts_with("fuzz ")) {
            Some(line) if output.status.success() => println!("{line}"),
            _ => {
                let errors = String::from_utf8_lossy(&output.stderr);
                failed.push(format!("{name} ({}):\n{told}{errors}", output.status));
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn play(name: &str, seed: u64, target: fn(&mut Messages)) {
    let count = workspace::variable(COUNT).and_then(|count| count.to_str()?.parse().ok()).unwrap_or(USUAL);
    let mut messages = Messages::new(seed, count);
    watch(name.to_owned(), messages.sent.clone());
    let (before, began) = (peak(), Instant::now());
    target(&mut messages);
    let (after, seconds) = (peak(), began.elapsed().as_secs_f64());
    println!("fuzz {name}: {count} messages, {seconds:.1} s, at most {} MiB", after >> 20);
    assert!(!messages.more(), "{name} left messages out");
    assert!(after - before < ROOM, "{name} grew by {} bytes", after - before);
    assert!(
        after - messages.half < LEAK,
        "{name} grew by {} bytes in its second half",
        after - messages.half
    );
}

/// Ends the process when no further message is asked for.
fn watch(name: String, sent: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        loop {
            let before = sent.load(Ordering::Relaxed);
            std::thread::sleep(HANG);
            if sent.load(Ordering::Relaxed) == before {
                eprintln!("{name}: message {before} takes more than {} s", HANG.as_secs());
                std::process::abort();
            }
        }
    });
}

/// Bytes of memory that this process has had at the most, as the kernel counts them.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel's figures");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64) -> Vec<Vec<u8>> {
        let mut messages = Messages::new(seed, 4000);
        std::iter::from_fn(|| messages.next(&[&b"{\"key\": [1, 2]}"[..], b"another"])).collect()
    }

    #[test]
    fn messages_are_damaged_and_the_same_each_time() {
        let first = all(1);
        assert_eq!(first, all(1));
        assert_ne!(first, all(2));
        assert_eq!(first.len(), 4000);
        let whole = first.iter().filter(|bytes| bytes.as_slice() == b"another").count();
        assert!((40..2000).contains(&whole), "{whole}");
        assert!(first.iter().any(|bytes| bytes.len() > 1000));
    }

    #[test]
    fn growth_is_seen() {
        let before = peak();
        std::hint::black_box(vec![1_u8; 256 << 20]);
        assert!(peak() - before > ROOM);
    }
}
