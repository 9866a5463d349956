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
    let hangs_on = |names: &[&str]| names.iter().any(|name| text.contains(name));
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
    let escape = parsed.escape;
    let mut global = Scope { values: platform_args(arguments, target, builder), open: false };
    let mut stages = Stages::default();
    let mut stage: Option<Scope> = None;
    for Instruction { name, rest } in &parsed.instructions {
        match (name.as_str(), &mut stage) {
            ("ARG", None) => declare(&mut global, None, rest, arguments, escape),
            ("FROM", _) => {
                let words: Vec<String> =
                    words(rest).into_iter().skip_while(|word| word.starts_with("--")).collect();
                if let Some(base) = words.first().and_then(|word| global.expand(word, escape))
                    && base != "scratch"
                    && !stages.has(&base)
                {
                    found.image(&base);
                }
                let alias = words.get(2).filter(|_| words[1].eq_ignore_ascii_case("as"));
                stages.names.push(alias.map(|alias| alias.to_ascii_lowercase()).unwrap_or_default());
                // The base image may bring variables of its own.
                stage = Some(Scope { values: BTreeMap::new(), open: true });
            }
            ("ARG", Some(scope)) => declare(scope, Some(&global), rest, arguments, escape),
            ("ENV", Some(scope)) => set(scope, rest, escape),
            ("COPY", Some(_)) => {
                for flag in flags(rest) {
                    // No variable is replaced here.
                    if let Some(from) = flag.strip_prefix("--from=").map(unquoted)
                        && !from.contains('$')
                        && !stages.has(&from)
                    {
                        found.image(&from);
                    }
                }
            }
            ("RUN", Some(scope)) => {
                for flag in flags(rest) {
                    let Some(mount) = flag.strip_prefix("--mount=").map(unquoted) else { continue };
                    for field in mount.split(',').map(|field| field.trim_matches('"')) {
                        if let Some(("from", value)) = field.split_once('=')
                            && let Some(from) = scope.expand(value, escape)
                            && !stages.has(&from)
                        {
                            found.image(&from);
                        }
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
    names: Vec<String>,
}

impl Stages {
    fn has(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.names.contains(&name) || name.parse::<usize>().is_ok() || name.is_empty()
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

/// `ARG NAME[=DEFAULT]…`: a build argument goes before the global value, and that before the default.
fn declare(scope: &mut Scope, global: Option<&Scope>, rest: &str, arguments: &Arguments, escape: char) {
    for word in words(rest) {
        let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(name, d)| (name, Some(d)));
        let given = arguments.build_args.get(name).cloned();
        let inherited = || global.filter(|_| default.is_none())?.values.get(name).cloned();
        let known = match (given.or_else(inherited), default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => scope.expand(default, escape),
            // One that is declared and has no value changes nothing.
            (None, None) => continue,
        };
        assign(scope, name, known);
    }
}

/// `ENV NAME=VALUE…`, or the older `ENV NAME VALUE`.
fn set(scope: &mut Scope, rest: &str, escape: char) {
    let all = words(rest);
    if let Some(first) = all.first()
        && !first.contains('=')
    {
        let value = scope.expand(rest[first.len()..].trim_start(), escape);
        return assign(scope, first, value);
    }
    // All see the values from before the instruction.
    let before = scope.clone();
    for word in &all {
        if let Some((name, value)) = word.split_once('=') {
            assign(scope, name, before.expand(value, escape));
        }
    }
}

/// A value that is not known is no value: in a global scope too, where it would else pass for an empty one.
fn assign(scope: &mut Scope, name: &str, value: Option<String>) {
    match value {
        Some(value) => drop(scope.values.insert(name.to_owned(), value)),
        None => {
            scope.values.remove(name);
            scope.open = true;
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
