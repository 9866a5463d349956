//! Whether the registries that a build would name can be reached from this host, and whether there is a login where they ask
//! for one. Only this host asks for tokens; layers are pulled and pushed by the builder, from wherever that runs.
//!
//! The question is that of every client, `GET /v2/`, and it is asked without a login: docker's config file and its helpers are
//! looked into, and what they hold stays here.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use buildsvc::dockerconfig::{DockerConfig, HUB_HOST};
use ureq::http::Response;
use ureq::{Agent, Body, Proxy};

use super::{About, Check, brief};
use crate::broker::find_program;
use crate::display::inert;
use crate::env::Env;
use crate::failure::{Failure, chain};
use crate::web;

/// How long the way to a registry may take: a machine without a network is to know soon.
const WAY_TIME: Duration = Duration::from_secs(3);
/// How long a registry, and a credential helper, may take for all.
const TIME: Duration = Duration::from_secs(8);
/// A config file may know of many; more than this are not asked.
const MOST: usize = 12;
const HEADER_LIMIT: usize = 300;
/// The longest name that DNS knows, and a port.
const HOST_LIMIT: usize = 253 + 6;

/// `--registry`, checked. Empty when docker's config is to say which.
pub(super) fn named(given: &[String]) -> Result<Vec<String>, Failure> {
    given
        .iter()
        .map(|host| match host.as_str() {
            "docker.io" | "index.docker.io" => Ok(HUB_HOST.to_owned()),
            host if is_host(host) => Ok(host.to_owned()),
            host => Err(Failure::usage(format!("--registry {host}: names no registry"))
                .hint("The form is HOST[:PORT], as in the name of an image.")),
        })
        .collect()
}

fn is_host(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    !host.is_empty() && host.len() <= HOST_LIMIT && host.chars().all(fits)
}

/// One line for each registry, or one that says that none was looked at.
pub(super) fn checks(named: Vec<String>, env: &Env) -> Vec<Check> {
    // A file that cannot be read has a line of its own.
    let config = env
        .docker_config_dir()
        .and_then(|dir| DockerConfig::read(&dir.join("config.json")).ok())
        .unwrap_or_default();
    let wanted = !named.is_empty();
    let mut hosts = named;
    if !wanted {
        hosts = config.hosts().into_iter().filter(|host| is_host(host)).map(str::to_owned).collect();
    }
    if hosts.is_empty() {
        return vec![Check::warn(
            About::Other,
            "registry",
            "none was looked at: docker's config.json names none",
            "--registry HOST looks at one.",
        )];
    }
    let left_out = hosts.len().saturating_sub(MOST);
    hosts.truncate(MOST);
    let search = env.get("PATH").unwrap_or_default();
    // Helpers one after the other: some key chains hang when they are asked twice at once.
    let logins: Vec<Login> = hosts.iter().map(|host| Login::of(&config, host, &search)).collect();
    let agents = Agents::new();
    let mut checks: Vec<Check> = std::thread::scope(|scope| {
        let asked: Vec<_> = hosts.iter().map(|host| scope.spawn(|| agents.ask(host))).collect();
        let answers = asked.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Answer::Unreachable("the question was cut short".to_owned()))
        });
        let together = hosts.iter().zip(answers).zip(&logins);
        together.map(|((host, answer), login)| check(host, answer, login, wanted)).collect()
    });
    if left_out > 0 {
        let found = format!("{left_out} more were not looked at");
        checks.push(Check::warn(About::Other, "registry", found, "--registry HOST looks at one."));
    }
    checks
}

/// What there is to know the user by.
#[derive(Debug, PartialEq, Eq)]
enum Login {
    None,
    Stored,
    Helper(String),
    /// It is there, and it is of no use.
    Broken(String),
}

impl Login {
    fn of(config: &DockerConfig, host: &str, search: &OsStr) -> Login {
        let stored = || match config.stored(host) {
            Ok(Some(_)) => Login::Stored,
            Ok(None) => Login::None,
            Err(error) => Login::Broken(chain(&error)),
        };
        let Some(helper) = config.helper(host) else { return stored() };
        match ask_helper(helper, DockerConfig::server(host), search) {
            Ok(true) => Login::Helper(helper.to_owned()),
            Ok(false) => stored(),
            Err(why) => Login::Broken(format!("docker-credential-{helper}: {why}")),
        }
    }
}

/// Whether the helper has a login. Its protocol is that of docker/docker-credential-helpers; nothing that it prints is shown.
fn ask_helper(name: &str, server: &str, search: &OsStr) -> Result<bool, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.chars().all(plain) {
        return Err("no such name".to_owned());
    }
    let program = find_program(search, &format!("docker-credential-{name}"))
        .ok_or_else(|| "it is not on PATH".to_owned())?;
    let mut command = Command::new(program);
    command.arg("get");
    let (status, said) = brief::run(command, server.as_bytes(), TIME).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&said);
    if !status.success() {
        return if text.contains("credentials not found") {
            Ok(false)
        } else {
            Err(format!("asked for {server}, it ended with {status}"))
        };
    }
    let answer: serde_json::Value =
        serde_json::from_slice(&said).map_err(|_| "its answer is no JSON".to_owned())?;
    Ok(answer["Secret"].as_str().is_some_and(|secret| !secret.is_empty()))
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Everybody may ask.
    Open {
        plain: bool,
    },
    /// It wants to know who asks; its challenge.
    Asks {
        challenge: String,
        plain: bool,
    },
    /// Something else, which is no registry.
    Other(u16),
    Unreachable(String),
}

struct Agents {
    direct: Agent,
    proxied: Agent,
}

impl Agents {
    fn new() -> Agents {
        let tls = web::system_tls();
        let agent = |proxy| {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_idle_connections(0)
                .timeout_resolve(Some(WAY_TIME))
                .timeout_connect(Some(WAY_TIME))
                .timeout_global(Some(TIME))
                .user_agent(concat!("ktl/", env!("CARGO_PKG_VERSION")))
                .proxy(proxy)
                .tls_config(tls.clone())
                .build()
                .new_agent()
        };
        Agents { direct: agent(None), proxied: agent(Proxy::try_from_env()) }
    }

    /// A registry on this machine may do without TLS, as docker has it.
    fn ask(&self, host: &str) -> Answer {
        let local = is_loopback(host);
        let agent = if local { &self.direct } else { &self.proxied };
        match agent.get(format!("https://{host}/v2/")).call() {
            Ok(response) => answer(&response, false),
            Err(_) if local => match agent.get(format!("http://{host}/v2/")).call() {
                Ok(response) => answer(&response, true),
                Err(error) => Answer::Unreachable(chain(&error)),
            },
            Err(error) => Answer::Unreachable(chain(&error)),
        }
    }
}

fn answer(response: &Response<Body>, plain: bool) -> Answer {
    match response.status().as_u16() {
        200 => Answer::Open { plain },
        401 => {
            let header = response.headers().get("www-authenticate").map(|value| value.as_bytes());
            let challenge = String::from_utf8_lossy(header.unwrap_or_default());
            Answer::Asks { challenge: inert::bounded(&challenge, HEADER_LIMIT), plain }
        }
        other => Answer::Other(other),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `wanted` by the user: one that does not answer is a failure then, and else perhaps a login of long ago.
fn check(host: &str, answer: Answer, login: &Login, wanted: bool) -> Check {
    let name = format!("registry {host}");
    let way = |plain| if plain { "in the clear" } else { "by TLS" };
    let held = match login {
        Login::None => "there is no login for it".to_owned(),
        Login::Stored => "config.json has a login for it".to_owned(),
        Login::Helper(helper) => format!("docker-credential-{helper} has a login for it"),
        Login::Broken(why) => format!("its login is of no use: {why}"),
    };
    let found = match answer {
        Answer::Open { plain } => format!("answers {}, and asks for no login; {held}", way(plain)),
        Answer::Asks { ref challenge, plain } if *login == Login::None => {
            let found = format!("answers {}, and asks for a login ({challenge}); {held}", way(plain));
            let mend = format!("What everybody may pull needs none. Type: docker login {host}");
            return Check::warn(About::Other, name, found, &mend);
        }
        Answer::Asks { challenge, plain } => {
            format!("answers {}, and asks for a login ({challenge}); {held}, which was not sent", way(plain))
        }
        Answer::Other(status) => {
            let mend = "A registry answers /v2/ with 200 or 401. Is the name right?";
            return Check::warn(About::Other, name, format!("answers with status {status}; {held}"), mend);
        }
        Answer::Unreachable(why) => {
            let found = format!("does not answer this host: {why}; {held}");
            let mend = "Is the name right, the network there, its certificate trusted here, HTTPS_PROXY set where one is needed?";
            return if wanted {
                Check::fail(About::Other, name, found, vec![mend.to_owned()])
            } else {
                Check::warn(About::Other, name, found, mend)
            };
        }
    };
    match login {
        Login::Broken(_) => {
            let mend = format!("Mend the helper, or type: docker login {host}");
            Check::warn(About::Other, name, found, &mend)
        }
        _ => Check::ok(About::Other, name, found),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    #[test]
    fn names_are_checked() {
        for (given, want) in [
            ("docker.io", Some(HUB_HOST)),
            ("r.example:5000", Some("r.example:5000")),
            ("[::1]:5000", Some("[::1]:5000")),
            ("https://r.example", None),
            ("r.example/v2", None),
            ("a b", None),
            ("", None),
        ] {
            let found = named(&[given.to_owned()]).ok();
            assert_eq!(found.as_deref().and_then(<[String]>::first).map(String::as_str), want, "{given}");
        }
        for (host, local) in
            [("localhost", true), ("127.0.0.1:5000", true), ("[::1]:1", true), ("127.evil.example", false)]
        {
            assert_eq!(is_loopback(host), local, "{host}");
        }
    }

    #[test]
    fn nothing_configured_is_not_called_ok() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::of(&[("DOCKER_CONFIG", &dir.path().display().to_string())]);
        let checks = checks(Vec::new(), &env);
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[0].status, Status::Warn);
    }

    #[test]
    fn an_answer_is_judged_with_the_login() {
        let asks = || Answer::Asks { challenge: "Basic realm=\"r\"".to_owned(), plain: false };
        let nobody = || Answer::Unreachable("connection refused".to_owned());
        for (answer, login, wanted, status) in [
            (Answer::Open { plain: false }, Login::None, true, Status::Ok),
            (Answer::Open { plain: true }, Login::Broken("x".to_owned()), true, Status::Warn),
            (asks(), Login::Stored, true, Status::Ok),
            (asks(), Login::Helper("pass".to_owned()), false, Status::Ok),
            (asks(), Login::None, true, Status::Warn),
            (asks(), Login::Broken("x".to_owned()), true, Status::Warn),
            (Answer::Other(404), Login::Stored, true, Status::Warn),
            (nobody(), Login::Stored, true, Status::Fail),
            (nobody(), Login::Stored, false, Status::Warn),
        ] {
            let check = check("r.example", answer, &login, wanted);
            assert_eq!(check.status, status, "{check:?}");
            assert_eq!(check.mend.is_empty(), status == Status::Ok, "{check:?}");
        }
    }

    fn helper(dir: &Path, text: &str) {
        let path = dir.join("docker-credential-test");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_helper_is_asked_and_its_answer_kept_to_itself() {
        let dir = tempfile::tempdir().unwrap();
        let config = DockerConfig::parse(br#"{"credsStore":"test"}"#, Path::new("config.json")).unwrap();
        let login = || Login::of(&config, "r.example", dir.path().as_os_str());
        assert!(matches!(login(), Login::Broken(why) if why.contains("not on PATH")));
        for (script, want) in [
            (
                "read h; [ \"$h\" = r.example ] && echo '{\"Username\":\"u\",\"Secret\":\"s3cret\"}'",
                "Helper(\"test\")",
            ),
            ("echo credentials not found in native keychain; exit 1", "None"),
            ("echo s3cret", "Broken(\"docker-credential-test: its answer is no JSON\")"),
        ] {
            helper(dir.path(), &format!("#!/bin/sh\n{script}\n"));
            assert_eq!(format!("{:?}", login()), want, "{script}");
        }
        helper(dir.path(), "#!/bin/sh\necho s3cret; exit 3\n");
        let said = format!("{:?}", login());
        assert!(said.contains("exit status: 3") && !said.contains("s3cret"), "{said}");
    }
}
