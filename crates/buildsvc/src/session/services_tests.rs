//! The services of a session as a daemon sees them, over a connection in memory.

use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use sha2::Digest as _;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoStreamingRequest, Request, Status};
use tonic_prost::ProstCodec;

use super::host::{Credentials, HostError, Secret, Token, TokenRequest};
use super::*;
use crate::digest::Digest;
use crate::proto::fsutil::types::Packet;
use crate::proto::fsutil::types::packet::PacketType;
use crate::proto::grpc::health::v1 as health_wire;
use crate::proto::moby::buildkit::secrets::v1 as secrets_wire;
use crate::proto::moby::buildkit::v1::frontend as frontend_wire;
use crate::proto::moby::buildkit::v1::sourcepolicy::PolicyAction;
use crate::proto::moby::buildkit::v1::sourcepolicy::policysession as policy_wire;
use crate::proto::moby::filesync::v1 as wire;
use crate::proto::moby::sshforward::v1 as ssh_wire;
use crate::proto::pb;

/// What every question is answered with.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Gives,
    HasNone,
    OffersNothing,
    Refuses,
}

#[derive(Debug)]
struct Answers {
    mood: Mood,
    asked: AtomicUsize,
}

impl Answers {
    fn answer<T>(&self, value: T, none: T) -> Result<T, HostError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.mood {
            Mood::Gives => Ok(value),
            Mood::HasNone => Ok(none),
            Mood::OffersNothing => Err(HostError::NotOffered("it")),
            Mood::Refuses => Err(HostError::Refused("the rules say no".into())),
        }
    }
}

#[tonic::async_trait]
impl Host for Answers {
    async fn credentials(&self, host: &str) -> Result<Credentials, HostError> {
        let given = Credentials { username: host.to_owned(), secret: Secret(b"pw".to_vec()) };
        self.answer(given, Credentials::default())
    }

    async fn token_authority(&self, _: &str, _: &[u8]) -> Result<Option<[u8; 32]>, HostError> {
        self.answer(Some([7; 32]), None)
    }

    async fn sign_token_challenge(&self, _: &str, _: &[u8], payload: &[u8]) -> Result<Vec<u8>, HostError> {
        self.answer(payload.repeat(2), Vec::new())
    }

    async fn fetch_token(&self, request: TokenRequest) -> Result<Token, HostError> {
        let token = |text: String| Token { token: Secret(text.into()), expires_in: 60, issued_at: 9 };
        self.answer(token(request.scopes.join(" ")), token(String::new()))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, HostError> {
        let size = if id == "huge" { crate::secret::MAX_SECRET + 1 } else { crate::secret::MAX_SECRET };
        self.answer(Some(Secret(vec![1; size])), None)
    }

    async fn agent(&self, _: &str) -> Result<Option<OwnedFd>, HostError> {
        self.answer(None, None)
    }

    async fn has_agent(&self, _: &str) -> Result<bool, HostError> {
        self.answer(true, false)
    }
}

struct Served {
    channel: Channel,
    answers: Arc<Answers>,
    methods: Vec<&'static str>,
    deliveries: Arc<Deliveries>,
    handlers: mpsc::Receiver<()>,
}

async fn serve(mood: Mood, ids: &[&str], outputs: Vec<Option<Output>>) -> Served {
    serve_to(mood, ids, outputs, None).await
}

async fn serve_to(
    mood: Mood,
    ids: &[&str],
    outputs: Vec<Option<Output>>,
    witness: Option<Arc<dyn Witness>>,
) -> Served {
    let answers = Arc::new(Answers { mood, asked: AtomicUsize::new(0) });
    let session = Session {
        shared_key: String::new(),
        locals: BTreeMap::new(),
        outputs,
        host: answers.clone(),
        secrets: ids.iter().map(|id| id.to_string()).collect(),
        agents: ids.iter().map(|id| id.to_string()).collect(),
        stores: BTreeMap::new(),
        upload: None,
        witness,
        verifier: None,
    };
    let Services { router, methods, deliveries, handlers } = session.services();
    let channel = connect(router).await;
    Served { channel, answers, methods, deliveries, handlers }
}

/// Allows what has this beginning.
#[derive(Debug)]
struct Beginning(&'static str);

impl policy::Verifier for Beginning {
    fn check(&self, source: &policy::Source) -> Result<(), String> {
        source.identifier.starts_with(self.0).then_some(()).ok_or_else(|| "not on the list".to_owned())
    }
}

#[tokio::test]
async fn sources_are_decided_one_by_one() {
    let session = Session {
        shared_key: String::new(),
        locals: BTreeMap::new(),
        outputs: Vec::new(),
        host: Arc::new(Answers { mood: Mood::OffersNothing, asked: AtomicUsize::new(0) }),
        secrets: Default::default(),
        agents: Default::default(),
        stores: BTreeMap::new(),
        upload: None,
        witness: None,
        verifier: Some(Arc::new(Beginning("https://good.example/"))),
    };
    let services = session.services();
    assert!(services.methods.contains(&policy::METHODS[0]));
    let channel = connect(services.router).await;
    let mut client = policy_wire::policy_verifier_client::PolicyVerifierClient::new(channel);
    for (identifier, action) in [
        ("https://good.example/a", PolicyAction::Allow),
        ("https://evil.example/", PolicyAction::Deny),
        ("", PolicyAction::Deny),
    ] {
        let source = pb::SourceOp { identifier: identifier.to_owned(), ..pb::SourceOp::default() };
        let source = frontend_wire::ResolveSourceMetaResponse { source: Some(source) };
        let request = policy_wire::CheckPolicyRequest { source: Some(source), ..Default::default() };
        let answer = client.check_policy(request).await.unwrap().into_inner().result.unwrap();
        let policy_wire::check_policy_response::Result::Decision(decision) = answer;
        assert_eq!(decision.action(), action, "{identifier}");
        let said = decision.deny_messages.iter().any(|deny| deny.message == "not on the list");
        assert_eq!(said, action == PolicyAction::Deny, "{identifier}");
    }
    let nothing = policy_wire::CheckPolicyRequest::default();
    assert_eq!(code(client.check_policy(nothing).await), Code::InvalidArgument);
}

/// The daemon's end of a session that offers everything, with `directory` as its context.
pub async fn for_fuzzing(directory: &std::path::Path) -> Channel {
    let receiver = Receiver::new(std::fs::File::open(directory).unwrap().into()).bounded(0);
    let one = |id: &str| BTreeSet::from([id.to_owned()]);
    let session = Session {
        shared_key: String::new(),
        locals: BTreeMap::from([("context".into(), LocalDir::open("context", directory).unwrap())]),
        outputs: vec![Some(Output::new("out", Sink::Directory(Arc::new(receiver))))],
        host: Arc::new(Answers { mood: Mood::HasNone, asked: AtomicUsize::new(0) }),
        secrets: one("known"),
        agents: one("default"),
        stores: BTreeMap::from([("oci:store".into(), ContentStore::reading(None))]),
        upload: None,
        witness: None,
        verifier: None,
    };
    connect(session.services().router).await
}

async fn connect(router: Router<Layered>) -> Channel {
    let (daemon, ours) = tokio::io::duplex(1 << 16);
    router.serve_with_incoming(tokio_stream::once(Ok::<_, Infallible>(ours))).await.unwrap();
    let mut once = Some(TokioIo::new(daemon));
    let connector = tower::service_fn(move |_| {
        let stream = once.take().ok_or_else(|| std::io::Error::other("only one connection"));
        async move { stream }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

fn code<T: std::fmt::Debug>(reply: Result<T, Status>) -> Code {
    reply.expect_err("an error").code()
}

#[tokio::test]
async fn only_what_is_needed_is_registered() {
    let served = serve(Mood::Gives, &[], vec![None]).await;
    assert!(served.methods.iter().all(|method| method.contains("Health") || method.contains("Auth")));
    let mut secrets = secrets_wire::secrets_client::SecretsClient::new(served.channel.clone());
    assert_eq!(
        code(secrets.get_secret(secrets_wire::GetSecretRequest::default()).await),
        Code::Unimplemented
    );
    let mut agents = ssh_wire::ssh_client::SshClient::new(served.channel.clone());
    assert_eq!(code(agents.check_agent(ssh_wire::CheckAgentRequest::default()).await), Code::Unimplemented);
    assert_eq!(code(deliver(&served, 0, &[]).await), Code::Unimplemented);
    let mut health = health_wire::health_client::HealthClient::new(served.channel.clone());
    let reply = health.check(health_wire::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(reply.status(), health_wire::health_check_response::ServingStatus::Serving);
}

#[tokio::test]
async fn credentials_are_given_or_empty() {
    for (mood, want) in [
        (Mood::Gives, Ok(("r.io", "pw"))),
        (Mood::HasNone, Ok(("", ""))),
        (Mood::OffersNothing, Ok(("", ""))),
        (Mood::Refuses, Err(Code::PermissionDenied)),
    ] {
        let mut auth = wire::auth_client::AuthClient::new(serve(mood, &[], vec![]).await.channel);
        let reply = auth.credentials(wire::CredentialsRequest { host: "r.io".into() }).await;
        let reply = reply.map(tonic::Response::into_inner).map_err(|status| status.code());
        let reply = reply.as_ref().map(|r| (r.username.as_str(), r.secret.as_str())).map_err(|code| *code);
        assert_eq!(reply, want, "{mood:?}");
    }
}

/// On "unavailable" and "unimplemented" alone the daemon goes on to ask for credentials.
#[tokio::test]
async fn a_token_authority_is_there_or_the_daemon_asks_for_credentials() {
    for (mood, want) in [
        (Mood::Gives, None),
        (Mood::HasNone, Some(Code::Unavailable)),
        (Mood::OffersNothing, Some(Code::Unimplemented)),
        (Mood::Refuses, Some(Code::Unavailable)),
    ] {
        let mut auth = wire::auth_client::AuthClient::new(serve(mood, &[], vec![]).await.channel);
        let asked =
            wire::GetTokenAuthorityRequest { host: "r.io".into(), salt: Bytes::from_static(&[1; 32]) };
        let reply = auth.get_token_authority(asked).await;
        match want {
            Some(want) => assert_eq!(code(reply), want, "{mood:?}"),
            None => assert_eq!(reply.unwrap().into_inner().public_key, [7; 32].as_slice()),
        }
    }
    let mut auth = wire::auth_client::AuthClient::new(serve(Mood::Gives, &[], vec![]).await.channel);
    let challenge =
        wire::VerifyTokenAuthorityRequest { payload: Bytes::from_static(b"ab"), ..Default::default() };
    assert_eq!(auth.verify_token_authority(challenge).await.unwrap().into_inner().signed, "abab");
    let asked = wire::FetchTokenRequest { scopes: vec!["a".into(), "b".into()], ..Default::default() };
    let token = auth.fetch_token(asked).await.unwrap().into_inner();
    assert_eq!((token.token.as_str(), token.expires_in, token.issued_at), ("a b", 60, 9));
    let long = wire::CredentialsRequest { host: "x".repeat(5000) };
    assert_eq!(code(auth.credentials(long).await), Code::InvalidArgument);
}

#[tokio::test]
async fn unknown_secrets_are_not_found_and_counted() {
    let served = serve(Mood::Gives, &["known", "huge"], vec![]).await;
    let ask = |id: &str| {
        let mut secrets = secrets_wire::secrets_client::SecretsClient::new(served.channel.clone());
        let request = secrets_wire::GetSecretRequest { id: id.into(), ..Default::default() };
        async move { secrets.get_secret(request).await.map(|reply| reply.into_inner().data.len()) }
    };
    assert_eq!(code(ask("GIT_AUTH_TOKEN.r.io").await), Code::NotFound);
    // It hears of the question, and what it says is not passed on.
    assert_eq!(served.answers.asked.load(Ordering::Relaxed), 1);
    assert_eq!(code(ask(&"n".repeat(5000)).await), Code::NotFound);
    assert_eq!(served.answers.asked.load(Ordering::Relaxed), 1);
    for _ in 2..100 {
        assert_eq!(code(ask("guess").await), Code::NotFound);
    }
    assert_eq!(code(ask("one too many").await), Code::ResourceExhausted);
    assert_eq!(ask("known").await.unwrap(), crate::secret::MAX_SECRET);
    assert_eq!(code(ask("huge").await), Code::InvalidArgument);
    for (mood, want) in [
        (Mood::HasNone, Code::NotFound),
        (Mood::OffersNothing, Code::NotFound),
        (Mood::Refuses, Code::PermissionDenied),
    ] {
        let mut secrets =
            secrets_wire::secrets_client::SecretsClient::new(serve(mood, &["a"], vec![]).await.channel);
        let request = secrets_wire::GetSecretRequest { id: "a".into(), ..Default::default() };
        assert_eq!(code(secrets.get_secret(request).await), want, "{mood:?}");
    }
}

#[tokio::test]
async fn an_unnamed_agent_is_the_default_one() {
    let served = serve(Mood::Gives, &["default"], vec![]).await;
    let check = |id: &str| {
        let mut agents = ssh_wire::ssh_client::SshClient::new(served.channel.clone());
        let request = ssh_wire::CheckAgentRequest { id: id.into() };
        async move { agents.check_agent(request).await }
    };
    check("").await.unwrap();
    check("default").await.unwrap();
    assert_eq!(code(check("other").await), Code::NotFound);
}

/// Calls FileSend as a daemon does, with one message for each chunk.
async fn deliver(served: &Served, exporter: usize, chunks: &[&'static [u8]]) -> Result<(), Status> {
    deliver_image(served, exporter, chunks, None).await
}

/// The same with the digest that it names as that of an image.
async fn deliver_image(
    served: &Served,
    exporter: usize,
    chunks: &[&'static [u8]],
    word: Option<&str>,
) -> Result<(), Status> {
    let messages: Vec<_> =
        chunks.iter().map(|chunk| wire::BytesMessage { data: Bytes::from_static(chunk) }).collect();
    let mut request = tokio_stream::iter(messages).into_streaming_request();
    request
        .metadata_mut()
        .insert("buildkit-attachable-exporter-id", exporter.to_string().parse().expect("a number"));
    if let Some(word) = word {
        let word = word.parse().expect("plain text");
        request.metadata_mut().insert("exporter-md-containerimage.digest", word);
    }
    call(served, request).await
}

async fn call<M: prost::Message + Default + 'static>(
    served: &Served,
    request: Request<impl tokio_stream::Stream<Item = M> + Send + 'static>,
) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(served.channel.clone());
    client.ready().await.expect("a connection");
    let codec = ProstCodec::<M, wire::BytesMessage>::default();
    let path = PathAndQuery::from_static("/moby.filesync.v1.FileSend/DiffCopy");
    let mut replies = client.streaming(request, path, codec).await?.into_inner();
    assert_eq!(replies.message().await?, None);
    Ok(())
}

fn archive() -> (std::fs::File, Option<Output>) {
    let file = tempfile::tempfile().unwrap();
    let output = Output::new("x.tar", Sink::File(file.try_clone().unwrap()));
    (file, Some(output))
}

async fn arrived(mut served: Served) -> Result<(), BuildError> {
    served.deliveries.stop_accepting();
    let _ = served.handlers.recv().await;
    served.deliveries.take().complete(None)
}

#[tokio::test]
async fn an_archive_is_delivered_once() {
    let (mut file, output) = archive();
    let served = serve(Mood::Gives, &[], vec![None, output]).await;
    deliver(&served, 1, &[b"ab", b"", b"cd"]).await.unwrap();
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "abcd");
    assert_eq!(code(deliver(&served, 1, &[b"again"]).await), Code::FailedPrecondition);
    assert_eq!(code(deliver(&served, 0, &[]).await), Code::NotFound);
    assert_eq!(code(deliver(&served, 2, &[]).await), Code::NotFound);
    arrived(served).await.unwrap();
}

#[tokio::test]
async fn what_does_not_arrive_whole_is_missed() {
    let served = serve(Mood::Gives, &[], vec![archive().1]).await;
    let missed = arrived(served).await.unwrap_err();
    assert!(matches!(&missed, BuildError::Output { path, .. } if path == "x.tar"), "{missed:?}");

    // An archive that turns into something else in the middle.
    let served = serve(Mood::Gives, &[], vec![archive().1]).await;
    let half = Packet { data: Bytes::from_static(b"half"), ..Packet::default() };
    let stray = Packet { r#type: PacketType::PacketReq.into(), ..Packet::default() };
    let end = call(&served, Request::new(tokio_stream::iter([half, stray]))).await;
    assert_eq!(code(end), Code::InvalidArgument);
    assert!(matches!(arrived(served).await, Err(BuildError::Output { .. })));
}

#[tokio::test]
async fn a_daemon_without_exporter_ids_means_the_first() {
    let (_, output) = archive();
    let served = serve(Mood::Gives, &[], vec![output]).await;
    call::<wire::BytesMessage>(&served, Request::new(tokio_stream::empty())).await.unwrap();
    arrived(served).await.unwrap();
}

/// An image of one manifest, as a tar.
fn image() -> (Vec<u8>, Digest) {
    let manifest = b"{}";
    let digest = Digest::sha256(&sha2::Sha256::digest(manifest).into());
    let index = format!(r#"{{"manifests":[{{"digest":"{digest}"}}]}}"#);
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [(format!("blobs/sha256/{}", digest.hex()), &manifest[..]), ("index.json".into(), index.as_bytes())]
    {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_path(name).unwrap();
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    (builder.into_inner().unwrap(), digest)
}

#[tokio::test]
async fn an_image_is_held_against_the_daemons_word() {
    let (tar, digest) = image();
    let tar: &'static [u8] = tar.leak();
    let other = digest.as_str().replace(digest.hex(), &"0".repeat(64));
    for (sent, word, held) in [
        (tar, Some(digest.as_str()), true),
        (tar, None, true),
        (tar, Some(other.as_str()), false),
        (tar, Some("nonsense"), false),
        (&tar[..1024], Some(digest.as_str()), false),
        (b"abcd", None, false),
    ] {
        let output = Output::new("x.tar", Sink::Image(tempfile::tempfile().unwrap()));
        let mut served = serve(Mood::Gives, &[], vec![Some(output)]).await;
        let _ = deliver(&served, 0, &[sent]).await;
        served.deliveries.stop_accepting();
        let _ = served.handlers.recv().await;
        match served.deliveries.take().complete(word) {
            Ok(()) => assert!(held, "{word:?}"),
            Err(BuildError::Mismatch { path, .. }) => assert!(!held && path == "x.tar", "{word:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Of several images the answer speaks of one, but each comes with a word of its own.
#[tokio::test]
async fn each_of_several_images_is_held_against_its_own_word() {
    let (tar, digest) = image();
    let tar: &'static [u8] = tar.leak();
    let other = digest.as_str().replace(digest.hex(), &"0".repeat(64));
    for (first, second, ill) in [
        (Some(digest.as_str()), Some(digest.as_str()), None),
        (None, Some(digest.as_str()), None),
        (Some(other.as_str()), Some(digest.as_str()), Some("0.tar")),
        (Some(digest.as_str()), Some(other.as_str()), Some("1.tar")),
        (None, Some("nonsense"), Some("1.tar")),
    ] {
        let output = |name: &str| Some(Output::new(name, Sink::Image(tempfile::tempfile().unwrap())));
        let mut served = serve(Mood::Gives, &[], vec![output("0.tar"), output("1.tar")]).await;
        deliver_image(&served, 0, &[tar], first).await.unwrap();
        deliver_image(&served, 1, &[tar], second).await.unwrap();
        served.deliveries.stop_accepting();
        let _ = served.handlers.recv().await;
        match served.deliveries.take().complete(None) {
            Ok(()) => assert_eq!(ill, None, "{first:?} {second:?}"),
            Err(BuildError::Mismatch { path, .. }) => assert_eq!(ill, Some(path.as_str())),
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_archive_has_only_so_much_room() {
    let mut output = Output::new("x.tar", Sink::File(tempfile::tempfile().unwrap()));
    output.most = 3;
    let served = serve(Mood::Gives, &[], vec![Some(output)]).await;
    assert_eq!(code(deliver(&served, 0, &[b"ab", b"cd"]).await), Code::Aborted);
    let Err(BuildError::Output { source, .. }) = arrived(served).await else { panic!("no error") };
    assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
}

#[derive(Debug, Default)]
struct Notebook(std::sync::Mutex<Vec<Seen>>);

impl Witness for Notebook {
    fn saw(&self, request: Seen) {
        self.0.lock().unwrap().push(request);
    }
}

#[tokio::test]
async fn every_request_is_witnessed() {
    let notebook = Arc::new(Notebook::default());
    let (_, output) = archive();
    let served = serve_to(Mood::Gives, &["known"], vec![output], Some(notebook.clone())).await;
    deliver(&served, 0, &[b"1234"]).await.unwrap();
    assert!(deliver(&served, 7, &[]).await.is_err());
    let mut client = tonic::client::Grpc::new(served.channel.clone());
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static("/nobody.Has/This");
    let codec = ProstCodec::<wire::BytesMessage, wire::BytesMessage>::default();
    assert!(client.unary(Request::new(wire::BytesMessage::default()), path, codec).await.is_err());
    let seen = notebook.0.lock().unwrap().clone();
    let lines: Vec<_> = seen.iter().map(|s| (s.method.as_str(), s.end.as_str(), s.why.as_str())).collect();
    let method = "/moby.filesync.v1.FileSend/DiffCopy";
    assert_eq!(lines[0], (method, "ok", ""));
    assert_eq!(lines[1], (method, "refused", "NotFound: exporter 7 has no output on this side"));
    assert_eq!((lines[2].0, lines[2].1), ("/nobody.Has/This", "refused"));
    assert!(lines[2].2.starts_with("Unimplemented"), "{lines:?}");
    assert_eq!(seen[0].about["buildkit-attachable-exporter-id"], ["0"]);
    assert!(seen[0].received > 4 && lines.len() == 3);
}
