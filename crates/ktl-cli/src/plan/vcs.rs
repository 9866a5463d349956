//! What the context's repository adds to a build: the time of its commit for `--reproducible`, and what provenance tells of it.
//!
//! Names of attributes and variables as docker buildx has them (`build/git.go`). Unlike there, nothing says whether the work
//! tree was changed: that question has git run programs that the repository names.

use std::ffi::OsString;
use std::path::Path;

use buildsvc::build::Build;
use buildsvc::csv::boolean;
use buildsvc::remote;

use super::inputs::Inputs;
use super::{BuildPlan, Facts};
use crate::cli::BuildArgs;
use crate::env::{self, Env};
use crate::failure::{Failure, chain};
use crate::repository::{Repository, RepositoryError};

const EPOCH: &str = "build-arg:SOURCE_DATE_EPOCH";
/// The frontend finds the commit of a context that the daemon fetches.
const OF_CONTEXT: &str = "context";
/// Times go to the daemon as nanoseconds in 64 bits.
const LATEST: i64 = i64::MAX / 1_000_000_000;

/// Adds to the plan, whose exports are known, what the repository around the context says.
pub fn add(
    args: &BuildArgs,
    env: &Env,
    facts: &Facts,
    inputs: &Inputs,
    plan: &mut BuildPlan,
    warnings: &mut Vec<String>,
) -> Result<(), Failure> {
    let search_path = env.get("PATH").unwrap_or_default();
    let found = inputs.directory().map_or(Ok(None), facts.repository);
    if args.build.reproducible {
        let epoch = match plan.build.frontend_attrs.get(EPOCH).filter(|value| !value.is_empty()) {
            Some(given) => given.clone(),
            None => of_commit(inputs, &found, &search_path)?,
        };
        reproducibly(&epoch, inputs, plan)?;
    }
    let told = found.and_then(|found| {
        found.map_or(Ok(()), |repository| tell(&repository, env, inputs, &search_path, &mut plan.build))
    });
    match told {
        // Nobody has committed anything yet.
        Ok(()) | Err(RepositoryError::NoCommit) => {}
        Err(error) => {
            warnings.push(format!("provenance does not tell the context's commit: {}", chain(&error)))
        }
    }
    Ok(())
}

/// The time of the commit that the context is at.
fn of_commit(
    inputs: &Inputs,
    found: &Result<Option<Repository>, RepositoryError>,
    search_path: &OsString,
) -> Result<String, Failure> {
    let no_time = |why: String| {
        Failure::usage(format!("--reproducible: no time to set files and images to: {why}")).hint(
            "Set it in seconds since 1970, in the environment or as a build argument: SOURCE_DATE_EPOCH=1700000000 ktl build …",
        )
    };
    match (inputs.remote(), inputs.directory()) {
        (Some(url), _) if remote::is_repository(url) => return Ok(OF_CONTEXT.to_owned()),
        (Some(_), _) => return Err(no_time("a context that is no git repository has no commit".to_owned())),
        (None, None) => return Err(no_time("a context from standard input has no commit".to_owned())),
        (None, Some(_)) => {}
    }
    let repository = match found {
        Ok(Some(repository)) => repository,
        Ok(None) => return Err(no_time("the context is in no git repository".to_owned())),
        Err(error) => return Err(no_time(format!("the context's git repository: {}", chain(error)))),
    };
    let time = repository.head().and_then(|commit| repository.committed_at(&commit, search_path));
    time.map(|time| time.to_string()).map_err(|error| {
        no_time(format!("the git repository {}: {}", repository.root.display(), chain(&error)))
    })
}

/// Makes the build one whose results hold no other time than `epoch`, and nothing else that changes from run to run.
fn reproducibly(epoch: &str, inputs: &Inputs, plan: &mut BuildPlan) -> Result<(), Failure> {
    let build = &mut plan.build;
    let of_context = epoch == OF_CONTEXT && inputs.remote().is_some_and(remote::is_repository);
    let seconds = epoch.parse().ok().filter(|seconds| (0..=LATEST).contains(seconds));
    if seconds.is_none() && !of_context {
        return Err(Failure::usage(format!(
            "--reproducible: SOURCE_DATE_EPOCH={epoch} is no time in seconds since 1970"
        )));
    }
    for export in &mut build.exports {
        if !["image", "oci", "docker"].contains(&export.kind.as_str()) {
            continue;
        }
        let is = |key: &str, wanted| export.attrs.get(key).and_then(|value| boolean(value)) == Some(wanted);
        if is("unpack", true) {
            return Err(Failure::usage(
                "--reproducible goes with no unpack=true: the builder unpacks layers with their old times",
            ));
        }
        if is("rewrite-timestamp", false) {
            return Err(Failure::usage("--reproducible and rewrite-timestamp=false contradict each other"));
        }
        export.attrs.insert("rewrite-timestamp".to_owned(), "true".to_owned());
    }
    build.frontend_attrs.insert(EPOCH.to_owned(), epoch.to_owned());
    build.reproducible = true;
    // It holds when it was made, and by which run.
    build.default_provenance = false;
    if seconds.is_some() {
        // Rewriting turns later times into the epoch and leaves earlier ones, which are this machine's as well.
        plan.times = seconds;
        plan.shared_key = format!("{}:{}", plan.shared_key, plan.nonce);
    }
    Ok(())
}

fn tell(
    repository: &Repository,
    env: &Env,
    inputs: &Inputs,
    search_path: &OsString,
    build: &mut Build,
) -> Result<(), RepositoryError> {
    let set = |name| env.text(name).and_then(|text| if text == "full" { Some(true) } else { boolean(&text) });
    let info = set(env::BUILDX_GIT_INFO) != Some(false);
    let labels = set(env::BUILDX_GIT_LABELS) == Some(true);
    if !info && !labels {
        return Ok(());
    }
    let mut insert = |key: String, value: &str| {
        build.frontend_attrs.entry(key).or_insert_with(|| value.to_owned());
    };
    let mut both = |label: &str, key: &str, value: &str| {
        if labels {
            insert(format!("label:org.opencontainers.image.{label}"), value);
        }
        if info {
            insert(format!("vcs:{key}"), value);
        }
    };
    both("revision", "revision", &repository.head()?);
    if let Some(source) = repository.source(search_path) {
        both("source", "source", &source);
    }
    let below = |path: &Path| {
        path.strip_prefix(&repository.root).ok().map(|path| path.to_string_lossy().into_owned())
    };
    if labels && let Some(path) = inputs.dockerfile().and_then(|path| below(&path)) {
        insert("label:com.docker.image.source.entrypoint".to_owned(), &path);
    }
    if info {
        for (name, path) in inputs.locals() {
            if let Some(path) = below(path) {
                insert(format!("vcs:localdir:{name}"), if path.is_empty() { "." } else { &path });
            }
        }
    }
    Ok(())
}
