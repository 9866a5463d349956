//! Which logins go where: registries and token servers on loopback, and daemons that ask for more than they need.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;

use super::super::names::{Allowed, Scheme};
use super::super::program::tests::script;
use super::*;

/// A registry and its token server. Keeps the head and the body of each request.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// `answer` gives status line and headers for a path; `SELF` in it is the server's address.
fn serve(answer: impl Fn(&str) -> String + Send + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (itself, kept) = (address.clone(), asked.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut text, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                text.push_str(&line);
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            text.push_str(&String::from_utf8_lossy(&body));
            let path = text.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap().to_owned();
            kept.lock().unwrap().push(text);
            let head = answer(&path).replace("SELF", &itself);
            let token = r#"{"token":"t","access_token":"t"}"#;
            let _ = write!(
                stream,
                "HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{token}",
                token.len()
            );
        }
    });
    Server { address, asked }
}

fn tokens() -> Server {
    serve(|path| match path {
        "/v2/" => "401 No\r\nWWW-Authenticate: Bearer realm=\"http://SELF/token?a=b\",service=\"s\"".into(),
        _ => "200 OK".into(),
    })
}

impl Server {
    fn request(&self, scopes: &[&str]) -> TokenRequest {
        TokenRequest {
            client_id: String::new(),
            host: self.address.clone(),
            realm: format!("http://{}/token", self.address),
            service: "s".into(),
            scopes: scopes.iter().map(|scope| scope.to_string()).collect(),
        }
    }

    fn paths(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|text| text.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
    }

    fn last(&self) -> String {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

/// A user who is logged in at `host`, and a build that pulls `base` and pushes `app` there.
fn registry(host: &str, dir: &Path) -> Registry {
    let mut names = Names::default();
    names.pull(&format!("{host}/base").parse().unwrap());
    names.push(&format!("{host}/app").parse().unwrap());
    with(host, names, dir)
}

fn with(host: &str, names: Names, dir: &Path) -> Registry {
    let config = format!(r#"{{"auths":{{"{host}":{{"auth":"dXNlcjpwYXNz"}}}}}}"#);
    let config = DockerConfig::parse(config.as_bytes(), Path::new("config.json")).unwrap();
    Registry::new(config, dir.into(), Some(Seeds::new(dir.join("docker"))), names)
}

fn allowing(host: &str, scheme: Option<Scheme>) -> Names {
    let mut names = Names::default();
    names.allow(&Allowed { host: host.into(), scheme });
    names
}

fn shown(book: Book) -> Vec<String> {
    book.close().refusals.into_iter().filter(|refusal| !refusal.usual).map(|refusal| refusal.reason).collect()
}

#[test]
fn a_token_is_fetched_where_the_registry_says_and_for_what_the_build_names() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokens();
    let registry = registry(&server.address, dir.path());
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    let salt = [1; 32];
    assert!(registry.authority(&server.address, &salt, &stop, &book).unwrap().is_some());
    assert!(registry.sign(&server.address, &salt, &[2; 32], &stop, &book).unwrap().is_some());
    let denial = registry.credentials(&server.address, &stop, &book).unwrap_err();
    assert!(matches!(&denial, Denial::Usual(text) if text.contains("the password stays here")), "{denial:?}");
    let request = server.request(&[
        "repository:base:pull",
        "repository:app:pull,push,delete",
        "repository:other:pull",
        "registry:catalog:*",
    ]);
    registry.fetch(&request, &stop, &book).unwrap();
    let asked = server.last();
    assert!(asked.starts_with("POST /token?a=b HTTP/1.1"), "{asked}");
    assert!(asked.contains("username=user") && asked.contains("password=pass"), "{asked}");
    let scope = asked.split("scope=").nth(1).unwrap().split('&').next().unwrap().replace("%20", "+");
    assert_eq!(scope, "repository%3Abase%3Apull+repository%3Aapp%3Apull%2Cpush");
    // The registry was asked once.
    assert_eq!(server.paths(), ["GET /v2/", "POST /token?a=b"]);
    let record = book.close();
    assert_eq!(record.logins[0].scopes, ["repository:base:pull", "repository:app:pull,push"]);
    assert!(!record.logins[0].anonymous);
    let refusals: Vec<_> = record.refusals.iter().map(|r| (r.reason.as_str(), r.usual)).collect();
    let wider = format!(
        "rights at {} that this build does not need: scope repository:app:delete registry:catalog:*",
        server.address
    );
    let foreign =
        format!("scope repository:other:pull at {}, which this build does not name", server.address);
    assert_eq!(refusals, [(wider.as_str(), false), (foreign.as_str(), true)]);
}

#[test]
fn what_a_build_does_not_name_is_fetched_without_a_login() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokens();
    let registry = registry(&server.address, dir.path());
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    registry.fetch(&server.request(&["repository:other:pull"]), &stop, &book).unwrap();
    let asked = server.last();
    assert!(asked.starts_with("GET /token?a=b&service=s&scope=repository%3Aother%3Apull "), "{asked}");
    assert!(!asked.to_ascii_lowercase().contains("authorization"), "{asked}");
    for scopes in [&["registry:catalog:*"][..], &["repository:base:delete"], &["repository:base:*"]] {
        let denial = registry.fetch(&server.request(scopes), &stop, &book).unwrap_err();
        assert!(matches!(&denial, Denial::Rule(text) if text.contains(scopes[0])), "{denial:?}");
    }
    assert_eq!(server.paths().len(), 2);
    let lines = shown(book);
    let realm = format!("{0} (realm http://{0}/token, scope repository:other:pull)", server.address);
    assert!(lines[0].starts_with(&realm) && lines[0].contains("--allow-registry"), "{lines:?}");
}

#[test]
fn realms_of_a_daemons_own_choice_get_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (server, thief) = (tokens(), tokens());
    let registry = registry(&server.address, dir.path());
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    let good = server.request(&["repository:base:pull"]);
    let realms = [
        format!("http://{}/token", thief.address),
        format!("https://{}/token", server.address),
        format!("http://{}/other", server.address),
        format!("http://user@{}/token", server.address),
        format!("http://localhost{}/token", server.address.strip_prefix("127.0.0.1").unwrap()),
        String::new(),
    ];
    for realm in realms {
        let request = TokenRequest { realm: realm.clone(), ..good.clone() };
        let denial = registry.fetch(&request, &stop, &book).unwrap_err();
        let expected = format!("the registry itself names the realm http://{}/token", server.address);
        assert!(matches!(&denial, Denial::Rule(text) if text.contains(&expected)), "{realm}: {denial:?}");
    }
    let request = TokenRequest { service: "another".into(), ..good.clone() };
    assert!(matches!(registry.fetch(&request, &stop, &book), Err(Denial::Rule(_))));
    assert!(thief.paths().is_empty());
    assert_eq!(server.paths(), ["GET /v2/"]);
    // The control: with the realm that the registry names it works.
    registry.fetch(&good, &stop, &book).unwrap();
    assert_eq!(server.paths().len(), 2);
}

#[test]
fn hosts_that_are_not_named_are_not_spoken_to() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokens();
    let registry = with(&server.address, allowing("other.example", None), dir.path());
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    assert_eq!(registry.authority(&server.address, &[1; 32], &stop, &book).unwrap(), None);
    assert_eq!(registry.credentials(&server.address, &stop, &book).unwrap(), Credentials::default());
    assert!(registry.sign(&server.address, &[1; 32], &[2; 32], &stop, &book).is_err());
    let denial = registry.fetch(&server.request(&["repository:base:pull"]), &stop, &book).unwrap_err();
    assert!(matches!(denial, Denial::Rule(_)));
    // Nor does it make a sound where nobody is logged in.
    assert_eq!(registry.credentials("public.example", &stop, &book).unwrap(), Credentials::default());
    assert!(server.paths().is_empty());
    let record = book.close();
    assert!(record.logins.is_empty());
    let lines: Vec<_> = record.refusals.iter().map(|r| (r.count, r.usual, r.reason.clone())).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((lines[0].0, lines[0].1), (3, false));
    assert!(lines[0].2.contains(&format!("--allow-registry {} sends your login", server.address)));
    assert!(lines[1].1 && lines[1].2.contains("public.example"));
}

#[test]
fn registries_that_do_not_say_where_tokens_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let thief = tokens();
    let away = thief.address.clone();
    let table: Vec<(Server, &str)> = vec![
        (serve(move |_| format!("302 Found\r\nLocation: http://{away}/v2/")), "it redirects (302)"),
        (serve(|_| "200 OK".into()), "asks for no login"),
        (serve(|_| "503 Busy".into()), "it answers with status 503"),
        (serve(|_| "401 No\r\nWWW-Authenticate: Negotiate".into()), "its challenge is of no known kind"),
    ];
    let stop = Stop::new().unwrap();
    for (server, part) in &table {
        let book = Book::default();
        let plain = registry(&server.address, dir.path());
        assert_eq!(plain.authority(&server.address, &[1; 32], &stop, &book).unwrap(), None);
        assert_eq!(plain.credentials(&server.address, &stop, &book).unwrap(), Credentials::default());
        let request = server.request(&["repository:base:pull"]);
        assert!(matches!(plain.fetch(&request, &stop, &book), Err(Denial::Rule(_))));
        assert!(server.paths().iter().all(|path| path == "GET /v2/"));
        let lines = shown(book);
        let way_out = format!("--allow-registry {}=REALM", server.address);
        assert!(lines[0].contains(&way_out), "{lines:?}");
        assert!(lines[0].contains(part) || server.paths().is_empty(), "{part}: {lines:?}");
        // The way out works.
        let named = allowing(&server.address, Some(Scheme::Realm(request.realm.clone())));
        let book = Book::default();
        let allowed = with(&server.address, named, dir.path());
        assert!(allowed.authority(&server.address, &[1; 32], &stop, &book).unwrap().is_some());
    }
    assert!(thief.paths().is_empty());
}

#[test]
fn basic_registries_need_the_password_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = serve(|_| "401 No\r\nWWW-Authenticate: Basic realm=\"x\"".into());
    let registry = registry(&server.address, dir.path());
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    let credentials = registry.credentials(&server.address, &stop, &book).unwrap();
    assert_eq!((credentials.username.as_str(), &credentials.secret.0[..]), ("user", &b"pass"[..]));
    assert_eq!(registry.authority(&server.address, &[1; 32], &stop, &book).unwrap(), None);
    assert!(registry.fetch(&server.request(&["repository:base:pull"]), &stop, &book).is_err());
    assert_eq!(server.paths(), ["GET /v2/"]);
    assert_eq!(book.close().logins[0].realm, "");
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
    let config = DockerConfig::parse(config.as_bytes(), Path::new("config.json")).unwrap();
    let registry = Registry::new(config, dir.path().into(), None, Names::default());
    let stop = Stop::new().unwrap();
    let table = [
        ("one.example", "one.example"),
        ("registry-1.docker.io", "https://index.docker.io/v1/"),
        ("docker.io", "https://index.docker.io/v1/"),
        ("index.docker.io", "https://index.docker.io/v1/"),
        ("auth.docker.io", "https://index.docker.io/v1/"),
        ("file.example", "user"),
        ("other.example", ""),
    ];
    for (host, username) in table {
        assert_eq!(registry.login(host, &stop).unwrap().username, username, "{host}");
    }
    assert!(matches!(registry.login("lost.example", &stop), Err(Denial::Failure(_))));
}

#[test]
fn an_answer_that_is_not_wanted_any_more_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let stop = Stop::new().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let registry = registry(&host, dir.path());
    thread::scope(|scope| {
        let asking = scope.spawn(|| registry.credentials(&host, &stop, &Book::default()));
        let _asked = silent.accept().unwrap();
        stop.tell();
        let denial = asking.join().unwrap().unwrap_err();
        assert_eq!(denial.text(), "the build ended before the answer came");
    });
}

#[test]
fn hosts_are_checked() {
    for host in ["r.example", "localhost:5000", "[::1]:5000", "under_score-1"] {
        assert!(check_host(host).is_ok(), "{host}");
    }
    for host in ["", "a/b", "a b", "a\nb", "https://r", "r\0", "r?", "é", &"a".repeat(260)] {
        assert!(matches!(check_host(host), Err(Denial::Rule(_))), "{host}");
    }
}

#[test]
fn the_authority_is_per_host_and_shut_without_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let make = |auths: &str, dir: &Path, seeds: bool| {
        let config = DockerConfig::parse(auths.as_bytes(), Path::new("config.json")).unwrap();
        let mut names = Names::default();
        for host in ["a.example", "b.example", "c.example"] {
            let scheme = Some(Scheme::Realm("https://auth.invalid/".into()));
            names.allow(&Allowed { host: host.into(), scheme });
        }
        Registry::new(config, dir.into(), seeds.then(|| Seeds::new(dir.join("docker"))), names)
    };
    let config = r#"{"auths": {"a.example": {"auth":"dXNlcjpwYXNz"}, "b.example": {"auth":"dXNlcjpwYXNz"}}}"#;
    let open = make(config, dir.path(), true);
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    let salt = [7; 32];
    let key = |host: &str| open.authority(host, &salt, &stop, &book).unwrap().unwrap();
    assert_eq!(key("a.example"), key("a.example"));
    assert_ne!(key("a.example"), key("b.example"));
    // Without a login the daemon fetches anonymous tokens by itself.
    assert_eq!(open.authority("c.example", &salt, &stop, &book), Ok(None));
    assert_eq!(open.credentials("c.example", &stop, &book), Ok(Credentials::default()));
    assert!(open.sign("c.example", &salt, &[0; 32], &stop, &book).is_err());
    assert_ne!(key("a.example"), open.authority("a.example", &[8; 32], &stop, &book).unwrap().unwrap());
    assert!(matches!(open.authority("a.example", b"short", &stop, &book), Err(Denial::Rule(_))));
    assert!(matches!(open.sign("a.example", &salt, b"I owe you", &stop, &book), Err(Denial::Rule(_))));
    let shut = make(config, dir.path(), false);
    assert_eq!(shut.authority("a.example", &salt, &stop, &book), Ok(None));
    assert_eq!(shut.sign("a.example", &salt, &[0; 32], &stop, &book), Ok(None));
    // Without a place for seeds there are no tokens, and the password is not given in their stead.
    assert_eq!(shut.credentials("a.example", &stop, &book), Ok(Credentials::default()));
    assert!(shown(book).iter().any(|line| line.contains("DOCKER_CONFIG")));
    // And the seeds are left alone.
    let dir = tempfile::tempdir().unwrap();
    let anonymous = make("{}", dir.path(), true);
    assert_eq!(anonymous.authority("a.example", &salt, &stop, &Book::default()), Ok(None));
    assert!(!dir.path().join("docker").exists());
}

/// A user without a login waits for nobody: a registry that only the builder reaches gives its public images all the same.
#[test]
fn without_a_login_no_registry_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let server = tokens();
    let mut names = Names::default();
    names.pull(&format!("{}/base", server.address).parse().unwrap());
    let registry = with("elsewhere.example", names, dir.path());
    let (stop, book) = (Stop::new().unwrap(), Book::default());
    assert_eq!(registry.authority(&server.address, &[1; 32], &stop, &book).unwrap(), None);
    assert_eq!(registry.credentials(&server.address, &stop, &book).unwrap(), Credentials::default());
    assert!(server.paths().is_empty());
    assert_eq!(book.close().refused, 0);
}
