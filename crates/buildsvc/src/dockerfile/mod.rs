//! The images that a Dockerfile names.
//!
//! A registry login is for the images of this build. Which ones these are stands in the Dockerfile, and the user's own
//! machine can read it: the builder's word is not needed. So this is a reader of names and not a frontend: it knows the
//! instructions that hold an image, the scopes of variables, and the names that mean a stage. A reference that cannot be
//! known here, because it hangs on the builder's platform or on a base image's environment, is left out.
//!
//! Follows `dockerfile2llb/convert.go` and `instructions` below `frontend/dockerfile` of moby/buildkit.

mod expansion;
mod instructions;

use std::collections::{BTreeMap, BTreeSet};

use crate::platform::Platform;
use crate::reference::ImageRef;
use expansion::Scope;
use instructions::{Instruction, Parsed, words};

/// A Dockerfile beyond this is not read.
pub const TEXT_LIMIT: usize = 1 << 20;
/// More images than this are no Dockerfile that somebody wrote.
const REFERENCES_LIMIT: usize = 2_000;
/// More arguments than this are not kept, and unknown.
const ARGUMENTS_LIMIT: usize = 1_000;
/// A longer Dockerfile is read for one platform alone, and beyond [`INSTRUCTIONS_LIMIT`] not at all.
const INSTRUCTIONS_FOR_EACH_PLATFORM: usize = 1_000;
const INSTRUCTIONS_LIMIT: usize = 10_000;
/// What builders run on, for a Dockerfile whose images hang on the platform when the user named none.
const USUAL: [(&str, &str); 9] = [
    ("amd64", ""),
    ("arm64", ""),
    ("arm", "v7"),
    ("arm", "v6"),
    ("386", ""),
    ("ppc64le", ""),
    ("s390x", ""),
    ("riscv64", ""),
    ("loong64", ""),
];

/// What the user gave beside the Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    pub build_args: BTreeMap<String, String>,
    pub platforms: Vec<Platform>,
    pub target: Option<String>,
}

/// The images that `text` names, in order and each once: of `FROM`, `COPY --from`, `RUN --mount from=` and `# syntax=`.
pub fn references(text: &str, arguments: &Arguments) -> Vec<ImageRef> {
    if text.len() > TEXT_LIMIT {
        return Vec::new();
    }
    let parsed = instructions::parse(text);
    let mut found = Found::default();
    if let Some(image) = &parsed.syntax {
        found.image(image);
    }
    let short = parsed.instructions.len() <= INSTRUCTIONS_FOR_EACH_PLATFORM;
    let hangs_on = |names: &[&str]| short && names.iter().any(|name| text.contains(name));
    let targets = match arguments.platforms.as_slice() {
        [] => usual(),
        given => given.to_vec(),
    };
    let targets = if hangs_on(&["TARGET"]) { targets } else { targets[..1].to_vec() };
    let builders = if hangs_on(&["BUILDPLATFORM", "BUILDARCH", "BUILDVARIANT"]) {
        usual()
    } else {
        usual()[..1].to_vec()
    };
    for target in &targets {
        for builder in &builders {
            evaluate(&parsed, arguments, target, builder, &mut found);
        }
    }
    found.images
}

fn usual() -> Vec<Platform> {
    USUAL
        .iter()
        .map(|(architecture, variant)| Platform {
            os: "linux".to_owned(),
            architecture: (*architecture).to_owned(),
            variant: (*variant).to_owned(),
        })
        .collect()
}

#[derive(Debug, Default)]
struct Found {
    seen: BTreeSet<ImageRef>,
    images: Vec<ImageRef>,
}

impl Found {
    fn image(&mut self, text: &str) {
        if let Ok(image) = text.parse::<ImageRef>()
            && self.images.len() < REFERENCES_LIMIT
            && self.seen.insert(image.clone())
        {
            self.images.push(image);
        }
    }
}

/// One reading of the Dockerfile, for one platform of the result and one of the builder.
fn evaluate(
    parsed: &Parsed,
    arguments: &Arguments,
    target: &Platform,
    builder: &Platform,
    found: &mut Found,
) {
    let mut scope = Scope { values: platform_args(arguments, target, builder), open: false };
    let mut stages = Stages::default();
    for Instruction { name, rest } in parsed.instructions.iter().take(INSTRUCTIONS_LIMIT) {
        match name.as_str() {
            // Those of a stage are for its commands, in which no image may hang on a variable.
            "ARG" if !stages.begun => declare(&mut scope, rest, arguments, parsed.escape),
            "FROM" => {
                let words: Vec<String> =
                    words(rest).into_iter().skip_while(|word| word.starts_with("--")).collect();
                if let Some(base) = words.first().and_then(|word| scope.expand(word, parsed.escape))
                    && base != "scratch"
                    && !stages.has(&base)
                {
                    found.image(&base);
                }
                let alias = words.get(2).filter(|_| words[1].eq_ignore_ascii_case("as"));
                stages.names.extend(alias.map(|alias| alias.to_ascii_lowercase()));
                stages.begun = true;
            }
            "COPY" => {
                for flag in flags(rest) {
                    flag.strip_prefix("--from=").into_iter().for_each(|from| stages.source(from, found));
                }
            }
            "RUN" => {
                for flag in flags(rest) {
                    let mount = flag.strip_prefix("--mount=").map(unquoted).unwrap_or_default();
                    for field in mount.split(',') {
                        let from = field.trim_matches('"').strip_prefix("from=");
                        from.into_iter().for_each(|from| stages.source(from, found));
                    }
                }
            }
            _ => {}
        }
    }
}

/// The stages so far. Their names hide images.
#[derive(Debug, Default)]
struct Stages {
    names: BTreeSet<String>,
    begun: bool,
}

impl Stages {
    fn has(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        name.is_empty() || self.names.contains(&name)
    }

    /// Where a command takes files from: a stage by name or number, or an image.
    fn source(&self, from: &str, found: &mut Found) {
        let from = unquoted(from);
        if !self.has(&from) && from.parse::<usize>().is_err() {
            found.image(&from);
        }
    }
}

/// The flags that stand in front of an instruction's words.
fn flags(rest: &str) -> Vec<String> {
    words(rest).into_iter().take_while(|word| word.starts_with("--")).collect()
}

fn unquoted(text: &str) -> String {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

/// `ARG NAME[=DEFAULT]…`: a build argument goes before the default.
fn declare(scope: &mut Scope, rest: &str, arguments: &Arguments, escape: char) {
    for word in words(rest) {
        let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(name, d)| (name, Some(d)));
        let value = match (arguments.build_args.get(name), default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => scope.expand(default, escape),
            // One that is declared and has no value changes nothing.
            (None, None) => continue,
        };
        match value.filter(|_| scope.values.len() < ARGUMENTS_LIMIT) {
            Some(value) => drop(scope.values.insert(name.to_owned(), value)),
            // It must not pass for one that is not set, and therefore empty.
            None => {
                scope.values.remove(name);
                scope.open = true;
            }
        }
    }
}

/// In every `FROM`, declared or not.
fn platform_args(arguments: &Arguments, target: &Platform, builder: &Platform) -> BTreeMap<String, String> {
    let stage = arguments.target.as_deref().filter(|target| !target.is_empty()).unwrap_or("default");
    let mut values = BTreeMap::from([("TARGETSTAGE".to_owned(), stage.to_owned())]);
    for (prefix, platform) in [("TARGET", target), ("BUILD", builder)] {
        values.insert(format!("{prefix}PLATFORM"), platform.to_string());
        values.insert(format!("{prefix}OS"), platform.os.clone());
        values.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        values.insert(format!("{prefix}VARIANT"), platform.variant.clone());
    }
    for (name, value) in &mut values {
        if let Some(given) = arguments.build_args.get(name) {
            value.clone_from(given);
        }
    }
    values
}

#[cfg(test)]
mod tests;
