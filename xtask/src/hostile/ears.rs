//! Who hears what a client should not say: a registry that the build names, a foreign token server, the user's agent.

use std::path::Path;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::ground::Ground;
use super::serve::RUNTIME;

/// Of one HTTP request.
const REQUEST: usize = 64 << 10;
/// Of one message of an agent.
const FRAME: usize = 256 << 10;
/// Signatures that a client gives away unasked.
const SIGNATURES: u32 = 20;

/// Stopped with the value.
#[derive(Debug)]
pub struct Ears {
    registry: String,
    foreign: String,
    /// The registry's token server sends its clients on to the foreign one.
    pub redirects: AtomicBool,
    signatures: AtomicU32,
    tasks: Vec<JoinHandle<()>>,
}

impl Ears {
    pub(super) fn listen(dir: &Path, ground: Weak<Ground>) -> Ears {
        let mut tasks = Vec::new();
        let mut http = |is_foreign: bool| {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            listener.set_nonblocking(true).expect("a socket that does not block");
            let address = listener.local_addr().expect("the address of a socket").to_string();
            let ground = ground.clone();
            tasks.push(RUNTIME.spawn(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer(stream, ground.clone(), is_foreign));
                }
            }));
            address
        };
        let (registry, foreign) = (http(false), http(true));
        let socket =
            std::os::unix::net::UnixListener::bind(dir.join("agent.sock")).expect("an agent's socket");
        socket.set_nonblocking(true).expect("a socket that does not block");
        tasks.push(RUNTIME.spawn(agent(socket, ground)));
        Ears { registry, foreign, redirects: AtomicBool::new(false), signatures: AtomicU32::new(0), tasks }
    }

    /// `host:port` of the registry that the Dockerfile names.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `host:port` of somebody else.
    pub fn foreign(&self) -> &str {
        &self.foreign
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn answer(mut stream: tokio::net::TcpStream, ground: Weak<Ground>, is_foreign: bool) {
    let request = read_request(&mut stream).await;
    let Some(ground) = ground.upgrade() else { return };
    let text = String::from_utf8_lossy(&request).into_owned();
    if is_foreign {
        ground.record.got("a foreign token server", &request);
        let basic = text.lines().find_map(|line| line.split_once("Basic ").map(|(_, coded)| coded.trim()));
        if let Some(plain) = basic.and_then(|coded| STANDARD.decode(coded).ok()) {
            ground.record.got("a foreign token server, as a login", &plain);
        }
    }
    let path = text.split(' ').nth(1).unwrap_or_default();
    let ears = &ground.ears;
    let reply = if path.starts_with("/v2") {
        format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"hostile\"\r\n\
             Content-Length: 0\r\nConnection: close\r\n\r\n",
            ears.registry
        )
    } else if !is_foreign && ears.redirects.load(Ordering::Relaxed) {
        format!(
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{}/token\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n",
            ears.foreign
        )
    } else {
        // The rights that were asked for tell what a token is worth.
        let has_login = text.contains("password=") || text.contains("Basic ");
        let wide = has_login
            && ["catalog", "delete", "foreign/app", "foreign%2Fapp"].iter().any(|word| text.contains(word));
        let token = if wide && !is_foreign { "CANARY-token" } else { "PERMITTED-token" };
        let body = format!("{{\"token\":\"{token}\",\"access_token\":\"{token}\",\"expires_in\":300}}");
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let _ = stream.write_all(reply.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while request.len() < REQUEST {
        let head = request.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(head) = head {
            let text = String::from_utf8_lossy(&request[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            if request.len() >= head + 4 + length {
                break;
            }
        }
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => request.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    request
}

/// An agent with one key that signs everything, and tells what it was asked.
async fn agent(socket: std::os::unix::net::UnixListener, ground: Weak<Ground>) {
    let Ok(listener) = UnixListener::from_std(socket) else { return };
    while let Ok((mut stream, _)) = listener.accept().await {
        let ground = ground.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u32().await {
                let mut message = vec![0; (length as usize).min(FRAME)];
                if stream.read_exact(&mut message).await.is_err() {
                    return;
                }
                let Some(ground) = ground.upgrade() else { return };
                let reply = ground.heard_by_agent(&message);
                if stream.write_all(&super::cases::agent::packed(&reply)).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl Ground {
    fn heard_by_agent(&self, message: &[u8]) -> Vec<u8> {
        use super::cases::agent::{KEY, is_login, packed};
        match message.split_first() {
            Some((11, _)) => [&[12, 0, 0, 0, 1][..], &packed(&KEY), &packed(b"PERMITTED key")].concat(),
            Some((13, body)) => {
                if !is_login(body) {
                    self.record.leak("the agent signed something that is no login");
                }
                if self.ears.signatures.fetch_add(1, Ordering::Relaxed) + 1 > SIGNATURES {
                    self.record.leak(format!("the agent signed more than {SIGNATURES} times"));
                }
                [&[14][..], &packed(b"PERMITTED signature")].concat()
            }
            Some((27, body)) if body.windows(7).any(|name| name == b"session") => vec![6],
            Some((kind, _)) => {
                self.record.leak(format!("the agent got message {kind}"));
                vec![6]
            }
            None => vec![5],
        }
    }
}
