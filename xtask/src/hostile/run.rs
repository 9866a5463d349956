//! One client in one case.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::case::{Case, Honest};
use super::client::{self, Client};
use super::ground::Ground;
use super::judge::{Verdict, judge};
use super::memory::Watch;
use super::record;
use super::serve::serve;

/// Of what a client printed, from its beginning and before its end.
const KEPT: usize = 512 << 10;
/// Of that in a report.
const SHOWN: usize = 4 << 10;

/// How a client ended.
#[derive(Debug)]
pub struct Run {
    /// None after a signal.
    pub code: Option<i32>,
    pub hung: bool,
    pub peak_kib: u64,
    /// How it showed its progress.
    pub progress: &'static str,
    /// What of the user's files is no longer as it was.
    pub changed: Option<String>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A case that was played.
#[derive(Debug)]
pub struct Played {
    pub run: Run,
    pub verdict: Verdict,
    /// Whether the honest part came about.
    pub honest: bool,
    /// What the daemon was told, for whoever reads a failure.
    pub story: String,
}

impl Played {
    /// What is wrong, where a client must be safe and end as the case has it.
    pub fn fault(&self, case: &Case) -> Option<String> {
        let said = String::from_utf8_lossy(&self.run.stderr[..self.run.stderr.len().min(SHOWN)]);
        let missing = case.says.iter().find(|word| !record::holds(&self.run.stderr, word));
        let what = if self.verdict != Verdict::Safe {
            format!("{:?}", self.verdict)
        } else if !self.honest {
            format!("the honest part did not come about: {:?}", case.honest)
        } else if !self.run.code.is_some_and(|code| case.codes.contains(&code)) {
            format!("ended with {:?}", self.run.code)
        } else {
            format!("does not say {:?}", missing?)
        };
        Some(format!("{what}\n{}\n{said}", self.story))
    }
}

/// Plays many, `workers` at a time, and tells of each as it ends.
pub fn play_all(
    jobs: &[(Case, Client)],
    workers: usize,
    ktl: &Path,
    parent: &Path,
    tell: impl Fn(&Case, Client, Result<Played>) + Sync,
) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((case, client)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    tell(case, *client, play(case, *client, ktl, parent));
                }
            });
        }
    });
}

/// Plays `case` with `client` on a fresh ground below `parent`.
pub fn play(case: &Case, client: Client, ktl: &Path, parent: &Path) -> Result<Played> {
    play_on(case, client, ktl, &Ground::new(parent)?)
}

/// The same where the daemon's wishes are the user's.
pub fn play_granted(case: &Case, client: Client, ktl: &Path, parent: &Path) -> Result<Played> {
    let ground = Ground::new(parent)?;
    let Some(granted) = case.granted else { bail!("{} cannot be granted", case.name) };
    granted(&ground);
    play_on(case, client, ktl, &ground)
}

fn play_on(case: &Case, client: Client, ktl: &Path, ground: &Arc<Ground>) -> Result<Played> {
    let socket = ground.path("daemon.sock");
    let daemon = serve(case, ground, &socket)?;
    let before = ground.trace();
    let mut command = client::command(client, ktl, ground, &socket, case.told)?;
    let (stdout, stderr) = (ground.path("stdout"), ground.path("stderr"));
    let create = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
    command.stdout(create(&stdout)?).stderr(create(&stderr)?);
    let mut child = command.spawn().with_context(|| format!("start {}", client.name()))?;
    let watch = Watch::over(child.id());
    let end = Instant::now() + case.limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("wait for a client")? {
            break Some(status);
        }
        if Instant::now() > end {
            child.kill().context("kill a client")?;
            child.wait().context("wait for a client")?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let peak_kib = watch.end();
    drop(daemon);
    let after = ground.trace();
    let changed = before
        .iter()
        .find(|(path, trace)| after.get(*path) != Some(trace))
        .map(|(path, _)| path)
        .or_else(|| after.keys().find(|path| !before.contains_key(*path)))
        .map(|path| path.display().to_string());
    let run = Run {
        code: status.and_then(|status| status.code()),
        hung: status.is_none(),
        peak_kib,
        progress: case.told.progress,
        changed,
        stdout: printed(&stdout)?,
        stderr: printed(&stderr)?,
    };
    let honest = match case.honest {
        Honest::Given => ground.record.permitted(),
        Honest::Shown(word) => record::holds(&run.stderr, word) || record::holds(&run.stdout, word),
        Honest::Written(name) => fs::symlink_metadata(ground.path("out").join(name)).is_ok(),
        Honest::Visited => ground.record.was_visited(),
    };
    Ok(Played { verdict: judge(ground, &run), run, honest, story: ground.record.story() })
}

/// The lines that a client printed, but for those in the middle of very many.
fn printed(path: &Path) -> Result<Vec<u8>> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if text.len() <= 2 * KEPT {
        return Ok(text);
    }
    let (head, tail) = (&text[..KEPT], &text[text.len() - KEPT..]);
    let head = head.iter().rposition(|byte| *byte == b'\n').map_or(head, |end| &head[..=end]);
    let tail = tail.iter().position(|byte| *byte == b'\n').map_or(tail, |end| &tail[end + 1..]);
    Ok([head, tail].concat())
}
