//! Who reads the Dockerfile of a hermetic build.
//!
//! A `# syntax=` line hands the Dockerfile to a program that the builder fetches and that may give RUN what it likes. A hermetic
//! build has the builder's own frontend, or one that the user allowed by its digest. What is decided here is what is sent: a
//! Dockerfile that changes in between can name another frontend, and gets none.

use std::path::Path;

use buildsvc::build::Build;
use buildsvc::dockerfile::{self, Syntax};
use buildsvc::reference::ImageRef;

use super::Facts;
use super::hermetic::{contradiction, is_by_digest};
use crate::failure::Failure;

const ARGUMENT: &str = "build-arg:BUILDKIT_SYNTAX";
/// The frontend that every BuildKit has built in.
const BUILTIN: (&str, &str) = ("docker.io", "docker/dockerfile");

/// Settles the frontend of `build`, which has the builder's own so far, and says what a person should know of it.
pub fn settle(
    allowed: &[String],
    build: &mut Build,
    dockerfile: Option<&Path>,
    facts: &Facts,
) -> Result<Option<String>, Failure> {
    let allowed = allowed.iter().map(|text| pinned(text)).collect::<Result<Vec<_>, _>>()?;
    let argument = build.frontend_attrs.get(ARGUMENT).map(|directive| Syntax::of(directive.trim(), 0));
    let (syntax, place) = match (argument, dockerfile) {
        (Some(syntax), _) => (syntax, "--build-arg BUILDKIT_SYNTAX".to_owned()),
        (None, None) => {
            let note = "the Dockerfile lies in an archive and is not read here: should it have a `# syntax=` line, that counts \
                        for nothing, and the builder's own frontend is used";
            return Ok(Some(note.to_owned()));
        }
        (None, Some(path)) => {
            let text = match (facts.read)(path, dockerfile::TEXT_LIMIT as u64) {
                Ok(text) => String::from_utf8_lossy(&text).into_owned(),
                // What is wrong with it is the builder's to say, and its own frontend says it.
                Err(_) => return Ok(None),
            };
            match dockerfile::syntax(&text) {
                Some(syntax) => {
                    let place = format!("{}:{}", path.display(), syntax.line);
                    (syntax, place)
                }
                None => return Ok(None),
            }
        }
    };
    let named = syntax.image.parse::<ImageRef>();
    if let Ok(named) = &named
        && let Some(frontend) = allowed.iter().find(|allowed| means(named, allowed))
    {
        "gateway.v0".clone_into(&mut build.frontend);
        build.frontend_attrs.insert("source".to_owned(), frontend.to_string());
        build.frontend_attrs.insert("cmdline".to_owned(), syntax.directive);
        return Ok(Some(format!(
            "{place}: the Dockerfile is read by {frontend}, which --allow-frontend allows"
        )));
    }
    if named.as_ref().is_ok_and(is_the_builtin) {
        return Ok(Some(format!(
            "{place}: {} is not fetched: the builder's own Dockerfile frontend, the same program, is used",
            syntax.image
        )));
    }
    let digest = if is_by_digest(&syntax.image) { "" } else { "@sha256:…" };
    let hint =
        format!("Leave it out, or allow exactly this program: --allow-frontend {}{digest}", syntax.image);
    Err(contradiction(
        format!("{place}: the frontend {}", syntax.image),
        "a program from elsewhere would read the Dockerfile and say what RUN gets",
    )
    .hint(hint))
}

/// A value of `--allow-frontend`.
fn pinned(text: &str) -> Result<ImageRef, Failure> {
    match text.parse::<ImageRef>() {
        Ok(image) if is_by_digest(text) => Ok(image),
        Ok(_) => {
            Err(Failure::usage(format!("--allow-frontend {text}: names no digest, as in IMAGE@sha256:…")))
        }
        Err(error) => Err(Failure::usage(format!("--allow-frontend {text}: {error}"))),
    }
}

/// Whether the frontend that was named is the one that was allowed: its name, its tag unless none was allowed in particular, and
/// its digest if it has one.
fn means(named: &ImageRef, allowed: &ImageRef) -> bool {
    let same_name = (named.domain(), named.path()) == (allowed.domain(), allowed.path());
    let same_tag = allowed.tag().is_none() || named.tag() == allowed.tag();
    let same_digest = named.digest().is_none() || named.digest() == allowed.digest();
    same_name && same_digest && (same_tag || named.digest().is_some() && named.tag().is_none())
}

/// Whether it is a release of the frontend that builders have built in, and not a certain one: those of the `labs` channel have
/// other instructions, and a digest means that program and no other.
fn is_the_builtin(image: &ImageRef) -> bool {
    let release = |tag: &str| {
        let numbers: Vec<&str> = tag.split('.').collect();
        numbers[0] == "1"
            && numbers.len() <= 3
            && numbers.iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    (image.domain(), image.path()) == BUILTIN
        && image.digest().is_none()
        && image.tag().is_some_and(|tag| tag == "latest" || release(tag))
}
