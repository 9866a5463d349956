//! Whoever wants to know what was asked of a session.
//!
//! Every request passes here before it reaches a service, those that no service answers included, so what is written down is
//! what was asked and not what a service thought worth telling. What a request is about stands in its metadata; what a
//! message says of it is told by those who decide (see [`Host`](super::host::Host)). Nothing is copied but names: of contents
//! there is the number of bytes.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use tonic::body::Body;
use tonic::codegen::http;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Told of each request when it has ended.
pub trait Witness: std::fmt::Debug + Send + Sync + 'static {
    fn saw(&self, request: Seen);
}

/// A request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// `/package.Service/Method`, as it came.
    pub method: String,
    /// What its metadata says it is about, by key; bounded.
    pub about: BTreeMap<String, Vec<String>>,
    /// Bytes that came with it and that went back.
    pub received: u64,
    pub sent: u64,
    /// How it ended: `ok`, `refused` or `cut off`.
    pub end: String,
    /// Why, if it did not end well.
    pub why: String,
}

/// Metadata that says what a request is about.
const TELLING: &[&str] = &[
    "dir-name",
    "include-patterns",
    "exclude-patterns",
    "followpaths",
    "buildkit-attachable-exporter-id",
    "buildkit-attachable-store-id",
    "urlpath",
];
/// Of one key, and of one value.
const MAX_VALUES: usize = 20;
const MAX_TEXT: usize = 256;

/// Has a witness see what passes; without one everything just passes.
#[derive(Debug, Clone, Default)]
pub(super) struct Witnessed(pub Option<Arc<dyn Witness>>);

impl<S> Layer<S> for Witnessed {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, witness: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Watched<S> {
    inner: S,
    witness: Option<Arc<dyn Witness>>,
}

impl<S> Service<http::Request<Body>> for Watched<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(witness) = self.witness.clone() else { return Box::pin(self.inner.call(request)) };
        let received = Arc::new(AtomicU64::new(0));
        let mut note = Note::new(witness, &request, received.clone());
        let request = request.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                received.fetch_add(bytes, Ordering::Relaxed);
                frame
            }))
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            note.hear(response.headers());
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    note.seen.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if let Some(trailers) = frame.trailers_ref() {
                        note.hear(trailers);
                    }
                    frame
                }))
            }))
        })
    }
}

/// Tells when it is dropped, which is when the answer is at its end or nobody waits for it any more.
struct Note {
    witness: Arc<dyn Witness>,
    received: Arc<AtomicU64>,
    seen: Seen,
}

impl Note {
    fn new(witness: Arc<dyn Witness>, request: &http::Request<Body>, received: Arc<AtomicU64>) -> Note {
        let about = TELLING.iter().filter_map(|key| {
            let values = request.headers().get_all(*key);
            let values: Vec<String> =
                values.iter().take(MAX_VALUES).map(|value| bounded(value.as_bytes())).collect();
            (!values.is_empty()).then(|| ((*key).to_owned(), values))
        });
        let seen = Seen {
            method: bounded(request.uri().path().as_bytes()),
            about: about.collect(),
            received: 0,
            sent: 0,
            end: "cut off".to_owned(),
            why: String::new(),
        };
        Note { witness, received, seen }
    }

    /// The status, where it stands in these.
    fn hear(&mut self, headers: &http::HeaderMap) {
        let Some(status) = Status::from_header_map(headers) else { return };
        if status.code() == Code::Ok {
            self.seen.end = "ok".to_owned();
        } else {
            self.seen.end = "refused".to_owned();
            self.seen.why = bounded(format!("{:?}: {}", status.code(), status.message()).as_bytes());
        }
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.seen.received = self.received.load(Ordering::Relaxed);
        self.witness.saw(self.seen.clone());
    }
}

fn bounded(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned();
    text.retain(|c| !c.is_control());
    text
}
