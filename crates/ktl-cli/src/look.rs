//! A look around from inside the jail: what `ktl sandbox probe` and `ktl sandbox doctor` start it for.
//!
//! The questions come in with the sealed plan, and only after the proof. A builder is asked who it is from in here as well:
//! it is untrusted, and the jail is where ktl talks to it.

use std::os::fd::OwnedFd;
use std::time::Duration;

use buildsvc::client::Client;
use buildsvc::version;
use sandbox_linux::{Answer, Proof};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, chain};
use crate::plan::LookPlan;
use crate::stream::Stream;

/// How long a builder may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the guest saw.
#[derive(Debug, Serialize, Deserialize)]
pub struct Looked {
    pub proof: Proof,
    /// One for each target of the plan, in order.
    pub answers: Vec<Answer>,
    /// Nothing when no connection was handed in; the reason when the builder gave no sensible answer.
    pub builder: Option<Result<Introduced, String>>,
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
    let builder = connection.map(introduction).transpose()?;
    Ok(Looked { proof, answers, builder })
}

fn introduction(connection: OwnedFd) -> Result<Result<Introduced, String>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::internal(format!("failed to start a runtime: {error}")))?;
    Ok(runtime.block_on(async {
        let stream = Stream::open(connection).map_err(|error| error.to_string())?;
        let client = Client::over(stream).await.map_err(|error| chain(&error))?;
        let info = client.info(PATIENCE).await.map_err(|error| chain(&error))?;
        let workers = client.workers(PATIENCE).await.map_err(|error| chain(&error))?;
        Ok(Introduced {
            no_forced_network: version::supports_forced_network(&info, &workers)
                .err()
                .map(|error| chain(&error)),
            workers: workers
                .iter()
                .map(|worker| worker.platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                .collect(),
            version: info.version,
        })
    }))
}
