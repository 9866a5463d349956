//! A file of a web server.

use std::io::Read;

use buildsvc::dockerfile::UrlSource;
use buildsvc::lock::LockedUrl;
use ureq::http::Uri;

use super::registry::patiently;
use super::{PullError, Puller};
use crate::broker::is_loopback;
use crate::depot::Unnamed;

/// A larger file is not fetched.
const SIZE_LIMIT: u64 = 16 << 30;
const CHUNK: usize = 256 << 10;

impl Puller<'_> {
    /// Fetches `source`, unless what is locked of it is there. Tells how much had to be fetched.
    pub fn file(
        &self,
        source: &UrlSource,
        known: Option<&LockedUrl>,
        nonce: &str,
    ) -> Result<(LockedUrl, u64), PullError> {
        let UrlSource { url, checksum } = source;
        let changed = |expected, got| Err(PullError::Changed { url: shown(url), expected, got });
        if let Some(known) = known
            && self.depot.has(&known.checksum, known.size)
            && checksum.as_ref().is_none_or(|declared| *declared == known.checksum)
        {
            return Ok((known.clone(), 0));
        }
        let mut unnamed = self.depot.unnamed(nonce)?;
        patiently(|| self.fetch(url, &mut unnamed), || false)?;
        for expected in checksum.iter().chain(known.map(|known| &known.checksum)) {
            let got = unnamed.digest(expected.algorithm())?;
            if got != *expected {
                return changed(expected.clone(), got);
            }
        }
        let (checksum, size) = unnamed.keep()?;
        Ok((LockedUrl { url: url.clone(), checksum, size }, size))
    }

    fn fetch(&self, url: &str, unnamed: &mut Unnamed) -> Result<(), PullError> {
        unnamed.restart()?;
        let local = url.parse::<Uri>().ok().and_then(|uri| Some(is_loopback(uri.host()?)));
        let agent = if local == Some(true) { &self.agents.local } else { &self.agents.any };
        let shown = shown(url);
        let response = agent.get(url).call();
        let mut response = response.map_err(|source| PullError::Fetch { url: shown.clone(), source })?;
        match response.status().as_u16() {
            200 => {}
            status @ (401 | 403) => return Err(PullError::Refused { url: shown, status, why: None }),
            status @ (404 | 410) => return Err(PullError::NotFound { url: shown, status }),
            status => return Err(PullError::Status { url: shown, status }),
        }
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            match body.read(&mut buffer).map_err(|source| PullError::Read { url: shown.clone(), source })? {
                0 => return Ok(()),
                read => unnamed.write(&buffer[..read])?,
            }
            if unnamed.length() > SIZE_LIMIT {
                return Err(PullError::TooLong { url: shown, limit: SIZE_LIMIT });
            }
        }
    }
}

/// For messages: without what may be a password or a token.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://").map(|(scheme, rest)| (scheme, rest.split_once('/').unwrap_or((rest, "")))) {
        Some((scheme, (authority, path))) => {
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}/{path}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_no_passwords() {
        assert_eq!(shown("https://u:p@h.example:1/a/b?token=x#y"), "https://h.example:1/a/b");
        assert_eq!(shown("http://h"), "http://h/");
    }
}
