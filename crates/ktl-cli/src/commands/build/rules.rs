//! What the broker may give out in this build.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use buildsvc::dockerconfig::DockerConfig;
use buildsvc::dockerfile;

use crate::broker::Rules;
use crate::env::Env;
use crate::failure::{Failure, chain};
use crate::plan::{self, BuildPlan, HostPlan};
use crate::ui::Ui;

pub fn rules(plan: &BuildPlan, host: &HostPlan, env: &Env, ui: &Ui) -> Result<Rules, Failure> {
    let mut locals = BTreeMap::new();
    for (name, path) in &host.locals {
        let dir = File::open(path)
            .map_err(|error| Failure::usage(format!("failed to open {}: {error}", path.display())))?;
        locals.insert(name.clone(), OwnedFd::from(dir));
    }
    let logins = host.login_file.clone().or_else(|| Some(host.docker_config.as_ref()?.join("config.json")));
    if let Some(file) = &host.login_file {
        ui.note(format_args!(
            "[broker] registry logins come from {} (--sandbox-bind); they are used outside of the jail, which does not see the \
             file",
            file.display()
        ));
    }
    let docker_config = match logins {
        Some(file) => DockerConfig::read(&file).unwrap_or_else(|error| {
            // As docker does: a build may need no login, and one that does will say so.
            ui.line(format_args!("WARNING: no registry logins: {}", chain(&error)));
            DockerConfig::default()
        }),
        None => DockerConfig::default(),
    };
    let names =
        plan::names(&plan.build, &dockerfile(host.dockerfile.as_deref(), ui), &host.allowed_registries);
    ui.verbose(format_args!(
        "[broker] registries of this build: {}",
        names.hosts().collect::<Vec<_>>().join(", ")
    ));
    Ok(Rules {
        docker_config,
        names,
        token_seeds: host.docker_config.clone(),
        secrets: host.secrets.clone(),
        agents: host.agents.clone(),
        max_signatures: host.max_signatures,
        locals,
        program_search_path: env.get("PATH").unwrap_or_default(),
        audit: host.audit.clone(),
    })
}

/// The Dockerfile's text, for the images that it names. One that cannot be read names none, and the builder will say what
/// is wrong with it.
fn dockerfile(path: Option<&Path>, ui: &Ui) -> String {
    let Some(path) = path else {
        ui.verbose(format_args!(
            "[broker] the Dockerfile comes with the remote context, so logins go to registries of --tag, caches and --allow-registry only"
        ));
        return String::new();
    };
    let mut bytes = Vec::new();
    let read = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let read = read.and_then(|file| match file.metadata()?.is_file() {
        true => file.take(dockerfile::TEXT_LIMIT as u64 + 1).read_to_end(&mut bytes),
        false => Err(io::Error::other("it is no regular file")),
    });
    let why = match read {
        Ok(_) if bytes.len() > dockerfile::TEXT_LIMIT => "it is too long".to_owned(),
        Ok(_) => return String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    };
    ui.line(format_args!("WARNING: {} is not read for the registries that it names: {why}", path.display()));
    String::new()
}
