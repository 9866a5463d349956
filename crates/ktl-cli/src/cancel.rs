//! How a running build learns that it should stop.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Where the word comes from.
#[derive(Debug)]
pub enum Cancel {
    /// The host side holds the other end: a byte is the number of the signal that it got, the end of the stream means that
    /// the host side is gone.
    Control(OwnedFd),
    /// There is no host side: signals come here.
    Signals,
}

/// The signal that ended the build, once there is one.
#[derive(Debug, Clone, Default)]
pub struct Received(Arc<AtomicU8>);

impl Received {
    pub fn received(&self) -> Option<u8> {
        Some(self.0.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
    }

    fn note(&self, signal: u8) {
        self.0.store(signal, Ordering::Relaxed);
    }
}

/// Cancels `token` when the word comes. Must be called within the runtime.
pub fn watch(cancel: Cancel, token: CancellationToken) -> Received {
    let received = Received::default();
    let noted = received.clone();
    tokio::spawn(async move {
        match cancel {
            Cancel::Control(end) => {
                let mut byte = [0];
                if let Ok(mut end) = tokio::net::unix::pipe::Receiver::from_owned_fd(end)
                    && let Ok(1) = end.read(&mut byte).await
                {
                    noted.note(byte[0]);
                }
                token.cancel();
            }
            Cancel::Signals => signals(noted, token).await,
        }
    });
    received
}

/// The first signal cancels and waits, the second ends the process at once.
async fn signals(noted: Received, token: CancellationToken) {
    let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
    else {
        return;
    };
    loop {
        let number = tokio::select! {
            _ = interrupt.recv() => libc::SIGINT,
            _ = terminate.recv() => libc::SIGTERM,
            _ = hangup.recv() => libc::SIGHUP,
        };
        let number = u8::try_from(number).unwrap_or(u8::MAX);
        if token.is_cancelled() {
            #[expect(clippy::exit, reason = "the user has asked a second time")]
            std::process::exit(i32::from(128 + number));
        }
        noted.note(number);
        token.cancel();
    }
}
