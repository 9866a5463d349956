//! That this session is alive. The daemon asks every few seconds, and gives up a session that does not answer twice.
//!
//! Follows grpc/grpc-proto `grpc/health/v1/health.proto`, as moby/buildkit `session/grpc.go` uses it.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use crate::proto::grpc::health::v1 as wire;
use wire::health_check_response::ServingStatus;

pub(super) const METHODS: &[&str] = &["/grpc.health.v1.Health/Check"];

#[derive(Debug)]
pub(super) struct Health;

fn serving() -> wire::HealthCheckResponse {
    wire::HealthCheckResponse { status: ServingStatus::Serving.into() }
}

#[tonic::async_trait]
impl wire::health_server::Health for Health {
    async fn check(
        &self,
        _: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<wire::HealthCheckResponse>, Status> {
        Ok(Response::new(serving()))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::HealthCheckResponse, Status>> + Send>>;

    /// Serving, and no change for as long as the session lasts.
    async fn watch(
        &self,
        _: Request<wire::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let unchanging = tokio_stream::once(Ok(serving())).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(unchanging)))
    }
}
