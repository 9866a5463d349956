//! A request through the daemon's proxy that must not pass.
//!
//! That a daemon says it has a proxy is no proof that the proxy asks. So the step makes a request for one of the host side's own
//! sockets; the daemon must ask this session about just that URL, heed the denial, and answer 403. The socket tells the rest: who
//! has reached it was not stopped.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use buildsvc::egress::{Decision, Egress};
use buildsvc::session::policy::{Source, Verifier};
use sandbox_linux::Verdict;

use super::{Answer, Question, Try};
use crate::claims::{Claim, State};
use crate::display::inert;
use crate::env::HTTP_PROXY;

pub const PROXIED: &str = "RUN: request through the proxy";

/// For the proxy to answer; the whole look has a limit of its own.
const PATIENCE: Duration = Duration::from_secs(50);
const MAX_LINE: u64 = 4 << 10;
const FORBIDDEN: &str = "403";

/// In the step, which the daemon has given the address of its proxy.
pub fn ask(url: &str, proxy: Option<&str>) -> Answer {
    let Some(proxy) = proxy else {
        return Answer { verdict: Verdict::Unknown, words: format!("steps are given no {HTTP_PROXY}") };
    };
    let answer = proxy
        .strip_prefix("http://")
        .and_then(|proxy| proxy.trim_end_matches('/').parse().ok())
        .ok_or_else(|| io::Error::other("that is no address of a proxy"))
        .and_then(|proxy| status(proxy, url));
    match answer {
        Ok(status) if status == FORBIDDEN => {
            Answer { verdict: Verdict::Hidden, words: format!("{FORBIDDEN} for what no rule allows") }
        }
        Ok(status) => {
            let words = format!("{} for what no rule allows", inert::bounded(&status, 100));
            Answer { verdict: Verdict::Visible, words }
        }
        Err(error) => {
            let words = format!("{HTTP_PROXY}={}: {error}", inert::bounded(proxy, 100));
            Answer { verdict: Verdict::Unknown, words }
        }
    }
}

/// Of the answer to a GET through `proxy`, RFC 9112.
fn status(proxy: SocketAddr, url: &str) -> io::Result<String> {
    let host = url.trim_start_matches("http://").split('/').next().unwrap_or_default();
    let mut stream = TcpStream::connect_timeout(&proxy, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream
        .write_all(format!("GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line)?;
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some(status)) if version.starts_with("HTTP/") => Ok(status.trim().to_owned()),
        _ => Err(io::Error::other("the proxy's answer is no HTTP")),
    }
}

/// Denies whatever leads to a network, and remembers whether it was asked about the one URL.
#[derive(Debug)]
pub struct Doorman {
    url: String,
    was_asked: AtomicBool,
}

impl Doorman {
    /// For a question that has such a request.
    pub fn of(question: &Question) -> Option<Doorman> {
        let mut tries = question.links.iter().flat_map(|link| &link.tries);
        tries.find_map(|tried| match tried {
            Try::Proxied(url) => Some(Doorman { url: url.clone(), was_asked: AtomicBool::new(false) }),
            _ => None,
        })
    }

    /// An answer that was given without a question is none.
    pub fn check_claims(&self, claims: &mut [Claim]) {
        if self.was_asked.load(Ordering::Acquire) {
            return;
        }
        for claim in claims.iter_mut().filter(|claim| claim.about == PROXIED && claim.state == State::Held) {
            let why = format!("{}, and this build was not asked about it", claim.detail);
            *claim = Claim { forced: claim.forced, ..Claim::new(PROXIED, State::Unproven, why) };
        }
    }
}

impl Verifier for Doorman {
    fn check(&self, source: &Source) -> Result<(), String> {
        if source.identifier == self.url {
            self.was_asked.store(true, Ordering::Release);
        }
        match Egress::default().decide(&source.identifier, &source.attrs) {
            Decision::Local => Ok(()),
            Decision::Allowed { target, .. } => Err(target.to_string()),
            Decision::Denied { why, .. } => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::Link;
    use super::*;

    #[test]
    fn the_first_line_of_an_answer_counts() {
        for (answer, status) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\nHTTP/1.1 200 OK\r\n", Some("403")),
            ("HTTP/1.1 200 OK\r\n", Some("200")),
            ("HTTP/1.1 403", Some("403")),
            ("SSH-2.0-x 403\r\n", None),
            ("403\r\n", None),
            ("", None),
        ] {
            let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = proxy.local_addr().unwrap();
            let served = std::thread::spawn(move || {
                let (mut stream, _) = proxy.accept().unwrap();
                let mut request = String::new();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                while !request.ends_with("\r\n\r\n") {
                    lines.read_line(&mut request).unwrap();
                }
                stream.write_all(answer.as_bytes()).unwrap();
                request
            });
            let found = super::status(address, "http://127.0.0.1:7/n").ok();
            assert_eq!(found.as_deref(), status, "{answer:?}");
            let request = served.join().unwrap();
            assert!(
                request.starts_with("GET http://127.0.0.1:7/n HTTP/1.1\r\nHost: 127.0.0.1:7\r\n"),
                "{request}"
            );
        }
    }

    #[test]
    fn a_step_without_a_proxy_proves_nothing() {
        for proxy in [None, Some(""), Some("http://proxy.example:80"), Some("http://127.0.0.1:0/")] {
            assert_eq!(ask("http://127.0.0.1:7/n", proxy).verdict, Verdict::Unknown, "{proxy:?}");
        }
    }

    #[test]
    fn an_answer_without_a_question_proves_nothing() {
        let url = "http://127.0.0.1:7/n".to_owned();
        let link = |tries| Link { about: PROXIED.to_owned(), tries, network: true };
        let question = |tries| Question { nonce: "n".to_owned(), links: vec![link(tries)] };
        assert!(Doorman::of(&question(vec![Try::Names])).is_none());
        let doorman = Doorman::of(&question(vec![Try::Proxied(url.clone())])).unwrap();
        let state = || {
            let mut claims = [Claim::held(PROXIED, "403"), Claim::held("other", "")];
            doorman.check_claims(&mut claims);
            assert_eq!(claims[1].state, State::Held);
            claims[0].state
        };
        let source = |identifier: &str| Source { identifier: identifier.to_owned(), ..Source::default() };
        doorman.check(&source("local://trial")).unwrap();
        doorman.check(&source("http://127.0.0.1:7/other")).unwrap_err();
        assert_eq!(state(), State::Unproven);
        doorman.check(&source(&url)).unwrap_err();
        assert_eq!(state(), State::Held);
    }
}
