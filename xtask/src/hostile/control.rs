//! The services of a daemon, as far as its clients call them before and while they build.
//!
//! `Solve` hands the build to the case's script. A client that drives the frontend itself (buildctl, buildx) does so over
//! `LLBBridge`, where every step of its is praised and nothing is done.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::case::Case;
use super::ground::Ground;
use super::progress::Raw;
use super::tunnel;
use super::visit::{Session, Visit};
use super::wire::moby::buildkit::v1 as api;
use super::wire::moby::buildkit::v1::frontend;
use super::wire::moby::buildkit::v1::types;

/// Updates on their way; a slow client slows the script down.
const UPDATES: usize = 4;
const VERSION: &str = "v0.32.2";

/// One case's daemon.
#[derive(Debug, Clone)]
pub struct Daemon {
    case: Case,
    ground: Arc<Ground>,
    sessions: Arc<watch::Sender<Vec<Session>>>,
    builds: Arc<Mutex<HashMap<String, Build>>>,
}

/// Progress from the script to whoever follows it; each end is taken once.
#[derive(Debug)]
struct Build {
    updates: Option<mpsc::Sender<Raw>>,
    followed: Option<mpsc::Receiver<Raw>>,
}

impl Default for Build {
    fn default() -> Build {
        let (updates, followed) = mpsc::channel(UPDATES);
        Build { updates: Some(updates), followed: Some(followed) }
    }
}

impl Daemon {
    pub fn new(case: Case, ground: Arc<Ground>) -> Daemon {
        Daemon { case, ground, sessions: Arc::default(), builds: Arc::default() }
    }

    fn with_build<T>(&self, reference: &str, take: impl FnOnce(&mut Build) -> Option<T>) -> Option<T> {
        let mut builds = self.builds.lock().unwrap_or_else(PoisonError::into_inner);
        take(builds.entry(reference.to_owned()).or_default())
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("not in this daemon"))
}

#[tonic::async_trait]
impl api::control_server::Control for Daemon {
    async fn info(&self, _: Request<api::InfoRequest>) -> Result<Response<api::InfoResponse>, Status> {
        let version =
            types::BuildkitVersion { version: VERSION.to_owned(), ..types::BuildkitVersion::default() };
        Ok(Response::new(api::InfoResponse { buildkit_version: Some(version) }))
    }

    async fn list_workers(
        &self,
        _: Request<api::ListWorkersRequest>,
    ) -> Result<Response<api::ListWorkersResponse>, Status> {
        let worker = types::WorkerRecord {
            id: "hostile".to_owned(),
            buildkit_version: Some(types::BuildkitVersion {
                version: VERSION.to_owned(),
                ..types::BuildkitVersion::default()
            }),
            ..types::WorkerRecord::default()
        };
        Ok(Response::new(api::ListWorkersResponse { record: vec![worker] }))
    }

    type SessionStream = Boxed<api::BytesMessage>;

    async fn session(
        &self,
        request: Request<Streaming<api::BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.case.silent == Some("session") {
            self.ground.record.visited();
            return std::future::pending().await;
        }
        let texts = |key: &'static str| {
            let values = request.metadata().get_all(key).iter();
            values.filter_map(|value| Some(value.to_str().ok()?.to_owned())).collect::<Vec<_>>()
        };
        let id = texts("x-docker-expose-session-uuid").pop().unwrap_or_default();
        let methods = texts("x-docker-expose-session-grpc-method");
        let (channel, outgoing) = tunnel::open(request.into_inner()).await?;
        self.sessions.send_modify(|sessions| sessions.push(Session { id, methods, channel }));
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn solve(
        &self,
        request: Request<api::SolveRequest>,
    ) -> Result<Response<api::SolveResponse>, Status> {
        let request = request.into_inner();
        let mut sessions = self.sessions.subscribe();
        let own = |session: &Session| session.id == request.session;
        let known = sessions.wait_for(|sessions| sessions.iter().any(own)).await;
        drop(known.map_err(|_| Status::not_found("no such session"))?);
        let updates = self
            .with_build(&request.r#ref, |build| build.updates.take())
            .ok_or_else(|| Status::already_exists("this build has been"))?;
        if request.internal {
            // By which buildx asks what the daemon can do, before it builds.
            return Ok(Response::new(api::SolveResponse::default()));
        }
        self.ground.record.visited();
        let visit = Visit { sessions, request, updates, ground: self.ground.clone() };
        // In a task of its own, for some scripts outlive their clients.
        let script = tokio::spawn((self.case.script)(visit));
        let exporter_response =
            script.await.map_err(|error| Status::internal(format!("the script broke: {error}")))??;
        Ok(Response::new(api::SolveResponse { exporter_response }))
    }

    type StatusStream = Boxed<Raw>;

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<Self::StatusStream>, Status> {
        let followed = self.with_build(&request.into_inner().r#ref, |build| build.followed.take());
        let followed = followed.ok_or_else(|| Status::not_found("followed by somebody else"))?;
        Ok(Response::new(Box::pin(tokio_stream::StreamExt::map(ReceiverStream::new(followed), Ok))))
    }

    async fn disk_usage(
        &self,
        _: Request<api::DiskUsageRequest>,
    ) -> Result<Response<api::DiskUsageResponse>, Status> {
        not_here()
    }

    type PruneStream = Boxed<api::UsageRecord>;

    async fn prune(&self, _: Request<api::PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        not_here()
    }

    type ListenBuildHistoryStream = Boxed<api::BuildHistoryEvent>;

    async fn listen_build_history(
        &self,
        _: Request<api::BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        not_here()
    }

    async fn update_build_history(
        &self,
        _: Request<api::UpdateBuildHistoryRequest>,
    ) -> Result<Response<api::UpdateBuildHistoryResponse>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl frontend::llb_bridge_server::LlbBridge for Daemon {
    async fn ping(
        &self,
        _: Request<frontend::PingRequest>,
    ) -> Result<Response<frontend::PongResponse>, Status> {
        Ok(Response::new(frontend::PongResponse::default()))
    }

    async fn solve(
        &self,
        _: Request<frontend::SolveRequest>,
    ) -> Result<Response<frontend::SolveResponse>, Status> {
        Ok(Response::new(frontend::SolveResponse::default()))
    }

    async fn read_file(
        &self,
        _: Request<frontend::ReadFileRequest>,
    ) -> Result<Response<frontend::ReadFileResponse>, Status> {
        not_here()
    }

    async fn r#return(
        &self,
        _: Request<frontend::ReturnRequest>,
    ) -> Result<Response<frontend::ReturnResponse>, Status> {
        Ok(Response::new(frontend::ReturnResponse {}))
    }
}
