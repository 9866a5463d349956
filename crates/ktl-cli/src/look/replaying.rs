//! A past build's progress, shown where it is read: it may be long, and is untrusted.

use std::time::Duration;

use buildsvc::client::Client;
use buildsvc::error::BuildError;
use buildsvc::history::Which;
use serde::{Deserialize, Serialize};

use crate::display::{Display, Mode, Outcome, Output};

/// A display that draws must be told the time.
const TICK: Duration = Duration::from_millis(66);

/// Which build, and how it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Replaying {
    pub which: Which,
    pub mode: Mode,
    pub colour: bool,
}

impl Replaying {
    /// On standard error, where the build itself was shown. False when the builder does not know it.
    pub(super) async fn show(&self, client: &Client) -> Result<bool, BuildError> {
        let Some(mut replay) = client.replay(&self.which).await? else { return Ok(false) };
        let mut display = Display::new(self.mode, Output::stderr(self.colour));
        let failed = replay.record.error.is_some();
        let ended = loop {
            match tokio::time::timeout(TICK, replay.next()).await {
                Err(_) => display.tick(),
                Ok(Ok(Some(event))) => display.event(event),
                Ok(Ok(None)) => break Ok(true),
                Ok(Err(error)) => break Err(error),
            }
        };
        display.finish(if failed || ended.is_err() { Outcome::Failed } else { Outcome::Done });
        ended
    }
}
