//! What guest and host side say to each other.
//!
//! Every request carries a number that its reply repeats, so that a question which waits for a person does not hold up
//! the others. Bytes that are secret or not text travel in the tail of the frame and are named in the comments here.

use buildsvc::session::Seen;
use buildsvc::session::host::{Access, TokenRequest};
use serde::{Deserialize, Serialize};

/// Both ends are the same program, so this only guards against a stale copy of it.
pub const VERSION: u16 = 1;

/// Tails of requests are names, paths and challenges.
pub const REQUEST_TAIL_LIMIT: usize = 64 << 10;

#[derive(Debug, Serialize)]
pub struct Request<'a> {
    pub version: u16,
    pub id: u64,
    pub ask: &'a Ask,
}

/// A request before its question is understood, so that a question from the future can still be refused by number.
#[derive(Debug, Deserialize)]
pub struct Envelope {
    pub version: u16,
    pub id: u64,
    pub ask: serde_json::Value,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    Credentials {
        host: String,
    },
    /// Tail: the salt.
    TokenAuthority {
        host: String,
    },
    /// Tail: `salt` bytes of salt, then the payload.
    SignChallenge {
        host: String,
        salt: usize,
    },
    FetchToken(TokenRequest),
    Secret {
        id: String,
    },
    Agent {
        id: String,
    },
    HasAgent {
        id: String,
    },
    /// Tail: the path, which need not be UTF-8.
    Open {
        local: String,
        access: Access,
    },
    /// No question: what the builder asked of the session. There is no answer.
    Saw(Seen),
    /// Nor is this: a file that a context should not hold.
    Found {
        local: String,
        path: String,
        rule: String,
    },
}

impl Ask {
    /// Under which name the record counts it.
    pub fn kind(&self) -> &'static str {
        match self {
            Ask::Credentials { .. } => "credentials",
            Ask::TokenAuthority { .. } => "token authority",
            Ask::SignChallenge { .. } => "token challenge",
            Ask::FetchToken(_) => "token",
            Ask::Secret { .. } => "secret",
            Ask::Agent { .. } | Ask::HasAgent { .. } => "ssh agent",
            Ask::Open { .. } => "file",
            Ask::Saw(_) | Ask::Found { .. } => "report",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub id: u64,
    pub answer: Answer,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// There is none of that name.
    Nothing,
    /// Tail: password or identity token.
    Credentials { username: String },
    /// Tail: the bytes asked for: a public key, a signed challenge.
    Bytes,
    /// With a descriptor of a sealed memory file: a secret.
    Sealed,
    /// Tail: the token.
    Token { expires_in: i64, issued_at: i64 },
    /// With a descriptor: an agent's stream, an open file.
    Descriptor,
    /// Whether there is one.
    Exists(bool),
    /// Refused by rule, or tried in vain. Meant for the user.
    Refused(String),
    /// The system call that was to open a file failed.
    Errno(i32),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_survive_the_way() {
        let token = TokenRequest {
            client_id: "c".into(),
            host: "h".into(),
            realm: "r".into(),
            service: "s".into(),
            scopes: vec!["a".into(), "b".into()],
        };
        for ask in [
            Ask::Credentials { host: "h".into() },
            Ask::TokenAuthority { host: "h".into() },
            Ask::SignChallenge { host: "h".into(), salt: 32 },
            Ask::FetchToken(token),
            Ask::Secret { id: "s".into() },
            Ask::Agent { id: "default".into() },
            Ask::HasAgent { id: "default".into() },
            Ask::Open { local: "context".into(), access: Access::List },
        ] {
            let text = serde_json::to_vec(&Request { version: VERSION, id: 7, ask: &ask }).unwrap();
            let envelope: Envelope = serde_json::from_slice(&text).unwrap();
            assert_eq!((envelope.version, envelope.id), (VERSION, 7));
            assert_eq!(serde_json::from_value::<Ask>(envelope.ask).unwrap(), ask);
        }
    }

    #[test]
    fn unknown_questions_keep_their_number() {
        for ask in [r#"{"erase":{"host":"h"}}"#, r#"{"secret":{"id":"a","path":"b"}}"#, r#"7"#, r#""secret""#]
        {
            let text = format!(r#"{{"version":1,"id":9,"ask":{ask}}}"#);
            let envelope: Envelope = serde_json::from_str(&text).unwrap();
            assert_eq!(envelope.id, 9);
            assert!(serde_json::from_value::<Ask>(envelope.ask).is_err(), "{ask}");
        }
    }
}
