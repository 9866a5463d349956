//! One registry's answers, with the user's login where it is asked for.
//!
//! Logins are got by the broker's rules: the registry itself names its realm, and a token is for pulling this one repository.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buildsvc::reference::ImageRef;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::PullError;
use super::agents::Agents;
use super::bounds::Bounds;
use crate::broker::{Book, HUB, HUB_HOST, Stop, canonical, hostname, is_loopback};
use crate::display::inert;

/// How often what passes is tried again, with nothing gained between.
const TRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Registries {
    logins: crate::broker::Registry,
    agents: Agents,
    stop: Stop,
    book: Book,
    /// By host and repository: what is sent as `Authorization`.
    known: Mutex<BTreeMap<(String, String), Option<String>>>,
}

/// A part of a body is asked for from this byte on.
pub type From = u64;

impl Registries {
    pub fn new(logins: crate::broker::Registry, bounds: Bounds) -> std::io::Result<Registries> {
        Ok(Registries {
            logins,
            agents: Agents::new(&Arc::new(bounds)),
            stop: Stop::new()?,
            book: Book::default(),
            known: Mutex::default(),
        })
    }

    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// `GET /v2/REPOSITORY/PATH`; the answer is one with a body.
    pub fn get(
        &self,
        image: &ImageRef,
        path: &str,
        accept: &[&str],
        from: From,
    ) -> Result<Response<Body>, PullError> {
        let mut renewed = false;
        loop {
            let authorization = self.known(image);
            let (url, response) = self.send(image, path, accept, from, authorization.as_deref())?;
            match response.status().as_u16() {
                200 | 206 => return Ok(response),
                401 if !renewed => {
                    renewed = true;
                    self.login(image)?;
                }
                status @ (401 | 403) => {
                    let why = explanation(response);
                    return Err(PullError::Refused { url, status, why });
                }
                status @ (404 | 410) => return Err(PullError::NotFound { url, status }),
                status => return Err(PullError::Status { url, status }),
            }
        }
    }

    fn send(
        &self,
        image: &ImageRef,
        path: &str,
        accept: &[&str],
        from: From,
        authorization: Option<&str>,
    ) -> Result<(String, Response<Body>), PullError> {
        let host = canonical(image.domain());
        let server = if host == HUB { HUB_HOST } else { host.as_str() };
        let local = is_loopback(hostname(server));
        // As every client has it, a registry on this machine may be without TLS.
        let ways: &[(&str, &Agent)] = match local {
            true => &[("http", &self.agents.local), ("https", &self.agents.local)],
            false => &[("https", &self.agents.sealed)],
        };
        let mut last = None;
        for (scheme, agent) in ways {
            let url = format!("{scheme}://{server}/v2/{}/{path}", image.path());
            let mut request = agent.get(&url);
            for accept in accept {
                request = request.header("Accept", *accept);
            }
            if from > 0 {
                request = request.header("Range", format!("bytes={from}-"));
            }
            if let Some(authorization) = authorization {
                request = request.header("Authorization", authorization);
            }
            match request.call() {
                // What a server with TLS says to those who speak without.
                Ok(response) if local && *scheme == "http" && response.status() == 400 => {
                    last = Some(PullError::Status { url, status: 400 });
                }
                Ok(response) => return Ok((url, response)),
                Err(source) => last = Some(PullError::Fetch { url, source }),
            }
        }
        Err(last.unwrap_or_else(|| PullError::Login("no way to the registry".to_owned())))
    }

    fn key(image: &ImageRef) -> (String, String) {
        (canonical(image.domain()), image.path().to_owned())
    }

    fn known(&self, image: &ImageRef) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        known.get(&Registries::key(image)).cloned().flatten()
    }

    fn login(&self, image: &ImageRef) -> Result<(), PullError> {
        let found = self.logins.authorization(image, &self.stop, &self.book);
        let found = found.map_err(|denial| PullError::Login(denial.text().to_owned()))?;
        let mut known = self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        known.insert(Registries::key(image), found);
        Ok(())
    }
}

/// What a registry says of an error, made harmless.
fn explanation(mut response: Response<Body>) -> Option<String> {
    let mut text = Vec::new();
    response.body_mut().as_reader().take(4 << 10).read_to_end(&mut text).ok()?;
    let json: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let message: String = json["errors"][0]["message"].as_str()?.chars().take(200).collect();
    Some(inert::text(&message).into_owned())
}

/// Calls until it is done, fails for good, or fails too often; `progress` tells whether something was gained.
pub fn patiently<T>(
    mut call: impl FnMut() -> Result<T, PullError>,
    mut progress: impl FnMut() -> bool,
) -> Result<T, PullError> {
    let mut tries = 0;
    loop {
        match call() {
            Err(error) if error.is_passing() => {
                tries = if progress() { 1 } else { tries + 1 };
                if tries >= TRIES {
                    return Err(error);
                }
                std::thread::sleep(FIRST_WAIT * 2u32.pow(tries - 1));
            }
            other => return other,
        }
    }
}
