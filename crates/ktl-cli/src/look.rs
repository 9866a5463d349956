//! A look around from inside the jail: what `ktl sandbox probe`, `ktl sandbox doctor`, `ktl builder` and
//! `ktl history` start it for, and a build whose Dockerfile is somewhere on the web.
//!
//! The questions come in with the sealed plan, and only after the proof. A builder is asked from in here as well: it is
//! untrusted, and the jail is where ktl talks to it.

mod replaying;

use std::os::fd::OwnedFd;
use std::time::Duration;

use buildsvc::client::{Client, Worker};
use buildsvc::download::download;
use buildsvc::error::BuildError;
use buildsvc::history::{Details, Forgotten, Listing, Which};
use buildsvc::usage::{Pruning, Selection, Usage};
use buildsvc::version;
use sandbox_linux::{Answer, Proof};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, chain};
use crate::plan::LookPlan;
use crate::report;
use crate::stream::Stream;
pub use replaying::Replaying;

/// How long a builder may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to download a file.
const DOWNLOAD: Duration = Duration::from_secs(120);

/// What the guest saw.
#[derive(Debug, Serialize, Deserialize)]
pub struct Looked {
    pub proof: Proof,
    /// One for each target of the plan, in order.
    pub answers: Vec<Answer>,
    /// Nothing when the builder was not asked.
    pub builder: Option<Result<Said, Refused>>,
}

/// What a builder is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// Who it is.
    Introduce,
    /// All that it says of its workers.
    Inspect,
    DiskUsage(Selection),
    Prune(Pruning),
    History,
    Recorded(Which),
    /// To show a build's progress as it was.
    Replay(Replaying),
    /// To remove the records of these builds, or of all.
    Forget(Option<Vec<String>>),
    /// To get the file at a URL, and give this many bytes of it.
    Download {
        url: String,
        limit: u32,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    Introduced(Introduced),
    Inspected {
        version: String,
        workers: Vec<Worker>,
    },
    /// What it keeps or has removed.
    Usage(Usage),
    History(Listing),
    Recorded(Option<Box<Details>>),
    /// Whether it knows the build.
    Replayed(bool),
    Forgotten(Forgotten),
    Downloaded(Vec<u8>),
}

/// A builder that gave no sensible answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    /// The exit code that goes with it.
    pub code: u8,
    pub why: String,
}

/// What a builder says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Introduced {
    /// Empty for a builder that is too old to be asked.
    pub version: String,
    /// Platforms of each worker.
    pub workers: Vec<String>,
    /// Why it cannot keep RUN off the network; nothing when it can.
    pub no_forced_network: Option<String>,
}

/// Answers all questions of the plan.
pub fn around(plan: &LookPlan, proof: Proof, connection: Option<OwnedFd>) -> Result<Looked, Failure> {
    let answers = plan.targets.iter().map(sandbox_linux::ask).collect();
    let builder = match (&plan.question, connection) {
        (Some(question), Some(connection)) => Some(put(question, connection)?),
        _ => None,
    };
    Ok(Looked { proof, answers, builder })
}

/// What the builder at the other end says to `question`.
pub fn put(question: &Question, connection: OwnedFd) -> Result<Result<Said, Refused>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("failed to start a runtime: {error}")))?;
    let answer = runtime.block_on(async {
        let stream = Stream::open(connection)
            .map_err(|error| BuildError::Lost { during: "the first question", detail: error.to_string() })?;
        let client = Client::over(stream).await?;
        match question {
            Question::Introduce => introduction(&client).await.map(Said::Introduced),
            Question::Inspect => {
                let version = client.info(PATIENCE).await?.version;
                Ok(Said::Inspected { version, workers: client.workers(PATIENCE).await? })
            }
            Question::DiskUsage(selection) => client.disk_usage(selection).await.map(Said::Usage),
            Question::Prune(pruning) => client.prune(pruning).await.map(Said::Usage),
            Question::History => client.history().await.map(Said::History),
            Question::Recorded(which) => Ok(Said::Recorded(client.recorded(which).await?.map(Box::new))),
            Question::Replay(replaying) => replaying.show(&client).await.map(Said::Replayed),
            Question::Forget(which) => client.forget(which.as_deref()).await.map(Said::Forgotten),
            Question::Download { url, limit } => {
                download(&client, url, *limit, DOWNLOAD).await.map(Said::Downloaded)
            }
        }
    });
    Ok(answer.map_err(|error: BuildError| Refused { code: report::exit_code(&error), why: chain(&error) }))
}

async fn introduction(client: &Client) -> Result<Introduced, BuildError> {
    let info = client.info(PATIENCE).await?;
    let workers = client.workers(PATIENCE).await?;
    Ok(Introduced {
        no_forced_network: version::supports_forced_network(&info, &workers).err().map(|error| chain(&error)),
        workers: workers
            .iter()
            .map(|worker| worker.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
            .collect(),
        version: info.version,
    })
}
