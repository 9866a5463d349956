//! Whether a registry takes a login, asked before it is kept.
//!
//! Follows the way of docker's Engine (`registry/auth.go` of moby/moby): `/v2/` is asked what it wants, then once more with
//! the password or with a token for no scope. A token server may give an identity token, which is then kept in the place of the
//! password.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buildsvc::dockerconfig::Login;
use buildsvc::session::host::{Secret, TokenRequest};

use super::announce::{AnnounceError, Announced, challenge};
use super::realm::{self, RealmError, Realms, hostname, is_loopback};

/// Under which docker asks token servers.
const CLIENT: &str = "docker";

/// What a registry has to say to a login that it does not refuse.
#[derive(Debug)]
pub enum Verified {
    /// It knows the user. The token is empty where there is none.
    Known { identity_token: Secret },
    /// It asks nobody for a login.
    Open,
}

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("{host} does not take this login (status {status})")]
    Refused { host: String, status: u16 },
    #[error("{host} answers with status {status}, as a registry does not")]
    Odd { host: String, status: u16 },
    #[error(transparent)]
    Announce(AnnounceError),
    #[error("cannot reach {host}")]
    Silent {
        host: String,
        #[source]
        source: RealmError,
    },
    #[error("cannot log in to {host}")]
    Realm {
        host: String,
        #[source]
        source: RealmError,
    },
}

/// Asks the registry at `host`, which is the name that serves it. Without TLS only one on this machine is asked.
pub fn verify(host: &str, login: &Login) -> Result<Verified, VerifyError> {
    let realms = Realms::new(realm::TIME);
    let name = || host.to_owned();
    let local = is_loopback(&hostname(host).to_ascii_lowercase());
    let knock = |scheme: &str| {
        let url = format!("{scheme}://{host}/v2/");
        realms.knock(&url, local).map(|answer| (url, answer))
    };
    let heard = match local {
        // Why the first way failed says more.
        true => knock("http").or_else(|first| knock("https").map_err(|_| first)),
        false => knock("https"),
    };
    let (url, headers) = match heard {
        Ok((url, (401, headers))) => (url, headers),
        Ok((_, (200..=299, _))) => return Ok(Verified::Open),
        Ok((_, (status, _))) => return Err(VerifyError::Odd { host: name(), status }),
        Err(source) => return Err(VerifyError::Silent { host: name(), source }),
    };
    let (authorization, identity_token) = match challenge(host, &headers).map_err(VerifyError::Announce)? {
        Announced::Basic => {
            let mut pair = format!("{}:", login.username).into_bytes();
            pair.extend(&login.password.0);
            (format!("Basic {}", STANDARD.encode(pair)), login.identity_token.clone())
        }
        Announced::Bearer { realm, service, .. } => {
            let request = TokenRequest {
                client_id: CLIENT.to_owned(),
                host: name(),
                realm,
                service: service.unwrap_or_default(),
                scopes: Vec::new(),
            };
            let (token, identity) = realms.sign_in(&request, login).map_err(|source| match source {
                RealmError::Status { status: status @ (400 | 401 | 403), .. } => {
                    VerifyError::Refused { host: name(), status }
                }
                source => VerifyError::Realm { host: name(), source },
            })?;
            (format!("Bearer {}", String::from_utf8_lossy(&token.token.0)), identity)
        }
    };
    let answer = realms.present(&url, local, &authorization);
    match answer.map_err(|source| VerifyError::Silent { host: name(), source })? {
        200..=299 => Ok(Verified::Known { identity_token }),
        status @ (401 | 403) => Err(VerifyError::Refused { host: name(), status }),
        status => Err(VerifyError::Odd { host: name(), status }),
    }
}
