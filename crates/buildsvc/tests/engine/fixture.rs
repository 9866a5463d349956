//! A daemon that tests share while any of them uses it, contexts for it, and a host side that answers from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use buildsvc::build::{Build, BuildResult, Export, run};
use buildsvc::client::Client;
use buildsvc::context::LocalDir;
use buildsvc::error::{BuildError, SolveFailure};
use buildsvc::event::Event;
use buildsvc::export::Receiver;
use buildsvc::patience::Patience;
use buildsvc::session::host::{Credentials, Host, HostError, Secret, Token, TokenRequest};
use buildsvc::session::{Output, Session, Sink};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use xtask::parts::{Buildkitd, Options, ScratchDir};

/// Nothing in here takes this long; what does hangs.
pub const HANG: Duration = Duration::from_secs(120);

pub const ANSWER: Duration = Duration::from_secs(20);

/// A Dockerfile's beginning: a busybox whose shell and applets work.
pub const BUSYBOX: &str = "FROM scratch AS base\n\
    COPY busybox /bin/busybox\n\
    RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";

pub struct Engine {
    pub daemon: Buildkitd,
    // Goes last.
    pub scratch: ScratchDir,
}

impl Engine {
    pub fn start(label: &str, options: &Options) -> Engine {
        let scratch = ScratchDir::new(label).unwrap();
        let daemon = Buildkitd::start(&scratch.join("d"), options).unwrap();
        Engine { daemon, scratch }
    }

    /// The daemon of all tests that need nothing of their own.
    pub fn shared() -> Arc<Engine> {
        static SHARED: Mutex<Weak<Engine>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let engine = Arc::new(Engine::start("engine", &Options::default()));
            *shared = Arc::downgrade(&engine);
            engine
        })
    }

    pub async fn client(&self) -> Client {
        let stream = tokio::net::UnixStream::connect(self.daemon.socket()).await.unwrap();
        Client::over(stream).await.unwrap()
    }

    /// A directory with a Dockerfile, a busybox, and `files`.
    pub fn context(&self, name: &str, dockerfile: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.scratch.dir(name).unwrap();
        fs::write(dir.join("Dockerfile"), dockerfile).unwrap();
        fs::copy(xtask::tools::busybox().unwrap(), dir.join("busybox")).unwrap();
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }
}

pub fn export(kind: &str, attrs: &[(&str, &str)]) -> Export {
    let attrs = attrs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    Export { kind: kind.to_owned(), attrs }
}

pub fn file_output(path: &Path) -> Option<Output> {
    let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).unwrap();
    Some(Output::new(path.display().to_string(), Sink::File(file)))
}

pub fn directory_output(path: &Path) -> Option<Output> {
    fs::create_dir_all(path).unwrap();
    let dir: OwnedFd = fs::File::open(path).unwrap().into();
    Some(Output::new(path.display().to_string(), Sink::Directory(Arc::new(Receiver::new(dir)))))
}

/// A build under preparation.
pub struct Job {
    pub build: Build,
    pub session: Session,
    pub cancel: CancellationToken,
    pub patience: Patience,
}

/// What a build said and how it ended.
pub struct Report {
    pub events: Vec<Event>,
    pub end: Result<BuildResult, BuildError>,
}

impl Job {
    /// Builds the directory's Dockerfile; `name` keeps the caches of tests apart.
    pub fn new(context: &Path) -> Job {
        let dir = |name| LocalDir::open(name, context).unwrap();
        let locals = ["context", "dockerfile"].map(|name| (name.to_owned(), dir(name)));
        Job {
            build: Build {
                reference: buildsvc::identity::fresh(),
                frontend: "dockerfile.v0".to_owned(),
                ..Build::default()
            },
            session: Session {
                shared_key: context.display().to_string(),
                locals: locals.into(),
                outputs: Vec::new(),
                host: Arc::new(Memory::default()),
                secrets: BTreeSet::new(),
                agents: BTreeSet::new(),
                stores: BTreeMap::new(),
                upload: None,
                witness: None,
                verifier: None,
            },
            cancel: CancellationToken::new(),
            patience: Patience::default(),
        }
    }

    pub fn attr(mut self, key: &str, value: &str) -> Job {
        self.build.frontend_attrs.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn output(mut self, export: Export, output: Option<Output>) -> Job {
        self.build.exports.push(export);
        self.session.outputs.push(output);
        self
    }

    pub fn host(mut self, host: Memory) -> Job {
        self.session.secrets = host.secrets.keys().cloned().collect();
        self.session.agents = host.agents.keys().cloned().collect();
        self.session.host = Arc::new(host);
        self
    }

    /// Runs to the end; `watch` sees every event as it comes.
    pub async fn run_watched(self, client: &Client, mut watch: impl FnMut(&Event)) -> Report {
        let (sender, mut events) = mpsc::channel(16);
        let building = run(client, &self.build, self.session, &self.patience, sender, self.cancel.clone());
        let reading = async {
            let mut seen = Vec::new();
            while let Some(event) = events.recv().await {
                watch(&event);
                seen.push(event);
            }
            seen
        };
        let (end, events) = tokio::time::timeout(HANG, async { tokio::join!(building, reading) })
            .await
            .expect("the build hangs");
        Report { events, end }
    }

    pub async fn run(self, client: &Client) -> Report {
        self.run_watched(client, |_| {}).await
    }
}

impl Report {
    /// All that steps printed.
    pub fn log(&self) -> String {
        let logs = self.events.iter().flat_map(|event| &event.logs);
        String::from_utf8_lossy(&logs.flat_map(|log| log.data.clone()).collect::<Vec<u8>>()).into_owned()
    }

    pub fn result(&self) -> &BuildResult {
        self.end.as_ref().unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }

    pub fn failure(&self) -> &SolveFailure {
        match &self.end {
            Err(BuildError::Solve(failure)) => failure,
            other => panic!("not a failed build: {other:?}"),
        }
    }
}

pub fn prints(event: &Event, text: &str) -> bool {
    event.logs.iter().any(|log| String::from_utf8_lossy(&log.data).contains(text))
}

/// A host side that holds what a test gave it.
#[derive(Debug, Default)]
pub struct Memory {
    pub secrets: BTreeMap<String, Vec<u8>>,
    pub registries: BTreeMap<String, (String, String)>,
    /// Each is handed out once.
    pub agents: BTreeMap<String, Mutex<Option<StdUnixStream>>>,
}

#[tonic::async_trait]
impl Host for Memory {
    async fn credentials(&self, host: &str) -> Result<Credentials, HostError> {
        let (username, secret) = self.registries.get(host).cloned().unwrap_or_default();
        Ok(Credentials { username, secret: Secret(secret.into()) })
    }

    async fn token_authority(&self, _: &str, _: &[u8]) -> Result<Option<[u8; 32]>, HostError> {
        Err(HostError::NotOffered("a token authority"))
    }

    async fn sign_token_challenge(&self, _: &str, _: &[u8], _: &[u8]) -> Result<Vec<u8>, HostError> {
        Err(HostError::NotOffered("a token authority"))
    }

    async fn fetch_token(&self, _: TokenRequest) -> Result<Token, HostError> {
        Err(HostError::NotOffered("a token authority"))
    }

    async fn secret(&self, id: &str) -> Result<Option<Secret>, HostError> {
        Ok(self.secrets.get(id).cloned().map(Secret))
    }

    async fn agent(&self, id: &str) -> Result<Option<OwnedFd>, HostError> {
        let Some(agent) = self.agents.get(id) else { return Ok(None) };
        let agent = agent.lock().unwrap();
        Ok(agent.as_ref().map(|agent| agent.as_fd().try_clone_to_owned().unwrap()))
    }

    async fn has_agent(&self, id: &str) -> Result<bool, HostError> {
        Ok(self.agents.contains_key(id))
    }
}
