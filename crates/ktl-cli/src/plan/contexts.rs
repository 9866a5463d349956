//! Named contexts and the images in directories among them: what is sent of this machine, and where it is in the jail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use buildsvc::contexts::{ContextSource, NamedContext};
use buildsvc::ocilayout::{INDEX, LayoutIndex, LayoutRef, MAX_INDEX};
use buildsvc::remote;

use super::{Facts, GuestStore, Kind, Local, guest_path, inputs};
use crate::failure::{Failure, chain};

/// Directories of this machine that a build reads, beside its context.
#[derive(Debug, Default)]
pub struct Shared {
    /// Whether they are seen from inside a jail.
    pub jailed: bool,
    pub attrs: BTreeMap<String, String>,
    pub locals: Vec<Local>,
    pub stores: Vec<GuestStore>,
    /// Where they are on the host, by the name of the local or the store.
    pub hosts: BTreeMap<String, PathBuf>,
    /// What is bound into the jail, read-only: from where, to where.
    pub rooms: Vec<(PathBuf, PathBuf)>,
    /// Of the frontend, which must know them.
    pub caps: Vec<&'static str>,
}

impl Shared {
    /// Where `host` is for the process that serves it.
    pub fn place(&mut self, host: &Path) -> PathBuf {
        if !self.jailed {
            return host.to_owned();
        }
        if let Some((_, guest)) = self.rooms.iter().find(|(known, _)| known == host) {
            return guest.clone();
        }
        let guest = Path::new(guest_path::SHARED).join(self.rooms.len().to_string());
        self.rooms.push((host.to_owned(), guest.clone()));
        guest
    }

    /// Adds the values of `--build-context`.
    pub fn add_contexts(&mut self, values: &[String], facts: &Facts) -> Result<(), Failure> {
        let contexts = NamedContext::list(values)
            .map_err(|error| Failure::usage(format!("--build-context: {}", chain(&error))))?;
        if !contexts.is_empty() {
            self.caps.push("moby.buildkit.frontend.contexts+forward");
        }
        for NamedContext { name, source } in contexts {
            let value = match source {
                ContextSource::Remote(value) => {
                    if remote::has_query(&value) {
                        self.caps.push("moby.buildkit.frontend.gitquerystring+forward");
                    }
                    value
                }
                ContextSource::Directory(path) => self.directory(&name, &path, facts)?,
                ContextSource::Layout(layout) => self.layout(&name, layout, facts)?,
            };
            self.attrs.insert(format!("context:{name}"), value);
        }
        Ok(())
    }

    fn directory(&mut self, name: &str, path: &Path, facts: &Facts) -> Result<String, Failure> {
        let path = facts.cwd.join(path);
        let host = (facts.real)(&path).unwrap_or(path);
        match (facts.kind_of)(&host) {
            Kind::Directory => {}
            Kind::Missing => {
                return Err(Failure::usage(format!(
                    "--build-context {name}: {} does not exist",
                    host.display()
                )));
            }
            Kind::File | Kind::Other => {
                return Err(Failure::usage(format!(
                    "--build-context {name}: {} is no directory",
                    host.display()
                )));
            }
        }
        // The build's own two keep their names.
        let local =
            if matches!(name, "context" | "dockerfile") { format!("_{name}") } else { name.to_owned() };
        self.attrs.insert(format!("sharedkey:localdir:{name}"), inputs::shared_key(&host, facts));
        let path = self.place(&host);
        self.locals.push(Local { name: local.clone(), path });
        self.hosts.insert(local.clone(), host);
        Ok(format!("local:{local}"))
    }

    fn layout(&mut self, name: &str, layout: LayoutRef, facts: &Facts) -> Result<String, Failure> {
        let path = facts.cwd.join(&layout.path);
        let host = (facts.real)(&path).unwrap_or(path);
        let failure = |why: &dyn std::fmt::Display| {
            Failure::usage(format!("--build-context {name}: the image in {}: {why}", host.display()))
        };
        let digest = match (&layout.digest, &layout.tag) {
            (Some(digest), _) => digest.clone(),
            (None, tag) => read_index(&host, facts)
                .and_then(|index| {
                    index.find_or_only(tag.as_deref().unwrap_or("latest")).map_err(|error| chain(&error))
                })
                .map_err(|error| failure(&error))?,
        };
        let store = self.layout_store(&host, facts);
        Ok(layout.attr(&store, &digest))
    }

    /// Offers the store of a layout; the daemon asks for it by a name that says nothing of the path.
    pub fn layout_store(&mut self, host: &Path, facts: &Facts) -> String {
        let store = inputs::hex_of(host, facts);
        let id = format!("oci:{store}");
        if !self.hosts.contains_key(&id) {
            let existing = Some(self.place(host));
            self.stores.push(GuestStore { id: id.clone(), existing, arriving: None });
            self.hosts.insert(id, host.to_owned());
        }
        store
    }
}

/// The index of the layout in `dir`; an error is told as a person reads it.
pub fn read_index(dir: &Path, facts: &Facts) -> Result<LayoutIndex, String> {
    let json = (facts.read)(&dir.join(INDEX), MAX_INDEX).map_err(|error| format!("{INDEX}: {error}"))?;
    LayoutIndex::parse(&json).map_err(|error| chain(&error))
}
