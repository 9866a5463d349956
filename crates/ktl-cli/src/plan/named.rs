//! The names that a Dockerfile and its named contexts hold, and the lock that says what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use buildsvc::contexts::{ContextSource, NamedContext};
use buildsvc::dockerfile::{self, Arguments, Sources, TEXT_LIMIT, UrlSource};
use buildsvc::lock::{self, Lock};
use buildsvc::platform::Platform;
use buildsvc::reference::ImageRef;
use buildsvc::remote::{self, GitSource};

use super::{Facts, dockerfile_of};
use crate::cli::NamesFlags;
use crate::env::Env;
use crate::failure::{Failure, chain};

/// Images, and the platforms that each is wanted for.
pub type Images = BTreeMap<ImageRef, BTreeSet<Platform>>;

/// What a build fetches, and where that is locked.
#[derive(Debug)]
pub struct Named {
    pub dockerfile: PathBuf,
    pub lock_file: PathBuf,
    pub sources: Sources,
}

impl Named {
    pub fn read(context: &Path, flags: &NamesFlags, env: &Env, facts: &Facts) -> Result<Named, Failure> {
        let dockerfile = dockerfile_of(context, flags.file.as_deref(), facts)?;
        let platforms = Platform::list(&flags.platform)
            .map_err(|error| Failure::usage(format!("--platform: {error}")))?;
        let build_args = flags.build_arg.iter().filter_map(|arg| match arg.split_once('=') {
            Some((key, value)) => Some((key.to_owned(), value.to_owned())),
            None => Some((arg.clone(), env.text(arg)?)),
        });
        let arguments =
            Arguments { build_args: build_args.collect(), platforms, target: flags.target.clone() };
        Named::of(dockerfile, &arguments, &flags.build_context, flags.lock.as_deref(), facts)
    }

    pub fn of(
        dockerfile: PathBuf,
        arguments: &Arguments,
        contexts: &[String],
        lock: Option<&Path>,
        facts: &Facts,
    ) -> Result<Named, Failure> {
        let wrong = |why: String| Failure::usage(format!("{}: {why}", dockerfile.display()));
        let text = (facts.read)(&dockerfile, TEXT_LIMIT as u64).map_err(|error| wrong(error.to_string()))?;
        let text = String::from_utf8_lossy(&text);
        let contexts = NamedContext::list(contexts)
            .map_err(|error| Failure::usage(format!("--build-context: {}", chain(&error))))?;
        let replaced = contexts.iter().map(|context| context.name.clone()).collect();
        let sources = dockerfile::sources(&text, arguments, &Platform::local(), replaced);
        let mut sources = sources.map_err(|error| wrong(error.to_string()))?;
        for context in &contexts {
            if let ContextSource::Remote(value) = &context.source {
                add(&mut sources, value, &arguments.platforms)?;
            }
        }
        let lock_file = match lock {
            Some(path) => facts.cwd.join(path),
            None => beside(&dockerfile),
        };
        Ok(Named { dockerfile, lock_file, sources })
    }

    /// The lock; `None` when there is none.
    pub fn lock(&self, facts: &Facts) -> Result<Option<Lock>, Failure> {
        let wrong = |why: String| Failure::usage(format!("{}: {why}", self.lock_file.display()));
        match (facts.read)(&self.lock_file, lock::SIZE_LIMIT) {
            Ok(bytes) => Lock::read(&bytes).map(Some).map_err(|error| wrong(error.to_string())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Every image, the frontend's among them.
    pub fn images(&self) -> Images {
        let mut images = self.sources.images.clone();
        if let Some(frontend) = &self.sources.frontend {
            images.entry(frontend.clone()).or_default().insert(Platform::local());
        }
        images
    }

    /// What cannot be locked, because it is not known here what it is.
    pub fn refuse_unknown(&self) -> Result<(), Failure> {
        if self.sources.unknown.is_empty() {
            return Ok(());
        }
        let title = format!("{} names what cannot be known without building it", self.dockerfile.display());
        Err(Failure::usage(title)
            .hints(self.sources.unknown.iter().cloned())
            .hint("Give the variables with --build-arg, or write the names out."))
    }

    /// What the lock does not hold of what is named, one line each; `images` are those to look for.
    pub fn missing(&self, lock: &Lock, images: &Images) -> Vec<String> {
        let mut lines = Vec::new();
        for (image, platforms) in images {
            match lock.image(image) {
                None => lines.push(format!("{image}: not locked")),
                Some(locked) => {
                    let single = locked.platforms.values().any(|manifest| *manifest == locked.digest);
                    for platform in platforms.iter().filter(|platform| locked.manifest(platform).is_none()) {
                        if !single {
                            lines.push(format!("{image}: not locked for {platform}"));
                        }
                    }
                }
            }
        }
        for UrlSource { url, checksum } in &self.sources.urls {
            match (lock.url(url), checksum) {
                (None, _) => lines.push(format!("{url}: not locked")),
                (Some(locked), Some(declared)) if *declared != locked.checksum => {
                    lines.push(format!(
                        "{url}: locked as {}, and the Dockerfile says {declared}",
                        locked.checksum
                    ));
                }
                _ => {}
            }
        }
        for git in &self.sources.gits {
            let name = git.pinned_name();
            match (lock.git(&name), &git.checksum) {
                (None, _) => lines.push(format!("{name}: not locked")),
                (Some(locked), Some(declared)) if !locked.commit.starts_with(declared.as_str()) => {
                    lines.push(format!(
                        "{name}: locked at {}, and the Dockerfile says {declared}",
                        locked.commit
                    ));
                }
                (Some(locked), _) if !locked.trees.contains_key(&git.part()) => {
                    lines.push(format!("{name}: its files are not locked ({})", git.part()));
                }
                _ => {}
            }
        }
        lines
    }

    /// What the lock holds and nothing names.
    pub fn unused(&self, lock: &Lock) -> Vec<String> {
        let images = self.images();
        let image =
            lock.images().map(|locked| &locked.reference).filter(|image| !images.contains_key(*image));
        let named = |url: &str| self.sources.urls.iter().any(|source| source.url == url);
        let url = lock.urls().map(|locked| &locked.url).filter(|url| !named(url));
        let named = |url: &str| self.sources.gits.iter().any(|git| git.pinned_name() == url);
        let git = lock.gits().map(|locked| &locked.url).filter(|url| !named(url));
        let names = image.map(ToString::to_string).chain(url.cloned()).chain(git.cloned());
        names.map(|name| format!("{name}: locked, and nothing names it")).collect()
    }
}

/// A Dockerfile of another name has a lock of its own, as it has an ignore file of its own.
/// The lock of a Dockerfile, where no other was named.
pub fn beside(dockerfile: &Path) -> PathBuf {
    let name = dockerfile.file_name().unwrap_or_default().to_string_lossy();
    match &*name {
        "Dockerfile" | "dockerfile" => dockerfile.with_file_name(lock::FILE),
        name => dockerfile.with_file_name(format!("{name}.{}", lock::FILE)),
    }
}

/// What `--build-context` has a builder fetch.
fn add(sources: &mut Sources, value: &str, targets: &[Platform]) -> Result<(), Failure> {
    if let Some(name) = value.strip_prefix("docker-image://") {
        let image = name.parse::<ImageRef>();
        let image = image.map_err(|error| Failure::usage(format!("--build-context: {value}: {error}")))?;
        let local = [Platform::local()];
        let targets = if targets.is_empty() { &local[..] } else { targets };
        sources.images.entry(image).or_default().extend(targets.iter().cloned());
    } else if let Some(git) = GitSource::parse(value) {
        sources.gits.push(git);
    } else if remote::is_http(value) {
        sources.urls.push(UrlSource { url: value.to_owned(), checksum: None });
    } else {
        sources.unknown.push(format!("--build-context {value}"));
    }
    Ok(())
}
