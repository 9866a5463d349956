//! Damaged messages of registries, helpers, agents, and of a guest that somebody has taken over.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use buildsvc::dockerconfig::DockerConfig;
use buildsvc::session::host::{Access, Secret, TokenRequest};
use xtask::fuzz::{Messages, Target};

use super::message::{Request, VERSION};
use super::names::{Allowed, Names, Scheme};
use super::signature::tests::{login_data, packed, request};
use super::*;

pub const TARGETS: &[Target] = &[
    ("registry challenges", registry_challenges),
    ("token answers", token_answers),
    ("token authority", token_authority),
    ("helper answers", helper_answers),
    ("agent messages", agent_messages),
    ("broker frames", broker_frames),
];

/// `WWW-Authenticate`, and whether two realms are one.
fn registry_challenges(messages: &mut Messages) {
    let good = [
        r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
        r#"Basic realm="r", Bearer realm = "http://127.0.0.1:5000/t\"x", error=invalid_token"#,
        "https://auth.example:443/token?a=b",
        "Negotiate a==, NTLM",
    ];
    while let Some(header) = messages.text(&good) {
        if let Ok(announce::Announced::Bearer { realm, .. }) =
            announce::challenge("r.example", std::slice::from_ref(&header))
        {
            let _ = announce::same_realm(&realm, "https://auth.example/token");
        }
        let _ = announce::same_realm(&header, "https://auth.example/token");
        let request = TokenRequest {
            client_id: String::new(),
            host: "auth.example".into(),
            realm: header,
            service: String::new(),
            scopes: Vec::new(),
        };
        let _ = (realm::check(&request), hostname(&request.realm), canonical(&request.realm));
    }
}

/// What token servers answer, with tokens of the usual form.
fn token_answers(messages: &mut Messages) {
    let good = [
        r#"{"token":"eyJhbGciOiJSUzI1NiJ9.eyJhY2Nlc3MiOltdfQ.c2ln","access_token":"x","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#,
        r#"{"access_token":"a","refresh_token":"r","expires_in":-9223372036854775808,"scope":"repository:a:pull","issued_at":"0001-01-01T00:00:00Z"}"#,
        r#"{"errors":[{"code":"DENIED","message":"no","detail":{}}]}"#,
    ];
    while let Some(body) = messages.next(&good) {
        if let Ok(token) = realm::tests::answered(&body) {
            assert!(!token.token.0.is_empty() && token.expires_in > 0 && token.issued_at >= 0);
        }
    }
}

/// Salts and challenges: nothing but a whole one is signed.
fn token_authority(messages: &mut Messages) {
    let good = [[7; token::CHALLENGE_LENGTH], [0; token::CHALLENGE_LENGTH]];
    while let Some(bytes) = messages.next(&good) {
        let whole = bytes.len() == token::CHALLENGE_LENGTH;
        assert_eq!(token::authority(&bytes, b"seed").is_ok(), whole);
        assert_eq!(token::sign(&good[0], b"seed", &bytes).is_ok(), whole);
    }
}

fn helper_answers(messages: &mut Messages) {
    let good = [
        r#"{"ServerURL":"https://r.example","Username":"u","Secret":"s"}"#,
        r#"{"Username":"<token>","Secret":"r\u00e9"}"#,
        "credentials not found in native keychain",
    ];
    while let Some(printed) = messages.next(&good) {
        let _ = helper::login_of(&printed);
    }
}

/// What a step asks of an agent, and what an agent says.
fn agent_messages(messages: &mut Messages) {
    let key = packed(b"ssh-ed25519");
    let list =
        [&[0, 0, 0, 0, 12, 0, 0, 0, 2][..], &packed(&key), &packed(b"me@host"), &packed(b"k"), &packed(b"")]
            .concat();
    let good = [request(&key, &login_data(&key)), list];
    while let Some(body) = messages.next(&good) {
        if let Ok(login) = signature::login(&body) {
            assert!(!login.key.is_empty());
        }
        let _ = agent::identities(&body);
    }
}

fn rules(dir: &Path) -> Rules {
    let config = br#"{"auths":{"r.example":{"auth":"dXNlcjpwYXNz"}},"credHelpers":{"h.example":"absent"}}"#;
    let mut names = Names::default();
    for host in ["r.example", "h.example"] {
        names.allow(&Allowed { host: host.into(), scheme: Some(Scheme::Basic) });
    }
    let value = Secret(b"s".to_vec());
    Rules {
        names,
        max_signatures: 3,
        docker_config: DockerConfig::parse(config, Path::new("config.json")).unwrap(),
        token_seeds: Some(dir.join("docker")),
        secrets: vec![SecretSource { id: "s".into(), origin: SecretOrigin::Env { name: "V".into(), value } }],
        agents: vec![AgentSource { id: "default".into(), kind: AgentKind::Socket(dir.join("absent")) }],
        locals: BTreeMap::from([("context".into(), std::fs::File::open(dir).unwrap().into())]),
        ..Rules::default()
    }
}

/// A guest's questions, whole frames and broken ones. A desk that was told nonsense ends, and another takes its place.
fn broker_frames(messages: &mut Messages) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "content").unwrap();
    let host = || "r.example".to_owned();
    let token = TokenRequest {
        client_id: "c".into(),
        host: host(),
        realm: "https://r.example/t".into(),
        service: "s".into(),
        scopes: vec!["repository:a:pull".into()],
    };
    let good: Vec<Vec<u8>> = [
        (Ask::Credentials { host: host() }, ""),
        (Ask::TokenAuthority { host: host() }, "12345678123456781234567812345678"),
        (Ask::SignChallenge { host: host(), salt: 3 }, "12345678"),
        (Ask::FetchToken(token), ""),
        (Ask::Secret { id: "s".into() }, ""),
        (Ask::HasAgent { id: "default".into() }, ""),
        (Ask::Agent { id: "default".into() }, ""),
        (Ask::Open { local: "context".into(), access: Access::List }, "file"),
        (Ask::Found { local: "context".into(), path: "p".into(), rule: "r".into() }, ""),
    ]
    .iter()
    .map(|(ask, tail)| {
        let header = serde_json::to_vec(&Request { version: VERSION, id: 7, ask }).unwrap();
        frame(&header, tail.as_bytes())
    })
    .collect();
    while messages.more() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let desk = Desk::new(rules(dir.path())).serve(far).unwrap();
        let mut answers = near.try_clone().unwrap();
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while answers.read(&mut bytes).is_ok_and(|count| count > 0) {}
        });
        for _ in 0..200 {
            let Some(mut bytes) = messages.next(&good) else { break };
            // Mostly the lengths fit what is damaged, or little would be read beyond the first mistake.
            if messages.roll(16) != 0 && bytes.len() >= 8 {
                let body = (bytes.len() - 4) as u32;
                bytes[..4].copy_from_slice(&body.to_le_bytes());
                let header = u32::from_le_bytes(bytes[4..8].try_into().unwrap()).min(body - 4);
                bytes[4..8].copy_from_slice(&header.to_le_bytes());
            }
            if near.write_all(&bytes).is_err() {
                break;
            }
        }
        near.shutdown(std::net::Shutdown::Write).unwrap();
        desk.join().expect("a desk does not panic");
        reader.join().unwrap();
    }
}

fn frame(header: &[u8], tail: &[u8]) -> Vec<u8> {
    let body = (4 + header.len() + tail.len()) as u32;
    [&body.to_le_bytes()[..], &(header.len() as u32).to_le_bytes(), header, tail].concat()
}
