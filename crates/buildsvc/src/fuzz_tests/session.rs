//! Questions to the session's services, damaged and whole, over a connection in memory.

use bytes::{Buf, BufMut, Bytes};
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use xtask::fuzz::Messages;

use crate::proto::containerd::services::content::v1 as content;
use crate::proto::fsutil::types::{Packet, packet::PacketType};
use crate::proto::moby::buildkit::secrets::v1 as secrets;
use crate::proto::moby::filesync::v1 as wire;
use crate::proto::moby::sshforward::v1 as ssh;
use crate::session::services_tests::for_fuzzing;

/// Messages as they are on the wire.
#[derive(Debug, Default, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// A good question of each kind, and which method it is for.
fn questions() -> Vec<(&'static str, Vec<u8>)> {
    let packet = Packet { r#type: PacketType::PacketReq.into(), id: 1, ..Packet::default() };
    let token = wire::FetchTokenRequest {
        client_id: "c".into(),
        host: "r.io".into(),
        realm: "https://r.io/token".into(),
        service: "r".into(),
        scopes: vec!["repository:a:pull".into()],
    };
    let challenge = wire::VerifyTokenAuthorityRequest {
        host: "r.io".into(),
        payload: vec![1; 32].into(),
        salt: vec![2; 32].into(),
    };
    let authority = wire::GetTokenAuthorityRequest { host: "r.io".into(), salt: vec![1; 32].into() };
    let secret = secrets::GetSecretRequest { id: "known".into(), ..Default::default() };
    let blob = content::ReadContentRequest { digest: "sha256:00".into(), offset: 1, size: 9 };
    vec![
        ("/grpc.health.v1.Health/Check", Vec::new()),
        (
            "/moby.filesync.v1.Auth/Credentials",
            wire::CredentialsRequest { host: "r.io".into() }.encode_to_vec(),
        ),
        ("/moby.filesync.v1.Auth/FetchToken", token.encode_to_vec()),
        ("/moby.filesync.v1.Auth/GetTokenAuthority", authority.encode_to_vec()),
        ("/moby.filesync.v1.Auth/VerifyTokenAuthority", challenge.encode_to_vec()),
        ("/moby.buildkit.secrets.v1.Secrets/GetSecret", secret.encode_to_vec()),
        (
            "/moby.sshforward.v1.SSH/CheckAgent",
            ssh::CheckAgentRequest { id: "default".into() }.encode_to_vec(),
        ),
        (
            "/moby.sshforward.v1.SSH/ForwardAgent",
            ssh::BytesMessage { data: vec![0, 0, 0, 1, 11].into() }.encode_to_vec(),
        ),
        ("/moby.filesync.v1.FileSync/DiffCopy", packet.encode_to_vec()),
        ("/moby.filesync.v1.FileSend/DiffCopy", packet.encode_to_vec()),
        ("/containerd.services.content.v1.Content/Read", blob.encode_to_vec()),
    ]
}

pub fn calls(messages: &mut Messages) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let questions = questions();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), "content").unwrap();
    runtime.block_on(async {
        while messages.more() {
            // After a hundred wrong ids a session gives no secrets, so no session is asked for long.
            let channel = for_fuzzing(directory.path()).await;
            let mut client = tonic::client::Grpc::new(channel);
            for _ in 0..500 {
                let (method, good) = &questions[messages.roll(questions.len())];
                let count = 1 + messages.roll(3);
                let all: Vec<Bytes> =
                    (0..count).map_while(|_| messages.next(&[good])).map(Bytes::from).collect();
                if all.is_empty() {
                    break;
                }
                let mut request = Request::new(tokio_stream::iter(all));
                let metadata = request.metadata_mut();
                for (key, values) in [
                    ("dir-name", &["context", "other", ""][..]),
                    ("exclude-patterns", &["*", "[", "!a"]),
                    ("buildkit-attachable-exporter-id", &["0", "-1", "9"]),
                    ("buildkit.ssh.id", &["default", "other"]),
                ] {
                    if messages.roll(2) == 0 {
                        metadata.insert(key, values[messages.roll(values.len())].parse().unwrap());
                    }
                }
                client.ready().await.expect("the session is still there");
                let path = PathAndQuery::from_static(method);
                // A refusal is an answer; that there is one in the end is what counts.
                if let Ok(answers) = client.streaming(request, path, Raw).await {
                    let mut answers = answers.into_inner();
                    while let Ok(Some(())) = answers.message().await {}
                }
            }
        }
    });
}
