//! A registry that is none: whoever asks for its images is sent to another host for a token, login in hand. A client that
//! follows it gives the login away.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

/// What it answers everything with. The host does not exist.
const ANSWER: &str = "HTTP/1.1 401 Unauthorized\r\n\
    WWW-Authenticate: Bearer realm=\"http://elsewhere.example/token\",service=\"elsewhere\"\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(10);

/// Plain http on a loopback port; stopped when dropped.
#[derive(Debug)]
pub struct AstrayRegistry {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl AstrayRegistry {
    pub fn start() -> Result<AstrayRegistry> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind a loopback port")?;
        let address = listener.local_addr().context("read the port")?.to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                // A client that goes away early is no concern of ours.
                let _answered = answer(stream);
            }
        });
        Ok(AstrayRegistry { address, stop, thread: Some(thread) })
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        &self.address
    }
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    stream.write_all(ANSWER.as_bytes())
}

impl Drop for AstrayRegistry {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread from accept.
        let _stream = TcpStream::connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}
