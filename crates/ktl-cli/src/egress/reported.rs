//! The daemon's list of a step's requests, at the end of the step's log.
//!
//! Follows `logProxyRequests` of moby/buildkit `solver/llbsolver/ops/exec.go`. The step writes to the same log, so only what
//! stands at its very end is taken for the daemon's.

const HEAD: &[u8] = b"proxy network requests:";
/// Of one step.
const MAX_REQUESTS: usize = 20_000;
const MAX_LINE: usize = 16 << 10;

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    pub method: String,
    pub url: String,
    pub status: Option<u16>,
}

/// Reads a step's log as it comes.
#[derive(Debug, Default)]
pub struct Reported {
    line: Vec<u8>,
    requests: Option<Vec<Request>>,
}

impl Reported {
    pub fn read(&mut self, data: &[u8]) {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let whole = piece.ends_with(b"\n");
            let text = if whole { &piece[..piece.len() - 1] } else { piece };
            if self.line.len() + text.len() <= MAX_LINE {
                self.line.extend_from_slice(text);
            }
            if whole {
                let line = std::mem::take(&mut self.line);
                self.line(&line);
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        if line == HEAD {
            self.requests = Some(Vec::new());
            return;
        }
        match (&mut self.requests, request(line)) {
            (Some(requests), Some(request)) if requests.len() < MAX_REQUESTS => requests.push(request),
            (Some(_), Some(_)) => {}
            // The list is the last that is said.
            (requests, None) => *requests = None,
            (None, Some(_)) => {}
        }
    }

    pub fn requests(&self) -> &[Request] {
        self.requests.as_deref().unwrap_or_default()
    }
}

/// `- GET https://example.org/ -> 200`, or without an answer.
fn request(line: &[u8]) -> Option<Request> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix("- ")?;
    let mut words = text.split(' ');
    let (method, url) = (words.next()?, words.next()?);
    let status = match (words.next(), words.next(), words.next()) {
        (None, ..) => None,
        (Some("->"), Some(status), None) => Some(status.parse().ok()?),
        _ => return None,
    };
    let good = (1..=32).contains(&method.len()) && method.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| Request { method: method.to_owned(), url: url.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&str]) -> Vec<String> {
        let mut reported = Reported::default();
        pieces.iter().for_each(|piece| reported.read(piece.as_bytes()));
        let shown = |r: &Request| format!("{} {} {:?}", r.method, r.url, r.status);
        reported.requests().iter().map(shown).collect()
    }

    #[test]
    fn only_the_end_of_a_log_is_the_daemons() {
        let list = "proxy network requests:\n- GET http://a/ -> 200\n- CONNECT http://b/\n";
        assert_eq!(read(&["noise\n", list]), ["GET http://a/ Some(200)", "CONNECT http://b/ None"]);
        assert_eq!(
            read(&["proxy netw", "ork requests:\n- GET htt", "p://a/ -> 2", "00\n"]),
            ["GET http://a/ Some(200)"]
        );
        assert_eq!(read(&["proxy network requests:\n- GET http://forged/ -> 200\n", list]).len(), 2);
        assert!(read(&[list, "and on it goes\n"]).is_empty(), "what is followed by more is the step's");
        for odd in
            ["- GET\n", "- GET http://a/ -> x\n", "- GET http://a/ -> 200 x\n", "- GET http://a/ b\n", "\n"]
        {
            assert!(read(&[list, odd]).is_empty(), "{odd:?}");
        }
        assert!(read(&["- GET http://a/ -> 200\n"]).is_empty());
    }
}
