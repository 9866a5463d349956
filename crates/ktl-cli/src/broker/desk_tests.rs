//! A desk and its client on the two ends of one socket, and each of them against an end that misbehaves.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use buildsvc::dockerconfig::DockerConfig;
use buildsvc::session::host::{Access, Host, HostError, Opener, TokenRequest};

use super::super::client::BrokerClient;
use super::super::message::Request;
use super::super::names::{Allowed, Names, Scheme};
use super::super::program::tests::script;
use super::super::rules::{AgentKind, AgentSource, SecretOrigin, SecretSource};
use super::*;

/// A context, a helper that waits for the file `go`, and a login in the config.
struct Outside {
    dir: tempfile::TempDir,
}

impl Outside {
    fn new() -> Outside {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("context")).unwrap();
        std::fs::write(dir.path().join("context/file"), "content").unwrap();
        let body = format!(
            "echo $$ >>{0}/asked\nwhile [ ! -e {0}/go ]; do sleep 0.01; done\nprintf '{{\"Username\":\"%s\",\"Secret\":\"s\"}}' \"$(cat)\"",
            dir.path().display()
        );
        script(dir.path(), "docker-credential-slow", &body);
        Outside { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn rules(&self) -> Rules {
        let config =
            br#"{"credHelpers":{"slow.example":"slow"},"auths":{"r.example":{"auth":"dXNlcjpwYXNz"},"tokens.example":{"auth":"dXNlcjpwYXNz"}}}"#;
        let value = Secret(b"from env".to_vec());
        let mut names = Names::default();
        for host in ["r.example", "slow.example"] {
            names.allow(&Allowed { host: host.into(), scheme: Some(Scheme::Basic) });
        }
        let realm = Scheme::Realm("https://auth.invalid/token".into());
        names.allow(&Allowed { host: "tokens.example".into(), scheme: Some(realm) });
        Rules {
            names,
            max_signatures: 3,
            docker_config: DockerConfig::parse(config, Path::new("config.json")).unwrap(),
            token_seeds: Some(self.path("docker")),
            secrets: vec![
                SecretSource { id: "env".into(), origin: SecretOrigin::Env { name: "V".into(), value } },
                SecretSource { id: "file".into(), origin: SecretOrigin::File(self.path("secret")) },
            ],
            agents: vec![AgentSource { id: "default".into(), kind: AgentKind::Keys(vec![self.path("key")]) }],
            locals: BTreeMap::from([("context".into(), File::open(self.path("context")).unwrap().into())]),
            audit: Audit::default(),
            program_search_path: std::env::join_paths(
                [self.dir.path().to_owned()]
                    .into_iter()
                    .chain(std::env::split_paths(&crate::env::Env::current().get("PATH").unwrap())),
            )
            .unwrap(),
        }
    }

    fn raw(&self) -> (UnixStream, JoinHandle<Record>) {
        let (near, far) = UnixStream::pair().unwrap();
        (near, Desk::new(self.rules()).serve(far).unwrap())
    }

    fn client(&self) -> (Arc<BrokerClient>, JoinHandle<Record>) {
        let (near, desk) = self.raw();
        (BrokerClient::new(near.into()).unwrap(), desk)
    }

    /// Waits until the slow helper was started, and gives its process.
    fn helper(&self) -> nix::unistd::Pid {
        loop {
            let text = std::fs::read_to_string(self.path("asked")).unwrap_or_default();
            if text.ends_with('\n') {
                return nix::unistd::Pid::from_raw(text.trim().parse().unwrap());
            }
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

fn read(file: OwnedFd) -> String {
    let mut text = String::new();
    File::from(file).read_to_string(&mut text).unwrap();
    text
}

fn refusal<T: std::fmt::Debug>(result: Result<T, HostError>) -> String {
    match result {
        Err(HostError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_question_is_answered() {
    let host = Outside::new();
    std::fs::write(host.path("secret"), b"\xff\0").unwrap();
    std::fs::write(host.path("go"), "").unwrap();
    let (client, desk) = host.client();
    block_on(async {
        let credentials = client.credentials("r.example").await.unwrap();
        assert_eq!((credentials.username.as_str(), &credentials.secret.0[..]), ("user", &b"pass"[..]));
        assert_eq!(client.credentials("slow.example").await.unwrap().username, "slow.example");
        assert_eq!(client.credentials("none.example").await.unwrap(), Default::default());
        assert!(refusal(client.credentials("no host").await).contains("is not the host of a registry"));

        let salt = [3; 32];
        assert_eq!(client.token_authority("r.example", &salt).await.unwrap(), None);
        let key = client.token_authority("tokens.example", &salt).await.unwrap().unwrap();
        let signed = client.sign_token_challenge("tokens.example", &salt, &[9; 32]).await.unwrap();
        let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, key);
        key.verify(&[9; 32], &signed[..64]).unwrap();
        assert_eq!(&signed[64..], [9; 32]);
        refusal(client.sign_token_challenge("tokens.example", &salt, b"a text").await);
        refusal(client.sign_token_challenge("none.example", &salt, &[9; 32]).await);

        let request = TokenRequest {
            client_id: String::new(),
            host: "tokens.example".into(),
            realm: "https://evil.example/token".into(),
            service: String::new(),
            scopes: Vec::new(),
        };
        assert!(
            refusal(client.fetch_token(request).await).contains("names the realm https://auth.invalid/token")
        );

        assert_eq!(client.secret("env").await.unwrap(), Some(Secret(b"from env".to_vec())));
        assert_eq!(client.secret("file").await.unwrap(), Some(Secret(b"\xff\0".to_vec())));
        assert_eq!(client.secret("GIT_AUTH_TOKEN").await.unwrap(), None);
        std::fs::remove_file(host.path("secret")).unwrap();
        assert!(refusal(client.secret("file").await).starts_with("secret \"file\": cannot read"));

        assert!(client.has_agent("").await.unwrap());
        assert!(!client.has_agent("other").await.unwrap());
        assert!(client.agent("other").await.unwrap().is_none());
        assert!(refusal(client.agent("").await).contains("cannot read the ssh key"));
    });
    assert_eq!(read(client.open("context", Path::new("file"), Access::Read).unwrap()), "content");
    let error = client.open("context", Path::new("../secret"), Access::Read).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    let error = client.open("context", Path::new("absent"), Access::Locate).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    drop(client);
    let record = desk.join().unwrap();
    let expected = [
        ("credentials", 4),
        ("file", 3),
        ("secret", 4),
        ("ssh agent", 4),
        ("token", 1),
        ("token authority", 2),
        ("token challenge", 3),
    ];
    assert_eq!(record.asked, BTreeMap::from(expected));
    // The host that is none, a text to sign, the realm; and, as no harm, a host that is not named, asked for its login and
    // for a signature, and that signature.
    assert_eq!((record.refused, record.failed), (6, 2), "{record:?}");
    assert_eq!(record.refusals.iter().filter(|refusal| refusal.usual).count(), 2, "{record:?}");
    assert_eq!(record.secrets, BTreeMap::from([("env".to_owned(), 1), ("file".to_owned(), 1)]));
    assert_eq!(record.unknown_secrets, BTreeMap::from([("GIT_AUTH_TOKEN".to_owned(), 1)]));
    assert_eq!(
        record.logins.iter().map(|used| used.host.as_str()).collect::<Vec<_>>(),
        ["r.example", "slow.example"]
    );
}

#[test]
fn an_agent_is_reached_through_both_ends() {
    let host = Outside::new();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(host.path("key"))
        .status()
        .unwrap();
    assert!(made.success());
    let (client, desk) = host.client();
    let stream = block_on(client.agent("default")).unwrap().unwrap();
    let mut stream = UnixStream::from(stream);
    stream.write_all(&[0, 0, 0, 1, 11]).unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4..], [12, 0, 0, 0, 1]);
    // The desk ends although the guest still holds the stream.
    drop(client);
    desk.join().unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
}

#[test]
fn a_helper_that_waits_for_its_user_holds_up_nobody_else() {
    let host = Outside::new();
    let (client, desk) = host.client();
    block_on(async {
        let slow = tokio::spawn({
            let client = client.clone();
            async move { client.credentials("slow.example").await }
        });
        host.helper();
        for _ in 0..100 {
            let client = client.clone();
            let opened = tokio::task::spawn_blocking(move || {
                client.open("context", Path::new("file"), Access::Read).map(read)
            });
            assert_eq!(opened.await.unwrap().unwrap(), "content");
        }
        assert!(client.secret("env").await.unwrap().is_some());
        assert_eq!(client.credentials("r.example").await.unwrap().username, "user");
        assert!(!slow.is_finished());
        std::fs::write(host.path("go"), "").unwrap();
        assert_eq!(slow.await.unwrap().unwrap().username, "slow.example");
    });
    drop(client);
    desk.join().unwrap();
}

#[test]
fn many_questions_at_once_are_all_answered() {
    let host = Outside::new();
    let (client, desk) = host.client();
    block_on(async {
        let asking: Vec<_> = (0..300)
            .map(|index| {
                let client = client.clone();
                tokio::spawn(async move {
                    let host = if index % 3 == 0 { "slow.example" } else { "r.example" };
                    client.credentials(host).await.map(|credentials| credentials.username)
                })
            })
            .collect();
        host.helper();
        std::fs::write(host.path("go"), "").unwrap();
        for (index, answer) in asking.into_iter().enumerate() {
            let expected = if index % 3 == 0 { "slow.example" } else { "user" };
            assert_eq!(answer.await.unwrap().unwrap(), expected);
        }
    });
    drop(client);
    let record = desk.join().unwrap();
    assert_eq!((record.asked["credentials"], record.refused, record.failed), (300, 0, 0));
}

#[test]
fn the_desk_ends_with_the_guest_and_ends_its_helpers() {
    let host = Outside::new();
    let (client, desk) = host.client();
    block_on(async {
        let slow = tokio::spawn({
            let client = client.clone();
            async move { client.credentials("slow.example").await }
        });
        let helper = host.helper();
        slow.abort();
        assert!(slow.await.unwrap_err().is_cancelled());
        drop(client);
        let record = desk.join().unwrap();
        assert_eq!(record.asked["credentials"], 1);
        assert_eq!(nix::sys::signal::kill(helper, None), Err(nix::Error::ESRCH));
    });
}

#[test]
fn whoever_waits_is_told_when_the_desk_goes() {
    let (near, far) = UnixStream::pair().unwrap();
    let client = BrokerClient::new(near.into()).unwrap();
    block_on(async {
        let asking = tokio::spawn({
            let client = client.clone();
            async move { client.secret("env").await }
        });
        assert!(wire::receive(&far, Descriptors::Drop).unwrap().is_some());
        drop(far);
        assert!(matches!(asking.await.unwrap(), Err(HostError::Gone(_))));
        assert!(matches!(client.secret("env").await, Err(HostError::Gone(_))));
    });
    let error = client.open("context", Path::new("file"), Access::Read).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_client_believes_no_answer_that_does_not_fit() {
    let replies: [&[u8]; 8] = [
        br#"{"id":1,"answer":"bytes"}"#,
        br#"{"id":1,"answer":"sealed"}"#,
        br#"{"id":1,"answer":{"credentials":{"username":"u"}}}"#,
        br#"{"id":1,"answer":"descriptor"}"#,
        br#"{"id":1,"answer":"unheard-of"}"#,
        br#"{"id":77,"answer":"bytes"}"#,
        br#"{"answer":"#,
        b"",
    ];
    for reply in replies {
        let (near, far) = UnixStream::pair().unwrap();
        let client = BrokerClient::new(near.into()).unwrap();
        let desk = thread::spawn(move || {
            wire::receive(&far, Descriptors::Drop).unwrap();
            wire::send(&far, reply, b"tail", None).unwrap();
            far
        });
        let answer = block_on(client.secret("env"));
        assert!(matches!(answer, Err(HostError::Gone(_))), "{answer:?}");
        drop(desk.join().unwrap());
    }
}

fn send(socket: &UnixStream, id: u64, ask: &Ask, tail: &[u8]) {
    let header = serde_json::to_vec(&Request { version: VERSION, id, ask }).unwrap();
    wire::send(socket, &header, tail, None).unwrap();
}

fn receive(socket: &UnixStream) -> Reply {
    let frame = wire::receive(socket, Descriptors::Take).unwrap().unwrap();
    serde_json::from_slice(&frame.header).unwrap()
}

#[test]
fn questions_out_of_order_are_refused_by_number() {
    let host = Outside::new();
    let (guest, desk) = host.raw();
    let long = "x".repeat(NAME_LIMIT + 1);
    let headers = [
        r#"{"version":1,"id":5,"ask":{"erase":{"host":"r.example"}}}"#.to_owned(),
        r#"{"version":1,"id":5,"ask":null}"#.to_owned(),
        r#"{"version":1,"id":5,"ask":{"secret":{"id":"env","also":1}}}"#.to_owned(),
        r#"{"version":2,"id":5,"ask":{"secret":{"id":"env"}}}"#.to_owned(),
        format!(r#"{{"version":1,"id":5,"ask":{{"secret":{{"id":"{long}"}}}}}}"#),
        r#"{"version":1,"id":5,"ask":{"sign-challenge":{"host":"r.example","salt":32}}}"#.to_owned(),
    ];
    for header in &headers {
        wire::send(&guest, header.as_bytes(), b"short", None).unwrap();
        let reply = receive(&guest);
        assert!(matches!(reply, Reply { id: 5, answer: Answer::Refused(_) }), "{header}: {reply:?}");
    }
    let secret = Ask::Secret { id: "env".into() };
    send(&guest, 6, &secret, &vec![0; REQUEST_TAIL_LIMIT + 1]);
    assert!(matches!(receive(&guest).answer, Answer::Refused(_)));
    // All that was refused, the desk still answers.
    send(&guest, 7, &secret, b"");
    let frame = wire::receive(&guest, Descriptors::Take).unwrap().unwrap();
    let reply: Reply = serde_json::from_slice(&frame.header).unwrap();
    assert_eq!((reply, frame.tail.len()), (Reply { id: 7, answer: Answer::Sealed }, 0));
    assert_eq!(sandbox_linux::read_sealed_memfd(frame.descriptor.unwrap(), 100).unwrap(), b"from env");
    drop(guest);
    let record = desk.join().unwrap();
    assert_eq!((record.asked["unknown"], record.refused), (6, 7), "{record:?}");
}

#[test]
fn a_guest_that_does_not_speak_the_protocol_is_cut_off() {
    let host = Outside::new();
    for header in
        ["", "rubbish", r#"{"version":1}"#, r#"{"version":1,"id":-1,"ask":null}"#, r#"{"version":1,"id""#]
    {
        let (guest, desk) = host.raw();
        wire::send(&guest, header.as_bytes(), b"", None).unwrap();
        assert!(wire::receive(&guest, Descriptors::Take).unwrap().is_none());
        assert_eq!(desk.join().unwrap().refusals[0].kind, "broker");
    }
    let (guest, desk) = host.raw();
    { &guest }.write_all(&[0xff; 4]).unwrap();
    assert!(wire::receive(&guest, Descriptors::Take).unwrap().is_none());
    assert_eq!(desk.join().unwrap().refused, 1);
    // To go away in the middle of a frame is not against any rule.
    let (guest, desk) = host.raw();
    { &guest }.write_all(&[9, 0, 0, 0, 1]).unwrap();
    drop(guest);
    assert_eq!(desk.join().unwrap(), Record::default());
}

#[test]
fn a_flood_is_bounded() {
    let host = Outside::new();
    let (guest, desk) = host.raw();
    let slow = Ask::Credentials { host: "slow.example".into() };
    for id in 0..UNDER_WAY as u64 {
        send(&guest, id, &slow, b"");
    }
    host.helper();
    for id in 0..10 {
        send(&guest, 1000 + id, &slow, b"");
        let reply = receive(&guest);
        assert_eq!(reply.id, 1000 + id);
        assert!(matches!(reply.answer, Answer::Refused(text) if text.contains("questions at once")));
    }
    // Files are not counted among them.
    send(&guest, 2000, &Ask::Open { local: "context".into(), access: Access::Read }, b"file");
    assert_eq!(receive(&guest), Reply { id: 2000, answer: Answer::Descriptor });
    drop(guest);
    let record = desk.join().unwrap();
    assert_eq!(record.refused, 10);
    // The helper ran once: the others waited for their turn and were sent home.
    assert_eq!(std::fs::read_to_string(host.path("asked")).unwrap().lines().count(), 1);
}

#[test]
fn secrets_are_searched_for_in_vain() {
    let host = Outside::new();
    let (client, desk) = host.client();
    block_on(async {
        for index in 0..100 {
            assert_eq!(client.secret(&format!("guess{index}")).await.unwrap(), None);
        }
        assert!(refusal(client.secret("guess").await).contains("after 100 wrong names"));
        assert!(refusal(client.secret("env").await).contains("after 100 wrong names"));
    });
    drop(client);
    let record = desk.join().unwrap();
    assert_eq!((record.refused, record.unknown_secrets.len(), record.secrets.len()), (2, 100, 0));
}

#[test]
fn a_memory_file_that_is_not_sealed_is_no_secret() {
    let (near, far) = UnixStream::pair().unwrap();
    let client = BrokerClient::new(near.into()).unwrap();
    let desk = thread::spawn(move || {
        wire::receive(&far, Descriptors::Drop).unwrap();
        let file = rustix::fs::memfd_create("open", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        wire::send(&far, br#"{"id":1,"answer":"sealed"}"#, b"", Some(file.as_fd())).unwrap();
        far
    });
    assert!(matches!(block_on(client.secret("env")), Err(HostError::Gone(_))));
    drop(desk.join().unwrap());
}
