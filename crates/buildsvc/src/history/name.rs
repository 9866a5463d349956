//! What a past build is called. Follows docker buildx `util/history/name.go`, for a client that keeps no state of its own.

use std::collections::HashMap;

fn get<'a>(attrs: &'a HashMap<String, String>, key: &str) -> Option<&'a str> {
    attrs.get(key).map(String::as_str)
}

/// Of the context, else of the Dockerfile's place, with the target in parentheses; else the repository.
pub(super) fn of(attrs: &HashMap<String, String>) -> String {
    if let Some(given) = get(attrs, "build-arg:BUILDKIT_BUILD_NAME").filter(|given| !given.is_empty()) {
        return given.to_owned();
    }
    let place = |key| get(attrs, key).filter(|dir| *dir != ".");
    let context = get(attrs, "context").or_else(|| place("vcs:localdir:context")).unwrap_or_default();
    let place = if context.is_empty() { dockerfile(attrs) } else { context.to_owned() };
    match (place.as_str(), get(attrs, "target").unwrap_or_default()) {
        ("", "") => repository(attrs).to_owned(),
        (place, "") => place.to_owned(),
        ("", target) => target.to_owned(),
        (place, target) => format!("{place} ({target})"),
    }
}

/// The last part of its directory; with its own name where that is not the usual one.
fn dockerfile(attrs: &HashMap<String, String>) -> String {
    let file = get(attrs, "filename").filter(|file| *file != "Dockerfile").unwrap_or_default();
    let path = match get(attrs, "vcs:localdir:dockerfile").filter(|dir| *dir != ".") {
        Some(dir) if file.is_empty() => dir.to_owned(),
        Some(dir) => format!("{dir}/{file}"),
        None => file.to_owned(),
    };
    if let Some(dir) = path.strip_suffix("/Dockerfile") {
        return dir.rsplit('/').next().unwrap_or_default().to_owned();
    }
    match path.rsplit_once('/') {
        Some((dir, last)) => format!("{}/{last}", dir.rsplit('/').next().unwrap_or_default()),
        None if path.is_empty() => path,
        None => format!("{path}/{path}"),
    }
}

pub(super) fn repository(attrs: &HashMap<String, String>) -> &str {
    let remote = |url: &&str| url.contains("://") || url.starts_with("git@");
    get(attrs, "vcs:source").or_else(|| get(attrs, "context").filter(remote)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_attributes() {
        for (attrs, want) in [
            (&[][..], ""),
            (&[("build-arg:BUILDKIT_BUILD_NAME", "mine"), ("target", "x")], "mine"),
            (&[("target", "x")], "x"),
            (&[("context", "https://host/a.git"), ("target", "x")], "https://host/a.git (x)"),
            (&[("vcs:localdir:context", "sub/dir")], "sub/dir"),
            (&[("vcs:localdir:context", "."), ("vcs:source", "https://host/a.git")], "https://host/a.git"),
            (&[("filename", "Dockerfile")], ""),
            (&[("filename", "prod.Dockerfile"), ("vcs:localdir:dockerfile", "a/b")], "b/prod.Dockerfile"),
        ] {
            let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            assert_eq!(of(&attrs), want, "{attrs:?}");
        }
    }
}
