//! What a daemon keeps on its disk for later builds, and having it remove some of that.
//!
//! Follows moby/buildkit `client/diskusage.go` and `client/prune.go`; filters are containerd's, which the daemon reads. What
//! it tells is untrusted: bounded here, made inert where it is shown.

use std::time::{Duration, SystemTime};

use prost_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::client::{Client, is_broken, refused};
use crate::error::{BuildError, SolveFailure};
use crate::patience::Patience;
use crate::proto::moby::buildkit::v1 as wire;
use crate::requirements::demand;
use crate::status::bounded;
use crate::version::Version;

/// Records that are kept one by one; of more, there is the sum.
const MAX_RECORDS: usize = 20_000;
const MAX_TEXT: usize = 512;
const MAX_PARENTS: usize = 64;
/// For a daemon to measure what it has not measured yet.
const MEASURING: Duration = Duration::from_secs(300);

/// One thing that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub parents: Vec<String>,
    pub created: Option<SystemTime>,
    pub last_used: Option<SystemTime>,
    pub usage_count: i64,
    pub mutable: bool,
    /// By a build that runs, or by another record.
    pub in_use: bool,
    pub shared: bool,
    pub size: u64,
    pub description: String,
    /// `regular`, `source.local`, `source.git.checkout`, `exec.cachemount`, `frontend` or `internal`.
    pub kind: String,
}

/// What is kept, or was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub records: Vec<Record>,
    /// How many there are besides, and their size.
    pub others: (u64, u64),
}

impl Usage {
    fn add(&mut self, record: wire::UsageRecord) {
        let record = Record::from(record);
        if self.records.len() < MAX_RECORDS {
            self.records.push(record);
        } else {
            let (count, size) = self.others;
            self.others = (count.saturating_add(1), size.saturating_add(record.size));
        }
    }
}

/// Which records are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// Each an alternative, in containerd's syntax: `type==regular,description~=apt`.
    pub filters: Vec<String>,
    /// Those that nobody has used for this long.
    pub unused_for: Duration,
}

/// What is to be removed, and what is to stay. Sizes are bytes, and 0 says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruning {
    pub selection: Selection,
    /// Internal and frontend records too.
    pub all: bool,
    /// This much may always stay.
    pub reserved_space: u64,
    /// More than this may not stay.
    pub max_used_space: u64,
    /// This much of the disk is to be free.
    pub min_free_space: u64,
}

impl Client {
    /// What the daemon keeps, by size.
    pub async fn disk_usage(&self, selection: &Selection) -> Result<Usage, BuildError> {
        const DURING: &str = "the question for the disk usage";
        let mut needs = Vec::new();
        if !selection.unused_for.is_zero() {
            needs.push((Version::new(0, 22, 0), "tell what nobody has used for some time"));
        }
        demand(&self.info(Patience::default().answer).await?, needs)?;
        let request = wire::DiskUsageRequest {
            filter: selection.filters.clone(),
            age_limit: nanoseconds(selection.unused_for),
        };
        let mut control = self.control();
        let reply = self.ask(DURING, MEASURING, control.disk_usage(request)).await?;
        let reply = reply.map_err(|status| said_no(DURING, &status))?.into_inner();
        let mut usage = Usage::default();
        let mut records = reply.record;
        records.sort_by(|a, b| (a.size, &a.id).cmp(&(b.size, &b.id)));
        records.into_iter().for_each(|record| usage.add(record));
        Ok(usage)
    }

    /// Has the daemon remove what may go, and returns what that was. There is no limit of time: a daemon may delete for long
    /// without a word.
    pub async fn prune(&self, pruning: &Pruning) -> Result<Usage, BuildError> {
        const DURING: &str = "the pruning";
        let mut needs = Vec::new();
        if pruning.max_used_space > 0 || pruning.min_free_space > 0 {
            needs.push((Version::new(0, 17, 0), "prune down to a used or a free space"));
        }
        demand(&self.info(Patience::default().answer).await?, needs)?;
        let request = wire::PruneRequest {
            filter: pruning.selection.filters.clone(),
            all: pruning.all,
            keep_duration: nanoseconds(pruning.selection.unused_for),
            reserved_space: bytes(pruning.reserved_space),
            max_used_space: bytes(pruning.max_used_space),
            min_free_space: bytes(pruning.min_free_space),
        };
        let mut control = self.control();
        let lost = || crate::client::ended(DURING);
        let reply = self.connected(control.prune(request)).await.ok_or_else(lost)?;
        let mut stream = reply.map_err(|status| said_no(DURING, &status))?.into_inner();
        let mut usage = Usage::default();
        loop {
            let record = self.connected(stream.message()).await.ok_or_else(lost)?;
            match record.map_err(|status| said_no(DURING, &status))? {
                Some(record) => usage.add(record),
                None => return Ok(usage),
            }
        }
    }
}

/// What the daemon itself answers, such as to a filter that makes no sense, is no loss of the connection.
pub(crate) fn said_no(during: &'static str, status: &tonic::Status) -> BuildError {
    if is_broken(status) {
        return refused(during, status);
    }
    let message = bounded(status.message().to_owned(), MAX_TEXT);
    BuildError::Solve(Box::new(SolveFailure {
        message,
        code: status.code().into(),
        ..SolveFailure::default()
    }))
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl From<wire::UsageRecord> for Record {
    fn from(record: wire::UsageRecord) -> Record {
        let text = |text: String| bounded(text, MAX_TEXT);
        Record {
            id: text(record.id),
            parents: record.parents.into_iter().take(MAX_PARENTS).map(text).collect(),
            created: time(record.created_at),
            last_used: time(record.last_used_at),
            usage_count: record.usage_count,
            mutable: record.mutable,
            in_use: record.in_use,
            shared: record.shared,
            // Negative where it is not known.
            size: u64::try_from(record.size).unwrap_or(0),
            description: text(record.description),
            kind: text(record.record_type),
        }
    }
}

/// Between 1970 and 10000, which is what can be written down again.
pub(crate) fn time(stamp: Option<Timestamp>) -> Option<SystemTime> {
    let stamp = stamp.filter(|stamp| (0..253_402_300_800).contains(&stamp.seconds))?;
    SystemTime::try_from(stamp).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_daemon_tells_is_bounded() {
        let record = Record::from(wire::UsageRecord {
            id: "x".repeat(9999),
            parents: vec!["p".to_owned(); 999],
            size: -1,
            created_at: Some(Timestamp { seconds: i64::MAX, nanos: 0 }),
            last_used_at: Some(Timestamp { seconds: 7, nanos: 0 }),
            ..wire::UsageRecord::default()
        });
        assert_eq!((record.id.len(), record.parents.len(), record.size), (MAX_TEXT, MAX_PARENTS, 0));
        assert_eq!(record.created, None);
        assert_eq!(record.last_used, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7)));

        let mut usage = Usage::default();
        for _ in 0..MAX_RECORDS + 3 {
            usage.add(wire::UsageRecord { size: 2, ..wire::UsageRecord::default() });
        }
        assert_eq!((usage.records.len(), usage.others), (MAX_RECORDS, (3, 6)));
    }
}
