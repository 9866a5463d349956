//! The user's ssh agent.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Request, Status};

use crate::hostile::case::{Case, End, over};
use crate::hostile::visit::Visit;
use crate::hostile::wire::moby::sshforward::v1::ssh_client::SshClient;
use crate::hostile::wire::moby::sshforward::v1::{BytesMessage, CheckAgentRequest};

/// The blob of the one key.
pub const KEY: [u8; 51] = {
    let mut key = [7; 51];
    let head = *b"\0\0\0\x0bssh-ed25519\0\0\0\x20";
    let mut at = 0;
    while at < head.len() {
        key[at] = head[at];
        at += 1;
    }
    key
};

/// An ssh `string`.
pub fn packed(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// What a login signs, RFC 4252 §7.
fn login() -> Vec<u8> {
    [
        &packed(&[9; 32])[..],
        &[50],
        &packed(b"git"),
        &packed(b"ssh-connection"),
        &packed(b"publickey"),
        &[1],
        &packed(b"ssh-ed25519"),
        &packed(&KEY),
    ]
    .concat()
}

/// A request to sign `data`.
fn sign(data: &[u8]) -> Vec<u8> {
    [&[13][..], &packed(&KEY), &packed(data), &[0; 4]].concat()
}

/// Whether the body of a request to sign is that of [`login`].
pub fn is_login(body: &[u8]) -> bool {
    sign(&login()).get(1..) == Some(body)
}

pub const CASES: &[Case] = &[
    Case::new("agent/unknown-ids", "asks for agents that the build does not lend", |visit| {
        Box::pin(unknown_ids(visit))
    }),
    Case::new("agent/sshsig", "has files and commits signed (SSHSIG)", |visit| {
        let data = [&b"SSHSIG"[..], &packed(b"git"), &packed(b""), &packed(b"sha512"), &packed(&[1; 64])];
        Box::pin(messages(visit, vec![sign(&data.concat())]))
    }),
    Case::new("agent/raw-signatures", "has any bytes signed", |visit| {
        let almost = [login(), b"x".to_vec()].concat();
        let other_service = login().iter().map(|b| if *b == b'-' { b'_' } else { *b }).collect::<Vec<_>>();
        let data = [b"CANARY".to_vec(), Vec::new(), vec![0; 4096], almost, other_service];
        Box::pin(messages(visit, data.iter().map(|data| sign(data)).collect()))
    }),
    Case::new("agent/keys", "adds, removes and locks keys", |visit| {
        let kinds = [1, 3, 7, 8, 9, 17, 18, 19, 20, 21, 22, 23, 25, 26];
        Box::pin(messages(visit, kinds.map(|kind| [&[kind][..], &packed(b"CANARY")].concat()).to_vec()))
    }),
    Case::new("agent/extensions", "calls extensions of the agent", |visit| {
        let names: [&[u8]; 3] = [b"restrict-destination-v00@openssh.com", b"x@y", b""];
        Box::pin(messages(visit, names.map(|name| [&[27][..], &packed(name)].concat()).to_vec()))
    }),
    Case::new("agent/many-signatures", "has 200 logins signed", |visit| {
        Box::pin(messages(visit, vec![sign(&login()); 200]))
    }),
    Case::new("agent/no-agent-bytes", "sends bytes that are no message of an agent", |visit| {
        Box::pin(junk(visit))
    }),
    Case::new("agent/endless-message", "announces a message of 4 GiB and sends it", |visit| {
        Box::pin(endless(visit))
    }),
];

/// A stream to an agent: what goes in, what comes out.
type Stream = (mpsc::Sender<BytesMessage>, mpsc::Receiver<Vec<u8>>);

/// Opens a stream to the agent `id`. Some clients answer the call only once something was said, so nobody waits for that.
async fn open(visit: &Visit, id: &str) -> Stream {
    let (bytes, outgoing) = mpsc::channel(16);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Ok(id) = AsciiMetadataValue::try_from(id) {
        request.metadata_mut().insert("buildkit.ssh.id", id);
    }
    let (heard, answers) = mpsc::channel(16);
    let (mut client, ground) = (SshClient::new(visit.session("sshforward").await), visit.ground.clone());
    tokio::spawn(async move {
        let end = async {
            let mut answers = client.forward_agent(request).await?.into_inner();
            while let Some(answer) = answers.message().await? {
                if heard.send(answer.data.to_vec()).await.is_err() {
                    break;
                }
            }
            Ok::<_, Status>(())
        };
        if let Err(status) = end.await {
            ground.record.told(format!("the stream to the agent: {}", status.message()));
        }
    });
    (bytes, answers)
}

/// Sends one message and reads its answer.
async fn ask((bytes, answers): &mut Stream, message: &[u8]) -> Option<Vec<u8>> {
    bytes.send(BytesMessage { data: packed(message).into() }).await.ok()?;
    let mut answer = Vec::new();
    loop {
        if let Some(length) = answer.first_chunk::<4>()
            && answer.len() >= 4 + u32::from_be_bytes(*length) as usize
        {
            return Some(answer);
        }
        answer.extend_from_slice(&answers.recv().await?);
    }
}

/// Lists the keys, as every login does.
async fn honest(visit: &Visit) {
    if let Some(answer) = ask(&mut open(visit, "default").await, &[11]).await {
        visit.record().got("the agent's keys", &answer);
    }
}

async fn messages(visit: Visit, messages: Vec<Vec<u8>>) -> End {
    for message in messages {
        // A client may close a stream on which it was asked such things, so each gets its own.
        if ask(&mut open(&visit, "default").await, &message).await.is_none() {
            visit.record().told("the stream to the agent was closed");
        }
    }
    honest(&visit).await;
    over()
}

async fn unknown_ids(visit: Visit) -> End {
    let socket = visit.ground.path("agent.sock").display().to_string();
    for id in ["other", "../default", "DEFAULT", &socket] {
        let mut client = SshClient::new(visit.session("sshforward").await);
        if client.check_agent(CheckAgentRequest { id: id.to_owned() }).await.is_ok() {
            visit.record().leak(format!("there is an agent {id:?}"));
        }
        if ask(&mut open(&visit, id).await, &[11]).await.is_some() {
            visit.record().leak(format!("the agent {id:?} answers"));
        }
    }
    honest(&visit).await;
    over()
}

async fn junk(visit: Visit) -> End {
    for junk in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64], b"\0\0\0\0", b"\0"] {
        let (bytes, mut answers) = open(&visit, "default").await;
        let _ = bytes.send(BytesMessage { data: junk.into() }).await;
        drop(bytes);
        while let Some(answer) = answers.recv().await {
            visit.record().told(format!("answered {} bytes", answer.len()));
        }
    }
    honest(&visit).await;
    over()
}

async fn endless(visit: Visit) -> End {
    let (bytes, answers) = open(&visit, "default").await;
    let _ = bytes.send(BytesMessage { data: (&[0xff; 4][..]).into() }).await;
    for _ in 0..2000 {
        if bytes.send(BytesMessage { data: vec![0; 256 << 10].into() }).await.is_err() {
            break;
        }
    }
    drop((bytes, answers));
    honest(&visit).await;
    over()
}
