//! Credential helpers: programs called `docker-credential-X` that keep a user's logins.
//!
//! A helper reads the registry's name on stdin and prints JSON. It may open a key chain, ask its user or call a cloud,
//! so it is given a minute, asked one question at a time (some key chains hang when asked twice at once), and its
//! answers are kept for as long as upstream keeps them.
//!
//! Follows `client/client.go` and `credentials/error.go` of docker/docker-credential-helpers, and
//! `cli/config/credentials/native_store.go` of docker/cli.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use buildsvc::dockerconfig::Login;
use buildsvc::session::host::Secret;
use serde::Deserialize;

use super::program::{self, ProgramError};
use super::stop::Stop;

/// How long a helper may take; the daemon waits no longer either.
pub const TIME: Duration = Duration::from_secs(60);
/// How long an answer is kept: tokens that some helpers hand out end after five minutes.
const KEPT: Duration = Duration::from_secs(4 * 60 + 50);
/// What a helper prints, with a failing status, when it has no login of that name.
const NOT_FOUND: &str = "credentials not found in native keychain";
/// This user name says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("{0:?} cannot be the name of a credential helper")]
    Name(String),
    #[error("the credential helper docker-credential-{0} is not on the search path")]
    Missing(String),
    #[error("the credential helper docker-credential-{name} was asked for {server}")]
    Program { name: String, server: String, source: ProgramError },
    #[error("the credential helper docker-credential-{name} failed for {server} ({status}): {text}")]
    Failed { name: String, server: String, status: ExitStatus, text: String },
    #[error(
        "the credential helper docker-credential-{name} gave a malformed answer for {server}, at byte {column}"
    )]
    Malformed { name: String, server: String, column: usize },
}

/// A helper's name, and the registry's.
type Question = (String, String);

#[derive(Debug)]
pub struct Helpers {
    search_path: OsString,
    time: Duration,
    /// Held while a helper runs: that is what makes them take turns.
    kept: Mutex<BTreeMap<Question, (Instant, Option<Login>)>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

impl Helpers {
    pub fn new(search_path: OsString, time: Duration) -> Helpers {
        Helpers { search_path, time, kept: Mutex::default() }
    }

    /// The login that the helper `name` keeps for `server`; `None` when it knows of none.
    pub fn get(&self, name: &str, server: &str, stop: &Stop) -> Result<Option<Login>, HelperError> {
        let mut kept = self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = (name.to_owned(), server.to_owned());
        if let Some((since, login)) = kept.get(&key)
            && since.elapsed() < KEPT
        {
            return Ok(login.clone());
        }
        let login = self.ask(name, server, stop)?;
        kept.insert(key, (Instant::now(), login.clone()));
        Ok(login)
    }

    /// Has the helper `name` keep `login` for `server`.
    pub fn store(&self, name: &str, server: &str, login: &Login, stop: &Stop) -> Result<(), HelperError> {
        let (username, secret) = match login.identity_token.0.is_empty() {
            true => (login.username.as_str(), &login.password),
            false => (TOKEN_USER, &login.identity_token),
        };
        let secret = String::from_utf8_lossy(&secret.0);
        let input = serde_json::json!({ "ServerURL": server, "Username": username, "Secret": secret });
        self.call(name, "store", server, input.to_string().as_bytes(), stop).map(|_| ())
    }

    /// Has the helper `name` forget the login of `server`; one that knows of none is content.
    pub fn erase(&self, name: &str, server: &str, stop: &Stop) -> Result<(), HelperError> {
        self.call(name, "erase", server, server.as_bytes(), stop).map(|_| ())
    }

    fn ask(&self, name: &str, server: &str, stop: &Stop) -> Result<Option<Login>, HelperError> {
        let Some(printed) = self.call(name, "get", server, server.as_bytes(), stop)? else { return Ok(None) };
        let (name, server) = (name.to_owned(), server.to_owned());
        login_of(&printed).map(Some).map_err(|error| HelperError::Malformed {
            name,
            server,
            // Not serde's own text: it may quote the secret.
            column: error.column(),
        })
    }

    /// What the helper prints; `None` when it has no login of that name.
    fn call(
        &self,
        name: &str,
        action: &str,
        server: &str,
        input: &[u8],
        stop: &Stop,
    ) -> Result<Option<Vec<u8>>, HelperError> {
        let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(fine) {
            return Err(HelperError::Name(name.chars().take(64).collect()));
        }
        let program = program::find(&self.search_path, &format!("docker-credential-{name}"))
            .ok_or_else(|| HelperError::Missing(name.to_owned()))?;
        let mut command = Command::new(program);
        command.arg(action);
        let (name, server) = (name.to_owned(), server.to_owned());
        let ended = match program::run(command, input, self.time, stop) {
            Ok(ended) => ended,
            Err(source) => return Err(HelperError::Program { name, server, source }),
        };
        if ended.status.success() {
            return Ok(Some(ended.stdout));
        }
        let printed = String::from_utf8_lossy(&ended.stdout);
        if printed.trim() == NOT_FOUND {
            return Ok(None);
        }
        // Helpers tell what is wrong on stdout; on either, what could be a login is not passed on.
        let text = [printed, String::from_utf8_lossy(&ended.stderr)]
            .iter()
            .map(|text| text.trim())
            .filter(|text| !text.is_empty() && !text.contains('{'))
            .collect::<Vec<_>>()
            .join(": ");
        let text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(512).collect();
        Err(HelperError::Failed { name, server, status: ended.status, text })
    }
}

/// The login in what a helper printed.
pub(super) fn login_of(printed: &[u8]) -> Result<Login, serde_json::Error> {
    let answer: Answer = serde_json::from_slice(printed)?;
    let secret = Secret(answer.secret.into_bytes());
    Ok(if answer.username == TOKEN_USER {
        Login { identity_token: secret, ..Login::default() }
    } else {
        Login { username: answer.username, password: secret, ..Login::default() }
    })
}

#[cfg(test)]
mod tests {
    use super::super::program::tests::script;
    use super::*;

    fn get(body: &str) -> Result<Option<Login>, HelperError> {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "docker-credential-test", body);
        Helpers::new(dir.path().into(), TIME).get("test", "r.example", &Stop::new().unwrap())
    }

    #[test]
    fn answers_of_helpers() {
        let login =
            get(r#"[ "$1" = get ] && printf '{"ServerURL":"x","Username":"u","Secret":"%s"}' "$(cat)""#);
        let login = login.unwrap().unwrap();
        assert_eq!((login.username.as_str(), &login.password.0[..]), ("u", &b"r.example"[..]));
        let login = get(r#"echo '{"Username":"<token>","Secret":"refresh"}'"#).unwrap().unwrap();
        assert_eq!((login.username.as_str(), &login.identity_token.0[..]), ("", &b"refresh"[..]));
        assert_eq!(get("echo 'credentials not found in native keychain'; exit 1").unwrap(), None);
    }

    #[test]
    fn helpers_keep_and_forget() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        let body = format!(
            "case $1 in store) cat >{0};; erase) [ -e {0} ] || {{ echo '{NOT_FOUND}'; exit 1; }}; rm {0};; esac",
            kept.display()
        );
        script(dir.path(), "docker-credential-test", &body);
        let search = std::env::join_paths([dir.path(), "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
        let helpers = Helpers::new(search, TIME);
        let stop = Stop::new().unwrap();
        let password = Login { username: "u".into(), password: Secret(b"p".into()), ..Login::default() };
        let token = Login { identity_token: Secret(b"t".into()), ..password.clone() };
        for (login, username, secret) in [(&password, "u", "p"), (&token, "<token>", "t")] {
            helpers.store("test", "r.example", login, &stop).unwrap();
            let kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&kept).unwrap()).unwrap();
            let expected =
                serde_json::json!({"ServerURL": "r.example", "Username": username, "Secret": secret});
            assert_eq!(kept, expected);
        }
        helpers.erase("test", "r.example", &stop).unwrap();
        assert!(!kept.exists());
        helpers.erase("test", "r.example", &stop).unwrap();
        script(dir.path(), "docker-credential-test", "echo locked; exit 1");
        let error = helpers.store("test", "r.example", &password, &stop).unwrap_err().to_string();
        assert!(error.contains("locked"), "{error}");
    }

    #[test]
    fn failures_of_helpers_are_told_without_secrets() {
        let table = [
            ("echo locked; echo 'no display' >&2; exit 2", "(exit status: 2): locked: no display"),
            (r#"echo '{"Secret":"hidden"}'; exit 1"#, "(exit status: 1): "),
            (r#"echo '{"Secret":"hidden" junk}'"#, "gave a malformed answer for r.example, at byte"),
            (r#"echo '{"Username":"u","Secret":true}'"#, "gave a malformed answer"),
            ("printf 'a\\033[31mb'; exit 1", "a [31mb"),
            ("kill -9 $$", "signal: 9"),
        ];
        for (body, part) in table {
            let text = get(body).unwrap_err().to_string();
            assert!(text.contains(part) && !text.contains("hidden"), "{body}: {text}");
        }
    }

    #[test]
    fn names_are_checked_before_the_search() {
        let helpers = Helpers::new("/usr/bin".into(), TIME);
        let stop = Stop::new().unwrap();
        for name in ["", "../x", "a/b", "a b", "a\nb", &"x".repeat(65)] {
            assert!(matches!(helpers.get(name, "r", &stop), Err(HelperError::Name(_))), "{name}");
        }
        assert!(matches!(helpers.get("surely-absent", "r", &stop), Err(HelperError::Missing(_))));
    }

    #[test]
    fn helpers_take_turns_and_are_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let body = format!(
            "mkdir {0}.busy || exit 9\ncat >>{0}; echo >>{0}\nsleep 0.05\nrmdir {0}.busy\necho '{{\"Username\":\"u\",\"Secret\":\"s\"}}'",
            log.display()
        );
        script(dir.path(), "docker-credential-test", &body);
        let helpers = Helpers::new(dir.path().into(), TIME);
        let stop = Stop::new().unwrap();
        std::thread::scope(|scope| {
            for index in 0..8 {
                let (helpers, stop) = (&helpers, &stop);
                scope.spawn(move || {
                    let server = format!("r{}.example", index % 2);
                    assert_eq!(helpers.get("test", &server, stop).unwrap().unwrap().username, "u");
                });
            }
        });
        let mut asked: Vec<_> = std::fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
        asked.sort();
        assert_eq!(asked, ["r0.example", "r1.example"]);
    }

    #[test]
    fn a_helper_that_takes_too_long_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), "docker-credential-test", "exec sleep 600");
        let helpers = Helpers::new(dir.path().into(), Duration::from_millis(50));
        let error = helpers.get("test", "r.example", &Stop::new().unwrap()).unwrap_err();
        assert!(matches!(error, HelperError::Program { source: ProgramError::Late(_), .. }), "{error}");
    }
}
