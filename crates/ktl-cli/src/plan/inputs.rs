//! What goes into a build: the context, the Dockerfile, and what the frontend is told about them.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use buildsvc::platform::Platform;
use buildsvc::remote;
use buildsvc::session::Upload;
use sha2::Digest as _;

use super::{Facts, Kind, guest_path};
use crate::cli::BuildArgs;
use crate::env::{self, Env};
use crate::failure::Failure;
use crate::piped::{self, Piped};

/// The URL of a Dockerfile that is on the web; what is there lies beside what is piped in by the time that a build is planned.
pub fn url_of(file: Option<&Path>) -> Option<&str> {
    file?.to_str().filter(|file| remote::is_http(file))
}

/// The context and the Dockerfile.
pub struct Inputs {
    /// What the jail shows as its workspace: the context, or an empty directory where that is somewhere else.
    pub workspace: PathBuf,
    context: Context,
    /// Where the Dockerfile is; `None` where it is in a context that is no directory.
    dockerfile_dir: Option<PathBuf>,
    dockerfile_name: String,
    /// The Dockerfile is not the context's although that is elsewhere, or was not a file at all.
    own_dockerfile: bool,
}

/// Where the context is.
#[derive(Debug, PartialEq, Eq)]
enum Context {
    Directory,
    /// An empty one: nothing but a Dockerfile was given.
    Nothing,
    /// The daemon fetches it.
    Remote(String),
    /// An archive, sent as this upload.
    Upload(String),
}

/// The Dockerfile of a context that is a directory of this machine.
pub fn dockerfile_of(context: &Path, file: Option<&Path>, facts: &Facts) -> Result<PathBuf, Failure> {
    let is_stdin = |path: &Path| path == Path::new("-");
    let path = facts.cwd.join(context);
    let path = (facts.real)(&path).unwrap_or(path);
    let kind = (facts.kind_of)(&path);
    let remote = kind != Kind::Directory && context.to_str().is_some_and(remote::is_remote);
    if remote || is_stdin(context) || file.is_some_and(is_stdin) || url_of(file).is_some() {
        return Err(Failure::usage("only a Dockerfile that is a file of this machine is read here")
            .hint("Name a directory, and the Dockerfile with -f FILE."));
    }
    let inputs = Inputs::of_directory(path, kind, file, facts)?;
    inputs.dockerfile().ok_or_else(|| Failure::internal("a directory without a Dockerfile"))
}

impl Inputs {
    pub fn resolve(args: &BuildArgs, facts: &Facts) -> Result<Inputs, Failure> {
        let given = &args.context;
        let file = args.build.file.as_deref();
        let path = facts.cwd.join(given);
        let path = (facts.real)(&path).unwrap_or(path);
        let kind = (facts.kind_of)(&path);
        let of_stdin = given == Path::new("-");
        let remote =
            given.to_str().filter(|text| !of_stdin && kind != Kind::Directory && remote::is_remote(text));
        if !of_stdin && remote.is_none() {
            return Inputs::of_directory(path, kind, file, facts);
        }
        let scratch =
            facts.scratch.as_ref().ok_or_else(|| Failure::internal("no directory for the inputs"))?;
        let mut inputs = Inputs {
            workspace: scratch.join(piped::CONTEXT),
            context: Context::Nothing,
            dockerfile_dir: None,
            dockerfile_name: "Dockerfile".to_owned(),
            own_dockerfile: false,
        };
        match (remote, &facts.piped) {
            (Some(url), _) => inputs.context = Context::Remote(url.to_owned()),
            (None, Some(Piped::Archive { .. })) => inputs.context = Context::Upload(facts.reference.clone()),
            (None, _) if file.is_some() => {
                return Err(Failure::usage(
                    "the Dockerfile came on standard input, and -f names another one",
                ));
            }
            (None, _) => {}
        }
        match file {
            _ if facts.piped == Some(Piped::Dockerfile) => inputs.use_piped_dockerfile(scratch),
            Some(file) if url_of(Some(file)).is_some() => inputs.use_piped_dockerfile(scratch),
            // As docker buildx has it: an absolute path is one of this machine, others are in the context.
            Some(file) if file.is_absolute() && remote.is_some() => {
                inputs.use_dockerfile(file.to_owned(), facts)?;
                inputs.own_dockerfile = true;
            }
            Some(file) => {
                inputs.dockerfile_name = file
                    .to_str()
                    .ok_or_else(|| Failure::usage(format!("-f {}: not UTF-8", file.display())))?
                    .to_owned();
            }
            None => {}
        }
        Ok(inputs)
    }

    fn of_directory(
        context: PathBuf,
        kind: Kind,
        file: Option<&Path>,
        facts: &Facts,
    ) -> Result<Inputs, Failure> {
        match kind {
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
        let mut inputs = Inputs {
            workspace: context.clone(),
            context: Context::Directory,
            dockerfile_dir: None,
            dockerfile_name: "Dockerfile".to_owned(),
            own_dockerfile: false,
        };
        let file = match file {
            Some(file) if file == Path::new("-") || url_of(Some(file)).is_some() => {
                let scratch =
                    facts.scratch.as_ref().ok_or_else(|| Failure::internal("no directory for the inputs"))?;
                inputs.use_piped_dockerfile(scratch);
                return Ok(inputs);
            }
            Some(file) => facts.cwd.join(file),
            None => {
                let upper = context.join("Dockerfile");
                let lower = context.join("dockerfile");
                let exists = |path: &Path| (facts.kind_of)(path) != Kind::Missing;
                if !exists(&upper) && exists(&lower) { lower } else { upper }
            }
        };
        inputs.use_dockerfile(file, facts)?;
        Ok(inputs)
    }

    fn use_piped_dockerfile(&mut self, scratch: &Path) {
        self.dockerfile_dir = Some(scratch.join(piped::DOCKERFILE));
        self.own_dockerfile = true;
    }

    fn use_dockerfile(&mut self, file: PathBuf, facts: &Facts) -> Result<(), Failure> {
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
        self.dockerfile_name = name
            .to_str()
            .ok_or_else(|| Failure::usage(format!("the Dockerfile's name {} is not UTF-8", file.display())))?
            .to_owned();
        let dir = file.parent().unwrap_or(Path::new("/"));
        self.dockerfile_dir = Some((facts.real)(dir).unwrap_or_else(|| dir.to_owned()));
        Ok(())
    }

    /// The directories that the daemon may ask for, by name.
    pub fn locals(&self) -> Vec<(&'static str, &Path)> {
        let context = matches!(self.context, Context::Directory | Context::Nothing);
        let context = context.then_some(("context", self.workspace.as_path()));
        context.into_iter().chain(self.dockerfile_dir.as_deref().map(|dir| ("dockerfile", dir))).collect()
    }

    /// The Dockerfile on this machine.
    pub fn dockerfile(&self) -> Option<PathBuf> {
        self.dockerfile_dir.as_ref().map(|dir| dir.join(&self.dockerfile_name))
    }

    /// Where a host path of the inputs is in the jail: the one place where this mapping is made.
    pub fn guest_path(&self, host: &Path) -> PathBuf {
        match host.strip_prefix(&self.workspace) {
            Ok(below) if below.as_os_str().is_empty() => PathBuf::from(guest_path::CONTEXT),
            Ok(below) => Path::new(guest_path::CONTEXT).join(below),
            Err(_) => PathBuf::from(guest_path::DOCKERFILE),
        }
    }

    /// Which of the daemon's copies of the context this is.
    pub fn shared_key(&self, facts: &Facts) -> String {
        match &self.context {
            Context::Directory => shared_key(&self.workspace, facts),
            Context::Remote(url) => shared_key(Path::new(url), facts),
            Context::Nothing | Context::Upload(_) => shared_key(Path::new("-"), facts),
        }
    }

    /// The context's directory on this machine, where it is one of the user's.
    pub fn directory(&self) -> Option<&Path> {
        (self.context == Context::Directory).then_some(self.workspace.as_path())
    }

    /// The context that the daemon fetches.
    pub fn remote(&self) -> Option<&str> {
        match &self.context {
            Context::Remote(url) => Some(url),
            _ => None,
        }
    }

    /// The archive that is sent: its name among the uploads of this build.
    pub fn upload(&self) -> Option<&str> {
        match &self.context {
            Context::Upload(id) => Some(id),
            _ => None,
        }
    }

    /// Whether the context is a repository that is fetched over ssh.
    pub fn needs_agent(&self) -> bool {
        matches!(&self.context, Context::Remote(url) if remote::is_over_ssh(url))
    }

    /// What the frontend has to know for the context.
    pub fn caps(&self) -> Option<&'static str> {
        match &self.context {
            Context::Remote(url) if remote::has_query(url) => Some("moby.buildkit.frontend.gitquerystring"),
            _ => None,
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
    match &inputs.context {
        Context::Directory | Context::Nothing => {}
        Context::Remote(url) => drop(attrs.insert("context".to_owned(), url.clone())),
        Context::Upload(id) => drop(attrs.insert("context".to_owned(), Upload::url(id))),
    }
    if inputs.own_dockerfile {
        attrs.insert("dockerfilekey".to_owned(), "dockerfile".to_owned());
    }
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
    let name = context.file_name().unwrap_or_default().to_string_lossy().into_owned();
    format!("{name}:{}", hex_of(context, facts))
}

/// A number that stands for a path of this user on this host.
pub fn hex_of(path: &Path, facts: &Facts) -> String {
    let mut text = format!("{}\0{}\0", facts.host_name, facts.uid).into_bytes();
    text.extend_from_slice(path.as_os_str().as_bytes());
    let digest = sha2::Sha256::digest(&text);
    digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
