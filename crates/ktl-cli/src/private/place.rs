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

use serde::{Deserialize, Serialize};

use super::trust;
use crate::env::Env;
use crate::failure::Failure;

/// The kernel's limit for a socket's path, without the NUL.
const SOCKET_PATH: usize = 107;

/// What RUN steps of a private daemon can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace without any way out, for the daemon and its steps.
    None,
    /// The host's.
    Host,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Network::None => "none",
            Network::Host => "host",
        })
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
            for network in [Network::None, Network::Host] {
                if root.join(&name).join(network.to_string()).is_dir() {
                    found.push(Place::of(&name, network, env)?);
                }
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
