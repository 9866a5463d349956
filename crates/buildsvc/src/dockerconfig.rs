//! Registry logins as the docker command line keeps them.
//!
//! A user who has run `docker login` expects every other builder to know. What that command leaves behind is one JSON
//! file, `config.json`: either it holds the login itself, or it names a program that does. This module reads the file
//! and answers where the login of a registry lies; it starts no program and reads no environment. The caller says
//! which file.
//!
//! Follows `cli/config/configfile/file.go` and `cli/config/credentials/file_store.go` of docker/cli, and the mapping of
//! Docker Hub in `session/auth/authprovider/authconfigprovider.go` of moby/buildkit.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::session::host::{Credentials, Secret};

/// Host that a daemon names when it pulls from Docker Hub.
pub const HUB_HOST: &str = "registry-1.docker.io";
/// Under which docker files the login of Docker Hub.
pub const HUB_SERVER: &str = "https://index.docker.io/v1/";

/// A config file beyond this is not one that a person or a program wrote for docker.
const FILE_LIMIT: u64 = 4 << 20;

/// The logins of one `config.json`.
#[derive(Debug, Clone, Default)]
pub struct DockerConfig {
    path: PathBuf,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
    auths: BTreeMap<String, Entry>,
}

/// How a registry is to be spoken to. Which fields are set depends on how the user logged in; all may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: Secret,
    /// An OAuth2 refresh token; takes the place of name and password.
    pub identity_token: Secret,
    /// A ready bearer token, sent as it is.
    pub registry_token: Secret,
}

impl Login {
    /// What is told to a daemon that asks for credentials: an identity token goes with an empty name.
    pub fn credentials(&self) -> Credentials {
        if self.identity_token.0.is_empty() {
            Credentials { username: self.username.clone(), secret: self.password.clone() }
        } else {
            Credentials { username: String::new(), secret: self.identity_token.clone() }
        }
    }

    /// Whether there is anything by which a registry could know its user.
    pub fn is_empty(&self) -> bool {
        self.password.0.is_empty() && self.identity_token.0.is_empty() && self.registry_token.0.is_empty()
    }
}

/// Why a config file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} is longer than {limit} bytes")]
    TooLong { path: PathBuf, limit: u64 },
    #[error("{path}:{line}:{column}: {reason}")]
    Syntax { path: PathBuf, line: usize, column: usize, reason: String },
    #[error("{path}: `auth` of {server:?} is not the base64 form of `name:password`")]
    Auth { path: PathBuf, server: String },
}

impl DockerConfig {
    /// Reads the file at `path`. A file that is not there holds no logins; that is no error.
    pub fn read(path: &Path) -> Result<DockerConfig, DockerConfigError> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        let failed = |source| DockerConfigError::Read { path: path.to_owned(), source };
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => {
                return Ok(DockerConfig { path: path.to_owned(), ..DockerConfig::default() });
            }
            Err(error) => return Err(failed(error)),
        };
        let mut text = Vec::new();
        file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE_LIMIT {
            return Err(DockerConfigError::TooLong { path: path.to_owned(), limit: FILE_LIMIT });
        }
        DockerConfig::parse(&text, path)
    }

    /// Reads `text`; `path` only names it in errors. An empty text holds no logins, as docker has it.
    pub fn parse(text: &[u8], path: &Path) -> Result<DockerConfig, DockerConfigError> {
        if text.trim_ascii().is_empty() {
            return Ok(DockerConfig { path: path.to_owned(), ..DockerConfig::default() });
        }
        let form: Form = serde_json::from_slice(text).map_err(|error| syntax(path, &error))?;
        Ok(DockerConfig {
            path: path.to_owned(),
            helpers: form.cred_helpers.unwrap_or_default(),
            store: form.creds_store.filter(|name| !name.is_empty()),
            auths: form
                .auths
                .unwrap_or_default()
                .into_iter()
                .map(|(server, entry)| (server, entry.map(Entry::from).unwrap_or_default()))
                .collect(),
        })
    }

    /// The file that this was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name under which docker files the login of the registry `host`; a credential helper is asked with it.
    pub fn server(host: &str) -> &str {
        if is_hub(host) { HUB_SERVER } else { host }
    }

    /// The credential helper that keeps the login of `host`: `X` of `docker-credential-X`. A helper named for this
    /// registry goes before the one for all. The name is as the file has it, so it may be anything.
    pub fn helper(&self, host: &str) -> Option<&str> {
        let named = if is_hub(host) {
            [HUB_SERVER, "index.docker.io", "docker.io", HUB_HOST]
                .iter()
                .find_map(|key| self.helpers.get(*key))
        } else {
            self.helpers.get(host)
        };
        // An empty name is how docker says "the file itself" for one registry.
        match named {
            Some(name) => Some(name.as_str()).filter(|name| !name.is_empty()),
            None => self.store.as_deref(),
        }
    }

    /// Every credential helper that the file names, once.
    pub fn helpers(&self) -> std::collections::BTreeSet<&str> {
        let named = self.helpers.values().chain(&self.store).map(String::as_str);
        named.filter(|name| !name.is_empty()).collect()
    }

    /// The registries that the file knows of, as hosts that a daemon would name.
    pub fn hosts(&self) -> std::collections::BTreeSet<&str> {
        let keys = self.auths.keys().chain(self.helpers.keys());
        keys.map(|key| if is_hub(key) { HUB_HOST } else { hostname(key) })
            .map(|host| if is_hub(host) { HUB_HOST } else { host })
            .filter(|host| !host.is_empty())
            .collect()
    }

    /// Whether a login that is filed under `key` is one of `host`.
    pub fn is_for(key: &str, host: &str) -> bool {
        let key = hostname(key);
        if is_hub(host) { is_hub(key) } else { key == host }
    }

    /// The login of `host` that the file itself holds. A file in which docker left an empty entry, as it does beside
    /// a credential helper, holds none.
    pub fn stored(&self, host: &str) -> Result<Option<Login>, DockerConfigError> {
        let server = DockerConfig::server(host);
        let exact = self.auths.get_key_value(server);
        let like = self.auths.iter().filter(|(key, _)| DockerConfig::is_for(key, host));
        for (key, entry) in exact.into_iter().chain(like) {
            let login = entry
                .login()
                .ok_or_else(|| DockerConfigError::Auth { path: self.path.clone(), server: key.clone() })?;
            if !login.is_empty() {
                return Ok(Some(login));
            }
        }
        Ok(None)
    }
}

fn is_hub(host: &str) -> bool {
    matches!(host, HUB_HOST | HUB_SERVER | "index.docker.io" | "docker.io")
}

/// `host[:port]` of a key as docker writes or once wrote it: bare, with a path, or a whole URL.
pub fn hostname(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    &rest[..end]
}

fn syntax(path: &Path, error: &serde_json::Error) -> DockerConfigError {
    let (line, column) = (error.line(), error.column());
    let text = error.to_string();
    let reason = text.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&text);
    // A text that stands where it should not may well be a login; serde quotes it.
    let reason = match (reason.find(" \""), reason.rfind("\", ")) {
        (Some(start), Some(end)) if start < end => format!("{}{}", &reason[..start], &reason[end + 1..]),
        _ => reason.to_owned(),
    };
    DockerConfigError::Syntax { path: path.to_owned(), line, column, reason }
}

#[derive(Debug, Clone, Default)]
struct Entry {
    auth: Secret,
    username: String,
    password: Secret,
    identity_token: Secret,
    registry_token: Secret,
}

impl Entry {
    /// `None` when `auth` is not what docker writes there.
    fn login(&self) -> Option<Login> {
        let mut login = Login {
            username: self.username.clone(),
            password: self.password.clone(),
            identity_token: self.identity_token.clone(),
            registry_token: self.registry_token.clone(),
        };
        if !self.auth.0.is_empty() {
            let text = String::from_utf8(STANDARD.decode(&self.auth.0).ok()?).ok()?;
            let (username, password) = text.split_once(':')?;
            if username.is_empty() {
                return None;
            }
            login.username = username.to_owned();
            // Docker once padded passwords with zero bytes and still takes them away.
            login.password = Secret(password.trim_matches('\0').as_bytes().to_vec());
        }
        Some(login)
    }
}

impl From<EntryForm> for Entry {
    fn from(form: EntryForm) -> Entry {
        let secret = |text: Option<String>| Secret(text.unwrap_or_default().into_bytes());
        Entry {
            auth: secret(form.auth),
            username: form.username.unwrap_or_default(),
            password: secret(form.password),
            identity_token: secret(form.identitytoken),
            registry_token: secret(form.registrytoken),
        }
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Form {
    #[serde(rename = "credHelpers")]
    cred_helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    creds_store: Option<String>,
    auths: Option<BTreeMap<String, Option<EntryForm>>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with a login")]
struct EntryForm {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> DockerConfig {
        DockerConfig::parse(text.as_bytes(), Path::new("config.json")).unwrap()
    }

    /// `user:pass`
    const AUTH: &str = "dXNlcjpwYXNz";

    #[test]
    fn the_registries_of_a_file_are_named_as_a_daemon_names_them() {
        let text = br#"{"auths":{"https://index.docker.io/v1/":{},"https://ghcr.io/v2/":{},"localhost:5000":{},"":{}},
                        "credHelpers":{"docker.io":"a","r.example":"b"}}"#;
        let config = DockerConfig::parse(text, Path::new("config.json")).unwrap();
        let hosts: Vec<&str> = config.hosts().into_iter().collect();
        assert_eq!(hosts, ["ghcr.io", "localhost:5000", "r.example", HUB_HOST]);
    }

    #[test]
    fn a_login_is_found_under_every_form_of_key() {
        let table = [
            // key in the file, host asked for, found
            ("ghcr.io", "ghcr.io", true),
            ("https://ghcr.io", "ghcr.io", true),
            ("https://ghcr.io/v1/", "ghcr.io", true),
            ("http://ghcr.io/v2/", "ghcr.io", true),
            ("ghcr.io/v1/", "ghcr.io", true),
            ("localhost:5000", "localhost:5000", true),
            ("https://localhost:5000/v2/", "localhost:5000", true),
            ("[::1]:5000", "[::1]:5000", true),
            ("localhost:5000", "localhost", false),
            ("localhost", "localhost:5000", false),
            ("evil.ghcr.io", "ghcr.io", false),
            ("ghcr.io.evil", "ghcr.io", false),
            ("https://index.docker.io/v1/", "registry-1.docker.io", true),
            ("index.docker.io", "registry-1.docker.io", true),
            ("docker.io", "registry-1.docker.io", true),
            ("https://registry-1.docker.io/v2/", "registry-1.docker.io", true),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("https://index.docker.io/v1/", "index.docker.io.evil", false),
            ("https://hub.docker.io/v1/", "registry-1.docker.io", false),
        ];
        for (key, host, found) in table {
            let config = config(&format!(r#"{{"auths":{{"{key}":{{"auth":"{AUTH}"}}}}}}"#));
            let login = config.stored(host).unwrap();
            assert_eq!(login.is_some(), found, "{key} for {host}");
            if let Some(login) = login {
                assert_eq!((login.username.as_str(), &login.password.0[..]), ("user", &b"pass"[..]));
            }
        }
    }

    #[test]
    fn entries_say_who_the_user_is_in_several_ways() {
        let table = [
            (r#"{"auth":"dXNlcjpwYTpzcw=="}"#, "user", "pa:ss", "", ""),
            (r#"{"auth":"dXNlcjpwYXNzAAA="}"#, "user", "pass", "", ""),
            (r#"{"username":"u","password":"p"}"#, "u", "p", "", ""),
            (r#"{"auth":"dXNlcjpwYXNz","username":"other","password":"other"}"#, "user", "pass", "", ""),
            (r#"{"auth":"PHRva2VuPjo=","identitytoken":"refresh"}"#, "<token>", "", "refresh", ""),
            (r#"{"registrytoken":"bearer"}"#, "", "", "", "bearer"),
        ];
        for (entry, username, password, identity, bearer) in table {
            let config = config(&format!(r#"{{"auths":{{"r.example":{entry}}}}}"#));
            let login = config.stored("r.example").unwrap().unwrap();
            let expected = Login {
                username: username.into(),
                password: Secret(password.into()),
                identity_token: Secret(identity.into()),
                registry_token: Secret(bearer.into()),
            };
            assert_eq!(login, expected, "{entry}");
            let credentials = login.credentials();
            if identity.is_empty() {
                assert_eq!(
                    (credentials.username.as_str(), &credentials.secret.0[..]),
                    (username, password.as_bytes())
                );
            } else {
                assert_eq!(
                    (credentials.username.as_str(), &credentials.secret.0[..]),
                    ("", identity.as_bytes())
                );
            }
        }
    }

    #[test]
    fn empty_and_null_entries_hold_nothing() {
        for text in [
            "",
            " \n",
            "{}",
            r#"{"auths":null,"credHelpers":null,"credsStore":null}"#,
            r#"{"auths":{"r.example":{}}}"#,
            r#"{"auths":{"r.example":null}}"#,
            r#"{"auths":{"r.example":{"auth":""}},"credsStore":"","HttpHeaders":{"a":"b"}}"#,
        ] {
            let config = config(text);
            assert_eq!(config.stored("r.example").unwrap(), None, "{text}");
            assert_eq!(config.helper("r.example"), None, "{text}");
        }
    }

    #[test]
    fn an_empty_entry_does_not_hide_a_full_one() {
        let config = config(&format!(
            r#"{{"auths":{{"r.example":{{}},"https://r.example/v2/":{{"auth":"{AUTH}"}}}}}}"#
        ));
        assert_eq!(config.stored("r.example").unwrap().unwrap().username, "user");
    }

    #[test]
    fn a_helper_for_one_registry_goes_before_the_store() {
        let config = config(
            r#"{"credsStore":"all","credHelpers":{"gcr.io":"gcloud","plain.example":"","https://index.docker.io/v1/":"hub"}}"#,
        );
        assert_eq!(config.helper("gcr.io"), Some("gcloud"));
        assert_eq!(config.helper("eu.gcr.io"), Some("all"));
        assert_eq!(config.helper("plain.example"), None);
        assert_eq!(config.helper("registry-1.docker.io"), Some("hub"));
        assert_eq!(DockerConfig::server("registry-1.docker.io"), HUB_SERVER);
        assert_eq!(DockerConfig::server("gcr.io"), "gcr.io");
    }

    #[test]
    fn a_bad_auth_is_told_with_file_and_key_and_only_when_asked_for() {
        for auth in ["!!", "bm9jb2xvbg==", "OnBhc3M=", "//8="] {
            let config = config(&format!(r#"{{"auths":{{"bad.example":{{"auth":"{auth}"}}}}}}"#));
            assert_eq!(config.stored("good.example").unwrap(), None);
            let error = config.stored("bad.example").unwrap_err().to_string();
            assert_eq!(
                error, "config.json: `auth` of \"bad.example\" is not the base64 form of `name:password`",
                "{auth}"
            );
        }
    }

    #[test]
    fn malformed_json_is_told_with_line_and_column() {
        let table = [
            ("{\n  \"auths\": [\n", "config.json:2:11: "),
            ("{\n  \"credsStore\": 7\n}", "config.json:2:17: "),
            ("{\"auths\": {\"a\": {\"auth\": 1}}}", "config.json:1:26: "),
            (
                "{\"auths\": {\"a\": \"dXNlcjpwYXNz\"}}",
                "config.json:1:30: invalid type: string, expected an object with a login",
            ),
            ("nonsense", "config.json:1:2: "),
        ];
        for (text, prefix) in table {
            let error =
                DockerConfig::parse(text.as_bytes(), Path::new("config.json")).unwrap_err().to_string();
            assert!(error.starts_with(prefix), "{text:?}: {error}");
            assert!(!error.contains(" at line ") && !error.contains(AUTH), "{error}");
        }
    }

    #[test]
    fn only_a_missing_file_means_no_logins() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        assert_eq!(DockerConfig::read(&file).unwrap().stored("r.example").unwrap(), None);
        assert!(matches!(DockerConfig::read(dir.path()), Err(DockerConfigError::Read { .. })));
        std::fs::write(&file, format!(r#"{{"auths":{{"r.example":{{"auth":"{AUTH}"}}}}}}"#)).unwrap();
        let config = DockerConfig::read(&file).unwrap();
        assert_eq!(config.path(), file);
        assert!(config.stored("r.example").unwrap().is_some());
        std::fs::write(&file, vec![b' '; FILE_LIMIT as usize + 1]).unwrap();
        assert!(matches!(DockerConfig::read(&file), Err(DockerConfigError::TooLong { .. })));
    }

    #[test]
    fn nothing_secret_is_shown_by_debug() {
        let config =
            config(&format!(r#"{{"auths":{{"r.example":{{"auth":"{AUTH}","identitytoken":"refresh"}}}}}}"#));
        let shown = format!("{config:?} {:?}", config.stored("r.example").unwrap());
        assert!(!shown.contains(AUTH) && !shown.contains("pass\"") && !shown.contains("refresh"), "{shown}");
    }
}
