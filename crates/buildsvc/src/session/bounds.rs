//! How large the head of a call may be.
//!
//! The patterns of an ignore file travel as headers of the one call that fetches directories, so a session must take large
//! heads. Of every other call some lines are enough, and hundreds of calls may be open at once.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tower::{Layer, Service};

use super::filesync;

/// Of a call that fetches no directory.
const MAX_HEAD: usize = 64 << 10;

/// Refuses calls whose heads are out of bounds before anything is made of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds;

impl<S> Layer<S> for Bounds {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded(inner)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Bounded<S>(S);

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if size(request.headers()) > MAX_HEAD && !filesync::METHODS.contains(&request.uri().path()) {
            let refusal =
                Status::resource_exhausted(format!("the head of a call has at most {MAX_HEAD} bytes"));
            return Box::pin(async move { Ok(refusal.into_http()) });
        }
        Box::pin(self.0.call(unshared(request)))
    }
}

/// The same request, holding no memory of the frames that it came in: its address alone, which lives as long as the call,
/// would keep all of a large head.
fn unshared(request: Request<Body>) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    if let Ok(uri) = head.uri.to_string().parse() {
        head.uri = uri;
    }
    for value in head.headers.values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    Request::from_parts(head, body)
}

/// As RFC 9113 counts, with 32 bytes for each field.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_directories_are_asked_for_at_length() {
        let answer = |_: Request<Body>| async { Ok(Status::ok("").into_http()) };
        let mut service = Bounds.layer(tower::service_fn(answer));
        let long = "v".repeat(MAX_HEAD);
        for (path, value, refused) in [
            ("/moby.filesync.v1.Auth/Credentials", "v", false),
            ("/moby.filesync.v1.Auth/Credentials", long.as_str(), true),
            ("/moby.filesync.v1.FileSync/DiffCopy", long.as_str(), false),
        ] {
            let request = Request::builder().uri(path).header("x", value).body(Body::empty()).unwrap();
            let reply = service.call(request).await.unwrap();
            let status = Status::from_header_map(reply.headers()).unwrap();
            assert_eq!(status.code() == tonic::Code::ResourceExhausted, refused, "{path}");
        }
    }

    #[test]
    fn a_request_keeps_nothing_of_its_frame() {
        let frame = tonic::codegen::Bytes::from("/service/method and a value".repeat(100));
        let value = HeaderValue::from_maybe_shared(frame.slice(..27)).unwrap();
        let shared =
            Request::builder().uri("/service/method?q").header("x", value).body(Body::empty()).unwrap();
        let own = unshared(shared);
        assert_eq!(own.uri(), "/service/method?q");
        assert_eq!(own.headers()["x"], "/service/method and a value");
        assert!(frame.is_unique());
    }
}
