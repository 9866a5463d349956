//! The forms of a builder's address.

use std::fmt;
use std::path::PathBuf;

use super::{DEFAULT_NAME, buildx};

/// Where a builder listens. Follows buildctl's address forms (moby/buildkit `client/connhelper`), to which the Docker Engine
/// and the private builders are added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    Tcp {
        host: String,
        port: u16,
    },
    /// A Docker Engine, by its socket; without one, the Engine that docker itself would talk to.
    Engine(Option<PathBuf>),
    /// A Docker Engine, by the name of docker's context for it.
    Context(String),
    /// A buildkitd in a container, reached by the program that runs containers.
    Container(Container),
    /// A buildkitd on a server, reached by OpenSSH.
    Ssh(Ssh),
    /// A private daemon in a jail, by its name.
    Jail(String),
    /// A private daemon for this one command, whose cache goes with it.
    Ephemeral,
}

/// A container that holds a buildkitd and a `buildctl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    Docker { name: String, context: Option<String> },
    Podman { name: String },
    Nerdctl { name: String, namespace: Option<String> },
    Kubernetes { pod: String, context: Option<String>, namespace: Option<String>, container: Option<String> },
}

/// A server, and the socket of its buildkitd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// As `ssh` takes it: a name of the user's configuration will do.
    pub host: String,
    pub user: Option<String>,
    pub port: Option<u16>,
    /// `None` is the server's usual place.
    pub socket: Option<PathBuf>,
}

/// What an address may look like, for messages.
pub const FORMS: &str = "unix://PATH, tcp://HOST:PORT, ssh://[USER@]HOST[:PORT][/SOCKET], docker://, docker-container://NAME, \
                         podman-container://NAME, nerdctl-container://NAME, kube-pod://POD or jail://[NAME]";

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Address::Engine(None) => f.write_str("docker://"),
            Address::Engine(Some(path)) => write!(f, "docker://{}", path.display()),
            Address::Context(name) => write!(f, "docker://{name}"),
            Address::Container(container) => container.fmt(f),
            Address::Ssh(ssh) => ssh.fmt(f),
            Address::Jail(name) => write!(f, "jail://{name}"),
            Address::Ephemeral => f.write_str("jail://?ephemeral"),
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, name, query): (_, _, Vec<(&str, &Option<String>)>) = match self {
            Container::Docker { name, context } => ("docker", name, vec![("context", context)]),
            Container::Podman { name } => ("podman", name, vec![]),
            Container::Nerdctl { name, namespace } => ("nerdctl", name, vec![("namespace", namespace)]),
            Container::Kubernetes { pod, context, namespace, container } => {
                ("", pod, vec![("context", context), ("namespace", namespace), ("container", container)])
            }
        };
        match scheme {
            "" => write!(f, "kube-pod://{name}")?,
            scheme => write!(f, "{scheme}-container://{name}")?,
        }
        let given = query.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        given.enumerate().try_for_each(|(index, (key, value))| {
            write!(f, "{}{key}={value}", if index == 0 { '?' } else { '&' })
        })
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(socket) = &self.socket {
            write!(f, "{}", socket.display())?;
        }
        Ok(())
    }
}

impl Address {
    /// Whether the daemon there is one that ktl itself has started in a jail.
    pub fn is_private(&self) -> bool {
        matches!(self, Address::Jail(_) | Address::Ephemeral)
    }

    /// Reads one address. Besides [`FORMS`], `unix:PATH` and a bare absolute path name a socket; one that is called
    /// `docker.sock` is a Docker Engine's.
    pub fn parse(text: &str) -> Result<Address, String> {
        if text.starts_with('/') {
            return Ok(socket(text));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.starts_with('/') {
                Ok(socket(path))
            } else {
                Err(format!("`{text}` needs an absolute path, as in unix:///run/buildkit/buildkitd.sock"))
            };
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("`{text}` is no builder address; use {FORMS}"));
        };
        match scheme {
            "tcp" => tcp(text, rest),
            "jail" if rest == "?ephemeral" => Ok(Address::Ephemeral),
            "jail" => Ok(Address::Jail(if rest.is_empty() { DEFAULT_NAME } else { rest }.to_owned())),
            "docker" if rest.is_empty() => Ok(Address::Engine(None)),
            "docker" if rest.starts_with('/') => Ok(Address::Engine(Some(rest.into()))),
            "docker" if buildx::is_name(rest) => Ok(Address::Context(rest.to_owned())),
            "docker" => Err(format!(
                "`{text}` names neither a context of docker's nor a socket, as in docker:///run/docker.sock"
            )),
            "docker-container" | "podman-container" | "nerdctl-container" | "kube-pod" => {
                container(text, scheme, rest).map(Address::Container)
            }
            "ssh" => Ssh::parse(text, rest).map(Address::Ssh),
            _ => Err(format!("builders cannot be reached by `{scheme}://`; use {FORMS}")),
        }
    }
}

fn socket(path: &str) -> Address {
    let path = PathBuf::from(path);
    match path.file_name().is_some_and(|name| name == "docker.sock") {
        true => Address::Engine(Some(path)),
        false => Address::Unix(path),
    }
}

fn tcp(text: &str, authority: &str) -> Result<Address, String> {
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let (host, port) = authority
        .rsplit_once(':')
        .ok_or_else(|| format!("`{text}` names no port, as in tcp://{authority}:1234"))?;
    let port = port.parse().map_err(|_| format!("`{port}` in `{text}` is no port number"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() || host.contains(['/', '@', '?', '#', ' ']) {
        return Err(format!("`{text}` is not of the form tcp://HOST:PORT"));
    }
    Ok(Address::Tcp { host: host.to_owned(), port })
}

fn container(text: &str, scheme: &str, rest: &str) -> Result<Container, String> {
    let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
    let name = name.trim_end_matches('/');
    let mut given = Vec::new();
    for (key, value) in form_urlencoded(query) {
        let known = match scheme {
            "docker-container" => &["context"][..],
            "nerdctl-container" => &["namespace"],
            "kube-pod" => &["context", "namespace", "container"],
            _ => &[],
        };
        if !known.contains(&key.as_str()) {
            return Err(format!("`{text}`: {scheme}:// knows no `{key}`"));
        }
        fit(text, &key, &value)?;
        given.push((key, value));
    }
    fit(text, "name", name)?;
    let mut take = |key: &str| {
        let at = given.iter().position(|(given, _)| given == key)?;
        Some(given.swap_remove(at).1)
    };
    let name = name.to_owned();
    Ok(match scheme {
        "docker-container" => Container::Docker { name, context: take("context") },
        "podman-container" => Container::Podman { name },
        "nerdctl-container" => Container::Nerdctl { name, namespace: take("namespace") },
        _ => Container::Kubernetes {
            pod: name,
            context: take("context"),
            namespace: take("namespace"),
            container: take("container"),
        },
    })
}

fn form_urlencoded(query: &str) -> impl Iterator<Item = (String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key.to_owned(), percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    })
}

/// Whether a part may become an argument of a program: what the programs themselves allow in names, and no option.
fn fit(text: &str, what: &str, value: &str) -> Result<(), String> {
    let letters = |c: char| c.is_ascii_alphanumeric() || "._-@:/".contains(c);
    if value.is_empty() {
        Err(format!("`{text}`: its {what} is missing"))
    } else if value.starts_with('-') || !value.chars().all(letters) {
        Err(format!("`{text}`: `{value}` cannot be its {what}"))
    } else {
        Ok(())
    }
}

impl Ssh {
    /// Whether it can be a socket's path on a server: it becomes a word of a shell there, and half of ssh's `-L`.
    pub fn is_path(path: &str) -> bool {
        let letters = |c: char| c.is_ascii_alphanumeric() || "/._-+@,=~".contains(c);
        path.starts_with('/') && path.chars().all(letters)
    }

    fn parse(text: &str, rest: &str) -> Result<Ssh, String> {
        if rest.contains(['?', '#']) {
            return Err(format!("`{text}`: ssh:// takes neither `?` nor `#`"));
        }
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.contains(':')) {
            return Err(format!(
                "`{text}`: a password has no place in an address; ssh asks for it, or takes a key"
            ));
        }
        let bracketed = place.strip_prefix('[').and_then(|place| place.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => match place.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port =
            port.map(|port| port.parse().map_err(|_| format!("`{port}` in `{text}` is no port number")));
        fit(text, "host", host)?;
        user.map_or(Ok(()), |user| fit(text, "user", user))?;
        let socket = Some(path).filter(|path| path.len() > 1);
        if socket.is_some_and(|path| !Ssh::is_path(path)) {
            return Err(format!("`{text}`: `{path}` cannot be the path of a socket there"));
        }
        Ok(Ssh {
            host: host.to_owned(),
            user: user.map(str::to_owned),
            port: port.transpose()?,
            socket: socket.map(PathBuf::from),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ssh(host: &str, user: Option<&str>, port: Option<u16>, socket: Option<&str>) -> Address {
        let (user, socket) = (user.map(str::to_owned), socket.map(PathBuf::from));
        Address::Ssh(Ssh { host: host.into(), user, port, socket })
    }

    #[test]
    fn every_form_is_read_and_printed_the_same() {
        let unix = |path: &str| Address::Unix(path.into());
        let tcp = |host: &str, port| Address::Tcp { host: host.into(), port };
        let engine = |path: &str| Address::Engine(Some(path.into()));
        let some = |text: &str| Some(text.to_owned());
        for (text, expected) in [
            ("unix:///run/b.sock", unix("/run/b.sock")),
            ("unix:/run/b.sock", unix("/run/b.sock")),
            ("/run/b.sock", unix("/run/b.sock")),
            ("/var/run/docker.sock", engine("/var/run/docker.sock")),
            ("unix:///run/docker.sock", engine("/run/docker.sock")),
            ("docker://", Address::Engine(None)),
            ("docker:///run/engine", engine("/run/engine")),
            ("docker://far", Address::Context("far".into())),
            ("tcp://builder:1234", tcp("builder", 1234)),
            ("tcp://builder:1234/", tcp("builder", 1234)),
            ("tcp://[::1]:1234", tcp("::1", 1234)),
            (
                "docker-container://b0?context=far",
                Address::Container(Container::Docker { name: "b0".into(), context: some("far") }),
            ),
            ("podman-container://b0", Address::Container(Container::Podman { name: "b0".into() })),
            ("podman-container://b0//", Address::Container(Container::Podman { name: "b0".into() })),
            (
                "nerdctl-container://b0?namespace=k8s.io",
                Address::Container(Container::Nerdctl { name: "b0".into(), namespace: some("k8s.io") }),
            ),
            (
                "kube-pod://p?namespace=n&container=c",
                Address::Container(Container::Kubernetes {
                    pod: "p".into(),
                    context: None,
                    namespace: some("n"),
                    container: some("c"),
                }),
            ),
            ("ssh://h", ssh("h", None, None, None)),
            ("ssh://h/", ssh("h", None, None, None)),
            ("ssh://u@h:22/run/b.sock", ssh("h", Some("u"), Some(22), Some("/run/b.sock"))),
            ("ssh://[fe80::1]:22", ssh("fe80::1", None, Some(22), None)),
            ("jail://", Address::Jail("default".into())),
            ("jail://?ephemeral", Address::Ephemeral),
            ("jail://fork-7", Address::Jail("fork-7".into())),
        ] {
            assert_eq!(Address::parse(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(Address::parse(&expected.to_string()), Ok(expected), "{text} printed and read again");
        }
    }

    #[test]
    fn what_is_no_address_is_told_why() {
        for (text, part) in [
            ("unix://run/b.sock", "absolute"),
            ("builder", "no builder address"),
            ("ftp://x", "`ftp://`"),
            ("tcp://builder", "no port"),
            ("tcp://builder:http", "no port number"),
            ("tcp://:1", "form"),
            ("tcp://u@h:1", "form"),
            ("docker://an engine", "neither"),
            ("docker-container://", "name is missing"),
            ("docker-container://-v", "cannot be its name"),
            ("docker-container://a?contxt=b", "knows no `contxt`"),
            ("kube-pod://p?context=--server=evil", "cannot be its context"),
            ("ssh://-oProxyCommand=x", "cannot be its host"),
            ("ssh://u:p@h", "password"),
            ("ssh://h?x", "neither"),
            ("ssh://h:x", "no port number"),
            ("ssh://-l@h", "cannot be its user"),
            ("ssh://", "host is missing"),
            ("ssh://h/a'b", "path of a socket"),
            ("ssh://h/a;reboot", "path of a socket"),
            ("ssh://h/$(reboot)", "path of a socket"),
            ("ssh://h/a:22", "path of a socket"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
