//! Registry questions: logins, the token authority and tokens.
//!
//! All begin with the same step: which login does the user have for this registry. A credential helper is asked first,
//! then the config file itself.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use buildsvc::dockerconfig::{DockerConfig, Login};
use buildsvc::session::host::{Token, TokenRequest};

use super::helper::{self, Helpers};
use super::realm::{self, Realms};
use super::record::Denial;
use super::seed::Seeds;
use super::stop::Stop;
use super::token;

/// The longest name that DNS knows, and a port.
const HOST_LIMIT: usize = 253 + 6;
/// How often a wait for a token looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Registry {
    config: DockerConfig,
    helpers: Helpers,
    realms: Arc<Realms>,
    seeds: Option<Seeds>,
}

impl Registry {
    pub fn new(config: DockerConfig, search_path: OsString, seeds: Option<Seeds>) -> Registry {
        let helpers = Helpers::new(search_path, helper::TIME);
        Registry { config, helpers, realms: Arc::new(Realms::new(realm::TIME)), seeds }
    }

    /// The login for `host`; an empty one when the user has none.
    pub fn login(&self, host: &str, stop: &Stop) -> Result<Login, Denial> {
        check_host(host)?;
        if let Some(name) = self.config.helper(host) {
            let login = self.helpers.get(name, DockerConfig::server(host), stop);
            if let Some(login) = login.map_err(|error| Denial::failure(&error))? {
                return Ok(login);
            }
        }
        let stored = self.config.stored(host).map_err(|error| Denial::failure(&error))?;
        Ok(stored.unwrap_or_default())
    }

    pub fn authority(&self, host: &str, salt: &[u8], stop: &Stop) -> Result<Option<[u8; 32]>, Denial> {
        let Some(seed) = self.seed(host, stop)? else { return Ok(None) };
        token::authority(salt, &seed).map(Some).map_err(|error| Denial::Rule(error.to_string()))
    }

    /// `None` when there is no authority.
    pub fn sign(
        &self,
        host: &str,
        salt: &[u8],
        challenge: &[u8],
        stop: &Stop,
    ) -> Result<Option<Vec<u8>>, Denial> {
        let Some(seed) = self.seed(host, stop)? else { return Ok(None) };
        token::sign(salt, &seed, challenge).map(Some).map_err(|error| Denial::Rule(error.to_string()))
    }

    /// The call itself cannot be interrupted, so it runs on a thread that is left behind when the desk ends before it.
    pub fn fetch(&self, request: &TokenRequest, stop: &Stop) -> Result<Token, Denial> {
        let login = self.login(&request.host, stop)?;
        let (realms, request) = (self.realms.clone(), request.clone());
        let (tell, told) = mpsc::channel();
        let call = move || {
            // Nobody may listen any more.
            let _ = tell.send(realms.fetch(&request, &login));
        };
        thread::Builder::new()
            .name("broker token".into())
            .spawn(call)
            .map_err(|error| Denial::Failure(format!("the host side has no thread left: {error}")))?;
        loop {
            match told.recv_timeout(LOOK) {
                Ok(Ok(token)) => return Ok(token),
                Ok(Err(error)) if error.is_rule() => return Err(Denial::Rule(error.to_string())),
                Ok(Err(error)) => return Err(Denial::failure(&error)),
                Err(RecvTimeoutError::Timeout) if !stop.told() => {}
                Err(_) => return Err(Denial::Failure("the build ended before the token came".into())),
            }
        }
    }

    /// Empty for a registry that the user has no login for, `None` when the authority is shut.
    fn seed(&self, host: &str, stop: &Stop) -> Result<Option<Vec<u8>>, Denial> {
        let login = self.login(host, stop)?;
        match &self.seeds {
            None => Ok(None),
            Some(_) if login.credentials().secret.0.is_empty() => Ok(Some(Vec::new())),
            Some(seeds) => seeds.get(host).map(Some).map_err(|error| Denial::failure(&error)),
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
mod tests {
    use std::path::Path;

    use super::super::program::tests::script;
    use super::*;

    fn registry(config: &str, dir: &Path, seeds: bool) -> Registry {
        let config = DockerConfig::parse(config.as_bytes(), Path::new("config.json")).unwrap();
        Registry::new(config, dir.into(), seeds.then(|| Seeds::new(dir.join("docker"))))
    }

    #[test]
    fn helpers_go_before_the_file() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "docker-credential-one", r#"printf '{"Username":"%s","Secret":"s"}' "$(cat)""#);
        script(dir.path(), "docker-credential-none", "echo credentials not found in native keychain; exit 1");
        let config = r#"{
            "credsStore": "none",
            "credHelpers": {"one.example": "one", "https://index.docker.io/v1/": "one", "lost.example": "lost"},
            "auths": {"one.example": {"auth":"dXNlcjpwYXNz"}, "file.example": {"auth":"dXNlcjpwYXNz"}}
        }"#;
        let registry = registry(config, dir.path(), false);
        let stop = Stop::new().unwrap();
        let table = [
            ("one.example", "one.example"),
            ("registry-1.docker.io", "https://index.docker.io/v1/"),
            ("file.example", "user"),
            ("other.example", ""),
        ];
        for (host, username) in table {
            assert_eq!(registry.login(host, &stop).unwrap().username, username, "{host}");
        }
        assert!(matches!(registry.login("lost.example", &stop), Err(Denial::Failure(_))));
    }

    #[test]
    fn a_token_that_is_not_wanted_any_more_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry("{}", dir.path(), false);
        let stop = Stop::new().unwrap();
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let host = silent.local_addr().unwrap().to_string();
        let request = TokenRequest {
            client_id: String::new(),
            realm: format!("http://{host}/token"),
            host,
            service: String::new(),
            scopes: Vec::new(),
        };
        thread::scope(|scope| {
            let fetching = scope.spawn(|| registry.fetch(&request, &stop));
            let _asked = silent.accept().unwrap();
            stop.tell();
            let denial = fetching.join().unwrap().unwrap_err();
            assert_eq!(denial.text(), "the build ended before the token came");
        });
    }

    #[test]
    fn hosts_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let registry = registry("{}", dir.path(), false);
        let stop = Stop::new().unwrap();
        for host in ["r.example", "localhost:5000", "[::1]:5000", "under_score-1"] {
            assert!(registry.login(host, &stop).is_ok(), "{host}");
        }
        for host in ["", "a/b", "a b", "a\nb", "https://r", "r\0", "r?", "é", &"a".repeat(260)] {
            assert!(matches!(registry.login(host, &stop), Err(Denial::Rule(_))), "{host}");
        }
    }

    #[test]
    fn the_authority_is_per_host_and_shut_without_seeds() {
        let dir = tempfile::tempdir().unwrap();
        let config =
            r#"{"auths": {"a.example": {"auth":"dXNlcjpwYXNz"}, "b.example": {"auth":"dXNlcjpwYXNz"}}}"#;
        let open = registry(config, dir.path(), true);
        let stop = Stop::new().unwrap();
        let salt = [7; 32];
        let key = |host: &str| open.authority(host, &salt, &stop).unwrap().unwrap();
        assert_eq!(key("a.example"), key("a.example"));
        assert_ne!(key("a.example"), key("b.example"));
        assert_eq!(key("c.example"), key("d.example"));
        assert_ne!(key("a.example"), open.authority("a.example", &[8; 32], &stop).unwrap().unwrap());
        assert!(matches!(open.authority("a.example", b"short", &stop), Err(Denial::Rule(_))));
        assert!(matches!(open.sign("a.example", &salt, b"I owe you", &stop), Err(Denial::Rule(_))));
        let shut = registry(config, dir.path(), false);
        assert_eq!(shut.authority("a.example", &salt, &stop), Ok(None));
        assert_eq!(shut.sign("a.example", &salt, &[0; 32], &stop), Ok(None));
        // Without a login the seeds are left alone.
        let dir = tempfile::tempdir().unwrap();
        let anonymous = registry("{}", dir.path(), true);
        anonymous.authority("a.example", &salt, &stop).unwrap();
        assert!(!dir.path().join("docker").exists());
    }
}
