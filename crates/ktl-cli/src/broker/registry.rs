//! Registry questions: logins, the token authority and tokens.
//!
//! All begin with the same step: which login does the user have for this registry. A credential helper is asked first,
//! then the config file itself.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buildsvc::dockerconfig::{DockerConfig, HUB_HOST, Login};
use buildsvc::reference::ImageRef;
use buildsvc::session::host::{Credentials, Secret, Token, TokenRequest};

use super::announce::{AnnounceError, Announced, Announcements, same_realm};
use super::helper::{self, Helpers};
use super::names::{Cut, HUB, Host, Names, canonical};
use super::realm::{self, Realms};
use super::record::{Book, Denial};
use super::seed::Seeds;
use super::stop::Stop;
use super::token;

/// The longest name that DNS knows, and a port.
const HOST_LIMIT: usize = 253 + 6;
/// How often a wait for the network looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);
/// Under which a login that stays here is recorded, whichever question it was for.
const LOGIN: &str = "registry login";

#[derive(Debug)]
pub struct Registry {
    config: DockerConfig,
    helpers: Helpers,
    realms: Arc<Realms>,
    announcements: Arc<Announcements>,
    seeds: Option<Seeds>,
    names: Names,
}

impl Registry {
    pub fn new(config: DockerConfig, search_path: OsString, seeds: Option<Seeds>, names: Names) -> Registry {
        let helpers = Helpers::new(search_path, helper::TIME);
        let realms = Arc::new(Realms::new(realm::TIME));
        Registry { config, helpers, realms, announcements: Arc::default(), seeds, names }
    }

    /// What a daemon gets that asks for the login itself: empty when there is none for it, on which it goes on
    /// anonymously. A registry that gives tokens needs no password of the daemon's.
    pub fn credentials(&self, host: &str, stop: &Stop, book: &Book) -> Result<Credentials, Denial> {
        match self.usable(host, stop, book)? {
            None => Ok(Credentials::default()),
            Some((Announced::Basic | Announced::Bearer { or_basic: true, .. }, login)) => {
                book.login(host, "", &[], false);
                Ok(login.credentials())
            }
            Some(_) if self.seeds.is_none() => {
                book.refused(
                    LOGIN,
                    &format!(
                        "{host}: without HOME or DOCKER_CONFIG there is no place for a token authority's seeds"
                    ),
                );
                Ok(Credentials::default())
            }
            Some(_) => Err(Denial::Usual(format!("{host} gives tokens, so the password stays here"))),
        }
    }

    /// `None` when there is no authority, on which the daemon asks for credentials.
    pub fn authority(
        &self,
        host: &str,
        salt: &[u8],
        stop: &Stop,
        book: &Book,
    ) -> Result<Option<[u8; 32]>, Denial> {
        match self.usable(host, stop, book)? {
            Some((Announced::Bearer { .. }, login)) => {
                let Some(seed) = self.seed(host, &login)? else { return Ok(None) };
                token::authority(salt, &seed).map(Some).map_err(|error| Denial::Rule(error.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// `None` when there is no authority.
    pub fn sign(
        &self,
        host: &str,
        salt: &[u8],
        challenge: &[u8],
        stop: &Stop,
        book: &Book,
    ) -> Result<Option<Vec<u8>>, Denial> {
        match self.usable(host, stop, book)? {
            Some((Announced::Bearer { .. }, login)) => {
                let Some(seed) = self.seed(host, &login)? else { return Ok(None) };
                token::sign(salt, &seed, challenge).map(Some).map_err(|error| Denial::Rule(error.to_string()))
            }
            // A builder that knows the host from another build asks whether this one shares its tokens.
            _ => Err(Denial::Usual(format!("no challenge is signed for {host}"))),
        }
    }

    /// The login for `host` and how it is to be used; `None` when the build has no use for one or the user has none.
    /// Without a login the daemon fetches what it needs by itself, and nobody is asked from here.
    fn usable(&self, host: &str, stop: &Stop, book: &Book) -> Result<Option<(Announced, Login)>, Denial> {
        check_host(host)?;
        if self.names.get(host).is_none() {
            self.withhold(host, &Withheld::NotNamed, book);
            return Ok(None);
        }
        let login = self.login(host, stop)?;
        if login.is_empty() {
            return Ok(None);
        }
        match self.announced(host, stop)? {
            Ok(announced) => Ok(Some((announced, login))),
            Err(why) => {
                self.withhold(host, &why, book);
                Ok(None)
            }
        }
    }

    /// A token from where the registry itself says, for what this build pulls and pushes.
    pub fn fetch(&self, request: &TokenRequest, stop: &Stop, book: &Book) -> Result<Token, Denial> {
        let TokenRequest { host, realm, service, scopes, .. } = request;
        check_host(host)?;
        realm::check(request).map_err(|error| Denial::Rule(error.to_string()))?;
        let asked = || format!("{host} (realm {realm}, scope {})", shown(scopes));
        let (named, realm_of_host) = match (self.names.get(host), self.announced(host, stop)?) {
            (Some(named), Ok(Announced::Bearer { realm: announced, service: wanted, .. })) => {
                if !same_realm(realm, &announced) {
                    return Err(Denial::Rule(format!(
                        "a token for {}: the registry itself names the realm {announced}; --allow-registry {host}={realm} \
                         allows this one",
                        asked()
                    )));
                }
                if wanted.is_some_and(|wanted| wanted != *service) {
                    return Err(Denial::Rule(format!(
                        "a token for {}: the registry itself names another service than {service:?}",
                        asked()
                    )));
                }
                (named, announced)
            }
            (_, Ok(_)) => return Err(Denial::Rule(format!("a token for {}: it takes none", asked()))),
            (_, Err(why)) => {
                return Err(Denial::Rule(format!("a token for {}: {}", asked(), why.way_out(host))));
            }
        };
        let Cut { granted, foreign, wider } = named.cut(scopes);
        if !wider.is_empty() {
            let reason = format!("rights at {host} that this build does not need: scope {}", shown(&wider));
            book.refused(LOGIN, &reason);
        }
        if granted.is_empty() && foreign.is_empty() && !wider.is_empty() {
            return Err(Denial::Rule(format!("a token for {}: nothing of it is for this build", asked())));
        }
        let (login, granted) = if granted.is_empty() {
            // What everybody gets does no harm, and a public image is pulled all the same.
            if self.has_login(host) {
                book.refused(
                    LOGIN,
                    &format!(
                        "{} stays here, since the build does not name that; --allow-registry {host} sends it",
                        asked()
                    ),
                );
            }
            (Login::default(), foreign)
        } else {
            if !foreign.is_empty() {
                let reason = format!("scope {} at {host}, which this build does not name", shown(&foreign));
                book.denied(LOGIN, &Denial::Usual(reason));
            }
            (self.login(host, stop)?, granted)
        };
        let anonymous = login.is_empty();
        let cut = TokenRequest { realm: realm_of_host.clone(), scopes: granted.clone(), ..request.clone() };
        let realms = self.realms.clone();
        let token = aside(stop, move || realms.fetch(&cut, &login))?.map_err(|error| match error {
            error if error.is_rule() => Denial::Rule(error.to_string()),
            error => Denial::failure(&error),
        })?;
        book.login(host, &realm_of_host, &granted, anonymous);
        Ok(token)
    }

    /// What is sent as `Authorization` to pull `image` from here; `None` when its registry asks for nothing or the user has
    /// nothing that it takes.
    pub fn authorization(
        &self,
        image: &ImageRef,
        stop: &Stop,
        book: &Book,
    ) -> Result<Option<String>, Denial> {
        let host = image.domain();
        check_host(host)?;
        let text = |secret: &Secret| String::from_utf8_lossy(&secret.0).into_owned();
        match self.announced(host, stop)? {
            Ok(Announced::Bearer { realm, service, .. }) => {
                let request = TokenRequest {
                    client_id: String::new(),
                    host: host.to_owned(),
                    realm,
                    service: service.unwrap_or_default(),
                    scopes: vec![format!("repository:{}:pull", image.path())],
                };
                let token = self.fetch(&request, stop, book)?;
                Ok(Some(format!("Bearer {}", text(&token.token))))
            }
            Ok(Announced::Basic) => {
                let Credentials { username, secret } = self.login(host, stop)?.credentials();
                let pair = format!("{username}:{}", text(&secret));
                Ok((!username.is_empty()).then(|| format!("Basic {}", STANDARD.encode(pair))))
            }
            Err(_) => Ok(None),
        }
    }

    /// How `host` wants to be spoken to, or why no login is for it.
    fn announced(&self, host: &str, stop: &Stop) -> Result<Result<Announced, Withheld>, Denial> {
        let Some(named) = self.names.get(host) else { return Ok(Err(Withheld::NotNamed)) };
        let (all, realms) = (self.announcements.clone(), self.realms.clone());
        let (host, named): (String, Host) = (host.to_owned(), named.clone());
        Ok(aside(stop, move || all.get(&host, &named, &realms))?.map_err(Withheld::NotAnnounced))
    }

    /// Records that a login stays here; a user who has none misses nothing.
    fn withhold(&self, host: &str, why: &Withheld, book: &Book) {
        let reason = format!("{host} (no realm, no scope yet): {}", why.way_out(host));
        match self.has_login(host) {
            true => book.refused(LOGIN, &reason),
            false => book.denied(LOGIN, &Denial::Usual(reason)),
        }
    }

    /// Whether there may be a login for `host`. No helper is asked: a daemon chose the name.
    fn has_login(&self, host: &str) -> bool {
        let host = login_host(host);
        self.config.helper(&host).is_some() || self.config.stored(&host).map_or(true, |login| login.is_some())
    }

    /// The login for `host`; an empty one when the user has none.
    fn login(&self, host: &str, stop: &Stop) -> Result<Login, Denial> {
        let host = login_host(host);
        if let Some(name) = self.config.helper(&host) {
            let login = self.helpers.get(name, DockerConfig::server(&host), stop);
            if let Some(login) = login.map_err(|error| Denial::failure(&error))? {
                return Ok(login);
            }
        }
        let stored = self.config.stored(&host).map_err(|error| Denial::failure(&error))?;
        Ok(stored.unwrap_or_default())
    }

    /// `None` when the authority is shut. A ready token needs no guard: whoever has one may use it.
    fn seed(&self, host: &str, login: &Login) -> Result<Option<Vec<u8>>, Denial> {
        match &self.seeds {
            None => Ok(None),
            Some(_) if login.credentials().secret.0.is_empty() => Ok(Some(Vec::new())),
            Some(seeds) => seeds.get(host).map(Some).map_err(|error| Denial::failure(&error)),
        }
    }
}

/// Why a login stays here.
#[derive(Debug, PartialEq, Eq)]
enum Withheld {
    NotNamed,
    NotAnnounced(AnnounceError),
}

impl Withheld {
    fn way_out(&self, host: &str) -> String {
        match self {
            Withheld::NotNamed => {
                format!("the build does not name this registry; --allow-registry {host} sends your login")
            }
            Withheld::NotAnnounced(error) => format!(
                "{error}; --allow-registry {host}=REALM (a URL, or `basic`) names it and sends your login"
            ),
        }
    }
}

/// All names of Docker Hub have one login.
pub fn login_host(host: &str) -> String {
    if canonical(host) == HUB { HUB_HOST.to_owned() } else { host.to_owned() }
}

fn shown(scopes: &[String]) -> String {
    if scopes.is_empty() { "none".to_owned() } else { scopes.join(" ") }
}

/// Runs what cannot be interrupted on a thread that is left behind when the desk ends before it.
fn aside<T: Send + 'static>(stop: &Stop, call: impl FnOnce() -> T + Send + 'static) -> Result<T, Denial> {
    let (tell, told) = mpsc::channel();
    let call = move || {
        // Nobody may listen any more.
        let _ = tell.send(call());
    };
    thread::Builder::new()
        .name("broker network".into())
        .spawn(call)
        .map_err(|error| Denial::Failure(format!("the host side has no thread left: {error}")))?;
    loop {
        match told.recv_timeout(LOOK) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Timeout) if !stop.told() => {}
            Err(_) => return Err(Denial::Failure("the build ended before the answer came".into())),
        }
    }
}

/// A host goes to a helper's stdin and into a file of seeds: nothing but `name[:port]` is let through.
fn check_host(host: &str) -> Result<(), Denial> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if !host.is_empty() && host.len() <= HOST_LIMIT && host.chars().all(fine) {
        return Ok(());
    }
    Err(Denial::Rule(format!(
        "{:?} is not the host of a registry",
        host.chars().take(64).collect::<String>()
    )))
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
