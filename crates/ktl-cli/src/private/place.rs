//! Where a private daemon's state lies, and what is in it.
//!
//! `STATE/daemons/NAME[@TRUST]/NETWORK/` holds `state` (the daemon's own: cache, snapshots, images), `run` (its sockets), `log`,
//! `daemon.json` (the [`Record`](super::Record) of the one that runs), `ids`, and the locks. Daemons with different names,
//! trusts or networks share nothing: what an untrusted build leaves behind feeds no other.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use buildsvc::egress::Egress;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{outlet, trust};
use crate::env::Env;
use crate::failure::Failure;

/// The kernel's limit for a socket's path, without the NUL.
const SOCKET_PATH: usize = 107;

/// What RUN steps of a private daemon can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Network {
    /// A network namespace without any way out, for the daemon and its steps.
    None,
    /// The host's.
    Host,
    /// A network namespace whose only way out leads to the servers of this list.
    Egress(ListId),
}

/// Tells lists of servers apart: the beginning of a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListId(u32);

impl ListId {
    pub fn of(list: &Egress) -> Result<ListId, Failure> {
        let text = serde_json::to_vec(list)
            .map_err(|error| Failure::internal(format!("failed to write the list of servers: {error}")))?;
        let digest = Sha256::digest(text);
        Ok(ListId(u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::None => f.write_str("none"),
            Network::Host => f.write_str("host"),
            Network::Egress(ListId(id)) => write!(f, "egress-{id:08x}"),
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let list = text.strip_prefix("egress-").filter(|id| id.len() == 8);
        let found = match (text, list.and_then(|id| u32::from_str_radix(id, 16).ok())) {
            ("none", _) => Some(Network::None),
            ("host", _) => Some(Network::Host),
            (_, id) => id.map(|id| Network::Egress(ListId(id))),
        };
        found.filter(|network| network.to_string() == text).ok_or_else(|| format!("`{text}` is no network"))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Network, String> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> String {
        network.to_string()
    }
}

/// What a command wants of a private daemon's network.
#[derive(Debug, Clone)]
pub struct Way {
    pub network: Network,
    /// The list that belongs to [`Network::Egress`].
    pub egress: Option<Egress>,
}

impl From<Network> for Way {
    fn from(network: Network) -> Way {
        Way { network, egress: None }
    }
}

impl Way {
    /// Out to the servers of this list.
    pub fn to(list: &Egress) -> Result<Way, Failure> {
        let ports = list.ports().len();
        if ports > outlet::MAX_PORTS {
            return Err(Failure::usage(format!(
                "--egress: {ports} different ports; a private builder has room for {}",
                outlet::MAX_PORTS
            )));
        }
        Ok(Way { network: Network::Egress(ListId::of(list)?), egress: Some(list.clone()) })
    }
}

/// One daemon's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// `NAME`, or `NAME@TRUST`.
    pub name: String,
    pub network: Network,
    dir: PathBuf,
}

impl Place {
    /// The place of `name`, whether or not anything is there yet.
    pub fn of(name: &str, network: Network, env: &Env) -> Result<Place, Failure> {
        let (own, of_trust) = name.split_once(trust::MARK).unwrap_or((name, "none"));
        if !trust::is_name(own) || !trust::is_name(of_trust) {
            return Err(Failure::usage(format!("`{name}` is no name for a private builder"))
                .hint(format!("{} NAME@TRUST is that of a trust.", trust::NAMES)));
        }
        let dir = root(env)?.join(name).join(network.to_string());
        let place = Place { name: name.to_owned(), network, dir };
        let length = place.socket().as_os_str().len();
        if length > SOCKET_PATH {
            return Err(Failure::usage(format!(
                "the path of the private builder's socket is {length} bytes long, and the kernel takes {SOCKET_PATH}: {}",
                place.socket().display()
            ))
            .hint("Set KTL_STATE_DIR to a directory with a shorter path."));
        }
        Ok(place)
    }

    /// Every place that exists, by name and network.
    pub fn all(env: &Env) -> Result<Vec<Place>, Failure> {
        let mut found = Vec::new();
        let names = |dir: &Path| -> Vec<String> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut names: Vec<_> =
                entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            names
        };
        let root = root(env)?;
        for name in names(&root) {
            let dir = root.join(&name);
            let mut networks: Vec<Network> =
                names(&dir).iter().filter_map(|text| text.parse().ok()).collect();
            networks.sort_unstable();
            for network in networks.into_iter().filter(|network| dir.join(network.to_string()).is_dir()) {
                found.push(Place::of(&name, network, env)?);
            }
        }
        Ok(found)
    }

    /// Makes what is missing of it.
    ///
    /// # Errors
    /// Also when somebody else could put something in its place: root gives these directories away, and whoever holds the
    /// socket gets every build.
    pub fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        for dir in self.dir.ancestors().take(3) {
            let found = fs::symlink_metadata(dir)?;
            let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
            if !ours || found.mode() & 0o022 != 0 {
                let why = format!("{} is not a directory that you alone may write to", dir.display());
                return Err(io::Error::other(why));
            }
        }
        for dir in [self.state(), self.sockets()] {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(())
    }

    pub fn exists(&self) -> bool {
        self.dir.is_dir()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn sockets(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.sockets().join("buildkitd.sock")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub fn record(&self) -> PathBuf {
        self.dir.join("daemon.json")
    }

    /// Start of the range of host ids, where root starts the daemon.
    pub fn ids(&self) -> PathBuf {
        self.dir.join("ids")
    }

    /// Held, shared, by each command that uses the daemon.
    pub fn lease(&self) -> PathBuf {
        self.dir.join("lease")
    }

    /// Held by whoever is about to start or stop it.
    pub fn start_lock(&self) -> PathBuf {
        self.dir.join("start.lock")
    }

    /// Held by the supervisor.
    pub fn run_lock(&self) -> PathBuf {
        self.dir.join("run.lock")
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "jail://{} (network {})", self.name, self.network)
    }
}

fn root(env: &Env) -> Result<PathBuf, Failure> {
    env.state_dir().map(|dir| dir.join("daemons")).ok_or_else(|| {
        Failure::usage(
            "nowhere to keep a private builder: neither KTL_STATE_DIR, XDG_STATE_HOME nor HOME is set",
        )
        .hint("Set KTL_STATE_DIR to a directory of yours.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_and_places_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::of(&[("KTL_STATE_DIR", dir.path().to_str().unwrap())]);
        for wrong in ["", "..", "a/b", "A", "a b", &"x".repeat(33), "@", "a@", "@a", "a@b@c", "a@..", "a@B"] {
            assert_eq!(Place::of(wrong, Network::None, &env).unwrap_err().exit.code(), 2, "{wrong}");
        }
        let place = Place::of("default", Network::Host, &env).unwrap();
        assert!(!place.exists() && Place::all(&env).unwrap().is_empty());
        place.make().unwrap();
        assert_eq!(Place::all(&env).unwrap(), std::slice::from_ref(&place));
        let forks = Place::of("default@fork", Network::Host, &env).unwrap();
        forks.make().unwrap();
        assert_eq!(Place::all(&env).unwrap(), [place.clone(), forks.clone()]);
        assert!(!forks.dir().starts_with(place.dir().parent().unwrap()));
        fs::remove_dir_all(forks.dir().parent().unwrap()).unwrap();
        // Another list is another place.
        let list = |rule: &str| Egress::new([rule.parse().unwrap()], false);
        let [one, two] = ["a.example", "b.example"].map(|rule| Way::to(&list(rule)).unwrap().network);
        assert!(one != two && one == Way::to(&list("https://a.example:443")).unwrap().network);
        let listed = Place::of("default", one, &env).unwrap();
        listed.make().unwrap();
        assert_eq!(Place::all(&env).unwrap(), [place.clone(), listed.clone()]);
        fs::remove_dir_all(listed.dir()).unwrap();
        for wrong in
            ["", "None", "egress-", "egress-1", "egress-0000000G", "egress-+0000001", "egress-ABCDEF01"]
        {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
        // Where others may write, they could put their own in its place.
        let daemons = dir.path().join("daemons");
        fs::set_permissions(&daemons, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(place.make().unwrap_err().to_string().contains("alone"));
        fs::rename(&daemons, dir.path().join("other")).unwrap();
        std::os::unix::fs::symlink("other", &daemons).unwrap();
        assert!(place.make().unwrap_err().to_string().contains("alone"));
        fs::remove_file(&daemons).unwrap();
        let long = Env::of(&[("KTL_STATE_DIR", &format!("/{}", "x".repeat(90)))]);
        assert!(Place::of("default", Network::None, &long).unwrap_err().title.contains("107"));
    }
}
