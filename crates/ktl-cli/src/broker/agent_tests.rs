//! Streams to a scripted agent, and to the real one of OpenSSH.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::super::signature::tests::{login_data, packed, request};
use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 1).to_be_bytes()[..], &[kind], body].concat()
}

fn take<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = bytes.split_at(4);
    let (taken, rest) = rest.split_at(u32::from_be_bytes(length.try_into().unwrap()) as usize);
    *bytes = rest;
    taken
}

fn ask(stream: &UnixStream, question: &[u8]) -> Vec<u8> {
    { stream }.write_all(question).unwrap();
    read(stream).unwrap().unwrap()[4..].to_vec()
}

fn socket(id: &str, path: &Path) -> AgentSource {
    AgentSource { id: id.into(), kind: AgentKind::Socket(path.into()) }
}

fn keys(paths: &[&Path]) -> Agents {
    let kind = AgentKind::Keys(paths.iter().map(|path| path.to_path_buf()).collect());
    Agents::new(
        vec![AgentSource { id: DEFAULT_AGENT.into(), kind }],
        crate::env::Env::current().get("PATH").unwrap(),
        20,
    )
}

fn keygen(path: &Path, arguments: &[&str]) {
    let status = Command::new("ssh-keygen").args(["-q", "-f"]).arg(path).args(arguments).status().unwrap();
    assert!(status.success());
}

/// Runs `test` on a stream to the agent `id` while a thread passes the messages on.
fn connected<T>(agents: &Agents, id: &str, book: &Book, test: impl FnOnce(&UnixStream) -> T) -> T {
    let (end, forward) = agents.connect(id, &Stop::new().unwrap()).unwrap().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| agents.run(&forward, book));
        let stream = UnixStream::from(end);
        let result = test(&stream);
        drop(stream);
        result
    })
}

#[test]
fn only_what_a_login_takes_reaches_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut seen = Vec::new();
        while let Some(question) = read(&stream).unwrap() {
            write(&stream, &message(100, &question[4..])).unwrap();
            seen.push(question[4]);
        }
        seen
    });
    let agents = Agents::new(vec![socket(DEFAULT_AGENT, &path)], OsString::new(), 20);
    let book = Book::default();
    let login = request(b"key", &login_data(b"key"));
    let (bind, query, other) =
        (packed(b"session-bind@openssh.com"), packed(b"query"), packed(b"restrict-destination"));
    connected(&agents, "", &book, |stream| {
        assert_eq!(ask(stream, &message(11, b"")), [100, 11]);
        assert_eq!(ask(stream, &message(13, &login)), [&[100, 13], &login[..]].concat());
        assert_eq!(ask(stream, &message(27, &bind)), [&[100, 27], &bind[..]].concat());
        assert_eq!(ask(stream, &message(27, &query)), [&[100, 27], &query[..]].concat());
        for data in [&b"SSHSIG\0\0\0\x03git"[..], b"any text", &login_data(b"other")] {
            assert_eq!(ask(stream, &message(13, &request(b"key", data))), [5]);
        }
        for kind in 0..=255 {
            assert_eq!(ask(stream, &message(kind, b"data")), [5], "{kind}");
        }
        assert_eq!(ask(stream, &message(27, &other)), [5]);
        assert_eq!(ask(stream, &[0, 0, 0, 0]), [5]);
        assert_eq!(ask(stream, &message(11, b"")), [100, 11]);
    });
    assert_eq!(agent.join().unwrap(), [11, 13, 27, 27, 11]);
    let record = book.close();
    assert_eq!(record.refused, 256 + 1 + 3 + 1);
    assert!(record.refusals.iter().any(|refusal| refusal.reason == "agent message 0"));
    assert!(record.refusals.iter().any(|refusal| refusal.reason.contains("SSHSIG")));
    // The agent never said that it signed.
    assert!(record.signatures.is_empty());
    assert!(agents.streams().open.is_empty());
}

#[test]
fn signatures_are_counted_over_all_streams() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || {
        let mut asked = 0;
        for _ in 0..3 {
            let (stream, _) = listener.accept().unwrap();
            while read(&stream).unwrap().is_some() {
                asked += 1;
                write(&stream, &message(14, &packed(b"signature"))).unwrap();
            }
        }
        asked
    });
    let agents = Agents::new(vec![socket(DEFAULT_AGENT, &path)], OsString::new(), 20);
    let book = Book::default();
    let login = message(13, &request(b"key", &login_data(b"key")));
    for _ in 0..2 {
        connected(&agents, "", &book, |stream| {
            for _ in 0..10 {
                assert_eq!(ask(stream, &login)[0], 14);
            }
        });
    }
    connected(&agents, "", &book, |stream| assert_eq!(ask(stream, &login), [5]));
    assert_eq!(agent.join().unwrap(), 20);
    let record = book.close();
    assert_eq!(record.refusals[0].reason, "more than 20 signatures; --ssh-max-signatures allows more");
    assert_eq!((record.signatures[0].count, record.signatures[0].user.as_str()), (20, "git"));
}

#[test]
fn a_message_that_is_too_long_closes_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let _listener = UnixListener::bind(&path).unwrap();
    let agents = Agents::new(vec![socket(DEFAULT_AGENT, &path)], OsString::new(), 20);
    connected(&agents, DEFAULT_AGENT, &Book::default(), |mut stream| {
        stream.write_all(&(FRAME_LIMIT as u32 + 1).to_be_bytes()).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    });
}

#[test]
fn closing_ends_a_stream_that_waits_for_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let agents = Agents::new(vec![socket(DEFAULT_AGENT, &path)], OsString::new(), 20);
    connected(&agents, DEFAULT_AGENT, &Book::default(), |mut stream| {
        stream.write_all(&message(11, b"")).unwrap();
        let (agent, _) = listener.accept().unwrap();
        assert!(read(&agent).unwrap().is_some());
        agents.close();
        assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    });
    assert!(matches!(agents.connect("", &Stop::new().unwrap()), Err(Denial::Rule(_))));
}

#[test]
fn streams_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let _accepting = std::thread::spawn(move || {
        let mut kept = Vec::new();
        while kept.len() < STREAM_LIMIT {
            kept.push(listener.accept().unwrap());
        }
    });
    let agents = Agents::new(vec![socket("a", &path)], OsString::new(), 20);
    let stop = Stop::new().unwrap();
    let open: Vec<_> = (0..STREAM_LIMIT).map(|_| agents.connect("a", &stop).unwrap().unwrap()).collect();
    let path = dir.path().join("second");
    let _listener = UnixListener::bind(&path).unwrap();
    let denied = Agents { sources: [("a".into(), AgentKind::Socket(path))].into(), ..agents };
    assert!(matches!(denied.connect("a", &stop), Err(Denial::Rule(_))));
    open.iter().for_each(|(_, forward)| denied.forget(forward));
    assert!(denied.connect("a", &stop).unwrap().is_some());
}

#[test]
fn agents_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let agents = Agents::new(vec![socket("a", &dir.path().join("absent"))], OsString::new(), 20);
    let stop = Stop::new().unwrap();
    assert!(agents.has("a") && !agents.has("") && !agents.has("b"));
    assert!(agents.connect("b", &stop).unwrap().is_none());
    let text = agents.connect("a", &stop).unwrap_err().text().to_owned();
    assert!(text.starts_with("ssh agent \"a\": cannot connect to ") && text.contains("absent"), "{text}");
}

#[test]
fn key_files_sign_through_an_agent_of_our_own() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    keygen(&first, &["-t", "ed25519", "-N", "", "-C", "one"]);
    keygen(&second, &["-t", "ecdsa", "-N", "", "-m", "PEM"]);
    // As it comes out of a checkout; ssh-add itself would refuse the file.
    std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o644)).unwrap();
    let public = std::fs::read_to_string(first.with_extension("pub")).unwrap();
    let public = STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();

    let agents = keys(&[&first, &second]);
    let book = Book::default();
    connected(&agents, "", &book, |stream| {
        let answer = ask(stream, &message(11, b""));
        assert_eq!(&answer[..5], [12, 0, 0, 0, 2]);
        let mut rest = &answer[5..];
        assert_eq!(take(&mut rest), public);

        let data = login_data(&public);
        let answer = ask(stream, &message(13, &request(&public, &data)));
        assert_eq!(answer[0], 14);
        let mut signature = take(&mut &answer[1..]);
        assert_eq!(take(&mut signature), b"ssh-ed25519");
        let key =
            ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &public[public.len() - 32..]);
        key.verify(&data, take(&mut signature)).unwrap();
        assert_eq!(ask(stream, &message(13, &request(&public, b"the data"))), [5]);

        // SSH_AGENTC_REMOVE_ALL_IDENTITIES
        assert_eq!(ask(stream, &message(19, b"")), [5]);
    });
    // A second stream finds the same agent, with its keys.
    connected(&agents, "default", &book, |stream| {
        assert_eq!(&ask(stream, &message(11, b""))[..5], [12, 0, 0, 0, 2]);
    });
    let record = book.close();
    let listed = Command::new("ssh-keygen").arg("-lf").arg(&first).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let used = &record.signatures[0];
    assert!(listed.contains(&used.fingerprint), "{listed} {used:?}");
    // ssh-add on stdin knows no comment of its own.
    assert_eq!((used.user.as_str(), used.agent.as_str(), used.count), ("git", "default", 1));
    let (process, place) = {
        let keyrings = agents.keyrings.lock().unwrap();
        assert_eq!(keyrings.len(), 1);
        let keyring = &keyrings[DEFAULT_AGENT];
        let place = keyring.socket().parent().unwrap();
        assert_eq!(std::fs::metadata(place).unwrap().permissions().mode() & 0o777, 0o700);
        (keyring.process(), place.to_owned())
    };
    assert!(place.exists());
    drop(agents);
    assert!(!place.exists());
    let process = nix::unistd::Pid::from_raw(process as i32);
    assert_eq!(nix::sys::signal::kill(process, None), Err(nix::Error::ESRCH));
}

#[test]
fn keys_that_cannot_be_used_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    keygen(&at("openssh"), &["-t", "ed25519", "-N", "secret"]);
    keygen(&at("pem"), &["-t", "ecdsa", "-N", "secret", "-m", "PEM"]);
    keygen(&at("pkcs8"), &["-t", "ecdsa", "-N", "secret", "-m", "PKCS8"]);
    keygen(&at("good"), &["-t", "ed25519", "-N", ""]);
    std::fs::write(at("rubbish"), "not a key").unwrap();
    std::fs::write(at("long"), vec![b'x'; 101 << 10]).unwrap();
    let table = [
        ("openssh", "needs a passphrase"),
        ("pem", "needs a passphrase"),
        ("pkcs8", "needs a passphrase"),
        ("rubbish", "ssh-add does not take the ssh key"),
        ("long", "is longer than 102400 bytes"),
        ("absent", "cannot read the ssh key"),
    ];
    let stop = Stop::new().unwrap();
    for (name, part) in table {
        let agents = keys(&[&at("good"), &at(name)]);
        let text = agents.connect("", &stop).unwrap_err().text().to_owned();
        assert!(text.starts_with("ssh agent \"default\": ") && text.contains(part), "{text}");
        assert!(text.contains(name), "{text}");
        assert!(agents.keyrings.lock().unwrap().is_empty());
    }
    let mut agents = keys(&[&at("good")]);
    agents.search_path = dir.path().into();
    let text = agents.connect("", &stop).unwrap_err().text().to_owned();
    assert!(
        text.contains("ssh-agent is not on the search path") && text.contains("openssh-client"),
        "{text}"
    );
}

#[test]
fn programs_of_openssh_get_what_they_may() {
    // `ssh-add -l` and `ssh-keygen -Y sign`, on a socket that a relay in this test connects to the guest's end.
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    keygen(&key, &["-t", "ed25519", "-N", ""]);
    let text = dir.path().join("text");
    std::fs::write(&text, "I owe you").unwrap();
    let run = |program: &str, socket: &Path| {
        let public = key.with_extension("pub");
        let mut command = Command::new(program);
        match program {
            "ssh-add" => command.arg("-l"),
            _ => command.args(["-Y", "sign", "-n", "file", "-f"]).arg(&public).arg(&text),
        };
        // Without the key file, the agent is the only one who could sign.
        command.env("SSH_AUTH_SOCK", socket).stdin(Stdio::null()).stderr(Stdio::null()).output().unwrap()
    };
    let agents = keys(&[&key]);
    let path = dir.path().join("relay");
    let listener = UnixListener::bind(&path).unwrap();
    let book = Book::default();
    connected(&agents, "", &book, |stream| {
        std::fs::remove_file(&key).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2 {
                    let (client, _) = listener.accept().unwrap();
                    while let Some(question) = read(&client).unwrap() {
                        write(stream, &question).unwrap();
                        write(&client, &read(stream).unwrap().unwrap()).unwrap();
                    }
                }
            });
            let listed = String::from_utf8(run("ssh-add", &path).stdout).unwrap();
            assert!(listed.trim_end().ends_with("(ED25519)"), "{listed}");
            assert!(!run("ssh-keygen", &path).status.success());
            assert!(!dir.path().join("text.sig").exists());
        });
        // The control: the agent itself would have signed.
        let socket = agents.keyrings.lock().unwrap()[DEFAULT_AGENT].socket().to_owned();
        assert!(run("ssh-keygen", &socket).status.success());
    });
    let record = book.close();
    assert_eq!(record.refusals.len(), 1, "{record:?}");
    assert_eq!(record.refusals[0].reason, "a signature under a file or a text (SSHSIG)");
    assert!(record.signatures.is_empty());
}

/// A whole login of OpenSSH's client at OpenSSH's server, with all that the two of them ask of an agent.
#[test]
fn a_login_at_a_real_server() {
    let path = crate::env::Env::current().get("PATH").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let Some(server) = super::super::program::find(&path, "sshd") else {
        return eprintln!("skipped: there is no sshd on PATH");
    };
    keygen(&at("host"), &["-t", "ed25519", "-N", ""]);
    keygen(&at("key"), &["-t", "ed25519", "-N", ""]);
    std::fs::copy(at("key.pub"), at("authorized")).unwrap();
    let config = format!(
        "HostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n",
        dir.path().display()
    );
    std::fs::write(at("config"), config).unwrap();
    let checked = Command::new(&server).arg("-t").arg("-f").arg(at("config")).output().unwrap();
    if !checked.status.success() {
        return eprintln!("skipped: sshd does not run here: {}", String::from_utf8_lossy(&checked.stderr));
    }
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let agents = keys(&[&at("key")]);
    let book = Book::default();
    let listener = UnixListener::bind(at("relay")).unwrap();
    connected(&agents, "", &book, |stream| {
        std::fs::remove_file(at("key")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (client, _) = listener.accept().unwrap();
                while let Some(question) = read(&client).unwrap() {
                    write(stream, &question).unwrap();
                    write(&client, &read(stream).unwrap().unwrap()).unwrap();
                }
            });
            let proxy = format!("ProxyCommand={} -i -f {}", server.display(), at("config").display());
            let ran = Command::new("ssh")
                .args(["-v", "-F", "none", "-o", &proxy, "-o", "StrictHostKeyChecking=no"])
                .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "PreferredAuthentications=publickey"])
                .args(["-o", "BatchMode=yes", "-l", user.trim(), "server.example", "true"])
                .env("SSH_AUTH_SOCK", at("relay"))
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&ran.stderr);
            assert!(told.contains("Authenticated to server.example"), "{told}");
        });
    });
    let record = book.close();
    assert_eq!(record.refusals, [], "a login needs nothing that is refused");
    assert_eq!((record.signatures.len(), record.signatures[0].user.as_str()), (1, user.trim()));
}
