//! Which rule of a hermetic build a failure comes from, and where in the Dockerfile what breaks it stands.
//!
//! The daemon says which source or entitlement it refused. It does not know why, and for what it refuses when it loads the build
//! it does not know the line either; the Dockerfile is looked through for that here, as text.

use buildsvc::error::{BuildError, SolveFailure};
use buildsvc::event::{Position, SourceInfo, SourceRange};
use buildsvc::reference::ImageRef;

use super::hint::{between, refused_entitlement, unreachable};
use crate::plan::{Hermetic, is_by_digest};

/// Lines that are shown.
const LINES_MAX: usize = 8;

/// What was refused.
enum Subject<'a> {
    /// Of an image, a URL, a repository.
    Source(&'a str),
    /// By its entitlement.
    Step(&'static str),
    /// A fetch of a builder that has no network.
    Fetch,
}

/// The rule that was broken, for a person; nothing for a failure that has another cause.
pub fn broken(failure: &BuildError, hermetic: Hermetic) -> Option<String> {
    let BuildError::Solve(solve) = failure else { return None };
    let rule = match subject(solve, hermetic)? {
        Subject::Source(source) => of_source(source)?,
        Subject::Step(entitlement) => format!(
            "no step gets more than the ordinary: `RUN {}` needs {entitlement}, which a hermetic build never has",
            flag(entitlement)
        ),
        Subject::Fetch => "the builder of a hermetic build has no network: what it is to use has to be in its cache, in the \
                           context or in a directory (--build-context IMAGE=oci-layout://DIR)"
            .to_owned(),
    };
    Some(format!("--hermetic: {rule}"))
}

/// Adds the place in the Dockerfile where the daemon named none.
pub fn place(failure: &mut BuildError, hermetic: Hermetic, filename: &str, dockerfile: &[u8]) {
    let BuildError::Solve(solve) = failure else { return };
    // It may name a file and no line in it.
    if solve.sources.iter().any(|(_, ranges)| ranges.iter().any(|range| range.start.line > 0)) {
        return;
    }
    let text = String::from_utf8_lossy(dockerfile);
    let lines = match subject(solve, hermetic) {
        Some(Subject::Source(source)) => naming(&text, source),
        Some(Subject::Step(entitlement)) => lines(&text, |line| line.contains(flag(entitlement))),
        Some(Subject::Fetch) | None => Vec::new(),
    };
    if lines.is_empty() {
        return;
    }
    let range = |line: &i32| {
        let at = Position { line: *line, character: 0 };
        SourceRange { start: at, end: at }
    };
    let info = SourceInfo {
        filename: filename.to_owned(),
        data: dockerfile.to_vec(),
        language: "Dockerfile".to_owned(),
    };
    let ranges = lines.iter().take(LINES_MAX).map(range).collect();
    solve.sources.push((info, ranges));
}

fn subject(solve: &SolveFailure, hermetic: Hermetic) -> Option<Subject<'_>> {
    let message = solve.message.as_str();
    if let Some(source) = between(message, "source \"", "\" denied by policy") {
        return Some(Subject::Source(source));
    }
    let device = message.contains(" requested by the build but not allowed").then_some("device");
    if let Some(entitlement) = refused_entitlement(message).or(device) {
        return Some(Subject::Step(entitlement));
    }
    (hermetic == Hermetic::Required && unreachable(message)).then_some(Subject::Fetch)
}

/// Nothing where another policy must have denied it: the user's, or the builder's own.
fn of_source(source: &str) -> Option<String> {
    let (scheme, rest) = source.split_once("://").unwrap_or((source, ""));
    Some(match scheme {
        "docker-image" if is_by_digest(rest) => return None,
        "docker-image" => {
            let image = rest.parse::<ImageRef>().map_or_else(|_| rest.to_owned(), |image| image.familiar());
            format!(
                "images are taken by digest, and {image} can become another one. `ktl stage` pins it and brings it; or name it \
                 IMAGE@sha256:…, or bring it yourself: --build-context {image}=oci-layout://DIR"
            )
        }
        "http" | "https" => format!(
            "nothing is fetched from the web, and {source} would be. `ktl stage` pins it and brings it; or put the file into the context, or into a directory of its \
             own (--build-context NAME=DIR, COPY --from=NAME)"
        ),
        "git" | "ssh" => format!(
            "no repository is fetched, and {source} would be. `ktl stage` pins it and brings it; or check it out, and name the directory: --build-context NAME=DIR, \
             COPY --from=NAME"
        ),
        "local" => format!("{source} is no directory of this build"),
        _ => format!("there are directories and images by digest, and {source} is neither"),
    })
}

fn flag(entitlement: &str) -> &'static str {
    match entitlement {
        "network.host" => "--network=host",
        "security.insecure" => "--security=insecure",
        _ => "--device",
    }
}

/// The lines that name `source`, or else the one that may do so by a variable.
fn naming(text: &str, source: &str) -> Vec<i32> {
    let (scheme, rest) = source.split_once("://").unwrap_or(("", source));
    if matches!(scheme, "docker-image") {
        let Ok(image) = rest.parse::<ImageRef>() else { return Vec::new() };
        let separates = |c: char| c.is_whitespace() || matches!(c, '=' | ',' | '"' | '\'');
        return lines(text, |line| {
            line.split(separates).any(|word| word.parse().is_ok_and(|named: ImageRef| named == image))
        });
    }
    let what = if scheme == "git" { rest.split('#').next().unwrap_or(rest) } else { source };
    let found = lines(text, |line| line.contains(what));
    if !found.is_empty() {
        return found;
    }
    let is_add = |line: &str| line.get(..4).is_some_and(|name| name.eq_ignore_ascii_case("add "));
    let perhaps = lines(text, |line| is_add(line.trim_start()) && line.contains('$'));
    if perhaps.len() == 1 { perhaps } else { Vec::new() }
}

/// Numbers of the lines that are no comments and that `holds` is true for.
fn lines(text: &str, holds: impl Fn(&str) -> bool) -> Vec<i32> {
    let numbered = (1..).zip(text.lines());
    let found = numbered.filter(|(_, line)| !line.trim_start().starts_with('#') && holds(line));
    found.map(|(number, _)| number).collect()
}
