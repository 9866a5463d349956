//! Caches to read and to write. Credentials that docker buildx takes from the environment are taken here; they stay on the host
//! side and are given to the guest when it asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use buildsvc::build::CacheEntry;
use buildsvc::cache;
use buildsvc::csv::boolean;
use buildsvc::digest::Digest;
use buildsvc::session::host::Secret;
use buildsvc::store;

use super::contexts::{Shared, read_index};
use super::{Facts, GuestStore, Kind, guest_path};
use crate::broker::{SecretOrigin, SecretSource};
use crate::cli::BuildArgs;
use crate::env::Env;
use crate::failure::Failure;
use crate::outputs;

/// Attributes that nobody but the daemon should see.
const SECRET_ATTRS: &[&str] = &["token", "ghtoken", "access_key_id", "secret_access_key", "session_token"];

/// The caches of a build.
#[derive(Debug, Default)]
pub struct Caches {
    pub imports: Vec<CacheEntry>,
    pub exports: Vec<CacheEntry>,
    pub stores: Vec<CacheStore>,
    /// What the guest asks for; the ids name nothing that a build step could ask for.
    pub secrets: Vec<SecretSource>,
    /// Caches that there are not.
    pub warnings: Vec<String>,
}

/// A directory that a cache is written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheStore {
    pub dest: PathBuf,
    /// Where new blobs are received.
    pub staging: PathBuf,
    /// Where that is in the jail.
    pub guest: PathBuf,
    pub tag: String,
    /// Whether what the index does not lead to is to go.
    pub reset: bool,
}

impl Caches {
    pub fn resolve(
        args: &BuildArgs,
        env: &Env,
        facts: &Facts,
        shared: &mut Shared,
    ) -> Result<Caches, Failure> {
        let mut caches = Caches::default();
        let imports = cache::list(&args.build.cache_from, "src")
            .map_err(|error| Failure::usage(format!("--cache-from: {error}")))?;
        for entry in imports {
            let Some(mut entry) = caches.with_credentials(entry, env) else { continue };
            if entry.kind == "local" {
                let Some(digest) = caches.read_local(&entry, facts, shared)? else { continue };
                entry.attrs.insert("digest".to_owned(), digest.to_string());
            }
            caches.imports.push(entry);
        }
        let mut exports = cache::list(&args.build.cache_to, "dest")
            .map_err(|error| Failure::usage(format!("--cache-to: {error}")))?;
        if inline_cache_argument(args, env) {
            exports.push(CacheEntry::new("inline", []));
        }
        for entry in exports {
            if let Some(entry) = caches.with_credentials(entry, env) {
                if entry.kind == "local" {
                    caches.write_local(&entry, facts, shared)?;
                }
                caches.exports.push(entry);
            }
        }
        Ok(caches)
    }

    /// `None` where the cache is GitHub's and this is no workflow of GitHub's.
    fn with_credentials(&mut self, mut entry: CacheEntry, env: &Env) -> Option<CacheEntry> {
        let attrs = &mut entry.attrs;
        match entry.kind.as_str() {
            "gha" => {
                let second = match attrs.get("version") {
                    Some(version) => version == "2",
                    None => env
                        .text("ACTIONS_CACHE_SERVICE_V2")
                        .is_some_and(|value| boolean(&value) == Some(true)),
                };
                fill(attrs, "token", env, &["ACTIONS_RUNTIME_TOKEN"]);
                fill(attrs, "url", env, &["ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL"]);
                if second {
                    fill(attrs, "url_v2", env, &["ACTIONS_RESULTS_URL"]);
                }
                let has = |attr: &str| attrs.get(attr).is_some_and(|value| !value.is_empty());
                if !has("token") || !(has("url") || has("url_v2")) {
                    return None;
                }
            }
            "s3" if !(attrs.contains_key("access_key_id") && attrs.contains_key("secret_access_key")) => {
                fill(attrs, "access_key_id", env, &["AWS_ACCESS_KEY_ID"]);
                fill(attrs, "secret_access_key", env, &["AWS_SECRET_ACCESS_KEY"]);
                fill(attrs, "session_token", env, &["AWS_SESSION_TOKEN"]);
            }
            _ => {}
        }
        for attr in SECRET_ATTRS {
            if let Some(value) = entry.attrs.remove(*attr) {
                let id = format!("ktl/cache/{}", self.secrets.len());
                let origin =
                    SecretOrigin::Env { name: (*attr).to_owned(), value: Secret(value.into_bytes()) };
                self.secrets.push(SecretSource { id: id.clone(), origin });
                entry.secrets.insert((*attr).to_owned(), id);
            }
        }
        Some(entry)
    }

    /// Offers the store of a cache to the daemon; `None`, with a warning, when there is no such cache.
    fn read_local(
        &mut self,
        entry: &CacheEntry,
        facts: &Facts,
        shared: &mut Shared,
    ) -> Result<Option<Digest>, Failure> {
        let src = &entry.attrs["src"];
        if entry.attrs.get("tag").is_some_and(String::is_empty) {
            return Err(Failure::usage("--cache-from type=local: an empty tag names no cache"));
        }
        match local_digest(entry, facts) {
            Ok(digest) => {
                let host = facts.cwd.join(src);
                shared.store(&format!("local:{src}"), &(facts.real)(&host).unwrap_or(host));
                Ok(Some(digest))
            }
            Err(why) => {
                self.warnings.push(format!("--cache-from type=local,src={src}: skipped: {why}"));
                Ok(None)
            }
        }
    }

    fn write_local(&mut self, entry: &CacheEntry, facts: &Facts, shared: &mut Shared) -> Result<(), Failure> {
        let typed = &entry.attrs["dest"];
        let dest = facts.cwd.join(typed);
        let dest = (facts.real)(&dest).unwrap_or(dest);
        if !matches!((facts.kind_of)(&dest), Kind::Directory | Kind::Missing) {
            return Err(Failure::usage(format!("--cache-to: {} is no directory", dest.display())));
        }
        if self.stores.iter().any(|store| store.dest == dest) {
            return Err(Failure::usage(format!("--cache-to: {} is named twice", dest.display())));
        }
        let reset = match entry.attrs.get("reset") {
            None => false,
            Some(value) => boolean(value)
                .ok_or_else(|| Failure::usage(format!("--cache-to: reset={value} is no boolean")))?,
        };
        let name = format!("cache-{}", self.stores.len());
        let staging = dest.join(format!("{}-{name}", outputs::staging_name(&facts.nonce)));
        let guest = Path::new(guest_path::OUTPUT).join(name);
        let tag = entry.attrs.get("tag").cloned().unwrap_or_else(|| "latest".to_owned());
        let arriving = if shared.jailed { guest.clone() } else { staging.clone() };
        shared.store(&format!("local:{typed}"), &dest).arriving = Some(arriving);
        self.stores.push(CacheStore { dest, staging, guest, tag, reset });
        Ok(())
    }
}

/// Takes an attribute that was not given from the first of `variables` that is set.
fn fill(attrs: &mut BTreeMap<String, String>, attr: &str, env: &Env, variables: &[&str]) {
    if !attrs.contains_key(attr)
        && let Some(value) = variables.iter().find_map(|variable| env.text(variable))
    {
        attrs.insert(attr.to_owned(), value);
    }
}

impl Shared {
    /// The store called `id`, which lies in `host`.
    fn store(&mut self, id: &str, host: &Path) -> &mut GuestStore {
        let at = match self.stores.iter().position(|store| store.id == id) {
            Some(at) => at,
            None => {
                let existing = Some(self.place(host));
                self.stores.push(GuestStore { id: id.to_owned(), existing, arriving: None });
                self.hosts.insert(id.to_owned(), host.to_owned());
                self.stores.len() - 1
            }
        };
        &mut self.stores[at]
    }
}

/// What the daemon begins with; an error is told as a person reads it.
fn local_digest(entry: &CacheEntry, facts: &Facts) -> Result<Digest, String> {
    let dir = facts.cwd.join(entry.attrs.get("src").map(String::as_str).unwrap_or_default());
    let digest = match entry.attrs.get("digest").filter(|digest| !digest.is_empty()) {
        Some(digest) => digest.parse().map_err(|error| format!("{error}"))?,
        None => {
            let tag = entry.attrs.get("tag").map_or("latest", String::as_str);
            read_index(&dir, facts)?.find(tag).map_err(|error| error.to_string())?
        }
    };
    match (facts.kind_of)(&dir.join(store::blob(&digest))) {
        Kind::File => Ok(digest),
        _ => Err(format!("it has no blob {digest}")),
    }
}

/// docker's old way to ask for a cache in the image.
fn inline_cache_argument(args: &BuildArgs, env: &Env) -> bool {
    const NAME: &str = "BUILDKIT_INLINE_CACHE";
    let value = args.build.build_arg.iter().rev().find_map(|arg| match arg.split_once('=') {
        Some((NAME, value)) => Some(Some(value.to_owned())),
        None if arg == NAME => Some(env.text(NAME)),
        _ => None,
    });
    value.flatten().is_some_and(|value| boolean(&value) == Some(true))
}
