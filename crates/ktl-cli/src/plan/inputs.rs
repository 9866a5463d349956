//! What goes into a build: the context, the Dockerfile, and what the frontend is told about them.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use buildsvc::platform::Platform;
use sha2::Digest as _;

use super::{Facts, Kind, guest_path};
use crate::cli::BuildArgs;
use crate::env::{self, Env};
use crate::failure::Failure;

/// The context and the Dockerfile.
pub struct Inputs {
    pub context: PathBuf,
    pub dockerfile_dir: PathBuf,
    dockerfile_name: String,
}

impl Inputs {
    pub fn resolve(args: &BuildArgs, facts: &Facts) -> Result<Inputs, Failure> {
        let given = &args.context;
        if given == Path::new("-") || given.to_string_lossy().contains("://") {
            return Err(Failure::usage(format!("the build context `{}` is no directory", given.display()))
                .hint("This version builds local directories only."));
        }
        let context = facts.cwd.join(given);
        let context = (facts.real)(&context).unwrap_or(context);
        match (facts.kind_of)(&context) {
            Kind::Directory => {}
            Kind::Missing => {
                return Err(Failure::usage(format!(
                    "the build context {} does not exist",
                    context.display()
                )));
            }
            Kind::File | Kind::Other => {
                return Err(Failure::usage(format!(
                    "the build context {} is not a directory",
                    context.display()
                )));
            }
        }
        let file = match &args.build.file {
            Some(file) if file == Path::new("-") => {
                return Err(Failure::usage("this version reads no Dockerfile from standard input")
                    .hint("Name a file: -f FILE"));
            }
            Some(file) => facts.cwd.join(file),
            None => {
                let upper = context.join("Dockerfile");
                let lower = context.join("dockerfile");
                let exists = |path: &Path| (facts.kind_of)(path) != Kind::Missing;
                if !exists(&upper) && exists(&lower) { lower } else { upper }
            }
        };
        match (facts.kind_of)(&file) {
            Kind::Missing => {
                return Err(Failure::usage(format!("there is no Dockerfile at {}", file.display()))
                    .hint("Name it with -f FILE; the path is relative to the current directory."));
            }
            Kind::Directory => {
                return Err(Failure::usage(format!("the Dockerfile {} is a directory", file.display())));
            }
            Kind::File | Kind::Other => {}
        }
        let name = file.file_name().unwrap_or_default();
        let dockerfile_name = name
            .to_str()
            .ok_or_else(|| Failure::usage(format!("the Dockerfile's name {} is not UTF-8", file.display())))?
            .to_owned();
        let dir = file.parent().unwrap_or(Path::new("/"));
        let dockerfile_dir = (facts.real)(dir).unwrap_or_else(|| dir.to_owned());
        Ok(Inputs { context, dockerfile_dir, dockerfile_name })
    }

    pub fn dockerfile(&self) -> PathBuf {
        self.dockerfile_dir.join(&self.dockerfile_name)
    }

    /// Where a host path of the inputs is in the jail: the one place where this mapping is made.
    pub fn guest_path(&self, host: &Path) -> PathBuf {
        match host.strip_prefix(&self.context) {
            Ok(below) if below.as_os_str().is_empty() => PathBuf::from(guest_path::CONTEXT),
            Ok(below) => Path::new(guest_path::CONTEXT).join(below),
            Err(_) => PathBuf::from(guest_path::DOCKERFILE),
        }
    }
}

/// `FrontendAttrs` of the builtin Dockerfile frontend; names as docker buildx gives them (`build/opt.go`).
pub fn frontend_attrs(
    args: &BuildArgs,
    inputs: &Inputs,
    env: &Env,
) -> Result<BTreeMap<String, String>, Failure> {
    let flags = &args.build;
    let mut attrs = BTreeMap::new();
    attrs.insert("filename".to_owned(), inputs.dockerfile_name.clone());
    if let Some(target) = &flags.target {
        attrs.insert("target".to_owned(), target.clone());
    }
    if let Some(epoch) = env.text(env::SOURCE_DATE_EPOCH) {
        attrs.insert(format!("build-arg:{}", env::SOURCE_DATE_EPOCH), epoch);
    }
    for arg in &flags.build_arg {
        match arg.split_once('=') {
            Some(("", _)) => return Err(Failure::usage(format!("--build-arg `{arg}` names no variable"))),
            Some((key, value)) => drop(attrs.insert(format!("build-arg:{key}"), value.to_owned())),
            None => {
                if let Some(value) = env.text(arg) {
                    attrs.insert(format!("build-arg:{arg}"), value);
                }
            }
        }
    }
    for label in &flags.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if key.is_empty() {
            return Err(Failure::usage(format!("--label `{label}` names no key")));
        }
        attrs.insert(format!("label:{key}"), value.to_owned());
    }
    if !flags.platform.is_empty() {
        let platforms = Platform::list(&flags.platform)
            .map_err(|error| Failure::usage(format!("--platform: {error}")))?;
        let platforms: Vec<String> = platforms.iter().map(Platform::to_string).collect();
        attrs.insert("platform".to_owned(), platforms.join(","));
    }
    if flags.no_cache {
        attrs.insert("no-cache".to_owned(), String::new());
    }
    if flags.pull {
        attrs.insert("image-resolve-mode".to_owned(), "pull".to_owned());
    }
    Ok(attrs)
}

/// Which of the daemon's copies of a context this is: the same for the same directory of the same user on the same host.
/// It decides what must be sent again, never what is built.
pub fn shared_key(context: &Path, facts: &Facts) -> String {
    let mut text = format!("{}\0{}\0", facts.host_name, facts.uid).into_bytes();
    text.extend_from_slice(context.as_os_str().as_bytes());
    let name = context.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let digest = sha2::Sha256::digest(&text);
    let hex: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}:{hex}")
}
