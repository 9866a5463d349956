//! Bodies, into memory or into the store.

use std::io::Read;

use ureq::Body;
use ureq::http::Response;

use super::PullError;
use crate::depot::Arriving;

const CHUNK: usize = 256 << 10;

/// All of a small body.
pub fn whole(url: &str, mut response: Response<Body>, limit: u64) -> Result<Vec<u8>, PullError> {
    let mut bytes = Vec::new();
    let read =
        response.body_mut().with_config().limit(u64::MAX).reader().take(limit + 1).read_to_end(&mut bytes);
    read.map_err(|source| PullError::Read { url: url.to_owned(), source })?;
    if bytes.len() as u64 > limit {
        return Err(PullError::TooLong { url: url.to_owned(), limit });
    }
    Ok(bytes)
}

/// Appends the body to what is there already, as far as the server took that into account.
pub fn into(url: &str, mut response: Response<Body>, arriving: &mut Arriving) -> Result<(), PullError> {
    if arriving.length() > 0 && !goes_on(&response, arriving.length()) {
        arriving.restart()?;
    }
    let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; CHUNK];
    loop {
        match body.read(&mut buffer).map_err(|source| PullError::Read { url: url.to_owned(), source })? {
            0 if arriving.length() < arriving.size() => {
                return Err(PullError::Short {
                    url: url.to_owned(),
                    expected: arriving.size(),
                    got: arriving.length(),
                });
            }
            0 => return Ok(()),
            read => arriving.write(&buffer[..read])?,
        }
    }
}

fn goes_on(response: &Response<Body>, from: u64) -> bool {
    let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
    response.status() == 206 && range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}
