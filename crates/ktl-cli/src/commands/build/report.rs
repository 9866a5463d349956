//! `--report FILE`: the whole run as one JSON document, for whoever has to show later how something was built.
//!
//! It is made ready before anything else, so that a path which cannot be written is told before the work, and it is written
//! however the build ends: a build that was refused has the reason in it. The host side writes it, never the guest. The format
//! is told in docs/report.md; [`VERSION`] is raised when a field changes its meaning or goes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use buildsvc::egress::Rule;
use buildsvc::provenance::Material;
use serde::Serialize;

use crate::ci::{Notice, Tally};
use crate::claims::Claim;
use crate::display::inert;
use crate::egress::Entry;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::GuestResult;
use crate::outputs::PendingFile;
use crate::plan::{Facts, Hermetic};
use crate::settings::Told;

pub const VERSION: u32 = 1;

/// Of the reason: a frontend may quote a whole Dockerfile.
const MAX_REASON: usize = 8 << 10;

/// What is known of a run, filled in as it goes.
#[derive(Debug, Default, Serialize)]
pub struct Run {
    /// The build's name in the builder's history.
    pub reference: String,
    /// As it was asked for; nothing when the build ended before that was settled.
    pub hermetic: Option<Hermetic>,
    /// The builder's address; nothing when none was reached.
    pub builder: Option<String>,
    /// Whether that is ktl's own, in a jail; nothing when none was reached.
    pub private: Option<bool>,
    pub claims: Vec<Claim>,
    /// What the builder says went in, of a build that went well.
    pub materials: Vec<Material>,
    /// The exporters' answers, of a build that went well.
    pub result: BTreeMap<String, String>,
    /// The list of servers, and what was asked of them; nothing where the build has none.
    pub egress: Option<Listed>,
    /// The flags that were set without being typed.
    pub settings: Vec<Told>,
    /// What the guest said of a build that did not.
    #[serde(skip)]
    pub failure: Option<String>,
    /// For who reads annotations and summaries.
    #[serde(skip)]
    pub notices: Vec<Notice>,
    #[serde(skip)]
    pub tally: Option<Tally>,
    /// Stderr is for programs.
    #[serde(skip)]
    pub is_json: bool,
    /// Where the Dockerfile is.
    #[serde(skip)]
    pub dockerfile: Option<PathBuf>,
}

/// A list of servers, and the requests of a build that has one.
#[derive(Debug, Default, Serialize)]
pub struct Listed {
    pub list: Vec<Rule>,
    /// Every public server could be reached as well.
    pub learned: bool,
    /// As in the record of requests.
    pub requests: Vec<Entry>,
}

impl Run {
    pub fn hear(&mut self, result: &GuestResult) {
        self.claims.extend(result.claims.iter().cloned());
        self.result.clone_from(&result.exporter_response);
        if let Some(Ok(materials)) = &result.materials {
            self.materials.clone_from(materials);
        }
        if let (Some(listed), Some(told)) = (&mut self.egress, &result.egress) {
            listed.requests.clone_from(&told.entries);
        }
        self.failure.clone_from(&result.failure);
        self.notices.clone_from(&result.notices);
        self.tally = Some(result.tally);
    }
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    version: u32,
    ktl: &'static str,
    outcome: &'static str,
    exit: u8,
    reason: Option<String>,
    #[serde(flatten)]
    run: &'a Run,
}

/// The file, where one was asked for.
#[derive(Debug)]
pub struct ReportFile(Option<PendingFile>);

impl ReportFile {
    pub fn open(path: Option<&Path>, facts: &Facts) -> Result<ReportFile, Failure> {
        let file = path.map(|path| {
            let path = facts.cwd.join(path);
            if path.is_dir() {
                return Err(Failure::usage(format!("--report {}: is a directory", path.display())));
            }
            PendingFile::create(&path, &facts.nonce).map_err(|error| {
                let mut failure = Failure::from(error);
                failure.exit = Exit::Usage;
                failure.hint("That is where --report is to be written.")
            })
        });
        file.transpose().map(ReportFile)
    }

    /// Writes it, and gives the build's end back: a report that cannot be written ends a build that went well.
    pub fn write(self, mut run: Run, outcome: Result<Exit, Failure>) -> Result<Exit, Failure> {
        let Some(mut file) = self.0 else { return outcome };
        let (exit, reason) = match &outcome {
            Ok(exit) => (*exit, run.failure.take()),
            Err(failure) => (failure.exit, Some(failure.title.clone())),
        };
        if exit != Exit::Ok {
            run.result.clear();
        }
        let document = Document {
            version: VERSION,
            ktl: env!("CARGO_PKG_VERSION"),
            outcome: outcome_of(exit.code()),
            exit: exit.code(),
            reason: reason.map(|reason| inert::bounded(&reason, MAX_REASON)),
            run: &run,
        };
        let written = serde_json::to_vec_pretty(&document)
            .map_err(|error| Failure::internal(format!("failed to put the report together: {error}")))
            .and_then(|mut bytes| {
                bytes.push(b'\n');
                file.write_all(&bytes)?;
                Ok(file.commit()?)
            });
        match (outcome, written) {
            (Ok(Exit::Ok), Err(failure)) => Err(failure),
            (Err(failure), Err(unwritten)) => Err(failure.hint(unwritten.title)),
            (outcome, _) => outcome,
        }
    }
}

fn outcome_of(code: u8) -> &'static str {
    match code {
        0 => "built",
        5 => "refused",
        129.. => "interrupted",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_for_each_exit() {
        for (exit, outcome) in [
            (Exit::Ok, "built"),
            (Exit::BuildFailed, "failed"),
            (Exit::Policy, "refused"),
            (Exit::Guest(5), "refused"),
            (Exit::Internal, "failed"),
            (Exit::Signal(15), "interrupted"),
        ] {
            assert_eq!(outcome_of(exit.code()), outcome, "{exit:?}");
        }
    }
}
