//! One request of the jailed client: judged, made anew for the Engine, and the answer made anew for the client.
//!
//! Nothing is copied raw. The Engine sees a request that hyper wrote from checked parts, on a connection that carries this
//! one request, so no framing that the two ends might read differently (RFC 9112, 11.2) reaches it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;

use super::record::Recorder;
use super::rules::{self, Call, Kind};
use super::{grpc, info};

pub type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Response headers that are passed on; the Engine sets a few more that tell of its host's configuration.
const ANSWERED: [&str; 7] = [
    "api-version",
    "builder-version",
    "cache-control",
    "content-type",
    "docker-experimental",
    "ostype",
    "server",
];

/// What all connections share.
#[derive(Debug)]
pub struct Desk {
    pub engine: PathBuf,
    pub recorder: Recorder,
}

/// Why an allowed call came to nothing.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("connect to the Engine")]
    Connect(#[source] std::io::Error),
    #[error("talk to the Engine")]
    Engine(#[source] hyper::Error),
    #[error("the Engine's description of itself cannot be read")]
    Info,
}

/// Answers `request`. `permit` is the connection's place among the open ones; a hijacked connection keeps it.
pub async fn answer(
    desk: Arc<Desk>,
    permit: Arc<OwnedSemaphorePermit>,
    request: Request<Incoming>,
) -> Response<Body> {
    let method = request.method().clone();
    let refuse = |status: StatusCode, path: &str, reason: &str| {
        desk.recorder.refused(method.as_str(), path, reason);
        refusal(status, reason)
    };
    let uri = request.uri().clone();
    // Absolute form (a proxy's) and CONNECT's authority form name a host: there is none to choose.
    if uri.authority().is_some() || uri.scheme().is_some() {
        return refuse(StatusCode::FORBIDDEN, &uri.to_string(), "ktl: the gate is no proxy");
    }
    if request.headers().contains_key(header::TRANSFER_ENCODING)
        && request.headers().contains_key(header::CONTENT_LENGTH)
    {
        return refuse(
            StatusCode::BAD_REQUEST,
            uri.path(),
            "ktl: the gate takes one length for a body, not two",
        );
    }
    let call = match rules::judge(&method, uri.path(), uri.query().unwrap_or_default()) {
        Ok(call) => call,
        Err(refusal) => return refuse(StatusCode::FORBIDDEN, &refusal.path, &refusal.reason),
    };
    if call.rule.body.is_none() && !request.body().is_end_stream() {
        let reason = format!("ktl: the gate passes no body with {}", call.rule.name);
        return refuse(StatusCode::FORBIDDEN, uri.path(), &reason);
    }
    let hijack = matches!(call.rule.kind, Kind::Grpc | Kind::Session);
    if hijack && !asks_for_h2c(request.headers()) {
        let reason = format!("ktl: the gate passes {} only with Upgrade: h2c", call.rule.name);
        return refuse(StatusCode::FORBIDDEN, uri.path(), &reason);
    }
    desk.recorder.passed(call.rule.name);
    let result = if hijack {
        hijacked(&desk, permit, call, request).await
    } else {
        plain(&desk, &call, request).await
    };
    result.unwrap_or_else(|error| {
        refusal(StatusCode::BAD_GATEWAY, &format!("ktl: the gate: {}", crate::failure::chain(&error)))
    })
}

async fn plain(desk: &Desk, call: &Call, request: Request<Incoming>) -> Result<Response<Body>, ForwardError> {
    let mut anew = rebuilt(call, &request);
    if let Some(kind) = call.rule.body {
        anew = anew.header(header::CONTENT_TYPE, kind);
    }
    let body = match call.rule.body {
        Some(_) => request.into_body().boxed_unsync(),
        None => empty(),
    };
    let response = ask(desk, anew.body(body)).await?;
    if call.rule.kind == Kind::Info && response.status().is_success() {
        let (parts, body) = response.into_parts();
        let full = Limited::new(body, info::LARGEST).collect().await.map_err(|_| ForwardError::Info)?;
        let cut = info::cut(&full.to_bytes()).ok_or(ForwardError::Info)?;
        return Ok(passed_on(parts.status, &parts.headers, full_body(cut)));
    }
    let (parts, body) = response.into_parts();
    // An upgrade that nobody asked for.
    if parts.status.is_informational() {
        return Ok(refusal(StatusCode::BAD_GATEWAY, "ktl: the Engine's answer makes no sense here"));
    }
    Ok(passed_on(parts.status, &parts.headers, body.boxed_unsync()))
}

async fn hijacked(
    desk: &Arc<Desk>,
    permit: Arc<OwnedSemaphorePermit>,
    call: Call,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ForwardError> {
    let anew = rebuilt(&call, &request).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, "h2c");
    let client = hyper::upgrade::on(&mut request);
    let mut response = ask(desk, anew.body(empty())).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        return Ok(passed_on(parts.status, &parts.headers, body.boxed_unsync()));
    }
    let engine = hyper::upgrade::on(&mut response);
    let desk = Arc::clone(desk);
    // On the gate's own runtime, so it ends with it at the latest.
    tokio::spawn(async move {
        let _place = permit;
        match call.rule.kind {
            Kind::Grpc => grpc::proxy(desk, client, engine).await,
            _ => tunnel(client, engine).await,
        }
    });
    let mut switched = Response::new(empty());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    switched.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    switched.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("h2c"));
    Ok(switched)
}

/// Bytes both ways until both ends are done. The Engine is the HTTP/2 client in here: it calls, the jailed client answers.
async fn tunnel(client: OnUpgrade, engine: OnUpgrade) {
    if let Ok((client, engine)) = tokio::try_join!(client, engine) {
        let _ended_either_way =
            tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(engine)).await;
    }
}

/// The request's checked parts, without a body.
fn rebuilt(call: &Call, request: &Request<Incoming>) -> hyper::http::request::Builder {
    let mut anew =
        Request::builder().method(request.method().clone()).uri(&call.target).header(header::HOST, "docker");
    for (name, value) in request.headers() {
        if rules::is_forwarded(call.rule, name) {
            anew = anew.header(name, value);
        }
    }
    anew
}

/// Sends one request over a connection of its own.
async fn ask(
    desk: &Desk,
    request: Result<Request<Body>, hyper::http::Error>,
) -> Result<Response<Incoming>, ForwardError> {
    let request = request.map_err(|error| ForwardError::Connect(std::io::Error::other(error)))?;
    let stream = UnixStream::connect(&desk.engine).await.map_err(ForwardError::Connect)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ForwardError::Engine)?;
    // Ends when the answer's body has been read or dropped.
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(ForwardError::Engine)
}

fn passed_on(status: StatusCode, headers: &HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if ANSWERED.contains(&name.as_str()) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}

/// In the form in which the Engine itself reports errors, so every client prints the message.
fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "message": message }).to_string();
    let mut response = Response::new(full_body(body.into_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn asks_for_h2c(headers: &HeaderMap) -> bool {
    let says = |name: HeaderName, word: &str| {
        let mut values = headers.get_all(name).iter();
        let one = values.next().and_then(|value| value.to_str().ok());
        values.next().is_none() && one.is_some_and(|value| value.trim().eq_ignore_ascii_case(word))
    };
    says(header::CONNECTION, "upgrade") && says(header::UPGRADE, "h2c")
}

pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full_body(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}
