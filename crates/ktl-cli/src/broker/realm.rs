//! Registry tokens, fetched where the user's login is.
//!
//! A registry names in its challenge a realm: the address that exchanges a login for a token. That the registry really
//! named it is seen to in [`super::announce`]. Even so a login is sent nowhere in the clear
//! but to the registry's own host or to this machine for a registry on this machine, never to where a redirect points,
//! and of an answer only the token comes back.
//!
//! Follows `FetchToken` in `session/auth/authprovider/authprovider.go` of moby/buildkit and
//! `core/remotes/docker/auth/fetch.go` of containerd.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buildsvc::dockerconfig::Login;
use buildsvc::session::host::{Credentials, Secret, Token, TokenRequest};
use serde::Deserialize;
use ureq::http::{Response, Uri};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, Proxy};

use crate::web;

/// From first to last byte of one call.
pub const TIME: Duration = Duration::from_secs(30);
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// For a registry to say what it asks for.
const KNOCK_TIME: Duration = Duration::from_secs(15);
const ANSWER_LIMIT: u64 = 1 << 20;
/// Seconds that a token is good for when the registry does not say.
const DEFAULT_EXPIRY: i64 = 60;
const DEFAULT_CLIENT: &str = "buildkit-client";
const URL_LIMIT: usize = 2 << 10;
const WORD_LIMIT: usize = 1 << 10;
const SCOPE_LIMIT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum RealmError {
    #[error("the token request is out of bounds: {0}")]
    Bounds(&'static str),
    #[error("{realm:?} is no realm to fetch a token from: {reason}")]
    Realm { realm: String, reason: &'static str },
    #[error("{realm} redirects ({status}), which is not followed with a login")]
    Redirect { realm: String, status: u16 },
    #[error("cannot fetch a token from {realm}")]
    Fetch {
        realm: String,
        #[source]
        source: ureq::Error,
    },
    #[error("{realm} answers with status {status}")]
    Status { realm: String, status: u16 },
    #[error("the answer of {realm} is not that of a token server, at byte {column}")]
    Malformed { realm: String, column: usize },
    #[error("there is no token in the answer of {0}")]
    NoToken(String),
}

impl RealmError {
    /// Whether a rule of ours was broken, rather than something on the way.
    pub fn is_rule(&self) -> bool {
        matches!(self, RealmError::Bounds(_) | RealmError::Realm { .. } | RealmError::Redirect { .. })
    }
}

#[derive(Debug)]
pub struct Realms {
    time: Duration,
    tls: OnceLock<TlsConfig>,
}

/// An address that a login may be sent to.
#[derive(Debug, PartialEq, Eq)]
struct Realm {
    uri: Uri,
    local: bool,
    /// For errors: without its query.
    name: String,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<i64>,
    issued_at: Option<String>,
    refresh_token: Option<String>,
}

impl Realms {
    pub fn new(time: Duration) -> Realms {
        Realms { time, tls: OnceLock::new() }
    }

    /// Asks `url` for its status and its challenges, with no login and without following it anywhere.
    pub fn knock(&self, url: &str, local: bool) -> Result<(u16, Vec<String>), RealmError> {
        let response = self.visit(url, local, None)?;
        let challenges = response.headers().get_all("www-authenticate").iter();
        let challenges = challenges.filter_map(|value| Some(value.to_str().ok()?.to_owned())).take(16);
        Ok((response.status().as_u16(), challenges.collect()))
    }

    /// The status of `url` for somebody with this `Authorization`.
    pub fn present(&self, url: &str, local: bool, authorization: &str) -> Result<u16, RealmError> {
        Ok(self.visit(url, local, Some(authorization))?.status().as_u16())
    }

    fn visit(
        &self,
        url: &str,
        local: bool,
        authorization: Option<&str>,
    ) -> Result<Response<Body>, RealmError> {
        let uri: Uri = url
            .parse()
            .map_err(|_| RealmError::Realm { realm: url.to_owned(), reason: "it is not a URL" })?;
        let realm = Realm { uri, local, name: url.to_owned() };
        let mut call = self.agent(&realm, self.time.min(KNOCK_TIME)).get(&realm.uri);
        if let Some(authorization) = authorization {
            call = call.header("Authorization", authorization);
        }
        call.call().map_err(|source| RealmError::Fetch { realm: url.to_owned(), source })
    }

    /// A token for a login that its user has just given, and the identity token that is to take its place: empty where the
    /// server gives none, and that of the login where it has one.
    pub fn sign_in(&self, request: &TokenRequest, login: &Login) -> Result<(Token, Secret), RealmError> {
        if !login.identity_token.0.is_empty() {
            return Ok((self.fetch(request, login)?, login.identity_token.clone()));
        }
        check(request)?;
        let realm = realm(&request.realm, &request.host)?;
        let credentials = login.credentials();
        let more = [
            ("account", credentials.username.as_str()),
            ("client_id", request.client_id.as_str()),
            ("offline_token", "true"),
        ];
        let answer = ask(&self.agent(&realm, self.time), &realm, request, &credentials, &more)?;
        let identity = Secret(answer.refresh_token.clone().unwrap_or_default().into_bytes());
        Ok((either(&realm, answer)?, identity))
    }

    /// A token for `request`, with what `login` holds; anonymous when it holds nothing.
    pub fn fetch(&self, request: &TokenRequest, login: &Login) -> Result<Token, RealmError> {
        check(request)?;
        if !login.registry_token.0.is_empty() {
            return Ok(Token {
                token: login.registry_token.clone(),
                expires_in: DEFAULT_EXPIRY,
                issued_at: 0,
            });
        }
        let realm = realm(&request.realm, &request.host)?;
        let agent = self.agent(&realm, self.time);
        let credentials = login.credentials();
        if credentials.secret.0.is_empty() {
            return get(&agent, &realm, request, &credentials);
        }
        match post(&agent, &realm, request, &credentials) {
            // Token servers without the OAuth2 form say so in several ways.
            Err(RealmError::Status { status: 401 | 404, .. }) => get(&agent, &realm, request, &credentials),
            Err(RealmError::Status { status: 405, .. }) if !credentials.username.is_empty() => {
                get(&agent, &realm, request, &credentials)
            }
            other => other,
        }
    }

    fn agent(&self, realm: &Realm, time: Duration) -> Agent {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_connections(0)
            .timeout_global(Some(time))
            .timeout_connect(Some(CONNECT_TIME))
            .user_agent(concat!("ktl/", env!("CARGO_PKG_VERSION")))
            .proxy(if realm.local { None } else { Proxy::try_from_env() });
        if realm.uri.scheme_str() == Some("https") {
            config = config.tls_config(self.tls.get_or_init(web::system_tls).clone());
        }
        config.build().new_agent()
    }
}

pub fn check(request: &TokenRequest) -> Result<(), RealmError> {
    let table = [
        (request.realm.len() > URL_LIMIT, "the realm is too long"),
        (request.service.len() > WORD_LIMIT, "the service is too long"),
        (request.client_id.len() > WORD_LIMIT, "the client id is too long"),
        (request.scopes.len() > SCOPE_LIMIT, "too many scopes"),
        (request.scopes.iter().any(|scope| scope.len() > WORD_LIMIT), "a scope is too long"),
    ];
    table.into_iter().find(|(wrong, _)| *wrong).map_or(Ok(()), |(_, what)| Err(RealmError::Bounds(what)))
}

fn realm(text: &str, registry: &str) -> Result<Realm, RealmError> {
    let refused = |reason| RealmError::Realm { realm: text.to_owned(), reason };
    let uri: Uri = text.parse().map_err(|_| refused("it is not a URL"))?;
    let authority = uri.authority().ok_or(refused("it names no host"))?;
    if authority.as_str().contains('@') {
        return Err(refused("it holds a user name"));
    }
    let host = authority.host().to_ascii_lowercase();
    if host.is_empty() {
        return Err(refused("it names no host"));
    }
    let registry = hostname(registry).to_ascii_lowercase();
    let local = is_loopback(&host);
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if host == registry || (local && is_loopback(&registry)) => {}
        Some("http") => return Err(refused("only a registry's own host is spoken to without TLS")),
        _ => return Err(refused("it is neither https nor http")),
    }
    let name = format!("{}://{authority}{}", uri.scheme_str().unwrap_or_default(), uri.path());
    Ok(Realm { name, local, uri })
}

/// `host` of `host[:port]`, the brackets of an IPv6 address kept.
pub fn hostname(registry: &str) -> &str {
    match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    }
}

pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(secret: &Secret) -> String {
    String::from_utf8_lossy(&secret.0).into_owned()
}

/// OAuth2: <https://distribution.github.io/distribution/spec/auth/oauth/>.
fn post(
    agent: &Agent,
    realm: &Realm,
    request: &TokenRequest,
    credentials: &Credentials,
) -> Result<Token, RealmError> {
    let client = if request.client_id.is_empty() { DEFAULT_CLIENT } else { &request.client_id };
    let (scope, secret) = (request.scopes.join(" "), text(&credentials.secret));
    let mut form = vec![("service", request.service.as_str()), ("client_id", client)];
    if !scope.is_empty() {
        form.push(("scope", &scope));
    }
    if credentials.username.is_empty() {
        form.extend([("grant_type", "refresh_token"), ("refresh_token", &secret)]);
    } else {
        form.extend([
            ("grant_type", "password"),
            ("username", credentials.username.as_str()),
            ("password", &secret),
        ]);
    }
    let answer = read(realm, agent.post(&realm.uri).send_form(form))?;
    token(realm, answer.access_token, answer.expires_in, answer.issued_at)
}

/// The older form: <https://distribution.github.io/distribution/spec/auth/token/>.
fn get(
    agent: &Agent,
    realm: &Realm,
    request: &TokenRequest,
    credentials: &Credentials,
) -> Result<Token, RealmError> {
    either(realm, ask(agent, realm, request, credentials, &[])?)
}

fn ask(
    agent: &Agent,
    realm: &Realm,
    request: &TokenRequest,
    credentials: &Credentials,
    more: &[(&str, &str)],
) -> Result<Answer, RealmError> {
    let mut call = agent.get(&realm.uri).query_pairs(more.iter().copied());
    if !request.service.is_empty() {
        call = call.query("service", &request.service);
    }
    for scope in &request.scopes {
        call = call.query("scope", scope);
    }
    if !credentials.secret.0.is_empty() {
        let pair = format!("{}:{}", credentials.username, text(&credentials.secret));
        call = call.header("Authorization", format!("Basic {}", STANDARD.encode(pair)));
    }
    read(realm, call.call())
}

fn either(realm: &Realm, answer: Answer) -> Result<Token, RealmError> {
    let either = answer.access_token.filter(|token| !token.is_empty()).or(answer.token);
    token(realm, either, answer.expires_in, answer.issued_at)
}

fn read(realm: &Realm, response: Result<Response<Body>, ureq::Error>) -> Result<Answer, RealmError> {
    let name = || realm.name.clone();
    let failed = |source| RealmError::Fetch { realm: name(), source };
    let mut response = response.map_err(failed)?;
    match response.status().as_u16() {
        200..=299 => {}
        status @ 300..=399 => return Err(RealmError::Redirect { realm: name(), status }),
        status => return Err(RealmError::Status { realm: name(), status }),
    }
    let body = response.body_mut().with_config().limit(ANSWER_LIMIT).read_to_vec().map_err(failed)?;
    // Not serde's own text: it may quote the token.
    serde_json::from_slice(&body)
        .map_err(|error| RealmError::Malformed { realm: name(), column: error.column() })
}

fn token(
    realm: &Realm,
    token: Option<String>,
    expires_in: Option<i64>,
    issued_at: Option<String>,
) -> Result<Token, RealmError> {
    let token =
        token.filter(|token| !token.is_empty()).ok_or_else(|| RealmError::NoToken(realm.name.clone()))?;
    let issued_at = issued_at.and_then(|text| text.parse::<prost_types::Timestamp>().ok());
    Ok(Token {
        token: Secret(token.into_bytes()),
        expires_in: expires_in.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_EXPIRY),
        // Go writes a time that was never set as the first second of the year one.
        issued_at: issued_at.map_or(0, |time| time.seconds.max(0)),
    })
}

#[cfg(test)]
#[path = "realm_tests.rs"]
pub(super) mod tests;
