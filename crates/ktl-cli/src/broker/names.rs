//! The registries and repositories that a build names, and what of a request is for them.
//!
//! A daemon may ask for the login of any host and for a token with any right. What it needs for this build is known
//! beforehand: to pull the images that the build refers to and to push those that it makes. All else gets no login.
//!
//! The form of scopes follows `docs/spec/auth/scope.md` of distribution/distribution.

use std::collections::BTreeMap;

use buildsvc::reference::ImageRef;

/// How all names of Docker Hub's registry are written here.
pub const HUB: &str = "docker.io";
/// The host that really serves it.
pub const HUB_HOST: &str = "registry-1.docker.io";
const NAMES_OF_HUB: [&str; 4] = ["docker.io", HUB_HOST, "index.docker.io", "auth.docker.io"];

/// By host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<String, Host>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Host {
    /// Whether each is pushed to as well.
    repositories: BTreeMap<String, bool>,
    /// The user named the host itself: everything there may be pulled.
    whole: bool,
    /// How the registry is to be spoken to, in the user's words; otherwise the registry is asked.
    pub scheme: Option<Scheme>,
}

/// `--allow-registry HOST[=REALM]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    pub host: String,
    pub scheme: Option<Scheme>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// The password goes to the builder.
    Basic,
    /// Tokens come from this address.
    Realm(String),
}

/// What of a request's scopes is for this build.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    pub granted: Vec<String>,
    /// To pull or push something else, which shared builders ask for when they go on with what another build began.
    pub foreign: Vec<String>,
    /// All else: other rights, other resources, no scopes at all.
    pub wider: Vec<String>,
}

impl Names {
    pub fn pull(&mut self, image: &ImageRef) {
        self.host(image.domain()).repositories.entry(image.path().to_owned()).or_default();
    }

    pub fn push(&mut self, image: &ImageRef) {
        self.host(image.domain()).repositories.insert(image.path().to_owned(), true);
    }

    pub fn allow(&mut self, allowed: &Allowed) {
        let host = self.host(&allowed.host);
        host.whole = true;
        if allowed.scheme.is_some() {
            host.scheme.clone_from(&allowed.scheme);
        }
    }

    pub fn get(&self, host: &str) -> Option<&Host> {
        self.0.get(&canonical(host))
    }

    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn host(&mut self, host: &str) -> &mut Host {
        self.0.entry(canonical(host)).or_default()
    }
}

impl Host {
    /// Parts what `scopes` ask for. Actions of one scope are parted as well.
    pub fn cut(&self, scopes: &[String]) -> Cut {
        let mut cut = Cut::default();
        for scope in scopes.iter().flat_map(|scopes| scopes.split(' ')).filter(|scope| !scope.is_empty()) {
            let Some((name, actions)) = repository(scope) else {
                cut.wider.push(scope.to_owned());
                continue;
            };
            let may = |action: &str| match (self.repositories.get(name), action) {
                (Some(_), "pull") | (Some(true), "push") => true,
                (_, "pull") => self.whole,
                _ => false,
            };
            let (granted, left): (Vec<_>, Vec<_>) = actions.split(',').partition(|action| may(action));
            let (foreign, wider): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|action| matches!(*action, "pull" | "push"));
            for (into, actions) in
                [(&mut cut.granted, granted), (&mut cut.foreign, foreign), (&mut cut.wider, wider)]
            {
                if !actions.is_empty() {
                    into.push(format!("repository:{name}:{}", actions.join(",")));
                }
            }
        }
        cut
    }
}

/// The name and the actions of a scope for a repository.
fn repository(scope: &str) -> Option<(&str, &str)> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    let fine = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'/');
    (!name.is_empty() && name.bytes().all(fine) && !actions.is_empty()).then_some((name, actions))
}

/// One writing for a host: lower case, without the port that https means anyway, Docker Hub's names as one.
pub fn canonical(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix(":443").unwrap_or(&host);
    if NAMES_OF_HUB.contains(&host) { HUB.to_owned() } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let mut names = Names::default();
        names.pull(&"busybox".parse().unwrap());
        names.pull(&"r.example/base:1".parse().unwrap());
        names.push(&"r.example:443/team/app".parse().unwrap());
        names.pull(&"r.example/team/app".parse().unwrap());
        names.allow(&Allowed { host: "Mirror.example:5000".into(), scheme: None });
        names
    }

    #[test]
    fn hosts_have_one_writing() {
        let names = names();
        for host in [
            "docker.io",
            "registry-1.docker.io",
            "index.docker.io",
            "auth.docker.io",
            "DOCKER.io",
            "docker.io:443",
        ] {
            assert!(names.get(host).is_some(), "{host}");
        }
        for host in ["r.example", "R.EXAMPLE:443", "mirror.example:5000"] {
            assert!(names.get(host).is_some(), "{host}");
        }
        for host in [
            "",
            "example",
            "r.example:5000",
            "mirror.example",
            "hub.docker.io",
            "docker.io.evil.example",
            "xdocker.io",
        ] {
            assert!(names.get(host).is_none(), "{host}");
        }
        assert_eq!(names.hosts().collect::<Vec<_>>(), ["docker.io", "mirror.example:5000", "r.example"]);
    }

    /// Host, asked, granted, foreign, wider.
    type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    #[test]
    fn scopes_are_cut() {
        let names = names();
        let table: &[Row<'_>] = &[
            (
                "docker.io",
                &["repository:library/busybox:pull"],
                &["repository:library/busybox:pull"],
                &[],
                &[],
            ),
            ("r.example", &["repository:base:pull"], &["repository:base:pull"], &[], &[]),
            (
                "r.example",
                &["repository:base:pull,push,delete,*"],
                &["repository:base:pull"],
                &["repository:base:push"],
                &["repository:base:delete,*"],
            ),
            ("r.example", &["repository:team/app:pull,push"], &["repository:team/app:pull,push"], &[], &[]),
            (
                "r.example",
                &["repository:base:pull repository:team/app:pull,push"],
                &["repository:base:pull", "repository:team/app:pull,push"],
                &[],
                &[],
            ),
            ("r.example", &["repository:other:pull"], &[], &["repository:other:pull"], &[]),
            ("r.example", &["registry:catalog:*"], &[], &[], &["registry:catalog:*"]),
            ("r.example", &["repository:base"], &[], &[], &["repository:base"]),
            ("r.example", &["repository(plugin):base:pull"], &[], &[], &["repository(plugin):base:pull"]),
            ("r.example", &["repository:*:pull"], &[], &[], &["repository:*:pull"]),
            ("r.example", &["repository:base:"], &[], &[], &["repository:base:"]),
            ("r.example", &["repository:base:PULL"], &[], &[], &["repository:base:PULL"]),
            ("r.example", &["", " "], &[], &[], &[]),
            ("mirror.example:5000", &["repository:x/y:pull"], &["repository:x/y:pull"], &[], &[]),
            ("mirror.example:5000", &["repository:x/y:push"], &[], &["repository:x/y:push"], &[]),
        ];
        for (host, asked, granted, foreign, wider) in table {
            let owned = |scopes: &[&str]| scopes.iter().map(|scope| scope.to_string()).collect::<Vec<_>>();
            let cut = names.get(host).unwrap().cut(&owned(asked));
            let expected = Cut { granted: owned(granted), foreign: owned(foreign), wider: owned(wider) };
            assert_eq!(cut, expected, "{asked:?} at {host}");
        }
    }
}
