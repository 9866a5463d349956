//! Content of the daemon's store, which its records name by digest.

use std::time::Duration;

use crate::client::{Client, is_broken, refused};
use crate::error::BuildError;
use crate::proto::containerd::services::content::v1 as content;

const ANSWER: Duration = Duration::from_secs(20);

/// The whole of it, which may have `most` bytes.
pub(crate) async fn read(
    client: &Client,
    during: &'static str,
    digest: &str,
    most: usize,
) -> Result<Vec<u8>, BuildError> {
    let request = content::ReadContentRequest { digest: digest.to_owned(), ..Default::default() };
    let mut store = client.content();
    let chunks = client.ask(during, ANSWER, store.read(request)).await?;
    let mut chunks = chunks.map_err(|status| refused(during, &status))?.into_inner();
    let mut bytes = Vec::new();
    loop {
        let chunk = client.ask(during, ANSWER, chunks.message()).await?;
        let Some(chunk) = chunk.map_err(|status| refused(during, &status))? else { return Ok(bytes) };
        if bytes.len() + chunk.data.len() > most {
            let detail = format!("what it is to read is larger than {} KiB", most >> 10);
            return Err(BuildError::Lost { during, detail });
        }
        bytes.extend_from_slice(&chunk.data);
    }
}

/// Whether the daemon has it still, and gives it out.
pub(crate) async fn is_there(
    client: &Client,
    during: &'static str,
    digest: &str,
) -> Result<bool, BuildError> {
    let request = content::InfoRequest { digest: digest.to_owned() };
    let mut store = client.content();
    match client.ask(during, ANSWER, store.info(request)).await? {
        Ok(_) => Ok(true),
        Err(status) if is_broken(&status) => Err(refused(during, &status)),
        Err(_) => Ok(false),
    }
}
