//! Bytes against a served gate, before an upstream that records what reaches it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::{Gate, GateRecord, Serving};

/// Keeps what it reads. Answers every request with `OK`; a build never comes to an end, and its client's leaving is kept.
struct Upstream {
    seen: Arc<Mutex<Vec<String>>>,
    left: Receiver<()>,
}

impl Upstream {
    fn listen(path: &Path) -> Upstream {
        let listener = UnixListener::bind(path).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let (leaving, left) = channel();
        // Ends with the test's process: nobody connects any more.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, leaving) = (Arc::clone(&kept), leaving.clone());
                std::thread::spawn(move || serve_one(stream, &kept, &leaving));
            }
        });
        Upstream { seen, left }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve_one(mut stream: UnixStream, kept: &Mutex<Vec<String>>, leaving: &Sender<()>) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        text.extend_from_slice(&buffer[..read]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let head = whole.find("\r\n\r\n");
        let complete = head.is_some_and(|end| {
            let body = &whole[end + 4..];
            let length = whole[..end].lines().find_map(|line| line.strip_prefix("content-length: "));
            if whole[..end].contains("transfer-encoding: chunked") {
                body.ends_with("0\r\n\r\n")
            } else {
                length.is_none_or(|length| body.len() >= length.trim().parse().unwrap())
            }
        });
        if complete || read == 0 {
            let endless = whole.contains("endless");
            kept.lock().unwrap().push(whole);
            if endless {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nstep\r\n")
                    .unwrap();
                while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
                leaving.send(()).unwrap();
                return;
            }
            let _gone = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\nX-Host-Secret: s\r\nApi-Version: 1.41\r\n\r\nOK",
            );
            return;
        }
    }
}

struct Served {
    dir: TempDir,
    upstream: Upstream,
    serving: Serving,
}

fn served(adjust: impl FnOnce(&mut Gate)) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::listen(&dir.path().join("engine.sock"));
    let mut gate = Gate::listen(dir.path(), &dir.path().join("engine.sock")).unwrap();
    adjust(&mut gate);
    let serving = gate.serve().unwrap();
    Served { dir, upstream, serving }
}

impl Served {
    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("docker.sock")).unwrap()
    }

    /// Sends `bytes` and returns all that comes back until the gate closes.
    fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The gate may answer and close before it has read everything.
        let _closed_early = stream.write_all(bytes);
        read_all(stream)
    }

    fn close(self) -> (Vec<String>, GateRecord) {
        (self.upstream.seen(), self.serving.close())
    }
}

fn read_all(mut stream: UnixStream) -> String {
    let mut text = Vec::new();
    let _reset_counts_as_an_end = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_request_reaches_the_engine_anew() {
    let served = served(|_| {});
    let answer = served.exchange(
        b"POST /v1.41/%62uild?t=a;b HTTP/1.1\r\nHost: evil\r\nContent-Type: application/x-www-form-urlencoded\r\n\
          X-Registry-Config: e30=\r\nX-Registry-Auth: no\r\nCookie: c\r\nX-Meta-A: 1\r\nUser-Agent: Docker\r\n\
          Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5;ext=1\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nOK"), "{answer}");
    assert!(answer.contains("api-version: 1.41") && !answer.to_lowercase().contains("secret"), "{answer}");
    let (seen, record) = served.close();
    let [request] = seen.as_slice() else { panic!("{seen:?}") };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "POST /v1.41/build?t=a%3Bb HTTP/1.1",
            "content-type: application/x-tar",
            "host: docker",
            "transfer-encoding: chunked",
            "user-agent: Docker",
            "x-meta-a: 1",
            "x-registry-config: e30=",
        ]
    );
    assert_eq!(body, "5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(record.passed.get("POST /build"), Some(&1));
}

#[test]
fn many_build_arguments_pass() {
    let served = served(|_| {});
    let arguments = "a-b_c.d~%7B".repeat(5_000);
    let request = format!(
        "POST /build?buildargs={arguments} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let answer = served.exchange(request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let (seen, _) = served.close();
    assert!(seen[0].starts_with(&format!("POST /build?buildargs={arguments} HTTP/1.1")));
}

/// Requests that two programs could read differently, or that are none.
pub(super) fn ambiguous() -> Vec<(&'static str, Vec<u8>)> {
    let long =
        format!("GET /images/{}/json HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n", "a".repeat(60_000));
    let longer = format!("GET /version?{} HTTP/1.1\r\nHost: d\r\n\r\n", "a".repeat(300_000));
    let many = format!("GET /version HTTP/1.1\r\nHost: d\r\n{}\r\n", "X-Meta-A: 1\r\n".repeat(200));
    let cases: &[(&str, &[u8])] = &[
        ("absolute form", b"GET http://docker/version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("a proxy's form", b"POST http://x/containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("CONNECT", b"CONNECT docker:80 HTTP/1.1\r\nHost: d\r\n\r\n"),
        ("asterisk", b"OPTIONS * HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("HTTP/2 from the start", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("dots", b"GET /images/../containers/json HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("encoded dots", b"GET /images/%2e%2e/containers/json HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("empty segments", b"POST //containers/create HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("another case", b"GET /Version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        ("a small method", b"get /version HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n"),
        (
            "two lengths",
            b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nContent-Length: 30\r\nConnection: close\r\n\r\nabc",
        ),
        (
            "a length that is none",
            b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: +3\r\nConnection: close\r\n\r\nabc",
        ),
        (
            "an encoding that is none",
            b"POST /build HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: xchunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
        ),
        (
            "a folded header",
            b"GET /version HTTP/1.1\r\nHost: d\r\nX-Meta-A: 1\r\n Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        ),
        ("a space before the colon", b"GET /version HTTP/1.1\r\nHost : d\r\nConnection: close\r\n\r\n"),
        ("a body where none belongs", b"GET /version HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
        ("a long path", long.as_bytes()),
        ("a longer head", longer.as_bytes()),
        ("many headers", many.as_bytes()),
        ("no upgrade", b"POST /grpc HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        (
            "another upgrade",
            b"POST /session HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n",
        ),
    ];
    cases.iter().map(|(what, bytes)| (*what, bytes.to_vec())).collect()
}

#[test]
fn what_could_be_read_in_two_ways_never_reaches_the_engine() {
    let served = served(|_| {});
    for (what, bytes) in ambiguous() {
        let mut stream = served.connect();
        let _closed_early = stream.write_all(&bytes);
        let answer = read_all(stream);
        // HTTP/2's preface is not worth an answer to hyper.
        let silent = answer.is_empty() && bytes.starts_with(b"PRI ");
        assert!(silent || answer.starts_with("HTTP/1.1 4"), "{what}: {answer}");
    }
    let (seen, record) = served.close();
    assert_eq!(seen, Vec::<String>::new());
    assert_eq!(record.passed.len(), 0, "{:?}", record.passed);
}

#[test]
fn a_smuggled_request_stays_a_body() {
    let served = served(|_| {});
    let hidden = "POST /containers/create HTTP/1.1\r\nHost: d\r\n\r\n";
    // A length and an encoding: by the one the second request is body, by the other it is a request.
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 60",
    ] {
        let request = format!("POST /build HTTP/1.1\r\nHost: d\r\n{head}\r\n\r\n0\r\n\r\n{hidden}");
        let mut stream = served.connect();
        let _closed_early = stream.write_all(request.as_bytes());
        read_all(stream);
    }
    // A second request on the same connection is judged as the first.
    let piped = format!("GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n{hidden}");
    let answer = served.exchange(piped.as_bytes());
    assert!(answer.contains("HTTP/1.1 403 Forbidden"), "{answer}");
    assert!(
        answer.contains(r#"{"message":"ktl: the gate passes what a build needs; POST /containers/create"#),
        "{answer}"
    );
    let (seen, _) = served.close();
    for request in &seen {
        let is_build = request.starts_with("POST /build HTTP/1.1") && request.ends_with("\r\n\r\n0\r\n\r\n");
        assert!(is_build || request.starts_with("GET /_ping HTTP/1.1"), "{request}");
        assert!(!request.contains("containers"), "{request}");
    }
}

#[test]
fn a_slow_head_is_given_up_and_a_place_becomes_free() {
    let served = served(|gate| {
        gate.limits.connections = 2;
        gate.limits.head = Duration::from_millis(300);
    });
    let mut slow = [served.connect(), served.connect()];
    for stream in &mut slow {
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: ").unwrap();
    }
    // Waits for a place; served when the slow ones have been given up.
    let answer = served.exchange(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    for stream in slow {
        assert!(!read_all(stream).contains("200 OK"));
    }
    let (_, record) = served.close();
    assert_eq!(record.malformed, 2);
}

#[test]
fn a_client_that_goes_away_ends_its_build() {
    let served = served(|_| {});
    let mut stream = served.connect();
    stream
        .write_all(b"POST /build?target=endless HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc")
        .unwrap();
    // The build is under way once its output comes.
    let mut text = String::new();
    let mut buffer = [0; 1024];
    while !text.contains("step") {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    drop(stream);
    served.upstream.left.recv().unwrap();
}

#[test]
fn an_engine_that_is_not_there_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::listen(dir.path(), &dir.path().join("nothing.sock")).unwrap();
    let path = gate.socket().to_owned();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o666);
    let serving = gate.serve().unwrap();
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").unwrap();
    let answer = read_all(stream);
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("connect to the Engine"), "{answer}");
    drop(serving);
    assert!(!path.exists());
}

#[test]
fn closing_ends_open_connections_and_removes_the_socket() {
    let served = served(|_| {});
    let socket = served.dir.path().join("docker.sock");
    let mut open = served.connect();
    open.write_all(b"POST /build HTTP/1.1\r\nHost: d\r\nContent-Length: 100\r\n\r\nabc").unwrap();
    // The gate is at work once it answers another one.
    served.exchange(b"GET /_ping HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n");
    let Served { dir: _dir, serving, .. } = served;
    serving.close();
    assert!(!read_all(open).contains("200 OK"));
    assert!(!socket.exists());
    assert!(UnixStream::connect(&socket).is_err());
}

#[test]
fn a_gate_that_was_never_served_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::listen(dir.path(), Path::new("/nowhere.sock")).unwrap();
    assert!(Gate::listen(dir.path(), Path::new("/nowhere.sock")).is_err());
    drop(gate);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
