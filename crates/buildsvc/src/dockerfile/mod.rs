//! The images that a Dockerfile names.
//!
//! A registry login is for the images of this build. Which ones these are stands in the Dockerfile, and the user's own
//! machine can read it: the builder's word is not needed. So this is a reader of names and not a frontend: it knows the
//! instructions that hold an image, the scopes of variables, and the names that mean a stage. A reference that cannot be
//! known here, because it hangs on the builder's platform or on a base image's environment, is left out.
//!
//! Follows `dockerfile2llb/convert.go` and `instructions` below `frontend/dockerfile` of moby/buildkit.

mod added;
mod expansion;
mod instructions;

use std::collections::{BTreeMap, BTreeSet};

use crate::platform::Platform;
use crate::reference::ImageRef;
use expansion::Scope;
use instructions::{Instruction, Parsed, words};
pub use instructions::{Syntax, syntax};

pub use added::{Sources, SourcesError, UrlSource};

/// A Dockerfile beyond this is not read.
pub const TEXT_LIMIT: usize = 1 << 20;
/// More images than this are no Dockerfile that somebody wrote.
const REFERENCES_LIMIT: usize = 2_000;
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
    if let Some(syntax) = &parsed.syntax {
        found.image(&syntax.image, &[]);
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

/// All that a build of `text` fetches, on a builder whose own platform is `builder`. `replaced` are the names of contexts that the
/// user gives, in the form that people write and without the tag `latest`.
pub fn sources(
    text: &str,
    arguments: &Arguments,
    builder: &Platform,
    replaced: BTreeSet<String>,
) -> Result<Sources, SourcesError> {
    if text.len() > TEXT_LIMIT {
        return Err(SourcesError::TooLong);
    }
    let parsed = instructions::parse(text);
    if parsed.instructions.len() > INSTRUCTIONS_LIMIT {
        return Err(SourcesError::TooManyInstructions);
    }
    let mut found = Found { replaced, ..Found::default() };
    let targets = match arguments.platforms.as_slice() {
        [] => std::slice::from_ref(builder),
        given => given,
    };
    for target in targets {
        evaluate(&parsed, arguments, target, builder, &mut found);
    }
    if found.images.len() >= REFERENCES_LIMIT {
        return Err(SourcesError::TooManyImages);
    }
    let mut sources = found.sources;
    let given = arguments.build_args.get("BUILDKIT_SYNTAX").map(|directive| Syntax::of(directive, 0));
    if let Some(Syntax { image, .. }) = given.or(parsed.syntax) {
        match image.parse() {
            Ok(image) => sources.frontend = Some(image),
            Err(_) => sources.unknown.push(format!("the frontend {image:?}")),
        }
    }
    Ok(sources)
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

/// What one reading after the other has found.
#[derive(Debug, Default)]
struct Found {
    seen: BTreeSet<ImageRef>,
    images: Vec<ImageRef>,
    /// What the user gave as named contexts, which hides images.
    replaced: BTreeSet<String>,
    /// What the images are wanted for, and all that is no image.
    sources: Sources,
}

impl Found {
    fn image(&mut self, text: &str, platforms: &[&Platform]) {
        let Ok(image) = text.parse::<ImageRef>() else {
            return self.unknown(&format!("the image {text:?}"));
        };
        let familiar = image.familiar();
        if self.replaced.contains(familiar.strip_suffix(":latest").unwrap_or(&familiar)) {
            return;
        }
        if self.images.len() < REFERENCES_LIMIT && self.seen.insert(image.clone()) {
            self.images.push(image.clone());
        }
        if self.seen.contains(&image) {
            let wanted = self.sources.images.entry(image).or_default();
            wanted.extend(platforms.iter().map(|platform| (*platform).clone()));
        }
    }

    fn unknown(&mut self, what: &str) {
        let unknown = &mut self.sources.unknown;
        if unknown.len() < REFERENCES_LIMIT && !unknown.iter().any(|known| known == what) {
            unknown.push(what.to_owned());
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
            "ARG" if !stages.begun => declare(&mut scope, rest, arguments, parsed.escape, None),
            "ARG" => declare(&mut stages.scope, rest, arguments, parsed.escape, Some(&scope)),
            "ENV" => added::set(&mut stages.scope, rest, parsed.escape),
            "FROM" => {
                let (flags, words) = parted(rest);
                let platform = flags
                    .iter()
                    .find_map(|flag| {
                        scope.expand(flag.strip_prefix("--platform=")?, parsed.escape)?.parse().ok()
                    })
                    .unwrap_or_else(|| target.clone());
                let base = words.first().map(|word| (word, scope.expand(word, parsed.escape)));
                let known = base.as_ref().and_then(|(_, base)| base.as_deref());
                match &base {
                    Some((word, None)) => found.unknown(&format!("FROM {word}")),
                    Some((_, Some(base))) if base != "scratch" && !stages.has(base) => {
                        found.image(base, &[&platform]);
                    }
                    _ => {}
                }
                let alias = words.get(2).filter(|_| words[1].eq_ignore_ascii_case("as"));
                stages.begin(alias.map(String::as_str), known);
            }
            "ADD" => added::add(rest, &stages.scope, parsed.escape, &mut found.sources),
            "COPY" => {
                for flag in parted(rest).0 {
                    let from = flag.strip_prefix("--from=");
                    from.into_iter().for_each(|from| stages.source(from, &[target], found));
                }
            }
            "RUN" => {
                for flag in parted(rest).0 {
                    let mount = flag.strip_prefix("--mount=").map(unquoted).unwrap_or_default();
                    for field in mount.split(',') {
                        let from = field.trim_matches('"').strip_prefix("from=");
                        from.into_iter().for_each(|from| stages.source(from, &[target], found));
                    }
                }
            }
            _ => {}
        }
    }
    found.sources.stages.extend(stages.scopes.into_keys());
}

/// The stages so far. Their names hide images.
#[derive(Debug, Default)]
struct Stages {
    /// What each of those with a name leaves to a stage that is built on it.
    scopes: BTreeMap<String, Scope>,
    /// The name of the one that is being read.
    current: Option<String>,
    /// Its variables.
    scope: Scope,
    begun: bool,
}

impl Stages {
    fn begin(&mut self, alias: Option<&str>, base: Option<&str>) {
        self.end();
        self.begun = true;
        self.current = alias.map(str::to_ascii_lowercase);
        let of_stage = base.and_then(|base| self.scopes.get(&base.to_ascii_lowercase()).cloned());
        // An image has variables of its own.
        self.scope = of_stage.unwrap_or_else(|| Scope { open: base != Some("scratch"), ..Scope::default() });
        if let Some(name) = &self.current {
            self.scopes.entry(name.clone()).or_default();
        }
    }

    fn end(&mut self) {
        if let Some(name) = self.current.take() {
            self.scopes.insert(name, std::mem::take(&mut self.scope));
        }
    }

    fn has(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        name.is_empty() || self.scopes.contains_key(&name)
    }

    /// Where a command takes files from: a stage by name or number, or an image.
    fn source(&self, from: &str, platforms: &[&Platform], found: &mut Found) {
        let from = unquoted(from);
        if !self.has(&from) && from.parse::<usize>().is_err() {
            found.image(&from, platforms);
        }
    }
}

/// The flags that stand in front of an instruction's words, and the words.
fn parted(rest: &str) -> (Vec<String>, Vec<String>) {
    let mut flags = words(rest);
    let first = flags.iter().position(|word| !word.starts_with("--")).unwrap_or(flags.len());
    let words = flags.split_off(first);
    (flags, words)
}

fn unquoted(text: &str) -> String {
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text).to_owned()
}

/// `ARG NAME[=DEFAULT]…`: a build argument goes before the default. In a stage, one without either has the value that it has
/// outside.
fn declare(scope: &mut Scope, rest: &str, arguments: &Arguments, escape: char, outside: Option<&Scope>) {
    for word in words(rest) {
        let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(name, d)| (name, Some(d)));
        let value = match (arguments.build_args.get(name), default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => scope.expand(default, escape),
            (None, None) => match outside.map(|outside| (outside.values.get(name), outside.open)) {
                Some((Some(value), _)) => Some(value.clone()),
                Some((None, true)) => None,
                // One that is declared and has no value changes nothing.
                _ => continue,
            },
        };
        scope.set(name, value);
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
