//! `ktl stage`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use buildsvc::dockerconfig::DockerConfig;
use buildsvc::lock::Lock;
use buildsvc::reference::ImageRef;
use clap::Args;

use super::build;
use crate::broker::{Names, Registry};
use crate::cli::NamesFlags;
use crate::depot::Depot;
use crate::display::{amounts, inert};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::outputs::PendingFile;
use crate::plan::{self, Facts, Named};
use crate::pull::{Bounds, PullError, Puller, Registries};
use crate::ui::Ui;

/// Fetch what a Dockerfile names into a store, and lock what it means
///
/// Reads the Dockerfile: FROM of all stages, COPY --from, RUN --mount=from, the syntax line, and what ADD names. Each image and file
/// is fetched into a directory on this machine and written down in ktl.lock with its digest; of a repository, the files of the commit
/// that it is at. `ktl build --hermetic` takes both, so that the same Dockerfile builds without a network. What the lock holds already stays as it is: on another machine the same command fetches
/// exactly the same.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct StageArgs {
    /// The build context, a directory
    #[arg(value_name = "PATH", default_value = ".")]
    pub context: PathBuf,
    #[command(flatten)]
    pub names: NamesFlags,
    /// The store, an OCI image layout; several projects may share one [default: `store` in ktl's cache directory; also:
    /// KTL_STORE]
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Ask for all names anew, instead of keeping what the lock says
    #[arg(long)]
    pub update: bool,
    /// Say only what is wrong
    #[arg(short, long)]
    pub quiet: bool,
}

const AFTER_HELP: &str = "Examples:
  ktl stage .                       fetch, and write ./ktl.lock: commit it
  ktl build . --hermetic            build from lock and store alone
  ktl stage . --update              take newer versions
  ktl stage . --to ./ktl-store      a store that a CI job can keep as a cache

Exit codes: 0 ok, 1 something could not be fetched or is not what the lock says, 2 usage,
5 an address that is not public and was not named";

pub fn run(args: &StageArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: args.quiet };
    let facts = build::facts(env)?;
    let named = Named::read(&args.context, &args.names, env, &facts)?;
    named.refuse_unknown()?;
    for unsure in &named.sources.unsure {
        ui.line(format_args!(
            "WARNING: {} is taken for a file of the context, since its variable is not known here",
            inert::text(unsure)
        ));
    }
    let old = if args.update { Lock::default() } else { named.lock(&facts)?.unwrap_or_default() };
    let depot = Depot::at(plan::store_dir(args.to.as_deref(), env, &facts)?);
    let broken = |error: &dyn std::error::Error| Failure::new(Exit::BuildFailed, chain(error));
    depot.make(&facts.nonce).map_err(|error| broken(&error))?;

    let images = named.images();
    let bounds = bounds(&args.names.allow_host)?;
    let registries = registries(images.keys(), &bounds, env, &ui)?;
    let puller = Puller::new(registries, &depot, bounds);
    let mut lock = Lock::default();
    let mut in_index = Vec::new();
    for (reference, platforms) in &images {
        let known = old.image(reference);
        ui.verbose(format_args!(
            "[stage] {reference}: {}",
            known.map_or("asking its registry".to_owned(), |known| format!("locked as {}", known.digest))
        ));
        let pulled = puller.pull(reference, known.map(|known| &known.digest), platforms);
        let mut pulled = pulled.map_err(|error| failed(reference, &error))?;
        ui.note(format_args!(
            "[stage] {reference}@{} for {}: {} blobs, {} fetched",
            pulled.image.digest,
            pulled.image.platforms.keys().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            pulled.blobs,
            shown(pulled.fetched),
        ));
        // Those that another machine needs stay locked; they are of the same index.
        if let Some(known) = known {
            for (platform, manifest) in &known.platforms {
                pulled.image.platforms.entry(platform.clone()).or_insert_with(|| manifest.clone());
            }
        }
        in_index.push((reference.to_string(), pulled.descriptor));
        lock.add_image(pulled.image).map_err(|error| broken(&error))?;
    }
    for source in &named.sources.urls {
        // A second one of that name which says something else of it does not fit the lock, and is told then.
        if lock.url(&source.url).is_some() {
            continue;
        }
        let (url, fetched) = puller
            .file(source, old.url(&source.url), &facts.nonce)
            .map_err(|error| failed(&"ADD", &error))?;
        ui.note(format_args!(
            "[stage] {} is {}, {} fetched",
            inert::text(&url.url),
            url.checksum,
            shown(fetched)
        ));
        lock.add_url(url).map_err(|error| broken(&error))?;
    }
    let search_path = env.get("PATH").unwrap_or_default();
    let mut gits = BTreeMap::new();
    for source in &named.sources.gits {
        let name = source.pinned_name();
        let git = gits.get(&name).or(old.git(&name));
        let git = puller.repository(source, git, &search_path, &facts.nonce);
        let (git, fetched) = git.map_err(|error| failed(&"ADD", &error))?;
        ui.note(format_args!(
            "[stage] {} is at {}: {}, {} fetched",
            inert::text(&name),
            git.commit,
            inert::text(&source.part()),
            shown(fetched)
        ));
        gits.insert(name, git);
    }
    for git in gits.into_values() {
        lock.add_git(git).map_err(|error| broken(&error))?;
    }
    depot.name(&in_index, &facts.nonce).map_err(|error| broken(&error))?;
    write(&lock, &old, &named, &facts, &ui)?;
    Ok(Exit::Ok)
}

fn shown(bytes: u64) -> String {
    amounts::bytes(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn write(lock: &Lock, old: &Lock, named: &Named, facts: &Facts, ui: &Ui) -> Result<(), Failure> {
    let path = named.lock_file.display();
    let digest = lock.digest();
    if *lock == *old && (facts.kind_of)(&named.lock_file) == plan::Kind::File {
        ui.note(format_args!("[stage] {path} is as it was ({digest})"));
        return Ok(());
    }
    let mut file = PendingFile::create(&named.lock_file, &facts.nonce)?;
    file.write_all(&lock.to_bytes())?;
    file.commit()?;
    ui.note(format_args!("[stage] wrote {path} ({digest})"));
    Ok(())
}

/// The places that are named with --allow-host.
pub fn bounds(named: &[String]) -> Result<Bounds, Failure> {
    let mut bounds = Bounds::default();
    for text in named {
        bounds.name(text).map_err(|error| {
            Failure::usage(format!("--allow-host: {text:?}: {error}"))
                .hint("The form is HOST[:PORT], such as localhost:5000 or registry.corp.example.")
        })?;
    }
    Ok(bounds)
}

pub fn failed(what: &dyn std::fmt::Display, error: &PullError) -> Failure {
    if let Some(beyond) = error.out_of_bounds() {
        return Failure::new(Exit::Policy, format!("{what}: {beyond}")).hint(format!(
            "A Dockerfile may be anybody's, so only public addresses are asked by themselves. --allow-host {} allows this one.",
            beyond.place
        ));
    }
    let failure = Failure::new(Exit::BuildFailed, format!("{what}: {}", chain(error)));
    match error {
        PullError::Refused { .. } => failure
            .hint("`docker login` the registry, or look at it with `ktl sandbox doctor --registry HOST`."),
        PullError::NotFound { .. } => {
            failure.hint("What is locked may be gone there: `ktl stage --update` takes what there is now.")
        }
        PullError::Changed { .. } => {
            failure.hint("`ktl stage --update` takes what there is now, when that is what you want.")
        }
        PullError::Tree { .. } => failure.hint(
            "Check it out yourself, and name the directory: --build-context NAME=DIR, COPY --from=NAME. \
             `?submodules=false` in the URL leaves submodules out.",
        ),
        _ => failure,
    }
}

/// The registries of these images, with the user's logins for them.
pub fn registries<'a>(
    images: impl Iterator<Item = &'a ImageRef>,
    bounds: &Bounds,
    env: &Env,
    ui: &Ui,
) -> Result<Registries, Failure> {
    let mut names = Names::default();
    images.for_each(|image| names.pull(image));
    let config = env.docker_config_dir().map(|dir| DockerConfig::read(&dir.join("config.json")));
    let config = config.transpose().unwrap_or_else(|error| {
        ui.line(format_args!("WARNING: no registry logins: {}", chain(&error)));
        None
    });
    let mut bounds = bounds.clone();
    for host in config.iter().flat_map(DockerConfig::hosts) {
        // What is no host of a registry names none.
        let _ = bounds.name(host);
    }
    let search_path: OsString = env.get("PATH").unwrap_or_default();
    let logins = Registry::new(config.unwrap_or_default(), search_path, None, names);
    Registries::new(logins, bounds)
        .map_err(|error| Failure::internal(format!("failed to make a pipe: {error}")))
}
