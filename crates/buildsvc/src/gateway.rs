//! Questions to a frontend: what it would build, what it has to say of a Dockerfile.
//!
//! Answers are no results that could be exported, and `Control.Solve` does not carry them. So the client takes the place of the
//! frontend for once: it has the daemon ask the real one, and hands the answer back. Follows moby/buildkit `client/build.go`
//! and `frontend/subrequests`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::client::{self, Client, MAX_MESSAGE, MAX_RESULT};
use crate::error::BuildError;
use crate::identity;
use crate::proto::google::rpc;
use crate::proto::moby::buildkit::v1 as control;
use crate::proto::moby::buildkit::v1::frontend as wire;
use crate::status::bounded;
use wire::llb_bridge_client::LlbBridgeClient;

/// What a frontend must know of, or not be asked.
pub(crate) const CAPABILITY: &str = "moby.buildkit.frontend.subrequests+forward";
/// Of all parts of an answer together.
const MAX_ANSWER: usize = MAX_RESULT;

/// Asks the frontend, within the solve called `reference`, and ends that solve either way. An error is also the solve's.
pub(crate) async fn ask(
    client: &Client,
    reference: &str,
    frontend: String,
    attrs: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Status> {
    let mut bridge = bridge(client);
    // The daemon waits a while for the solve to begin.
    bridge.ping(within(reference, wire::PingRequest {})?).await?;
    let question = wire::SolveRequest {
        frontend,
        frontend_opt: attrs.into_iter().collect(),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..wire::SolveRequest::default()
    };
    let answer = bridge.solve(within(reference, question)?).await;
    let (end, answer) = match answer {
        Ok(reply) => {
            let result = reply.into_inner().result.unwrap_or_default();
            let answer = told(&result);
            (wire::ReturnRequest { result: Some(result), error: None }, Ok(answer))
        }
        Err(status) => {
            let error = rpc::Status::decode(status.details()).ok().filter(|error| error.code != 0);
            let error = error.unwrap_or_else(|| refusal(&status));
            (wire::ReturnRequest { result: None, error: Some(error) }, Err(status))
        }
    };
    bridge.r#return(within(reference, end)?).await?;
    answer
}

/// What the daemon's builds may contain, as it tells those who drive one: ids such as `exec.meta.network`. So one is driven that
/// contains nothing.
pub(crate) async fn capabilities(client: &Client, limit: Duration) -> Result<BTreeSet<String>, BuildError> {
    const DURING: &str = "the question for capabilities";
    let reference = identity::fresh();
    let request = control::SolveRequest {
        r#ref: reference.clone(),
        cache: Some(control::CacheOptions::default()),
        internal: true,
        ..control::SolveRequest::default()
    };
    let mut control = client.control();
    let mut bridge = bridge(client);
    let asking = async {
        let pong = bridge.ping(within(&reference, wire::PingRequest {})?).await?.into_inner();
        let nothing = wire::ReturnRequest { result: Some(wire::Result::default()), error: None };
        bridge.r#return(within(&reference, nothing)?).await?;
        Ok::<_, Status>(pong.llb_caps)
    };
    let asked = async { tokio::join!(control.solve(request), asking).1 };
    let caps = client.ask(DURING, limit, asked).await?;
    let caps = caps.map_err(|status| client::refused(DURING, &status))?;
    Ok(caps.into_iter().filter(|cap| cap.enabled).map(|cap| cap.id).collect())
}

/// Holds `driven` beside the solve that it drives, and gives its answer.
pub(crate) async fn beside<T>(
    client: &Client,
    request: control::SolveRequest,
    driven: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let mut control = client.control();
    let mut driven = std::pin::pin!(driven);
    tokio::select! {
        biased;
        answer = &mut driven => answer,
        // One that fails says why. One that ends well may do so before the return of its result has been answered.
        solved = control.solve(request) => {
            solved?;
            driven.await
        }
    }
}

/// Drives a solve that has `source` built, and gives the first `length` bytes of the file at `path` in what came of it.
pub(crate) async fn file_of(
    client: &Client,
    reference: &str,
    source: wire::SolveRequest,
    path: &str,
    length: i64,
) -> Result<Vec<u8>, Status> {
    let mut bridge = bridge(client);
    // The daemon waits a while for the solve to begin.
    bridge.ping(within(reference, wire::PingRequest {})?).await?;
    let read = async {
        let reply = bridge.solve(within(reference, source)?).await?.into_inner();
        let Some(wire::result::Result::Ref(result)) = reply.result.and_then(|result| result.result) else {
            return Err(Status::internal("the solve has no result"));
        };
        let range = wire::FileRange { offset: 0, length };
        let file = wire::ReadFileRequest { r#ref: result.id, file_path: path.to_owned(), range: Some(range) };
        Ok(bridge.read_file(within(reference, file)?).await?.into_inner().data.to_vec())
    };
    let answer = read.await;
    let error = answer.as_ref().err().map(refusal);
    let end = wire::ReturnRequest { result: error.is_none().then(wire::Result::default), error };
    bridge.r#return(within(reference, end)?).await?;
    answer
}

/// What is returned in the place of a result that there is not.
pub(crate) fn refusal(status: &Status) -> rpc::Status {
    rpc::Status { code: status.code().into(), message: status.message().to_owned(), details: Vec::new() }
}

pub(crate) fn bridge(client: &Client) -> LlbBridgeClient<Channel> {
    LlbBridgeClient::new(client.channel())
        .max_decoding_message_size(MAX_RESULT)
        .max_encoding_message_size(MAX_MESSAGE)
}

pub(crate) fn within<T>(reference: &str, message: T) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let id = reference.parse().map_err(|_| Status::internal("the build has no usable name"))?;
    request.metadata_mut().insert("buildkit-controlapi-buildid", id);
    Ok(request)
}

fn told(result: &wire::Result) -> BTreeMap<String, String> {
    let mut room = MAX_ANSWER;
    let mut answer = BTreeMap::new();
    for (key, value) in &result.metadata {
        if key.starts_with("result.") || key == "version" {
            let text = bounded(String::from_utf8_lossy(value).into_owned(), room);
            room -= text.len().min(room);
            answer.insert(key.clone(), text);
        }
    }
    answer
}
