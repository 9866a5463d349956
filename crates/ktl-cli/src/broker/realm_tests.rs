//! Token servers on loopback: good, old-fashioned, redirecting, slow and broken ones.

use std::sync::Arc;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use super::*;

/// The token in an answer with this body.
pub fn answered(body: &[u8]) -> Result<Token, RealmError> {
    let uri = Uri::from_static("https://auth.example/token");
    let realm = Realm { uri, local: false, name: "https://auth.example/token".into() };
    either(&realm, read(&realm, Ok(Response::new(Body::builder().data(body))))?)
}

/// Answers each request with the next of `answers` (status line and headers, then body), and hands out what it was
/// asked. The last answer may be empty: then the connection is held open without a word until the test ends.
struct Server {
    address: String,
    asked: Mutex<Receiver<String>>,
}

fn serve(answers: &[(&str, &str)]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (tell, asked) = channel();
    let answers: Vec<_> = answers.iter().map(|(head, body)| (head.to_string(), body.to_string())).collect();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (head, body) in answers {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let _ = tell.send(request(&mut stream));
            if head.is_empty() {
                silent.push(stream);
                continue;
            }
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
        }
        // Whoever still waits for an answer waits until the process ends.
        for mut stream in silent {
            let _ = stream.read(&mut [0]);
        }
    });
    Server { address, asked: Mutex::new(asked) }
}

fn request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                })
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return whole;
            }
        }
        match stream.read(&mut part) {
            Ok(count) if count > 0 => text.extend_from_slice(&part[..count]),
            _ => return whole,
        }
    }
}

impl Server {
    fn request(&self) -> TokenRequest {
        TokenRequest {
            client_id: String::new(),
            host: self.address.clone(),
            realm: format!("http://{}/token?a=b", self.address),
            service: "the service".into(),
            scopes: vec!["repository:x/y:pull".into(), "repository:z:pull,push".into()],
        }
    }

    fn fetch(&self, login: &Login) -> Result<Token, RealmError> {
        Realms::new(TIME).fetch(&self.request(), login)
    }

    fn asked(&self) -> String {
        self.asked.lock().unwrap().recv().unwrap()
    }
}

fn password() -> Login {
    Login { username: "us er".into(), password: Secret(b"p&ss:".to_vec()), ..Login::default() }
}

fn identity() -> Login {
    Login { identity_token: Secret(b"refresh".to_vec()), ..Login::default() }
}

const OK: &str = "200 OK";

#[test]
fn an_anonymous_token_is_got() {
    let server = serve(&[(OK, r#"{"token":"t","expires_in":300,"issued_at":"2020-01-02T03:04:05.5Z"}"#)]);
    let token = server.fetch(&Login::default()).unwrap();
    assert_eq!(token, Token { token: Secret(b"t".to_vec()), expires_in: 300, issued_at: 1_577_934_245 });
    let asked = server.asked();
    let (line, head) = asked.split_once("\r\n").unwrap();
    assert_eq!(
        line,
        "GET /token?a=b&service=the%20service&scope=repository%3Ax%2Fy%3Apull&scope=repository%3Az%3Apull%2Cpush HTTP/1.1"
    );
    assert!(!head.to_ascii_lowercase().contains("authorization"), "{head}");
}

#[test]
fn a_login_is_posted() {
    let table = [
        (password(), "grant_type=password&username=us+er&password=p%26ss%3A"),
        (identity(), "grant_type=refresh_token&refresh_token=refresh"),
    ];
    for (login, grant) in table {
        let server = serve(&[(OK, r#"{"access_token":"t","token":"wrong"}"#)]);
        let token = server.fetch(&login).unwrap();
        assert_eq!(token, Token { token: Secret(b"t".to_vec()), expires_in: 60, issued_at: 0 });
        let asked = server.asked();
        assert!(asked.starts_with("POST /token?a=b HTTP/1.1\r\n"), "{asked}");
        let form = asked.split_once("\r\n\r\n").unwrap().1.replace("%20", "+");
        let expected = format!(
            "service=the+service&client_id=buildkit-client&scope=repository%3Ax%2Fy%3Apull+repository%3Az%3Apull%2Cpush&{grant}"
        );
        assert_eq!(form, expected);
    }
}

#[test]
fn old_token_servers_are_got_from_with_basic_auth() {
    for status in ["401 Unauthorized", "404 Not Found", "405 Method Not Allowed"] {
        let server = serve(&[(status, "no"), (OK, r#"{"token":"t","expires_in":0,"issued_at":"rubbish"}"#)]);
        let token = server.fetch(&password()).unwrap();
        assert_eq!(token, Token { token: Secret(b"t".to_vec()), expires_in: 60, issued_at: 0 });
        assert!(server.asked().starts_with("POST "));
        let asked = server.asked();
        assert!(asked.starts_with("GET "), "{asked}");
        let header = format!("authorization: basic {}", STANDARD.encode("us er:p&ss:").to_ascii_lowercase());
        assert!(asked.to_ascii_lowercase().contains(&header), "{asked}");
    }
}

#[test]
fn other_failures_are_not_tried_again() {
    let table =
        [("405 Method Not Allowed", identity()), ("403 Forbidden", password()), ("500 Broken", password())];
    for (status, login) in table {
        let server = serve(&[(status, "hidden")]);
        let text = server.fetch(&login).unwrap_err().to_string();
        let expected = format!("http://{}/token answers with status {}", server.address, &status[..3]);
        assert_eq!(text, expected);
    }
    let server = serve(&[("404 Not Found", ""), ("401 Unauthorized", "hidden")]);
    assert!(matches!(server.fetch(&password()), Err(RealmError::Status { status: 401, .. })));
}

#[test]
fn redirects_are_not_followed() {
    let other = serve(&[(OK, r#"{"access_token":"stolen"}"#)]);
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let head = format!("{status}\r\nLocation: http://{}/", other.address);
        for login in [password(), identity(), Login::default()] {
            let error = serve(&[(&head, "")]).fetch(&login).unwrap_err();
            assert!(matches!(error, RealmError::Redirect { .. }) && error.is_rule(), "{error}");
        }
    }
    assert!(other.asked.lock().unwrap().try_recv().is_err());
}

#[test]
fn rubbish_is_told_without_quoting_it() {
    let long = format!(r#"{{"token":"{}"}}"#, "x".repeat(ANSWER_LIMIT as usize));
    let table = [
        ("hidden", "is not that of a token server, at byte 1"),
        (r#"{"token": ["hidden"]}"#, "is not that of a token server"),
        (r#"["hidden"]"#, "is not that of a token server"),
        (r#"{"token":""}"#, "there is no token in the answer of"),
        (r#"{}"#, "there is no token in the answer of"),
        (&long, "cannot fetch a token from"),
    ];
    for (body, part) in table {
        let text = serve(&[(OK, body)]).fetch(&Login::default()).unwrap_err().to_string();
        assert!(text.contains(part) && !text.contains("hidden"), "{text}");
    }
    // The OAuth2 form has one name for the token.
    let error = serve(&[(OK, r#"{"token":"t"}"#)]).fetch(&password()).unwrap_err();
    assert!(matches!(error, RealmError::NoToken(_)));
}

#[test]
fn a_silent_server_is_given_up() {
    let server = serve(&[("", "")]);
    let error =
        Realms::new(Duration::from_millis(100)).fetch(&server.request(), &Login::default()).unwrap_err();
    assert!(matches!(error, RealmError::Fetch { source: ureq::Error::Timeout(_), .. }), "{error}");
}

#[test]
fn a_ready_token_is_handed_out_without_a_call() {
    let login = Login { registry_token: Secret(b"ready".to_vec()), ..password() };
    let token = serve(&[]).fetch(&login).unwrap();
    assert_eq!(token, Token { token: Secret(b"ready".to_vec()), expires_in: 60, issued_at: 0 });
}

#[test]
fn only_some_realms_are_spoken_to() {
    let table = [
        // realm, registry, allowed
        ("https://auth.example/token", "r.example", true),
        ("https://auth.example:444/token?x=y", "r.example", true),
        ("http://r.example/token", "r.example", true),
        ("http://r.example:8080/token", "r.example:5000", true),
        ("http://R.example/token", "r.example", true),
        ("http://[fd00::1]:80/token", "[fd00::1]:5000", true),
        ("http://127.0.0.1:5001/token", "localhost:5000", true),
        ("http://localhost:5001/token", "[::1]:5000", true),
        ("http://[::1]:5001/token", "127.0.0.1:5000", true),
        ("http://localhost:5001/token", "r.example", false),
        ("http://127.0.0.1:5001/token", "r.example", false),
        ("http://auth.example/token", "r.example", false),
        ("http://auth.example/token", "localhost:5000", false),
        ("http://r.example.evil/token", "r.example", false),
        ("http://r.example@evil.example/token", "r.example", false),
        ("https://user:pass@r.example/token", "r.example", false),
        ("http://169.254.169.254/latest", "r.example", false),
        ("ftp://r.example/", "r.example", false),
        ("file:///etc/passwd", "r.example", false),
        ("unix:/run/docker.sock", "r.example", false),
        ("/token", "r.example", false),
        ("r.example", "r.example", false),
        ("", "r.example", false),
        ("https://", "r.example", false),
        ("https://a b/", "r.example", false),
    ];
    for (text, registry, allowed) in table {
        let result = realm(text, registry);
        assert_eq!(result.is_ok(), allowed, "{text} for {registry}: {result:?}");
        assert!(result.err().is_none_or(|error| error.is_rule()));
    }
}

#[test]
fn requests_are_bounded() {
    let base = serve(&[]).request();
    let long = "x".repeat(URL_LIMIT + 1);
    for request in [
        TokenRequest { realm: format!("https://r/{long}"), ..base.clone() },
        TokenRequest { service: long.clone(), ..base.clone() },
        TokenRequest { client_id: long.clone(), ..base.clone() },
        TokenRequest { scopes: vec![long.clone()], ..base.clone() },
        TokenRequest { scopes: vec![String::new(); SCOPE_LIMIT + 1], ..base.clone() },
    ] {
        let error = Realms::new(TIME).fetch(&request, &Login::default()).unwrap_err();
        assert!(matches!(error, RealmError::Bounds(_)), "{error}");
    }
}

/// A certificate for `localhost` and `127.0.0.1` and its key (PKCS #8), made for this test alone by `openssl req -x509`.
const CERTIFICATE: &str = "\
MIIBlzCCAT6gAwIBAgIUbkNcLSNDo07zG5CZYozJsir7ljMwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDA2NDEwNFoYDzIxMjYxMDMx
MDY0MTA0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAASvT9FqCQQ5Tjl33IAO8RJwy2tIjM5wkP1Sn5JwleOOg5EXGDC4nfao
1CUS05ic3vAh4ZpA1gVnwElWzxAcVPuko2wwajAdBgNVHQ4EFgQUUUSo9UxSGOaf
bx+OZV4DB4b1EaswHwYDVR0jBBgwFoAUUUSo9UxSGOafbx+OZV4DB4b1EaswGgYD
VR0RBBMwEYIJbG9jYWxob3N0hwR/AAABMAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0E
AwIDRwAwRAIgEAMwmklStXze7/r6eA218ZmMTE7gDxID4zcKXlOQPlMCIC9p9vGs
0avLKzJgfWHeZvyr3GaSSoZm3L/d9IQkLZfS
";
const KEY: &str = "\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgG9fax76sfCA05ahb
28WXVk5IphXGjDLbUi9LJKXmD56hRANCAASvT9FqCQQ5Tjl33IAO8RJwy2tIjM5w
kP1Sn5JwleOOg5EXGDC4nfao1CUS05ic3vAh4ZpA1gVnwElWzxAcVPuk
";

fn der(text: &str) -> Vec<u8> {
    STANDARD.decode(text.replace('\n', "")).unwrap()
}

/// One TLS connection, answered with a token; `None` when the client hung up instead of asking.
fn serve_tls() -> (String, std::thread::JoinHandle<Option<String>>) {
    let certificate = rustls::pki_types::CertificateDer::from(der(CERTIFICATE));
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(der(KEY)).into();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream =
            rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let mut part = [0; 4096];
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        let body = r#"{"access_token":"t"}"#;
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let asked = String::from_utf8_lossy(&part[..count]).into_owned();
        // What was left unread would reset the connection, and the answer with it.
        while stream.read(&mut part).is_ok_and(|count| count > 0) {}
        Some(asked)
    });
    (format!("localhost:{port}"), serving)
}

#[test]
fn a_server_is_trusted_by_its_roots_alone() {
    let request = |host: String| TokenRequest {
        client_id: String::new(),
        realm: format!("https://{host}/token"),
        host,
        service: "s".into(),
        scopes: Vec::new(),
    };
    let trusting = Realms::new(TIME);
    trusting.tls.set(web::tls(vec![ureq::tls::Certificate::from_der(&der(CERTIFICATE)).to_owned()])).unwrap();
    let (host, serving) = serve_tls();
    assert_eq!(trusting.fetch(&request(host), &password()).unwrap().token, Secret(b"t".to_vec()));
    assert!(serving.join().unwrap().unwrap().starts_with("POST /token HTTP/1.1\r\n"));

    // With the roots of this system, which do not hold a certificate made for a test.
    let (host, serving) = serve_tls();
    let error = Realms::new(TIME).fetch(&request(host), &password()).unwrap_err();
    assert!(matches!(error, RealmError::Fetch { .. }), "{error}");
    assert_eq!(serving.join().unwrap(), None);
}
