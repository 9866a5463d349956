//! BuildKit's services behind `POST /grpc`, by method.
//!
//! The Engine registers its whole BuildKit there (buildkit, `control/control.go`, `Register`): besides solving, a client
//! could prune the cache, read and delete the records of everybody's builds with their arguments, and read blobs out of the
//! Engine's content store. So the gate ends the client's HTTP/2 and opens its own to the Engine, and a call passes by its
//! method's name. Messages are not looked into: which entitlements a solve may have is the Engine's decision.

use std::convert::Infallible;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioExecutor;

use super::forward::{Body, Desk, empty};

const CONTROL: [&str; 5] = [
    "/moby.buildkit.v1.Control/Info",
    "/moby.buildkit.v1.Control/ListWorkers",
    "/moby.buildkit.v1.Control/Session",
    "/moby.buildkit.v1.Control/Solve",
    "/moby.buildkit.v1.Control/Status",
];
const HEALTH: &str = "/grpc.health.v1.Health/Check";
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// What a frontend that runs in the client asks for, within the client's own solve.
const BRIDGE: &str = "/moby.buildkit.v1.frontend.LLBBridge/";

/// Proxies the calls of one hijacked connection until either end closes it.
pub async fn proxy(desk: Arc<Desk>, client: OnUpgrade, engine: OnUpgrade) {
    let Ok((client, engine)) = tokio::try_join!(client, engine) else { return };
    let handshake = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(engine);
    let Ok((sender, connection)) = handshake.await else { return };
    let service = service_fn(|request| {
        let (desk, sender) = (Arc::clone(&desk), sender.clone());
        async move { Ok::<_, Infallible>(call(&desk, sender, request).await) }
    });
    let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        .serve_connection(client, service);
    // Whichever end goes first takes the other along; how it went does not matter to anybody.
    tokio::select! {
        _ = serving => {}
        _ = connection => {}
    }
}

/// Bytes in flight; what a client sends over a session inside of here can be a whole build context.
const WINDOW: u32 = 1 << 20;
/// Calls at once.
const STREAMS: u32 = 256;

async fn call(desk: &Desk, mut sender: SendRequest<Body>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let Some(name) = passes(request.method(), &path) else {
        let reason = format!(
            "ktl: the gate passes what a build needs; {path} is not part of it (run it outside of the jail, with docker itself)"
        );
        desk.recorder.refused("gRPC", &path, &reason);
        return status(tonic::Status::permission_denied(reason));
    };
    desk.recorder.passed(name);
    let (parts, body) = request.into_parts();
    let mut anew = Request::new(body.boxed_unsync());
    *anew.method_mut() = Method::POST;
    // The method as the table has it or, for the bridge, as it was checked: letters after a fixed beginning.
    let Ok(uri) = hyper::Uri::try_from(format!("http://docker{path}")) else {
        return status(tonic::Status::invalid_argument("ktl: the gate cannot read the method's name"));
    };
    *anew.uri_mut() = uri;
    // gRPC metadata: the build's id for the bridge, deadlines, traces. HTTP/2 has no header that changes the framing.
    *anew.headers_mut() = parts.headers;
    match sender.send_request(anew).await {
        Ok(response) => response.map(BodyExt::boxed_unsync),
        Err(error) => {
            status(tonic::Status::unavailable(format!("ktl: the gate: {}", crate::failure::chain(&error))))
        }
    }
}

/// The name under which a method is counted, if it passes.
fn passes(method: &Method, path: &str) -> Option<&'static str> {
    if method != Method::POST {
        return None;
    }
    if let Some(call) = path.strip_prefix(BRIDGE) {
        let is_name = !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphabetic());
        return is_name.then_some(BRIDGE);
    }
    CONTROL.into_iter().chain([HEALTH, TRACES]).find(|name| *name == path)
}

fn status(status: tonic::Status) -> Response<Body> {
    status.into_http::<()>().map(|()| empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_pass_by_their_whole_name() {
        for (path, want) in [
            ("/moby.buildkit.v1.Control/Solve", true),
            ("/moby.buildkit.v1.Control/Status", true),
            ("/moby.buildkit.v1.frontend.LLBBridge/ReadFile", true),
            ("/grpc.health.v1.Health/Check", true),
            ("/moby.buildkit.v1.Control/Prune", false),
            ("/moby.buildkit.v1.Control/DiskUsage", false),
            ("/moby.buildkit.v1.Control/ListenBuildHistory", false),
            ("/moby.buildkit.v1.Control/UpdateBuildHistory", false),
            ("/containerd.services.content.v1.Content/Read", false),
            ("/moby.buildkit.v1.Control/Solve/", false),
            ("//moby.buildkit.v1.Control/Solve", false),
            ("/moby.buildkit.v1.Control/solve", false),
            ("/moby.buildkit.v1.frontend.LLBBridge/", false),
            ("/moby.buildkit.v1.frontend.LLBBridge/../Control/Prune", false),
            ("/moby.buildkit.v1.frontend.LLBBridge/a%2Fb", false),
            ("/v1.41/containers/json", false),
        ] {
            assert_eq!(passes(&Method::POST, path).is_some(), want, "{path}");
            assert_eq!(passes(&Method::GET, path), None, "{path}");
        }
    }
}
