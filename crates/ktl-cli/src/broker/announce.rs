//! How a registry wants to be spoken to, asked of the registry itself.
//!
//! A registry tells in its challenge where tokens for it come from, and a daemon passes that on. A daemon that lies
//! about it could have the user's password sent anywhere. So before a login is used, `/v2/` of the registry is asked
//! from here, without any login, and what the daemon says must be what the registry says.
//!
//! Follows RFC 9110 §11.6.1 for the header, `docs/spec/auth/token.md` of distribution/distribution for its meaning, and
//! containerd for who is spoken to without TLS: `localhost` and loopback addresses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ureq::http::Uri;

use super::names::{HUB, HUB_HOST, Host, Scheme, canonical};
use super::realm::{RealmError, Realms, hostname, is_loopback};

const HEADER_LIMIT: usize = 8 << 10;
const CHALLENGES: usize = 16;
/// Hosts that are remembered: a build names a few.
const KEPT: usize = 256;

/// What a registry asks for, the better one where it takes two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// A token, from `realm`. `service` is `None` where the user named the realm.
    Bearer { realm: String, service: Option<String>, or_basic: bool },
    /// The password itself.
    Basic,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    #[error("{host} cannot be asked from here where its tokens come from: {reason}")]
    Silent { host: String, reason: String },
    #[error("{host} asks for no login")]
    Open { host: String },
}

/// One question for each host and build.
#[derive(Debug, Default)]
pub struct Announcements {
    known: Mutex<BTreeMap<String, Slot>>,
}

type Slot = Arc<Mutex<Option<Result<Announced, AnnounceError>>>>;

impl Announcements {
    /// What `host` asks for; `named` is what the user said of it.
    pub fn get(&self, host: &str, named: &Host, realms: &Realms) -> Result<Announced, AnnounceError> {
        match &named.scheme {
            Some(Scheme::Basic) => return Ok(Announced::Basic),
            Some(Scheme::Realm(realm)) => {
                return Ok(Announced::Bearer { realm: realm.clone(), service: None, or_basic: false });
            }
            None => {}
        }
        let host = canonical(host);
        let slot = {
            let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            if known.len() >= KEPT && !known.contains_key(&host) {
                return Err(AnnounceError::Silent { host, reason: "too many registries".into() });
            }
            known.entry(host.clone()).or_default().clone()
        };
        // Whoever asks next waits for the answer instead of asking again.
        let mut answer = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        answer.get_or_insert_with(|| ask(&host, realms)).clone()
    }
}

fn ask(host: &str, realms: &Realms) -> Result<Announced, AnnounceError> {
    let server = if host == HUB { HUB_HOST } else { host };
    let local = is_loopback(&hostname(server).to_ascii_lowercase());
    let schemes: &[&str] = if local { &["http", "https"] } else { &["https"] };
    let silent = |reason| Err(AnnounceError::Silent { host: host.to_owned(), reason });
    let mut unheard = String::new();
    for scheme in schemes {
        match realms.knock(&format!("{scheme}://{server}/v2/"), local) {
            Ok((401, headers)) => return challenge(host, &headers),
            Ok((200..=299, _)) => return Err(AnnounceError::Open { host: host.to_owned() }),
            Ok((status @ 300..=399, _)) => return silent(format!("it redirects ({status})")),
            Ok((status, _)) => return silent(format!("it answers with status {status}")),
            Err(error) => unheard = told(&error),
        }
    }
    silent(unheard)
}

fn told(error: &RealmError) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), ToString::to_string)
}

pub(super) fn challenge(host: &str, headers: &[String]) -> Result<Announced, AnnounceError> {
    let mut bearer = None;
    let mut basic = false;
    for (scheme, parameters) in headers.iter().flat_map(|header| challenges(header)) {
        let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        match scheme.as_str() {
            "bearer" if bearer.is_none() => {
                bearer = get("realm").map(|realm| (realm, get("service").unwrap_or_default()));
            }
            "basic" => basic = true,
            _ => {}
        }
    }
    match bearer {
        Some((realm, service)) => Ok(Announced::Bearer { realm, service: Some(service), or_basic: basic }),
        None if basic => Ok(Announced::Basic),
        None => Err(AnnounceError::Silent {
            host: host.to_owned(),
            reason: "its challenge is of no known kind".into(),
        }),
    }
}

type Challenge = (String, Vec<(String, String)>);

/// The challenges of one header: a scheme, then `name=value` or `name="value"` parted by commas.
fn challenges(header: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    if header.len() > HEADER_LIMIT {
        return found;
    }
    let mut rest = header.trim_start();
    while !rest.is_empty() && found.len() < CHALLENGES {
        let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '=' | ',')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after = after.trim_start();
        match (after.strip_prefix('='), found.last_mut()) {
            (Some(after), Some((_, parameters))) => {
                let Some((value, left)) = value(after.trim_start()) else { return found };
                parameters.push((word.to_ascii_lowercase(), value));
                rest = left;
            }
            (Some(_), None) => return found,
            (None, _) => {
                if !word.is_empty() {
                    found.push((word.to_ascii_lowercase(), Vec::new()));
                }
                rest = after;
            }
        }
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
    }
    found
}

/// A token or a quoted string, and what follows it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

/// Whether two realms are one address: scheme, host, port and path.
pub fn same_realm(one: &str, other: &str) -> bool {
    let parts = |text: &str| {
        let uri: Uri = text.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let authority = uri.authority()?;
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        if authority.as_str().contains('@') {
            return None;
        }
        Some((scheme, authority.host().to_ascii_lowercase(), port, uri.path().to_owned()))
    };
    parts(one).is_some_and(|parts_of_one| Some(parts_of_one) == parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, or_basic: bool) -> Announced {
        Announced::Bearer { realm: realm.into(), service: Some(service.into()), or_basic }
    }

    #[test]
    fn challenges_are_read() {
        let table: &[(&[&str], Option<Announced>)] = &[
            (
                &[r#"Bearer realm="https://a/t",service="s",scope="x""#],
                Some(bearer("https://a/t", "s", false)),
            ),
            (&[r#"bearer service=s , REALM = "https://a/\"t""#], Some(bearer("https://a/\"t", "s", false))),
            (&[r#"Bearer realm="https://a/t""#], Some(bearer("https://a/t", "", false))),
            (&[r#"Basic realm="x, Bearer realm=y""#], Some(Announced::Basic)),
            (&["Basic"], Some(Announced::Basic)),
            (&["Basic realm=x, Bearer realm=y,service=z"], Some(bearer("y", "z", true))),
            (&["Basic realm=x", "Bearer realm=y,service=z"], Some(bearer("y", "z", true))),
            (&["Bearer realm=y", "Bearer realm=z"], Some(bearer("y", "", false))),
            (&["Negotiate"], None),
            (&["Bearer service=s"], None),
            (&["=x"], None),
            (&[r#"Bearer realm="open"#], None),
            (&[""], None),
            (&[], None),
        ];
        for (headers, expected) in table {
            let headers: Vec<String> = headers.iter().map(|header| header.to_string()).collect();
            assert_eq!(challenge("h", &headers).ok(), *expected, "{headers:?}");
        }
        assert!(challenges(&format!("Bearer realm={}", "x".repeat(HEADER_LIMIT))).is_empty());
        assert_eq!(challenges(&"a ".repeat(1000)).len(), CHALLENGES);
    }

    #[test]
    fn realms_are_compared_by_their_parts() {
        let same = [
            ("https://a.example/token", "https://A.example:443/token?x=y"),
            ("http://a.example/token", "HTTP://a.example:80/token"),
        ];
        for (one, other) in same {
            assert!(same_realm(one, other), "{one} {other}");
        }
        let different = [
            ("https://a.example/token", "http://a.example/token"),
            ("https://a.example/token", "https://a.example:444/token"),
            ("https://a.example/token", "https://a.example/token/"),
            ("https://a.example/token", "https://b.example/token"),
            ("https://a.example/token", "https://a.example@b.example/token"),
            ("https://a.example/token", "https://a.example.b.example/token"),
            ("https://a.example/token", ""),
            ("", ""),
            ("/token", "/token"),
        ];
        for (one, other) in different {
            assert!(!same_realm(one, other) && !same_realm(other, one), "{one} {other}");
        }
    }

    #[test]
    fn what_the_user_said_goes_before_any_question() {
        let named = |scheme| {
            let mut host = Host::default();
            host.scheme = Some(scheme);
            host
        };
        let realms = Realms::new(super::super::realm::TIME);
        let all = Announcements::default();
        assert_eq!(all.get("h.invalid", &named(Scheme::Basic), &realms), Ok(Announced::Basic));
        let realm = Announced::Bearer { realm: "https://a/t".into(), service: None, or_basic: false };
        assert_eq!(all.get("h.invalid", &named(Scheme::Realm("https://a/t".into())), &realms), Ok(realm));
        assert!(matches!(all.get("h.invalid", &Host::default(), &realms), Err(AnnounceError::Silent { .. })));
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read(header in "[a-zA-Z \\t,=\"\\\\é]{0,200}") {
            proptest::prop_assert!(challenges(&header).len() <= CHALLENGES);
        }
    }
}
