//! What the owner of a server pins for all who build there: `/etc/ktl/remote.toml`, and `remote.toml` in the configuration
//! directory of the user that ktl runs as.
//!
//! Every field can only take away, and both files count. So a client can ask for less than is pinned and never for more, and
//! nobody has to know which file was read last. A file that others could have written is refused, as is one that cannot be read.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbox_linux::{Builtin, Policy};
use serde::Deserialize;

use super::Ask;
use crate::builder::{Address, Candidate};
use crate::cli::RuntimeChoice;
use crate::commands::build::read_bounded;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::launch;
use crate::private::{self, trust};

const SYSTEM: &str = "/etc/ktl/remote.toml";
const LIMIT: u64 = 64 << 10;

/// One file, or both together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The bytes are carried in a jail, whatever the client says.
    sandbox: Option<Required>,
    /// One of ktl's own by its name, at least; or the file of another, which then is the only one.
    policy: Option<String>,
    runtime: Option<RuntimeName>,
    /// Of RUN steps, and of the builder.
    network: Option<Nothing>,
    /// What a step may be allowed beside the ordinary.
    entitlements: Option<Nothing>,
    /// `unix://…`, `jail://NAME`, or `jail://` for any private one.
    builders: Option<Vec<String>>,
    /// Whom all builds come from.
    trust: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Required {
    Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Nothing {
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RuntimeName {
    Nsjail,
    Native,
}

/// A policy violated by what the client asks.
fn refused(what: impl Into<String>) -> Failure {
    Failure::new(Exit::Policy, what)
}

impl Pinned {
    /// What is pinned on this machine for this user.
    pub fn of(env: &Env) -> Result<Pinned, Failure> {
        let own = env.config_dir().map(|dir| dir.join("remote.toml"));
        let files: Vec<PathBuf> = std::iter::once(SYSTEM.into()).chain(own).collect();
        Pinned::of_files(&files)
    }

    fn of_files(files: &[PathBuf]) -> Result<Pinned, Failure> {
        files.iter().try_fold(Pinned::default(), |all, path| match Pinned::read(path)? {
            Some(pinned) => all.and(pinned, path),
            None => Ok(all),
        })
    }

    fn read(path: &Path) -> Result<Option<Pinned>, Failure> {
        let wrong = |why: String| refused(format!("{}: {why}", path.display()));
        match fs::symlink_metadata(path) {
            // Only that nothing is there means that nothing is pinned.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            _ => {}
        }
        let found = fs::metadata(path).map_err(|error| wrong(format!("cannot be looked at: {error}")))?;
        let mine = [0, nix::unistd::geteuid().as_raw()].contains(&found.uid());
        if !mine || found.mode() & 0o022 != 0 {
            return Err(wrong("others could have written it, so it pins nothing that holds".to_owned())
                .hint("It must belong to root or the user, and only its owner may write to it: chmod go-w"));
        }
        let bytes = read_bounded(path, LIMIT).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| wrong("is no text".to_owned()))?;
        let pinned: Pinned = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        pinned.check().map_err(wrong)?;
        Ok(Some(pinned))
    }

    fn check(&self) -> Result<(), String> {
        if let Some(trust) = self.trust.as_ref().filter(|trust| !trust::is_name(trust)) {
            return Err(format!("trust: `{trust}` is no name for a trust. {}", trust::NAMES));
        }
        for builder in self.builders.iter().flatten() {
            if !matches!(Address::parse(builder)?, Address::Unix(_) | Address::Jail(_)) {
                return Err(format!("builders: `{builder}`: unix://PATH, jail:// or jail://NAME"));
            }
        }
        if let Some(policy) = self.policy.as_ref().filter(|policy| builtin(policy).is_none())
            && !policy.starts_with('/')
        {
            let known: Vec<String> = Builtin::ALL.into_iter().map(name).collect();
            return Err(format!("policy: `{policy}` is neither {} nor an absolute path", known.join(", ")));
        }
        Ok(())
    }

    /// Both.
    fn and(self, other: Pinned, path: &Path) -> Result<Pinned, Failure> {
        fn same<T: PartialEq>(one: Option<T>, other: Option<T>) -> Result<Option<T>, ()> {
            match (one, other) {
                (Some(one), Some(other)) if one != other => Err(()),
                (one, other) => Ok(one.or(other)),
            }
        }
        let differs = |field: &'static str| {
            move |()| refused(format!("{}: {field}: {SYSTEM} has pinned another", path.display()))
        };
        Ok(Pinned {
            sandbox: self.sandbox.or(other.sandbox),
            policy: same(self.policy, other.policy).map_err(differs("policy"))?,
            runtime: same(self.runtime, other.runtime).map_err(differs("runtime"))?,
            network: self.network.or(other.network),
            entitlements: self.entitlements.or(other.entitlements),
            builders: match (self.builders, other.builders) {
                (Some(one), Some(other)) => {
                    Some(one.into_iter().filter(|builder| other.contains(builder)).collect())
                }
                (one, other) => one.or(other),
            },
            trust: same(self.trust, other.trust).map_err(differs("trust"))?,
        })
    }

    /// Narrows `ask` to what is pinned. Says in words what that has changed.
    pub fn narrow(&self, ask: &mut Ask) -> Result<Vec<String>, Failure> {
        let mut told = Vec::new();
        let jail = self.sandbox.is_some() || self.policy.is_some() || self.runtime.is_some();
        if jail && !ask.jailed {
            return Err(refused("its policy wants a jail, and --sandbox=off asks for none")
                .hint("Leave --sandbox=off out."));
        }
        if let Some(pinned) = self.runtime {
            let pinned = match pinned {
                RuntimeName::Nsjail => RuntimeChoice::Nsjail,
                RuntimeName::Native => RuntimeChoice::Native,
            };
            if ask.runtime != RuntimeChoice::Auto && ask.runtime != pinned {
                return Err(refused(format!("its policy has pinned the jail's runtime: {pinned:?}"))
                    .hint("Leave --sandbox-runtime out."));
            }
            ask.runtime = pinned;
        }
        if let Some(policy) = &self.policy
            && ask.policy.take().is_some()
        {
            told.push(format!("policy {policy} in the place of yours"));
        }
        if self.network.is_some() {
            if ask.egress.is_some() {
                return Err(refused("its policy allows RUN no network, and --egress asks for one"));
            }
            told.push("network none".to_owned());
        }
        if let Some(trust) = &self.trust {
            match &ask.private.trust {
                Some(other) if other != trust => {
                    return Err(refused(format!("its policy keeps builds for the trust `{trust}`"))
                        .hint(format!("--trust {trust}, or no --trust")));
                }
                _ => told.push(format!("trust {trust}")),
            }
            ask.private.trust = Some(trust.clone());
        }
        Ok(told)
    }

    /// Whether RUN has no network, whoever asks.
    pub fn is_without_network(&self) -> bool {
        self.network.is_some()
    }

    /// The policy of the jail; `asked` where nothing is pinned or what is pinned is no stricter.
    pub fn policy(&self, asked: Policy) -> Result<Policy, Failure> {
        // From the widest to the narrowest.
        let rank = |policy: &str| Builtin::ALL.into_iter().position(|which| name(which) == policy);
        match self.policy.as_deref() {
            None => Ok(asked),
            Some(pinned) => match (builtin(pinned), rank(&short(asked.name()))) {
                (None, _) => launch::read_policy(Path::new(pinned)),
                (Some(_), Some(wanted)) if Some(wanted) >= rank(pinned) => Ok(asked),
                (Some(least), _) => Ok(Policy::builtin(least)),
            },
        }
    }

    /// Of the candidates those that may be taken. All of them are demanded where others must not be tried.
    pub fn builders(&self, candidates: Vec<Candidate>) -> Result<Vec<Candidate>, Failure> {
        let mut candidates = candidates;
        if self.network.is_some() || self.entitlements.is_some() {
            let why = "is not ktl's own, and whether it allows RUN a network or entitlements is its configuration's to say";
            candidates = private::only(candidates, "the server's policy", why)?;
        }
        let Some(allowed) = &self.builders else { return Ok(candidates) };
        let is_allowed = |candidate: &Candidate| {
            let any_private = allowed.iter().any(|builder| builder == "jail://");
            (any_private && candidate.address.is_private())
                || allowed.iter().any(|text| Address::parse(text).as_ref() == Ok(&candidate.address))
        };
        if let Some(named) = candidates.iter().find(|found| found.demanded && !is_allowed(found)) {
            return Err(refused(format!("its policy does not allow the builder {}", named.address))
                .hint(format!("It allows: {}", allowed.join(" "))));
        }
        candidates.retain(is_allowed);
        if !candidates.iter().any(|found| found.demanded) {
            // The first that is allowed, where the usual places are not.
            let first = candidates.first().cloned().or_else(|| {
                let address = Address::parse(allowed.first()?).ok()?;
                Some(Candidate::only(address, "the server's policy"))
            });
            candidates = first.map(|first| Candidate { demanded: true, ..first }).into_iter().collect();
        }
        if candidates.is_empty() {
            return Err(refused("its policy allows no builder at all"));
        }
        Ok(candidates)
    }
}

fn short(name: &str) -> String {
    let file = name.rsplit('/').next().unwrap_or_default();
    file.strip_suffix(".cfg").unwrap_or(file).to_owned()
}

fn name(which: Builtin) -> String {
    short(which.file_name())
}

fn builtin(text: &str) -> Option<Builtin> {
    Builtin::ALL.into_iter().find(|which| name(*which) == short(text) && !text.contains('/'))
}

/// The policy that a client has sent.
pub fn given(policy: &super::GivenPolicy) -> Result<Policy, Failure> {
    Policy::parse(&policy.name, policy.text.as_bytes()).map_err(|error| Failure::sandbox(chain(&error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plan::Hermetic;
    use crate::remote::{PROTOCOL, Private};

    fn ask() -> Ask {
        Ask {
            protocol: PROTOCOL,
            nonce: "n".into(),
            jailed: true,
            hermetic: Hermetic::Off,
            policy: None,
            runtime: RuntimeChoice::Auto,
            builder: None,
            egress: None,
            private: Private::default(),
            probes: Vec::new(),
            looks_inside: None,
        }
    }

    fn of(texts: &[&str]) -> Result<Pinned, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = (0..texts.len()).map(|n| dir.path().join(n.to_string())).collect();
        for (path, text) in files.iter().zip(texts) {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        }
        Pinned::of_files(&files)
    }

    #[test]
    fn both_files_count_and_neither_gives() {
        assert_eq!(Pinned::of_files(&["/nowhere/remote.toml".into()]).unwrap(), Pinned::default());
        let both = of(&["network = \"none\"", "sandbox = \"required\"\nbuilders = [\"jail://\"]"]).unwrap();
        assert!(both.is_without_network() && both.sandbox.is_some());
        let narrowed = of(&["builders = [\"jail://a\", \"jail://b\"]", "builders = [\"jail://b\"]"]).unwrap();
        assert_eq!(narrowed.builders, Some(vec!["jail://b".to_owned()]));
        for texts in [
            &["sandbox = \"off\""][..],
            &["network = \"host\""],
            &["entitlements = \"any\""],
            &["policy = \"mine.cfg\""],
            &["trust = \"A\""],
            &["builders = [\"tcp://x:1\"]"],
            &["trust = \"a\"", "trust = \"b\""],
            &["policy = \"linux-ci\"", "policy = \"linux-strict\""],
        ] {
            assert_eq!(of(texts).unwrap_err().exit, Exit::Policy, "{texts:?}");
        }
    }

    #[test]
    fn a_client_only_tightens() {
        let pinned = of(&["sandbox = \"required\"\nnetwork = \"none\"\ntrust = \"fork\""]).unwrap();
        let mut asked = ask();
        assert_eq!(pinned.narrow(&mut asked).unwrap(), ["network none", "trust fork"]);
        assert_eq!(asked.private.trust.as_deref(), Some("fork"));
        assert!(pinned.narrow(&mut Ask { jailed: false, ..ask() }).is_err());

        let builtin = |which| Policy::builtin(which);
        let name = |pinned: &str, asked| {
            of(&[&format!("policy = \"{pinned}\"")]).unwrap().policy(asked).unwrap().name().to_owned()
        };
        assert_eq!(name("linux-strict", builtin(Builtin::Ci)), "linux-strict.cfg");
        assert_eq!(name("linux-strict", builtin(Builtin::Hermetic)), "ktl-hermetic.cfg");
        assert_eq!(name("ktl-hermetic", builtin(Builtin::Strict)), "ktl-hermetic.cfg");
        let own =
            super::super::GivenPolicy { name: "linux-strict.cfg".into(), text: "clone_newnet: false".into() };
        let pinned = of(&["policy = \"linux-ci\""]).unwrap();
        let mut asked = Ask { policy: Some(own), ..ask() };
        assert_eq!(pinned.narrow(&mut asked).unwrap().len(), 1, "it is told");
        assert!(asked.policy.is_none(), "a policy of the client's cannot be called like one of ktl's");
    }

    #[test]
    fn builders_are_those_that_are_allowed() {
        let socket = |demanded| Candidate {
            demanded,
            ..Candidate::only(Address::Unix("/run/b.sock".into()), "a test")
        };
        let names = |text: &str, found| {
            let found = of(&[text]).unwrap().builders(vec![found])?;
            Ok::<_, Failure>(found.iter().map(|found| (found.address.to_string(), found.demanded)).collect())
        };
        let jail = Ok(vec![("jail://default".to_owned(), true)]);
        let unix = |demanded| Ok(vec![("unix:///run/b.sock".to_owned(), demanded)]);
        for (text, demanded, want) in [
            ("", false, unix(false)),
            ("network = \"none\"", false, jail.clone()),
            ("network = \"none\"", true, Err(Exit::Policy)),
            ("builders = [\"jail://\"]", false, jail),
            ("builders = [\"jail://\"]", true, Err(Exit::Policy)),
            ("builders = [\"unix:///run/b.sock\"]", false, unix(true)),
            ("builders = []", false, Err(Exit::Policy)),
            ("network = \"none\"\nbuilders = [\"unix:///run/b.sock\"]", false, Err(Exit::Policy)),
        ] {
            let got: Result<Vec<_>, _> = names(text, socket(demanded)).map_err(|failure| failure.exit);
            assert_eq!(got, want, "{text} {demanded}");
        }
    }
}
