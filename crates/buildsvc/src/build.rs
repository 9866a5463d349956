//! One build, from request to result.
//!
//! [`run`] opens the session, then lets the daemon solve while its progress is read, and closes the session when the
//! solve has ended. The order, and what the request must hold for which daemon, follow moby/buildkit `client/solve.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use crate::client::{self, Client};
use crate::error::BuildError;
use crate::event::Event;
use crate::failure;
use crate::gateway;
use crate::patience::{self, Patience};
use crate::proto::moby::buildkit::v1 as wire;
use crate::requirements::ATTESTATIONS;
use crate::session::Session;
use crate::session::host::Host;
use crate::sourcepolicy::SourcePolicy;
use crate::status::follow;
use crate::version::{self, Version};

/// After a cancelled solve: for the steps' last words.
const CANCELLED_DRAIN: Duration = Duration::from_secs(3);
/// After a solve that succeeded: for the times of directories, which are set last.
const LAST_TOUCHES: Duration = Duration::from_secs(10);
/// After any other: for receivers to notice, so that nothing is written once the build has ended. One that writes into
/// a pipe nobody reads will not.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// After a question that failed: for the solve to end by it.
const UNANSWERED: Duration = Duration::from_secs(5);
/// A daemon that shuts down cancels its builds shortly before it closes its connections.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// What to build, and what becomes of it. Frontend attributes are dockerfile.v0's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Name of this build in the daemon's history, never used before: [`identity::fresh`](crate::identity::fresh).
    pub reference: String,
    /// `dockerfile.v0` or `gateway.v0`.
    pub frontend: String,
    pub frontend_attrs: BTreeMap<String, String>,
    /// In the order of the session's outputs.
    pub exports: Vec<Export>,
    pub cache_imports: Vec<CacheEntry>,
    pub cache_exports: Vec<CacheEntry>,
    pub entitlements: Vec<String>,
    /// Which sources may be used. A daemon that cannot promise to keep to it builds nothing.
    pub source_policy: Option<SourcePolicy>,
    /// Steps have the daemon's proxy for a network, which asks the session about each request of theirs. A daemon that has no such
    /// proxy builds nothing.
    pub proxy_network: bool,
    /// Names under which steps find the machine of the daemon, whose address only the daemon knows.
    pub gateway_hosts: Vec<String>,
    /// Where nothing is said of provenance, have the least of it attached to images, if the daemon can.
    pub default_provenance: bool,
    /// Equal inputs are to give equal results, in which all times are `SOURCE_DATE_EPOCH` or earlier.
    pub reproducible: bool,
    /// Nothing is built: the frontend is asked this, such as `frontend.lint`.
    pub question: Option<String>,
}

/// One exporter of the daemon, with the attributes that it gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub kind: String,
    pub attrs: BTreeMap<String, String>,
}

/// One cache to read from or write to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheEntry {
    pub kind: String,
    pub attrs: BTreeMap<String, String>,
    /// Attributes whose values are secrets, by the ids under which the session's host has them.
    pub secrets: BTreeMap<String, String>,
}

impl CacheEntry {
    pub fn new(kind: &str, attrs: impl IntoIterator<Item = (String, String)>) -> CacheEntry {
        CacheEntry { kind: kind.to_owned(), attrs: attrs.into_iter().collect(), secrets: BTreeMap::new() }
    }

    /// The entry with its secrets, for the daemon alone.
    async fn revealed(mut self, host: &dyn Host) -> Result<CacheEntry, BuildError> {
        for (attr, id) in std::mem::take(&mut self.secrets) {
            let value = host.secret(&id).await.ok().flatten();
            let value = value.and_then(|secret| String::from_utf8(secret.0).ok());
            let value = value
                .ok_or_else(|| BuildError::NoCredential { cache: self.kind.clone(), attr: attr.clone() })?;
            self.attrs.insert(attr, value);
        }
        Ok(self)
    }
}

/// What came of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildResult {
    /// `containerimage.digest` and the like, as the exporters name them.
    pub exporter_response: BTreeMap<String, String>,
    /// What the frontend answered to [`Build::question`]: `result.json`, `result.txt`…
    pub answer: BTreeMap<String, String>,
}

impl Build {
    /// Takes the network from every RUN step of the Dockerfile.
    ///
    /// Three things together: the attribute that the builtin frontend honours; `cmdline`, whose presence keeps a
    /// `# syntax=` line from handing the Dockerfile to another frontend that need not; and no entitlement to the host's
    /// network, without which the daemon rejects `RUN --network=host`. The daemon must be asked first:
    /// [`supports_forced_network`](crate::version::supports_forced_network).
    pub fn without_network(&mut self) {
        "dockerfile.v0".clone_into(&mut self.frontend);
        self.frontend_attrs.insert("force-network-mode".to_owned(), "none".to_owned());
        self.frontend_attrs.insert("cmdline".to_owned(), String::new());
        self.entitlements.retain(|entitlement| entitlement != "network.host");
    }

    /// Whether the request takes the network from RUN steps and asks for no entitlement that gives something back.
    pub fn is_without_network(&self) -> bool {
        self.frontend_attrs.get("force-network-mode").is_some_and(|mode| mode == "none")
            && self.entitlements.is_empty()
    }

    /// Asks the daemon for what this build depends on, before anything is sent to it. [`run`] does it in any case.
    pub async fn admit(&self, client: &Client, answer: Duration) -> Result<(), BuildError> {
        if !self.requirements().is_empty() {
            self.check(&client.info(answer).await?)?;
        }
        if self.source_policy.is_some() {
            let (info, workers) = tokio::try_join!(client.info(answer), client.workers(answer))?;
            version::supports_source_policy(&info, &workers)?;
        }
        if self.proxy_network {
            let (info, workers) = tokio::try_join!(client.info(answer), client.workers(answer))?;
            version::supports_proxy_network(&info, &workers)?;
            let capable = gateway::capabilities(client, answer).await?;
            if !capable.contains(PROXY_NETWORK) {
                let what = format!("put steps behind its proxy: it does not have {PROXY_NETWORK}");
                return Err(BuildError::Unenforceable { version: info.version, what });
            }
        }
        Ok(())
    }

    /// `add-hosts` with the names that stand for the daemon's machine.
    async fn hosts(&self, client: &Client, answer: Duration) -> Result<Option<String>, BuildError> {
        if self.gateway_hosts.is_empty() {
            return Ok(None);
        }
        let (info, workers) = tokio::try_join!(client.info(answer), client.workers(answer))?;
        let gateway = workers.iter().find_map(|worker| worker.labels.get(GATEWAY_LABEL));
        let Some(gateway) = gateway.and_then(|label| label.parse::<std::net::IpAddr>().ok()) else {
            let what =
                "tell the address of its host, which host-gateway stands for; name the address instead";
            return Err(BuildError::Unsupported { version: info.version, what: what.to_owned() });
        };
        let known = self.frontend_attrs.get(ADD_HOSTS).cloned();
        let names = self.gateway_hosts.iter().map(|name| format!("{name}={gateway}"));
        Ok(Some(known.into_iter().chain(names).collect::<Vec<_>>().join(",")))
    }

    /// This build with all that depends on who does it: the secrets of its caches, what this daemon does unasked.
    async fn completed(
        &self,
        client: &Client,
        host: &dyn Host,
        answer: Duration,
    ) -> Result<Build, BuildError> {
        let mut build = self.clone();
        if let Some(question) = &self.question {
            build.frontend_attrs.insert("requestid".to_owned(), question.clone());
            let caps = build.frontend_attrs.entry("frontend.caps".to_owned()).or_default();
            *caps = caps
                .split(',')
                .filter(|cap| !cap.is_empty())
                .chain([gateway::CAPABILITY])
                .collect::<Vec<_>>()
                .join(",");
        } else if self.default_provenance && !self.frontend_attrs.contains_key(PROVENANCE) {
            let info = client.info(answer).await?;
            let old = info.version.is_empty()
                || info.parsed().is_some_and(|v| v > Version::new(0, 0, 0) && v < ATTESTATIONS);
            if !old {
                let least = "mode=min,inline-only=true".to_owned();
                build.frontend_attrs.insert(PROVENANCE.to_owned(), least);
            }
        }
        for entry in build.cache_imports.iter_mut().chain(&mut build.cache_exports) {
            *entry = std::mem::take(entry).revealed(host).await?;
        }
        Ok(build)
    }

    fn request(&self, reference: &str, session: &str) -> wire::SolveRequest {
        let entries = |entries: &[CacheEntry]| -> Vec<wire::CacheOptionsEntry> {
            let entry = |entry: &CacheEntry| wire::CacheOptionsEntry {
                r#type: entry.kind.clone(),
                attrs: entry.attrs.clone().into_iter().collect(),
            };
            entries.iter().map(entry).collect()
        };
        let exporters: Vec<wire::Exporter> = self
            .exports
            .iter()
            .map(|export| wire::Exporter {
                r#type: export.kind.clone(),
                attrs: export.attrs.clone().into_iter().collect(),
            })
            .collect();
        // Daemons before 0.13 know no list.
        let first = exporters.first().cloned().unwrap_or_default();
        let mut frontend_attrs = self.frontend_attrs.clone();
        if !self.cache_imports.is_empty() {
            // Frontends resolve their sources with these; the daemon itself uses the copy in `cache`.
            let entry = |entry: &CacheEntry| serde_json::json!({ "Type": entry.kind, "Attrs": entry.attrs });
            let imports: serde_json::Value = self.cache_imports.iter().map(entry).collect();
            frontend_attrs.insert("cache-imports".to_owned(), imports.to_string());
        }
        wire::SolveRequest {
            r#ref: reference.to_owned(),
            session: session.to_owned(),
            frontend: self.frontend.clone(),
            frontend_attrs: frontend_attrs.into_iter().collect(),
            exporter_deprecated: first.r#type,
            exporter_attrs_deprecated: first.attrs,
            exporters,
            cache: Some(wire::CacheOptions {
                exports: entries(&self.cache_exports),
                imports: entries(&self.cache_imports),
                ..wire::CacheOptions::default()
            }),
            // A question is no build that anybody wants to find in the daemon's history.
            internal: self.question.is_some(),
            entitlements: self.entitlements.clone(),
            source_policy: self.source_policy.as_ref().map(SourcePolicy::to_wire),
            proxy_network: self.proxy_network,
            ..wire::SolveRequest::default()
        }
    }
}

/// Exporters that make an image, and what their answer calls its digest.
const IMAGES: [&str; 3] = ["image", "oci", "docker"];
const IMAGE_DIGEST: &str = "containerimage.digest";
const PROVENANCE: &str = "attest:provenance";
const ADD_HOSTS: &str = "add-hosts";
/// Capability of a daemon that has a proxy for steps.
pub const PROXY_NETWORK: &str = "exec.meta.network.proxy";
/// The daemon's word for the address of its machine, a label of its workers.
const GATEWAY_LABEL: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";

/// How a solve ended, before anything is made of it.
enum Outcome {
    Answered(Result<wire::SolveResponse, Status>),
    Cancelled,
    TimedOut,
    Silent,
    Lost,
}

/// Has `client`'s daemon do `build`, serving it from `session` and reporting to `events`.
///
/// Ends when the daemon has answered and its progress is read to the end, when `cancel` has been heeded, or promptly when
/// the connection ends or `patience` does. Dropping the future cancels the build as well. A receiver of events that has gone away is no
/// error; one that stands still holds back the progress alone.
pub async fn run(
    client: &Client,
    build: &Build,
    session: Session,
    patience: &Patience,
    events: mpsc::Sender<Event>,
    cancel: CancellationToken,
) -> Result<BuildResult, BuildError> {
    let mut time_is_over = std::pin::pin!(patience::at_most(patience.whole));
    let too_late = || BuildError::TimedOut(patience.whole.unwrap_or_default());
    // On the heap: all of them together are much for the stack of a thread.
    let opening = Box::pin(async {
        build.admit(client, patience.answer).await?;
        let hosts = build.hosts(client, patience.answer).await?;
        let build = build.completed(client, session.host.as_ref(), patience.answer).await?;
        let verifies = session.verifier.is_some();
        Ok::<_, BuildError>((build, session.open(client, patience.answer).await?, hosts, verifies))
    });
    let (build, mut attached, hosts, verifies) = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(BuildError::Cancelled),
        () = &mut time_is_over => return Err(too_late()),
        opened = opening => opened?,
    };
    let reference =
        if build.reference.is_empty() { crate::identity::fresh() } else { build.reference.clone() };
    let solved = CancellationToken::new();
    let listener = events.clone();
    let mut progress = Box::pin(follow(client, reference.clone(), events, solved.clone()));
    let mut progress_ended = false;
    let mut answer = BTreeMap::new();
    let mut solve_error = None;

    let outcome = {
        let mut control = client.control().max_decoding_message_size(client::MAX_RESULT);
        let mut request = build.request(&reference, attached.id());
        if verifies {
            attached.id().clone_into(&mut request.source_policy_session);
        }
        request.frontend_attrs.extend(hosts.map(|hosts| (ADD_HOSTS.to_owned(), hosts)));
        let mut asking = build.question.is_some();
        let frontend = if asking { std::mem::take(&mut request.frontend) } else { String::new() };
        let attrs =
            if asking { request.frontend_attrs.clone().into_iter().collect() } else { BTreeMap::new() };
        let mut question = Box::pin(gateway::ask(client, &reference, frontend, attrs));
        let mut solve = Box::pin(client.connected(control.solve(request)));
        let mut silent = std::pin::pin!(client.silent(patience.silence));
        let outcome = loop {
            tokio::select! {
                biased;
                reply = &mut solve => break match reply {
                    Some(reply) => Outcome::Answered(reply.map(tonic::Response::into_inner)),
                    None => Outcome::Lost,
                },
                () = cancel.cancelled() => break Outcome::Cancelled,
                () = &mut time_is_over => break Outcome::TimedOut,
                () = &mut silent => break Outcome::Silent,
                () = &mut progress, if !progress_ended => progress_ended = true,
                reply = &mut question, if asking => {
                    asking = false;
                    match reply {
                        Ok(reply) => answer = reply,
                        // One that did not reach the solve would leave it waiting.
                        Err(status) => solve_error = Some(status),
                    }
                }
                () = tokio::time::sleep(UNANSWERED), if solve_error.is_some() => {
                    let status = solve_error.take().unwrap_or_else(|| Status::internal("no answer"));
                    break Outcome::Answered(Err(status));
                }
            }
        };
        // The solve ends by the answer's being handed back, which may be told a little later.
        if asking
            && matches!(outcome, Outcome::Answered(Ok(_)))
            && let Ok(Ok(reply)) = tokio::time::timeout(UNANSWERED, &mut question).await
        {
            answer = reply;
        }
        outcome
        // Here the call is dropped, which is what cancels the solve on the daemon.
    };
    solved.cancel();
    match outcome {
        Outcome::Lost => {
            attached.close();
            attached.deliveries(LAST_WRITES).await;
            Err(client::ended("the build"))
        }
        Outcome::Silent => {
            attached.close();
            attached.deliveries(LAST_WRITES).await;
            Err(client::silent("the build", patience.silence))
        }
        Outcome::Cancelled | Outcome::TimedOut => {
            if !progress_ended {
                let drain = client.connected(tokio::time::timeout(CANCELLED_DRAIN, &mut progress));
                let _ = drain.await;
            }
            attached.close();
            attached.deliveries(LAST_WRITES).await;
            Err(if cancel.is_cancelled() { BuildError::Cancelled } else { too_late() })
        }
        Outcome::Answered(reply) => {
            attached.close();
            if !progress_ended {
                let on_and_on = patience::counted(patience.last_words, || listener.capacity() > 0);
                tokio::select! {
                    biased;
                    () = &mut progress => {}
                    () = cancel.cancelled() => {}
                    () = client.gone() => {}
                    () = on_and_on => {
                        attached.deliveries(LAST_WRITES).await;
                        return Err(client::endless(patience.last_words));
                    }
                }
            }
            match reply {
                Ok(response) => {
                    let exporter_response: BTreeMap<String, String> =
                        response.exporter_response.into_iter().collect();
                    // Of several images one answer speaks of none in particular.
                    let images =
                        build.exports.iter().filter(|export| IMAGES.contains(&export.kind.as_str())).count();
                    let image = exporter_response.get(IMAGE_DIGEST).filter(|_| images == 1);
                    attached.deliveries(LAST_TOUCHES).await.complete(image.map(String::as_str))?;
                    Ok(BuildResult { exporter_response, answer })
                }
                Err(status) => {
                    let output = attached.deliveries(LAST_WRITES).await.failure();
                    Err(failed(client, &status, output).await)
                }
            }
        }
    }
}

/// Tells apart a build that failed, an output that could not be written here, and a daemon that is going away.
async fn failed(client: &Client, status: &Status, output: Option<BuildError>) -> BuildError {
    const DURING: &str = "the build";
    if client::is_broken(status) {
        return if client.is_gone() { client::ended(DURING) } else { client::lost(DURING, status) };
    }
    if let Some(output) = output {
        return output;
    }
    if matches!(status.code(), Code::Cancelled | Code::Unavailable) {
        let _ = tokio::time::timeout(SHUTDOWN, client.gone()).await;
    }
    if client.is_gone() && matches!(status.code(), Code::Cancelled | Code::Unavailable | Code::Unknown) {
        return client::refused(DURING, status);
    }
    BuildError::Solve(Box::new(failure::read(status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(kind: &str) -> Export {
        Export { kind: kind.to_owned(), attrs: [("name".to_owned(), kind.to_owned())].into() }
    }

    #[test]
    fn request_suits_old_and_new_daemons() {
        let build = Build {
            frontend: "dockerfile.v0".to_owned(),
            exports: vec![export("image"), export("local")],
            cache_imports: vec![CacheEntry::new("registry", [("ref".into(), "r".into())])],
            ..Build::default()
        };
        let request = build.request("r1", "s1");
        assert_eq!((request.r#ref.as_str(), request.session.as_str()), ("r1", "s1"));
        assert_eq!(request.exporters.len(), 2);
        assert_eq!(request.exporter_deprecated, "image");
        assert_eq!(request.exporter_attrs_deprecated["name"], "image");
        assert_eq!(request.cache.unwrap().imports[0].attrs["ref"], "r");
        assert_eq!(request.frontend_attrs["cache-imports"], r#"[{"Attrs":{"ref":"r"},"Type":"registry"}]"#);
        assert!(Build::default().request("r", "s").cache.is_some());
    }

    #[test]
    fn no_network() {
        let mut build =
            Build { entitlements: vec!["network.host".into(), "device".into()], ..Build::default() };
        assert!(!build.is_without_network());
        build.without_network();
        assert_eq!(build.frontend_attrs["force-network-mode"], "none");
        assert!(build.frontend_attrs.contains_key("cmdline"));
        assert_eq!(build.entitlements, ["device"]);
        assert!(!build.is_without_network(), "a device may be a way out");
        build.entitlements.clear();
        assert!(build.is_without_network());
        build.frontend_attrs.remove("force-network-mode");
        assert!(!build.is_without_network());
    }
}
