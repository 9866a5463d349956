//! What is asked of the builder beside the Dockerfile and its context: the network and limits of steps, entitlements, policies,
//! annotations. Names of attributes as docker buildx gives them (`build/opt.go`).

use buildsvc::annotation;
use buildsvc::build::Build;
use buildsvc::entitlement::Entitlement;
use buildsvc::sourcepolicy::SourcePolicy;
use buildsvc::steps::{self, ExtraHosts};

use super::{Facts, LOCAL_DELETE};
use crate::cli::{BuildArgs, StepFlags};
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::{Failure, chain};

/// A policy has a few rules; more than this is another file.
const POLICY_LIMIT: u64 = 1 << 20;

/// Adds to `build`, whose exports are known, all that the flags ask for.
pub fn add(args: &BuildArgs, env: &Env, facts: &Facts, build: &mut Build) -> Result<(), Failure> {
    let flags = &args.step;
    let entitlements = entitlements(flags)?;
    if args.sandbox.hermetic.is_on() {
        refuse_holes(flags, &entitlements)?;
    }
    build.entitlements = entitlements.iter().map(Entitlement::to_string).collect();
    let mut set = |key: &str, value: String| drop(build.frontend_attrs.insert(key.to_owned(), value));
    match flags.network.as_deref() {
        None | Some("" | "default") => {}
        Some(mode @ ("host" | "none")) => set("force-network-mode", mode.to_owned()),
        Some(mode) => {
            return Err(Failure::usage(format!("--network {mode}: there are default, host and none")).hint(
                "The network that `default` stands for is chosen in the builder's own configuration.",
            ));
        }
    }
    let hosts = ExtraHosts::parse(&flags.add_host).map_err(usage("--add-host"))?;
    if !hosts.attr.is_empty() {
        set("add-hosts", hosts.attr);
    }
    if let Some(size) = &flags.shm_size {
        match steps::bytes(size).map_err(usage("--shm-size"))? {
            0 => {}
            bytes => set("shm-size", bytes.to_string()),
        }
    }
    let ulimits = steps::ulimits(&flags.ulimit).map_err(usage("--ulimit"))?;
    if !ulimits.is_empty() {
        set("ulimit", ulimits);
    }
    for (key, value) in steps::resources(&flags.resources()).map_err(usage("--resource"))? {
        set(key, value);
    }
    if let Some(parent) = flags.cgroup_parent.as_ref().filter(|parent| !parent.is_empty()) {
        set("cgroup-parent", parent.clone());
    }
    if !args.build.no_cache_filter.is_empty() {
        set("no-cache", args.build.no_cache_filter.join(","));
    }
    build.gateway_hosts = hosts.gateways;
    for text in &args.result.annotation {
        for (key, value) in annotation::attrs(text).map_err(usage("--annotation"))? {
            for export in &mut build.exports {
                export.attrs.insert(key.clone(), value.clone());
            }
        }
    }
    build.source_policy = source_policy(flags, env, facts)?;
    Ok(())
}

fn usage<E: std::fmt::Display>(flag: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::usage(format!("{flag}: {error}"))
}

fn entitlements(flags: &StepFlags) -> Result<Vec<Entitlement>, Failure> {
    let mut entitlements: Vec<Entitlement> = Vec::new();
    for text in flags.allow.iter().filter(|text| !matches!(text.as_str(), "" | LOCAL_DELETE)) {
        let entitlement = text.parse().map_err(usage("--allow"))?;
        if !entitlements.contains(&entitlement) {
            entitlements.push(entitlement);
        }
    }
    if flags.network.as_deref() == Some("host") && !entitlements.contains(&Entitlement::HostNetwork) {
        entitlements.push(Entitlement::HostNetwork);
    }
    Ok(entitlements)
}

/// What would give a network, or the host, back to a build that is to have none.
fn refuse_holes(flags: &StepFlags, entitlements: &[Entitlement]) -> Result<(), Failure> {
    let hole = if flags.network.as_deref() == Some("host") {
        "--network host"
    } else if entitlements.contains(&Entitlement::HostNetwork) {
        "--allow network.host"
    } else if entitlements.contains(&Entitlement::Insecure) {
        // A step with all capabilities can enter the builder's own network.
        "--allow security.insecure"
    } else if !entitlements.is_empty() {
        "--allow device"
    } else {
        return Ok(());
    };
    Err(Failure::new(Exit::Policy, format!("--hermetic and {hole} contradict each other"))
        .hint("Leave one of them out."))
}

fn source_policy(flags: &StepFlags, env: &Env, facts: &Facts) -> Result<Option<SourcePolicy>, Failure> {
    const OF_ENV: &str = env::EXPERIMENTAL_BUILDKIT_SOURCE_POLICY;
    let (given, path) = match (&flags.source_policy_file, env.path(OF_ENV)) {
        (Some(path), _) => ("--source-policy-file", path.clone()),
        (None, Some(path)) => (OF_ENV, path),
        (None, None) => return Ok(None),
    };
    let path = facts.cwd.join(path);
    let failure = |why: &dyn std::fmt::Display| Failure::usage(format!("{given}: {}: {why}", path.display()));
    let json = (facts.read)(&path, POLICY_LIMIT).map_err(|error| failure(&error))?;
    SourcePolicy::parse(&json).map(Some).map_err(|error| failure(&chain(&error)))
}
