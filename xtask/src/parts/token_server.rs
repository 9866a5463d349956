//! A token server as the distribution project's token specification describes it, so that tests see a registry
//! client's whole bearer dance: GET with basic authentication, POST with the OAuth2 password grant, refusals.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::json;

use super::certificates;
use crate::tools;

const ISSUER: &str = "ktl-test-issuer";
const SERVICE: &str = "ktl-test-registry";
/// Bounds what a client may send.
const LONGEST_REQUEST: u64 = 64 * 1024;

/// What a client asked for, and whether it got a token with rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `GET` or `POST`.
    pub method: String,
    /// Empty when the client gave no credentials.
    pub user: String,
    /// The scopes, joined by blanks.
    pub scopes: String,
    pub granted: bool,
}

/// A token server in a thread of ours; stopped when dropped.
#[derive(Debug)]
pub struct TokenServer {
    realm: Realm,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone)]
struct Realm {
    address: String,
    dir: PathBuf,
    user: String,
    password: String,
    requests: Arc<Mutex<Vec<TokenRequest>>>,
}

impl TokenServer {
    /// Makes a signing key in `dir` and listens on a free loopback port.
    pub fn start(dir: &Path, user: &str, password: &str) -> Result<TokenServer> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        certificates::self_signed(dir, "cert.pem", "key.pem", ISSUER)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind the token server's port")?;
        let realm = Realm {
            address: listener.local_addr().context("read the port")?.to_string(),
            dir: dir.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            requests: Arc::default(),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (served, stopped) = (realm.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                // A client that goes away is the client's business.
                let _ended = stream.map_err(anyhow::Error::from).and_then(|stream| served.serve(stream));
            }
        });
        Ok(TokenServer { realm, stop, thread: Some(thread) })
    }

    /// The `auth.token` section of a registry that trusts this server.
    pub fn registry_config(&self) -> serde_json::Value {
        json!({
            "realm": format!("http://{}/token", self.realm.address),
            "service": SERVICE,
            "issuer": ISSUER,
            "rootcertbundle": self.realm.dir.join("cert.pem"),
        })
    }

    pub fn requests(&self) -> Vec<TokenRequest> {
        self.realm.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes the thread from accept.
        let _stream = TcpStream::connect(&self.realm.address);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// A request as far as a token server looks at it.
#[derive(Debug, Default)]
struct Request {
    method: String,
    parameters: Vec<(String, String)>,
    basic: Option<(String, String)>,
}

impl Realm {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = read_request(&mut BufReader::new((&stream).take(LONGEST_REQUEST)))?;
        let (status, body) = self.answer(&request)?;
        let body = body.to_string();
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }

    fn answer(&self, request: &Request) -> Result<(&'static str, serde_json::Value)> {
        let parameter = |name: &str| {
            request
                .parameters
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
                .unwrap_or("")
        };
        let scopes: Vec<&str> = request
            .parameters
            .iter()
            .filter(|(key, _)| key == "scope")
            .flat_map(|(_, value)| value.split_whitespace())
            .collect();
        let credentials = match request.method.as_str() {
            "GET" => request.basic.clone(),
            "POST" if parameter("grant_type") == "password" => {
                Some((parameter("username").to_owned(), parameter("password").to_owned()))
            }
            "POST" => return Ok(("400 Bad Request", json!({"error": "unsupported_grant_type"}))),
            _ => return Ok(("405 Method Not Allowed", json!({}))),
        };
        let known = credentials
            .as_ref()
            .is_some_and(|(user, password)| *user == self.user && *password == self.password);
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(TokenRequest {
            method: request.method.clone(),
            user: credentials.as_ref().map(|(user, _)| user.clone()).unwrap_or_default(),
            scopes: scopes.join(" "),
            granted: known,
        });
        if credentials.is_some() && !known {
            let refused =
                json!({"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]});
            return Ok(("401 Unauthorized", refused));
        }
        // Somebody without credentials gets a token without rights, as public registries do it.
        let access =
            if known { scopes.iter().filter_map(|scope| access(scope)).collect() } else { Vec::new() };
        let token = self.sign(access)?;
        Ok((
            "200 OK",
            json!({"token": token, "access_token": token, "expires_in": 300, "scope": scopes.join(" ")}),
        ))
    }

    /// A JSON web token, signed by openssl(1) with RS256, the certificate in its header.
    fn sign(&self, access: Vec<serde_json::Value>) -> Result<String> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?.as_secs();
        let certificate = fs::read_to_string(self.dir.join("cert.pem")).context("read the certificate")?;
        let der: String = certificate.lines().filter(|line| !line.starts_with("-----")).collect();
        let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [der]});
        let claims = json!({
            "iss": ISSUER, "sub": self.user, "aud": SERVICE, "iat": now, "nbf": now - 10, "exp": now + 300,
            "jti": SERIAL.fetch_add(1, Ordering::Relaxed).to_string(), "access": access,
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let mut openssl = Command::new(tools::openssl()?)
            .args(["dgst", "-sha256", "-sign"])
            .arg(self.dir.join("key.pem"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start openssl")?;
        openssl
            .stdin
            .take()
            .context("openssl's stdin")?
            .write_all(signed.as_bytes())
            .context("write to openssl")?;
        let output = openssl.wait_with_output().context("wait for openssl")?;
        if !output.status.success() {
            bail!("openssl dgst ended with {}", output.status);
        }
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(output.stdout)))
    }
}

/// `repository:NAME:pull,push` as an entry of the token's access list.
fn access(scope: &str) -> Option<serde_json::Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    Some(json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}))
}

fn read_request(stream: &mut impl BufRead) -> Result<Request> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) =
        (words.next().context("no method")?.to_owned(), words.next().context("no target")?);
    let mut request = Request { method, ..Request::default() };
    request.parameters = parameters(target.split_once('?').map(|(_, query)| query).unwrap_or(""));
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().context("content-length")?,
            "authorization" => request.basic = basic(value.trim()),
            _ => {}
        }
    }
    let mut body = String::new();
    stream.take(length).read_to_string(&mut body)?;
    request.parameters.extend(parameters(&body));
    Ok(request)
}

fn basic(header: &str) -> Option<(String, String)> {
    let decoded = STANDARD.decode(header.strip_prefix("Basic ")?.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

fn parameters(query: &str) -> Vec<(String, String)> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (percent_decoded(name), percent_decoded(value)))
        .collect()
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let hex = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() -> Result<()> {
        let get = "GET /token?scope=repository%3Aa%2Fb%3Apull&service=x HTTP/1.1\r\nAuthorization: Basic YTpiOmM=\r\n\r\n";
        let request = read_request(&mut get.as_bytes())?;
        assert_eq!(request.method, "GET");
        assert_eq!(request.basic, Some(("a".into(), "b:c".into())));
        assert_eq!(request.parameters[0], ("scope".into(), "repository:a/b:pull".into()));

        let post =
            "POST /token HTTP/1.1\r\ncontent-length: 31\r\n\r\nusername=a+b&password=%26%3d%zz&ignored=x";
        let request = read_request(&mut post.as_bytes())?;
        assert_eq!(
            request.parameters,
            [("username".into(), "a b".into()), ("password".into(), "&=%zz".into())]
        );
        Ok(())
    }

    #[test]
    fn a_scope_becomes_an_access_entry() {
        assert_eq!(
            access("repository:team/app:pull,push"),
            Some(json!({"type": "repository", "name": "team/app", "actions": ["pull", "push"]}))
        );
        assert_eq!(access("nonsense"), None);
    }
}
