//! Image references, as people type them and as registries need them.
//!
//! `app:dev` means `docker.io/library/app:dev`. Tags are normalised once, here, so that a mistyped one is refused before
//! a build begins and not by the exporter after it. Follows the grammar and the normalisation of distribution/reference.

use std::fmt;
use std::str::FromStr;

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PATH: &str = "library";
const DEFAULT_TAG: &str = "latest";
/// Of domain and path together.
const MAX_NAME: usize = 255;

/// A normalised reference: always with a domain and a path, and with a tag unless a digest stands in for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("image reference is empty")]
    Empty,
    #[error("image name {0:?} must be lower case")]
    UpperCase(String),
    #[error(
        "image name {0:?} is not valid: lower-case letters and digits, parted by '.', '_', '__', '-' or '/'"
    )]
    Name(String),
    #[error("image name {0:?} looks like an image id; give it a name")]
    Identifier(String),
    #[error("registry {0:?} is not a valid host name")]
    Domain(String),
    #[error(
        "tag {0:?} is not valid: up to 128 letters, digits, '_', '.' and '-', not beginning with '.' or '-'"
    )]
    Tag(String),
    #[error("{0:?} is not a valid digest")]
    Digest(String),
    #[error("image name is longer than {MAX_NAME} bytes")]
    TooLong,
}

impl ImageRef {
    /// The registry, `docker.io` for the Hub.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// As people write it: without `docker.io/library/`.
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let Some(hub) = whole.strip_prefix("docker.io/") else { return whole };
        match hub.strip_prefix("library/") {
            // `library/a/b` would be read back as another repository without its first component.
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => hub.to_owned(),
        }
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !domain_is_valid(&domain) {
            return Err(ReferenceError::Domain(domain));
        }
        let typed = || path.strip_prefix("library/").unwrap_or(path).to_owned();
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase(typed()));
        }
        if !path.split('/').all(component_is_valid) {
            return Err(ReferenceError::Name(typed()));
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        if let Some(tag) = tag
            && !tag_is_valid(tag)
        {
            return Err(ReferenceError::Tag(tag.to_owned()));
        }
        if let Some(digest) = digest
            && !digest_is_valid(digest)
        {
            return Err(ReferenceError::Digest(digest.to_owned()));
        }
        let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(ImageRef { domain, path: path.to_owned(), tag, digest: digest.map(str::to_owned) })
    }
}

impl TryFrom<String> for ImageRef {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<ImageRef> for String {
    fn from(reference: ImageRef) -> String {
        reference.to_string()
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// The first component is a registry when it could not be a repository's: a dot, a port, `localhost` or upper case.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let official =
        domain == DEFAULT_DOMAIN && !rest.split(['@', ':']).next().unwrap_or_default().contains('/');
    let rest = if official { format!("{OFFICIAL_PATH}/{rest}") } else { rest.to_owned() };
    (domain.to_owned(), rest)
}

fn domain_is_valid(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((address, tail)) => {
                let hex = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
                return hex && (tail.is_empty() || tail.strip_prefix(':').is_some_and(port_is_valid));
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |l: &str| {
        !l.is_empty()
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(port_is_valid)
}

fn port_is_valid(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Runs of `[a-z0-9]` parted by one '.', one or two '_', or any number of '-'.
fn component_is_valid(component: &str) -> bool {
    let alphanumeric = |b: &u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(alphanumeric) || !bytes.last().is_some_and(alphanumeric) {
        return false;
    }
    bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
    })
}

fn tag_is_valid(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn digest_is_valid(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let part = |p: &str| {
        p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
            && p.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (typed, whole, familiar) in [
            ("app", "docker.io/library/app:latest", "app:latest"),
            ("app:dev", "docker.io/library/app:dev", "app:dev"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("docker.io/app:1", "docker.io/library/app:1", "app:1"),
            ("index.docker.io/app:1", "docker.io/library/app:1", "app:1"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("ghcr.io/o/a__b-c.d:V_1.2-x", "ghcr.io/o/a__b-c.d:V_1.2-x", "ghcr.io/o/a__b-c.d:V_1.2-x"),
            ("HOST/app", "HOST/app:latest", "HOST/app:latest"),
            ("a---b", "docker.io/library/a---b:latest", "a---b:latest"),
        ] {
            let parsed: ImageRef = typed.parse().unwrap_or_else(|e| panic!("{typed}: {e}"));
            assert_eq!((parsed.to_string().as_str(), parsed.familiar().as_str()), (whole, familiar));
            assert_eq!(parsed.familiar().parse::<ImageRef>().unwrap(), parsed);
        }
        let pinned: ImageRef = format!("app@{digest}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.to_string()), (None, format!("docker.io/library/app@{digest}")));
        let both: ImageRef = format!("app:1@{digest}").parse().unwrap();
        assert_eq!((both.tag(), both.digest()), (Some("1"), Some(digest.as_str())));
    }

    #[test]
    fn refusals() {
        use ReferenceError as E;
        let id = "a".repeat(64);
        let long = format!("{}/x", "a".repeat(255));
        for (typed, want) in [
            ("", E::Empty),
            ("App", E::UpperCase("App".into())),
            ("me/App:1", E::UpperCase("me/App".into())),
            (&id, E::Identifier(id.clone())),
            ("a b", E::Name("a b".into())),
            ("a//b", E::Name("a//b".into())),
            ("a/", E::Name("a/".into())),
            (":dev", E::Name(String::new())),
            ("a___b", E::Name("a___b".into())),
            ("a..b", E::Name("a..b".into())),
            ("app:", E::Tag(String::new())),
            ("app:-x", E::Tag("-x".into())),
            ("app:a:b", E::Tag("a:b".into())),
            ("-a.io/app", E::Domain("-a.io".into())),
            ("a.io:x/app", E::Domain("a.io:x".into())),
            ("app@sha256:12", E::Digest("sha256:12".into())),
            (&long, E::TooLong),
        ] {
            assert_eq!(typed.parse::<ImageRef>().unwrap_err(), want, "{typed}");
        }
    }
}
