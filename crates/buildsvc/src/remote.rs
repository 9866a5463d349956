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
