//! Contexts that the daemon fetches by itself: git repositories and files of web servers.
//!
//! Tells them from paths, and no more: what they mean is the daemon's to say. Follows moby/buildkit `util/gitutil` and
//! `frontend/dockerfile/dfgitutil`, and docker buildx `util/urlutil`.

/// Whether `text` names something on a web server, a repository included.
pub fn is_http(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// Whether `text` names something that the daemon fetches.
pub fn is_remote(text: &str) -> bool {
    is_http(text)
        || text.starts_with("github.com/")
        || matches!(scheme(text).as_deref(), Some("git" | "ssh"))
        || is_scp_style(text)
}

/// Whether the daemon needs an ssh agent for it.
pub fn is_over_ssh(text: &str) -> bool {
    scheme(text).as_deref() == Some("ssh") || is_scp_style(text)
}

/// Whether it has a query, which older frontends take for a part of the path.
pub fn has_query(text: &str) -> bool {
    let before_fragment = text.split('#').next().unwrap_or_default();
    before_fragment.split_once('?').is_some_and(|(_, query)| !query.is_empty())
}

/// Whether the daemon takes it for a repository, which has commits.
pub fn is_repository(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or_default();
    is_remote(text) && (!is_http(text) || path.ends_with(".git"))
}

/// A repository as `ADD` names it: `URL[.git][#REF[:DIR]]`, or with `?ref=` and the like in the place of the fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitSource {
    /// What git is given.
    pub remote: String,
    /// Empty for the repository's own head.
    pub reference: String,
    /// Empty for all of it.
    pub subdir: String,
    /// The commit, or its beginning, that it must be.
    pub checksum: Option<String>,
    /// Whether `.git` is wanted as well. A builder heeds it only for all of a repository.
    pub keep_git_dir: bool,
    pub submodules: bool,
    /// `host/path`, which is the same for each way to get there.
    place: String,
}

impl GitSource {
    /// `None` for what is none, and for one that a builder would refuse.
    pub fn parse(text: &str) -> Option<GitSource> {
        let (whole, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = whole.split_once('?').unwrap_or((whole, ""));
        let (host, path) = match scheme(text).as_deref() {
            Some("http" | "https" | "git" | "ssh") => {
                let (_, rest) = remote.split_once("://")?;
                let (authority, path) = rest.split_once('/')?;
                let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
                if is_http(text) && !path.ends_with(".git") {
                    return None;
                }
                (host, path)
            }
            None if is_scp_style(text) => remote.split_once('@')?.1.split_once(':')?,
            _ => return None,
        };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut found = GitSource {
            remote: remote.to_owned(),
            reference: reference.to_owned(),
            subdir: clean(subdir),
            checksum: None,
            keep_git_dir: false,
            submodules: true,
            place: format!("{host}/{}", clean(path)),
        };
        for (key, value) in query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))) {
            // Written in a way that would have to be decoded.
            if value.contains(['%', '+']) {
                return None;
            }
            let prefixed = |prefix: &str| match value.starts_with(prefix) {
                true => value.to_owned(),
                false => format!("{prefix}{value}"),
            };
            match key {
                "ref" => found.reference = value.to_owned(),
                "tag" => found.reference = prefixed("refs/tags/"),
                "branch" => found.reference = prefixed("refs/heads/"),
                "subdir" => found.subdir = clean(value),
                "checksum" | "commit" => found.checksum = Some(value.to_owned()),
                "keep-git-dir" => found.keep_git_dir = boolean(value)?,
                "submodules" => found.submodules = boolean(value)?,
                _ => {}
            }
        }
        Some(found)
    }

    /// Which of the files of a commit it is, in words: a directory, or `.`.
    pub fn part(&self) -> String {
        let mut part = if self.subdir.is_empty() { ".".to_owned() } else { self.subdir.clone() };
        if self.has_git_dir() {
            part.push_str(" with .git");
        }
        if !self.submodules {
            part.push_str(" without submodules");
        }
        part
    }

    pub fn has_git_dir(&self) -> bool {
        self.keep_git_dir && self.subdir.is_empty()
    }

    /// The remote and the reference: what one commit belongs to.
    pub fn pinned_name(&self) -> String {
        match self.reference.as_str() {
            "" => self.remote.clone(),
            reference => format!("{}#{reference}", self.remote),
        }
    }

    /// How a builder calls it, and source policies with it.
    pub fn identifier(&self) -> String {
        let mut text = format!("git://{}", self.place);
        if !self.reference.is_empty() || !self.subdir.is_empty() {
            text = format!("{text}#{}", self.reference);
        }
        if self.subdir.is_empty() { text } else { format!("{text}:{}", self.subdir) }
    }
}

/// Path without empty components and dots at its ends or between.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// As Go reads it; nothing at all means yes.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn scheme(text: &str) -> Option<String> {
    let (scheme, _) = text.split_once("://")?;
    let is_word = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric());
    is_word.then(|| scheme.to_ascii_lowercase())
}

/// `user@host:path`
fn is_scp_style(text: &str) -> bool {
    let word = |text: &str, more: &[u8]| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
    };
    text.split_once('@').is_some_and(|(user, rest)| {
        word(user, b"-_") && rest.split_once(':').is_some_and(|(host, _)| word(host, b"-."))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories() {
        for (text, identifier, name) in [
            ("https://h.example/a/b.git", "git://h.example/a/b.git", "https://h.example/a/b.git"),
            (
                "https://u:p@h.example:8443/b.git#v1:x/./y",
                "git://h.example:8443/b.git#v1:x/y",
                "https://u:p@h.example:8443/b.git#v1",
            ),
            ("git://h/b#:sub", "git://h/b#:sub", "git://h/b"),
            ("git@h.example:a/b.git#main", "git://h.example/a/b.git#main", "git@h.example:a/b.git#main"),
            ("ssh://git@h/a//b", "git://h/a/b", "ssh://git@h/a//b"),
            (
                "https://h/b.git?tag=v1&subdir=d",
                "git://h/b.git#refs/tags/v1:d",
                "https://h/b.git#refs/tags/v1",
            ),
            ("https://h/b.git?ref=v1", "git://h/b.git#v1", "https://h/b.git#v1"),
        ] {
            let git = GitSource::parse(text).unwrap();
            assert_eq!((git.identifier().as_str(), git.pinned_name().as_str()), (identifier, name), "{text}");
        }
        for (text, part) in [
            ("https://h/b.git", "."),
            ("https://h/b.git#:x//y", "x/y"),
            ("https://h/b.git?keep-git-dir", ". with .git"),
            ("https://h/b.git?keep-git-dir=false&submodules=0", ". without submodules"),
            ("https://h/b.git?keep-git-dir=1&subdir=x", "x"),
        ] {
            assert_eq!(GitSource::parse(text).unwrap().part(), part, "{text}");
        }
        for text in [
            "https://h/b.git?submodules=maybe",
            "https://h/file.tar",
            "github.com/a/b",
            "./a.git",
            "https://h",
            "ftp://h/a.git",
            "https://h/b.git?ref=a%20b",
        ] {
            assert_eq!(GitSource::parse(text), None, "{text}");
        }
    }

    #[test]
    fn remotes_and_paths() {
        for (text, remote, ssh, query) in [
            ("https://h/repo.git#main:sub", true, false, false),
            ("http://h/context.tar.gz", true, false, false),
            ("https://h/x.git.zip", true, false, false),
            ("https://h/repo.git?ref=v1&subdir=x", true, false, true),
            ("https://h/repo.git#a?b", true, false, false),
            ("git://h/repo", true, false, false),
            ("GIT://h/repo", true, false, false),
            ("ssh://git@h/repo.git", true, true, false),
            ("git@h:user/repo.git?ref=x#y", true, true, true),
            ("github.com/user/repo", true, false, false),
            ("./github.com/user", false, false, false),
            ("../x@y:z", false, false, false),
            ("dir", false, false, false),
            ("/abs/a@b", false, false, false),
            ("ftp://h/x", false, false, false),
        ] {
            assert_eq!((is_remote(text), is_over_ssh(text), has_query(text)), (remote, ssh, query), "{text}");
            let archive = ["http://h/context.tar.gz", "https://h/x.git.zip"].contains(&text);
            assert_eq!(is_repository(text), remote && !archive, "{text}");
        }
    }
}
