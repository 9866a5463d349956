//! What a hermetic build takes from lock and store in the place of a network.
//!
//! An image that is locked becomes a named context of its name: the session offers the store, and the builder reads the image from
//! there by its digest. Files and repositories that ADD names are taken from the store by rules of the source policy, a repository as
//! the image that `ktl stage` made of its files. The Dockerfile stays as it is. What the lock does not hold is told before the build, with the way to mend it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use buildsvc::build::Build;
use buildsvc::digest::Digest;
use buildsvc::lock::{self, Lock};
use buildsvc::ocilayout::LayoutRef;
use buildsvc::reference::ImageRef;
use buildsvc::remote::GitSource;
use buildsvc::sourcepolicy::Conversion;

use super::contexts::Shared;
use super::named::Images;
use super::{Facts, Named, store_dir, trust};
use crate::cli::BuildArgs;
use crate::depot::Depot;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, chain};

/// Names of blobs and images to the builder: a registry's in form, and none in fact.
const BLOB: &str = "oci-layout+blob://ktl.lock/url";
const TREE: &str = "oci-layout://ktl.lock/git";

/// The lock of a build, and what of it the build needs.
#[derive(Debug)]
pub struct Locked {
    pub file: PathBuf,
    pub lock: Lock,
    /// Where the blobs are.
    pub store: PathBuf,
    images: Images,
    urls: BTreeSet<String>,
    /// What the builder takes from elsewhere than the Dockerfile says.
    conversions: Vec<Conversion>,
    /// Images of the files of repositories, by what they are called.
    trees: BTreeMap<String, Digest>,
}

impl Locked {
    /// Adds what is locked to what the build reads: `attrs` and `shared`. `None` when there is no lock.
    pub fn resolve(
        args: &BuildArgs,
        dockerfile: PathBuf,
        attrs: &mut BTreeMap<String, String>,
        env: &Env,
        facts: &Facts,
        shared: &mut Shared,
    ) -> Result<Option<Locked>, Failure> {
        let flags = &args.build;
        let piped = facts.scratch.as_ref().is_some_and(|scratch| dockerfile.starts_with(scratch));
        let in_context = piped.then(|| args.context.join(lock::FILE));
        let lock_file = flags.lock.as_deref().or(in_context.as_deref());
        let arguments = trust::arguments(attrs);
        let named = Named::of(dockerfile, &arguments, &flags.build_context, lock_file, facts)?;
        let lock = match named.lock(facts)? {
            Some(lock) => lock,
            None if flags.lock.is_some() => {
                let missing = format!("--lock: there is no lock at {}", named.lock_file.display());
                return Err(Failure::usage(missing).hint("`ktl stage --lock FILE` makes one."));
            }
            None => return Ok(None),
        };
        // The builder reads the Dockerfile by itself, whatever frontend that names.
        let images = named.sources.images.clone();
        let missing = named.missing(&lock, &images);
        if !missing.is_empty() {
            let title = format!("{} does not hold what the Dockerfile names", named.lock_file.display());
            return Err(Failure::new(Exit::Policy, title)
                .hints(missing)
                .hint("`ktl stage` fetches it and locks it; that needs a network."));
        }
        let store = store_dir(flags.store.as_deref(), env, facts)?;
        let store = (facts.real)(&store).unwrap_or(store);
        let urls: BTreeSet<String> = named.sources.urls.iter().map(|source| source.url.clone()).collect();
        let mut id = String::new();
        if !images.is_empty() || !urls.is_empty() || !named.sources.gits.is_empty() {
            if (facts.kind_of)(&store) != super::Kind::Directory {
                let title = format!("there is no store at {}", store.display());
                return Err(Failure::new(Exit::Policy, title)
                    .hint("`ktl stage` fills it; that needs a network. Another one is named with --store DIR or KTL_STORE."));
            }
            id = shared.layout_store(&store, facts);
        }
        let mut locked = Locked {
            file: named.lock_file,
            lock,
            store,
            images,
            urls,
            conversions: Vec::new(),
            trees: BTreeMap::new(),
        };
        locked.put_images(&named.sources.stages, &id, attrs, shared)?;
        for url in locked.lock.urls().filter(|url| locked.urls.contains(&url.url)) {
            locked.conversions.push(Conversion {
                from: url.url.clone(),
                only: Vec::new(),
                to: format!("{BLOB}@{}", url.checksum),
                attrs: BTreeMap::from([("oci.store".to_owned(), id.clone())]),
            });
        }
        locked.put_trees(&named.sources.gits, &id)?;
        Ok(Some(locked))
    }

    /// Has the builder take what is locked.
    pub fn apply(&self, build: &mut Build) {
        if !self.conversions.is_empty() {
            let policy = build.source_policy.take().unwrap_or_default();
            build.source_policy = Some(policy.converting(&self.conversions));
        }
    }

    /// Makes contexts of the images, and of contexts that are images.
    fn put_images(
        &self,
        stages: &BTreeSet<String>,
        store: &str,
        attrs: &mut BTreeMap<String, String>,
        shared: &mut Shared,
    ) -> Result<(), Failure> {
        let by_digest = LayoutRef { path: String::new(), tag: None, digest: None };
        for (_, value) in attrs.iter_mut().filter(|(key, _)| key.starts_with("context:")) {
            let image = value.strip_prefix("docker-image://").and_then(|name| name.parse::<ImageRef>().ok());
            if let Some(locked) = image.and_then(|image| self.lock.image(&image)) {
                *value = by_digest.attr(store, &locked.digest);
            }
        }
        for reference in self.images.keys() {
            let Some(image) = self.lock.image(reference) else { continue };
            let familiar = reference.familiar();
            let name = familiar.strip_suffix(":latest").unwrap_or(&familiar);
            if stages.contains(name) {
                let title =
                    format!("the Dockerfile has a stage that is called {name}, as the locked image is");
                return Err(Failure::new(Exit::Policy, title)
                    .hint("The builder would take the image for the stage. Give the stage another name."));
            }
            attrs.entry(format!("context:{name}")).or_insert_with(|| by_digest.attr(store, &image.digest));
            shared.caps.push("moby.buildkit.frontend.contexts+forward");
        }
        Ok(())
    }

    /// Whether this named context is a repository whose files come from the store.
    pub fn brings(&self, value: &str) -> bool {
        GitSource::parse(value).is_some_and(|git| self.trees.contains_key(&called(&git)))
    }

    /// Has the builder take the files of repositories from the store.
    fn put_trees(&mut self, gits: &[GitSource], store: &str) -> Result<(), Failure> {
        for git in gits {
            let name = git.pinned_name();
            let Some(tree) = self.lock.git(&name).and_then(|locked| locked.trees.get(&git.part())) else {
                continue;
            };
            let flag = |key: &str, is: bool| (key.to_owned(), "true".to_owned(), is);
            let conversion = Conversion {
                from: git.identifier(),
                only: vec![
                    flag("git.keepgitdir", git.keep_git_dir),
                    flag("git.skipsubmodules", !git.submodules),
                ],
                to: format!("{TREE}@{tree}"),
                attrs: BTreeMap::from([("oci.store".to_owned(), store.to_owned())]),
            };
            // A builder calls a repository alike, whatever way leads to it.
            let alike =
                |other: &&Conversion| (&other.from, &other.only) == (&conversion.from, &conversion.only);
            match self.conversions.iter().find(alike) {
                Some(other) if *other == conversion => {}
                Some(_) => {
                    let title = format!(
                        "the Dockerfile names {} in two ways that are locked differently",
                        git.identifier()
                    );
                    return Err(Failure::new(Exit::Policy, title)
                        .hint("The builder cannot tell them apart. Name it by one URL, or run `ktl stage --update`."));
                }
                None => self.conversions.push(conversion),
            }
            self.trees.insert(called(git), tree.clone());
        }
        Ok(())
    }

    /// Looks whether the store holds all that the build needs.
    pub fn check(&self) -> Result<(), Failure> {
        let depot = Depot::at(self.store.clone());
        let lacks = |what: &dyn std::fmt::Display, why: String| {
            let title =
                format!("the store {} lacks what {} names", self.store.display(), self.file.display());
            Failure::new(Exit::Policy, title).hint(format!("{what}: {why}")).hint(
                "`ktl stage` fetches it; that needs a network. Another store is named with --store DIR or KTL_STORE.",
            )
        };
        for (reference, platforms) in &self.images {
            let Some(image) = self.lock.image(reference) else { continue };
            depot.holds(image, platforms.iter()).map_err(|error| lacks(reference, chain(&error)))?;
        }
        for url in self.lock.urls().filter(|url| self.urls.contains(&url.url)) {
            if !depot.has(&url.checksum, url.size) {
                return Err(lacks(&url.url, format!("there is no blob {}", url.checksum)));
            }
        }
        for (name, tree) in &self.trees {
            depot.holds_manifest(tree).map_err(|error| lacks(name, chain(&error)))?;
        }
        Ok(())
    }

    /// For people: what stands in for the network.
    pub fn told(&self) -> String {
        format!(
            "{} ({}): {} images, {} files and {} repositories come from {}",
            self.file.display(),
            self.lock.digest(),
            self.images.len(),
            self.urls.len(),
            self.trees.len(),
            self.store.display()
        )
    }
}

/// Names the files of a repository.
fn called(git: &GitSource) -> String {
    format!("{} ({})", git.pinned_name(), git.part())
}
