//! The end of a desk, told to all who wait on its behalf.
//!
//! A thread that waits for a helper sits in `poll(2)`, so the end must be something that can be polled: a pipe whose
//! writing end is closed.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub struct Stop {
    told: AtomicBool,
    watch: PipeReader,
    end: Mutex<Option<PipeWriter>>,
}

impl Stop {
    pub fn new() -> std::io::Result<Stop> {
        let (watch, end) = std::io::pipe()?;
        Ok(Stop { told: AtomicBool::new(false), watch, end: Mutex::new(Some(end)) })
    }

    pub fn tell(&self) {
        self.told.store(true, Ordering::SeqCst);
        self.end.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    }

    pub fn told(&self) -> bool {
        self.told.load(Ordering::SeqCst)
    }
}

/// Becomes ready, by `POLLHUP`, when the end is told.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}
