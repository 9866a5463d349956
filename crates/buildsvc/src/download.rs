//! A file from the web, as the daemon gets it: from where the daemon is, and with what it has cached.
//!
//! Follows docker buildx (`build/url.go`) and moby/buildkit `client/llb/source.go`. The solve has no session and no exporter: the
//! daemon can ask this side for nothing, and keeps nothing but its cache.

use std::time::Duration;

use prost::Message as _;

use crate::client::{self, Client};
use crate::error::BuildError;
use crate::failure;
use crate::gateway::{beside, file_of};
use crate::identity;
use crate::proto::moby::buildkit::v1 as control;
use crate::proto::moby::buildkit::v1::frontend as wire;
use crate::proto::pb;
use crate::trial::digest_of;

const DURING: &str = "a download";
/// What the file is called in the daemon's cache.
const NAME: &str = "Dockerfile";

/// The first `limit` bytes of the file at `url`, which the daemon may take `patience` for.
pub async fn download(
    client: &Client,
    url: &str,
    limit: u32,
    patience: Duration,
) -> Result<Vec<u8>, BuildError> {
    let reference = identity::fresh();
    let request = control::SolveRequest {
        r#ref: reference.clone(),
        cache: Some(control::CacheOptions::default()),
        internal: true,
        ..control::SolveRequest::default()
    };
    let source = wire::SolveRequest {
        definition: Some(definition(url)),
        allow_result_return: true,
        allow_result_array_ref: true,
        ..wire::SolveRequest::default()
    };
    let both = beside(client, request, file_of(client, &reference, source, NAME, limit.into()));
    let mut bytes =
        client.ask(DURING, patience, both).await?.map_err(|status| match client::is_broken(&status) {
            true => client::lost(DURING, &status),
            false => BuildError::Solve(Box::new(failure::read(&status))),
        })?;
    bytes.truncate(limit as usize);
    Ok(bytes)
}

/// The file as a root of its own.
fn definition(url: &str) -> pb::Definition {
    let source = pb::SourceOp {
        identifier: url.to_owned(),
        attrs: [("http.filename".to_owned(), NAME.to_owned())].into_iter().collect(),
    };
    let source = pb::Op { op: Some(pb::op::Op::Source(source)), ..pb::Op::default() }.encode_to_vec();
    let digest = digest_of(&source);
    let metadata = pb::OpMetadata {
        description: [("llb.customname".to_owned(), format!("[internal] load {url}"))].into(),
        ..pb::OpMetadata::default()
    };
    let last = pb::Op { inputs: vec![pb::Input { digest: digest.clone(), index: 0 }], ..pb::Op::default() };
    pb::Definition {
        def: vec![source.into(), last.encode_to_vec().into()],
        metadata: [(digest, metadata)].into(),
        ..pb::Definition::default()
    }
}
