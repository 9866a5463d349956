//! The builds that a daemon remembers, and having it forget some.
//!
//! Follows moby/buildkit `solver/llbsolver/history.go` and what docker buildx makes of it (`commands/history`). Daemons before
//! 0.20 know neither filters nor a limit, so all records are read and whoever shows them chooses. What they tell is untrusted:
//! bounded here, made inert where it is shown.

mod details;
mod name;

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tonic::{Code, Streaming};

use crate::client::{self, Client, is_broken, refused};
use crate::error::BuildError;
use crate::event::Event;
use crate::patience::Patience;
use crate::proto::moby::buildkit::v1 as wire;
use crate::requirements::demand;
use crate::status::{bounded, subscribe};
use crate::updates::Updates;
use crate::usage::{said_no, time};
use crate::version::Version;
pub use details::{Attachment, Details, Material};

const DURING: &str = "the question for past builds";
const ANSWER: Duration = Duration::from_secs(20);
/// The newest ones; of more, there is the number.
const MAX_RECORDS: usize = 1000;
const MAX_TEXT: usize = 512;
/// Of one record on the wire; decoded it may be a hundred times larger.
const MAX_RECORD: usize = 2 << 20;
const SINCE: Version = Version::new(0, 11, 0);

/// A build that runs or has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub reference: String,
    /// As docker buildx calls it: of the context, the Dockerfile and the target.
    pub name: String,
    /// Where its source comes from; empty when that is not known.
    pub repository: String,
    pub error: Option<Failed>,
    pub created: Option<SystemTime>,
    /// Nothing while it runs.
    pub completed: Option<SystemTime>,
    pub total_steps: i32,
    pub completed_steps: i32,
    pub cached_steps: i32,
}

/// Why a build has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// gRPC status code number.
    pub code: i32,
    pub message: String,
}

/// Newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub records: Vec<Record>,
    /// How many older ones there are besides.
    pub others: u64,
}

/// Which build is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Which {
    Named(String),
    /// So many before the latest.
    Before(usize),
}

impl Which {
    /// Reads `REF`, `BUILDER/NODE/REF` or `^N`.
    pub fn parse(text: &str) -> Result<Which, String> {
        if let Some(offset) = text.strip_prefix('^') {
            let offset = offset.parse().map_err(|_| format!("`{text}` is no offset, as in ^1"))?;
            return Ok(Which::Before(offset));
        }
        match text.rsplit('/').next() {
            Some(name) if !name.is_empty() => Ok(Which::Named(name.to_owned())),
            _ => Err(format!("`{text}` names no build")),
        }
    }
}

/// What became of records that were to be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub removed: Vec<String>,
    pub unknown: Vec<String>,
    /// And why.
    pub refused: Vec<(String, String)>,
}

/// The progress of a build as it was, or as it goes on.
#[derive(Debug)]
pub struct Replay {
    client: Client,
    updates: Streaming<Bytes>,
    /// The rest of what came last.
    update: Option<Updates>,
    /// Of a build that runs, the next word may come at any time.
    runs: bool,
    pub record: Record,
}

impl Replay {
    /// Can be dropped and asked again. Nothing at the end.
    pub async fn next(&mut self) -> Result<Option<Event>, BuildError> {
        loop {
            if let Some(event) = self.update.as_mut().and_then(Iterator::next) {
                return Ok(Some(event));
            }
            let message = self.updates.message();
            let update = if self.runs {
                self.client.connected(message).await.ok_or_else(|| client::ended(DURING))?
            } else {
                self.client.ask(DURING, ANSWER, message).await?
            };
            match update.map_err(|status| said_no(DURING, &status))? {
                Some(update) => self.update = Some(Updates::of(update)),
                None => return Ok(None),
            }
        }
    }
}

impl Client {
    /// The builds that the daemon remembers.
    pub async fn history(&self) -> Result<Listing, BuildError> {
        let mut listing = Listing::default();
        self.listen(|record| listing.add(Record::from(&record))).await?;
        listing.sort();
        Ok(listing)
    }

    /// All that the daemon tells of one build; nothing when it does not know it.
    pub async fn recorded(&self, which: &Which) -> Result<Option<Details>, BuildError> {
        match self.find(which).await? {
            Some(record) => Details::read(self, record).await.map(Some),
            None => Ok(None),
        }
    }

    /// The progress of one build from its beginning; nothing when the daemon does not know it.
    pub async fn replay(&self, which: &Which) -> Result<Option<Replay>, BuildError> {
        let Some(record) = self.find(which).await? else { return Ok(None) };
        let record = Record::from(&record);
        let updates = self.ask(DURING, ANSWER, subscribe(self, &record.reference)).await?;
        let updates = updates.map_err(|status| said_no(DURING, &status))?;
        let runs = record.completed.is_none();
        Ok(Some(Replay { client: self.clone(), updates, update: None, runs, record }))
    }

    /// Removes the records of these builds, or of all that have ended.
    pub async fn forget(&self, references: Option<&[String]>) -> Result<Forgotten, BuildError> {
        let (mut ended, mut known) = (Vec::new(), std::collections::BTreeSet::new());
        self.listen(|record| {
            known.insert(record.r#ref.clone());
            if record.completed_at.is_some() {
                ended.push(record.r#ref);
            }
        })
        .await?;
        let mut forgotten = Forgotten::default();
        for reference in references.unwrap_or(&ended) {
            if !known.contains(reference) {
                forgotten.unknown.push(reference.clone());
                continue;
            }
            let request = wire::UpdateBuildHistoryRequest {
                r#ref: reference.clone(),
                delete: true,
                ..wire::UpdateBuildHistoryRequest::default()
            };
            let mut control = self.control();
            match self.ask(DURING, ANSWER, control.update_build_history(request)).await? {
                Ok(_) => forgotten.removed.push(bounded(reference.clone(), MAX_TEXT)),
                Err(status) if is_broken(&status) => return Err(refused(DURING, &status)),
                Err(status) => {
                    let why = bounded(status.message().to_owned(), MAX_TEXT);
                    forgotten.refused.push((bounded(reference.clone(), MAX_TEXT), why));
                }
            }
        }
        Ok(forgotten)
    }

    async fn find(&self, which: &Which) -> Result<Option<wire::BuildHistoryRecord>, BuildError> {
        let name = match which {
            Which::Named(name) => name.clone(),
            Which::Before(offset) => match self.history().await?.records.into_iter().nth(*offset) {
                Some(record) => record.reference,
                None => return Ok(None),
            },
        };
        let mut found = None;
        self.listen(|record| {
            if record.r#ref == name {
                found = Some(record);
            }
        })
        .await?;
        Ok(found)
    }

    /// All records: asked for a single one that was removed, a daemon ends in an error of no code of its own. A build that ends
    /// while it is told may be told twice.
    async fn listen(&self, mut each: impl FnMut(wire::BuildHistoryRecord)) -> Result<(), BuildError> {
        let what = "tell of past builds";
        let info = self.info(Patience::default().answer).await?;
        demand(&info, vec![(SINCE, what)])?;
        let request = wire::BuildHistoryRequest { early_exit: true, ..wire::BuildHistoryRequest::default() };
        let failed = |status: tonic::Status| {
            if status.code() == Code::Unimplemented && !is_broken(&status) {
                return BuildError::Unsupported { version: info.version.clone(), what: what.to_owned() };
            }
            said_no(DURING, &status)
        };
        let mut control = self.control().max_decoding_message_size(MAX_RECORD);
        let events = self.ask(DURING, ANSWER, control.listen_build_history(request)).await?;
        let mut events = events.map_err(failed)?.into_inner();
        loop {
            let event = self.ask(DURING, ANSWER, events.message()).await?;
            let Some(event) = event.map_err(failed)? else { return Ok(()) };
            if event.r#type() != wire::BuildHistoryEventType::Deleted {
                event.record.into_iter().for_each(&mut each);
            }
        }
    }
}

impl Listing {
    fn add(&mut self, record: Record) {
        if let Some(known) = self.records.iter_mut().find(|known| known.reference == record.reference) {
            *known = record;
            return;
        }
        self.records.push(record);
        if self.records.len() > 2 * MAX_RECORDS {
            self.sort();
        }
    }

    fn sort(&mut self) {
        self.records.sort_by_key(|record| std::cmp::Reverse(record.created));
        self.others += self.records.len().saturating_sub(MAX_RECORDS) as u64;
        self.records.truncate(MAX_RECORDS);
    }
}

impl From<&wire::BuildHistoryRecord> for Record {
    fn from(record: &wire::BuildHistoryRecord) -> Record {
        let attrs = &record.frontend_attrs;
        let text = |text: &str| bounded(text.to_owned(), MAX_TEXT);
        Record {
            reference: text(&record.r#ref),
            name: text(&name::of(attrs)),
            repository: text(name::repository(attrs)),
            error: record
                .error
                .as_ref()
                .map(|error| Failed { code: error.code, message: text(&error.message) }),
            created: time(record.created_at),
            completed: record.completed_at.map(|at| time(Some(at)).unwrap_or(SystemTime::UNIX_EPOCH)),
            total_steps: record.num_total_steps,
            completed_steps: record.num_completed_steps,
            cached_steps: record.num_cached_steps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_named_in_three_ways() {
        assert_eq!(Which::parse("abc"), Ok(Which::Named("abc".into())));
        assert_eq!(Which::parse("ktl/ktl/abc"), Ok(Which::Named("abc".into())));
        assert_eq!(Which::parse("^2"), Ok(Which::Before(2)));
        for wrong in ["^", "^x", "^-1", "", "a/"] {
            assert!(Which::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_listing_keeps_the_newest() {
        let record = |n: usize| {
            Record::from(&wire::BuildHistoryRecord {
                r#ref: format!("{n}"),
                created_at: Some(prost_types::Timestamp { seconds: n as i64, nanos: 0 }),
                error: Some(crate::proto::google::rpc::Status {
                    message: "x".repeat(9999),
                    ..Default::default()
                }),
                ..wire::BuildHistoryRecord::default()
            })
        };
        let mut listing = Listing::default();
        for n in (0..3 * MAX_RECORDS).chain([7]) {
            listing.add(record(n));
        }
        listing.add(Record { cached_steps: 3, ..record(2999) });
        listing.sort();
        assert_eq!(listing.records.len(), MAX_RECORDS);
        assert_eq!((listing.records[0].reference.as_str(), listing.records[0].cached_steps), ("2999", 3));
        assert_eq!(listing.records[999].reference, "2000");
        assert_eq!(listing.records[0].error.as_ref().map(|error| error.message.len()), Some(MAX_TEXT));
        assert!(listing.others >= 2000, "{}", listing.others);
    }
}
