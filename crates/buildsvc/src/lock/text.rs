//! The lock as TOML.

use std::fmt::Write;

use serde::Deserialize;

use super::{Lock, LockError, LockedGit, LockedImage, LockedUrl, VERSION};

const HEAD: &str = "# What the Dockerfile's names meant when `ktl stage` resolved them. Commit this file; `ktl stage` renews it,\n\
                    # `ktl lock --check` tells whether it still fits the Dockerfile.\n";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    #[serde(rename = "version")]
    _version: i64,
    #[serde(default)]
    image: Vec<LockedImage>,
    #[serde(default)]
    url: Vec<LockedUrl>,
    #[serde(default)]
    git: Vec<LockedGit>,
}

/// Of a lock of any version.
#[derive(Deserialize)]
struct Versioned {
    version: i64,
}

pub(super) fn read(text: &str) -> Result<Lock, LockError> {
    let version = toml::from_str::<Versioned>(text).map_err(|error| at_line(text, &error))?.version;
    if version != VERSION {
        return Err(LockError::Version(version));
    }
    let form: Form = toml::from_str(text).map_err(|error| at_line(text, &error))?;
    let mut lock = Lock::default();
    form.image.into_iter().try_for_each(|image| lock.add_image(image))?;
    form.url.into_iter().try_for_each(|url| lock.add_url(url))?;
    form.git.into_iter().try_for_each(|git| lock.add_git(git))?;
    Ok(lock)
}

fn at_line(text: &str, error: &toml::de::Error) -> LockError {
    let at = error.span().map_or(0, |span| span.start);
    let line = text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
    LockError::Line { line, why: error.message().replace('\n', " ") }
}

pub(super) fn write(lock: &Lock) -> String {
    let mut text = format!("{HEAD}version = {VERSION}\n");
    for LockedImage { reference, digest, platforms } in lock.images() {
        let _ = writeln!(text, "\n[[image]]\nreference = \"{reference}\"\ndigest = \"{digest}\"");
        text.push_str("[image.platforms]\n");
        for (platform, digest) in platforms {
            let _ = writeln!(text, "\"{platform}\" = \"{digest}\"");
        }
    }
    for LockedUrl { url, checksum, size } in lock.urls() {
        let _ = writeln!(text, "\n[[url]]\nurl = {}\nchecksum = \"{checksum}\"\nsize = {size}", quoted(url));
    }
    for LockedGit { url, commit, trees } in lock.gits() {
        let _ = writeln!(text, "\n[[git]]\nurl = {}\ncommit = \"{commit}\"", quoted(url));
        if !trees.is_empty() {
            text.push_str("[git.trees]\n");
        }
        for (part, digest) in trees {
            let _ = writeln!(text, "{} = \"{digest}\"", quoted(part));
        }
    }
    text
}

/// A basic string. URLs of a lock hold no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
