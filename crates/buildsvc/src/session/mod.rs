//! The session that a build offers to the daemon.
//!
//! While it solves, the daemon asks the client for what only the client has: the files of the build context, secrets,
//! credentials, an ssh agent, and a place for results. It asks over a gRPC connection of its own, with the roles
//! reversed: the bytes of that connection travel inside `Control.Session`, a stream of the connection that the client
//! opened. `tunnel` makes those bytes a connection again; one module each serves the questions. A service that a build
//! does not need is not registered at all, which denies it absolutely.
//!
//! Follows moby/buildkit `session/session.go` and `session/grpc.go`.

mod auth;
mod bounds;
mod content;
mod deliveries;
mod filesend;
mod filesync;
mod health;
pub mod host;
pub mod policy;
mod secrets;
#[cfg(test)]
pub(crate) mod services_tests;
mod sshforward;
mod tunnel;
mod upload;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use crate::client::{self, Client, MAX_MESSAGE};
use crate::context::LocalDir;
use crate::error::BuildError;
use crate::export::Receiver;
use crate::proto::containerd::services::content::v1::content_server::ContentServer;
use crate::proto::grpc::health::v1::health_server::HealthServer;
use crate::proto::moby::buildkit::secrets::v1::secrets_server::SecretsServer;
use crate::proto::moby::buildkit::v1::sourcepolicy::policysession::policy_verifier_server::PolicyVerifierServer;
use crate::proto::moby::filesync::v1::auth_server::AuthServer;
use crate::proto::moby::filesync::v1::file_sync_server::FileSyncServer;
use crate::proto::moby::sshforward::v1::ssh_server::SshServer;
use crate::proto::moby::upload::v1::upload_server::UploadServer;
use crate::store::ContentStore;
use bounds::Bounds;
use deliveries::{Delivered, Deliveries};
use filesend::FileSend;
use host::Host;
pub use witness::{Seen, Witness};

/// What a build offers.
#[derive(Debug)]
pub struct Session {
    /// Under which the daemon keeps received directories: a later build with the same key transfers only what changed.
    /// One per context, such as its base name with a number of this machine. Never part of a result.
    pub shared_key: String,
    /// By the name that the daemon asks for: `context`, `dockerfile`, named contexts.
    pub locals: BTreeMap<String, LocalDir>,
    /// By exporter, in the order of [`Build::exports`](crate::build::Build::exports); `None` where the daemon keeps or
    /// sends the result by itself.
    pub outputs: Vec<Option<Output>>,
    pub host: Arc<dyn Host>,
    /// Ids of the secrets that may be asked for.
    pub secrets: BTreeSet<String>,
    /// Ids of the ssh agents that may be asked for.
    pub agents: BTreeSet<String>,
    /// Stores of blobs, by the id that the daemon asks with: `oci:NAME`, `local:PATH`.
    pub stores: BTreeMap<String, ContentStore>,
    /// The context where it is an archive.
    pub upload: Option<Upload>,
    /// Who is told of each request.
    pub witness: Option<Arc<dyn Witness>>,
    /// Decides about each source; the build names the session for it.
    pub verifier: Option<Arc<dyn policy::Verifier>>,
}

/// An archive that the daemon fetches once. The attribute `context` names it by its [`Upload::url`].
#[derive(Debug)]
pub struct Upload {
    pub id: String,
    /// What has been read of it already.
    pub head: Vec<u8>,
    /// What follows; may be a pipe.
    pub rest: std::fs::File,
}

impl Upload {
    /// What the daemon takes for the address of the archive called `id`.
    pub fn url(id: &str) -> String {
        format!("http://buildkit-session/{id}")
    }
}

/// Where the daemon delivers the result of one exporter.
#[derive(Debug)]
pub struct Output {
    /// As messages name it.
    pub path: String,
    pub sink: Sink,
    /// Bytes of an archive; a [`Receiver`] has its own bound.
    pub most: u64,
    /// Calls that may deliver to it: one for each platform.
    pub calls: usize,
}

impl Output {
    /// Without bounds.
    pub fn new(path: impl Into<String>, sink: Sink) -> Output {
        Output { path: path.into(), sink, most: u64::MAX, calls: usize::MAX }
    }
}

#[derive(Debug)]
pub enum Sink {
    /// One archive, written from where the file stands. Written by a thread of its own, so it may be a pipe.
    File(std::fs::File),
    /// The same of an image, which is hashed again as it comes.
    Image(std::fs::File),
    /// The files of the `local` exporter.
    Directory(Arc<Receiver>),
}

/// The daemon asks with one header for each pattern of an ignore file, and a file may have thousands. The table by which
/// headers are compressed may keep what the last hundred heads came in, so they cannot be as large as one likes.
const MAX_HEADERS: u32 = 1 << 20;
/// Calls at once: a build has one for each directory, result and stream to an agent.
const MAX_CALLS: u32 = 200;
/// What the daemon may send ahead on one call: an archive, the files of a result…
const STREAM_WINDOW: u32 = 4 << 20;
/// …and on all of them, so that a slow disk never holds up the answers to health checks.
const CONNECTION_WINDOW: u32 = 32 << 20;

impl Session {
    /// Registers the session with the daemon and serves it until the returned value is closed or dropped.
    pub(crate) async fn open(self, client: &Client, limit: Duration) -> Result<Attached, BuildError> {
        const DURING: &str = "the opening of the session";
        let shared_key = self.shared_key.clone();
        let Services { router, methods, deliveries, handlers } = self.services();
        let id = crate::identity::fresh();
        let (pipe, outgoing) = tunnel::pipe();
        let closer = Closer(pipe.clone());
        let mut request = tonic::Request::new(outgoing);
        introduce(request.metadata_mut(), &id, &shared_key, &methods);
        let mut control = client.control();
        let incoming = client
            .ask(DURING, limit, control.session(request))
            .await?
            .map_err(|status| client::refused(DURING, &status))?
            .into_inner();
        // Returns as soon as the one connection is being served, by a task that ends with it.
        router
            .serve_with_incoming(tokio_stream::once(Ok::<_, Infallible>(tunnel::Tunnel::new(incoming, pipe))))
            .await
            .map_err(|error| client::lost(DURING, &error))?;
        Ok(Attached { id, closer, deliveries, handlers })
    }

    /// One service for each thing that the build needs, and no others.
    fn services(self) -> Services {
        let (deliveries, handlers) = Deliveries::new(self.outputs);
        let mut methods: Vec<&str> = health::METHODS.to_vec();
        methods.extend(auth::METHODS);
        let mut router = Server::builder()
            .http2_max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(MAX_CALLS)
            .layer(witness::Witnessed(self.witness))
            .layer(Bounds)
            .add_service(HealthServer::new(health::Health))
            .add_service(
                AuthServer::new(auth::Auth::new(self.host.clone())).max_decoding_message_size(MAX_MESSAGE),
            );
        if !self.locals.is_empty() {
            methods.extend(filesync::METHODS);
            let service = FileSyncServer::new(filesync::FileSync::new(self.locals));
            router = router.add_service(
                service.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
            );
        }
        if !deliveries.is_empty() {
            methods.extend(filesend::METHODS);
            router = router.add_service(FileSend::new(deliveries.clone()));
        }
        if !self.secrets.is_empty() {
            methods.extend(secrets::METHODS);
            router = router
                .add_service(SecretsServer::new(secrets::Secrets::new(self.host.clone(), self.secrets)));
        }
        if !self.agents.is_empty() {
            methods.extend(sshforward::METHODS);
            let service = SshServer::new(sshforward::Agents::new(self.host.clone(), self.agents));
            router = router.add_service(service.max_decoding_message_size(MAX_MESSAGE));
        }
        if !self.stores.is_empty() {
            methods.extend(content::METHODS);
            let service = ContentServer::new(content::Content::new(self.stores));
            router = router.add_service(
                service.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE),
            );
        }
        if let Some(upload) = self.upload {
            methods.extend(upload::METHODS);
            router = router.add_service(UploadServer::new(upload::Archive::new(upload)));
        }
        if let Some(verifier) = self.verifier {
            methods.extend(policy::METHODS);
            let service = PolicyVerifierServer::new(policy::Policy(verifier));
            router = router.add_service(service.max_decoding_message_size(MAX_MESSAGE));
        }
        Services { router, methods, deliveries, handlers }
    }
}

/// What tonic makes of the layers.
type Layered = Stack<Bounds, Stack<witness::Witnessed, Identity>>;

/// A session before it is known to a daemon.
struct Services {
    router: Router<Layered>,
    methods: Vec<&'static str>,
    deliveries: Arc<Deliveries>,
    /// Ends with the last receiver at work.
    handlers: mpsc::Receiver<()>,
}

/// Who this session is and what may be asked of it. One entry for each method: the daemon does not split lists.
fn introduce(metadata: &mut MetadataMap, id: &str, shared_key: &str, methods: &[&str]) {
    // A key that cannot stand in a header costs a transfer, not the build.
    let value = |text: &str| text.parse().unwrap_or_else(|_| AsciiMetadataValue::from_static(""));
    metadata.insert("x-docker-expose-session-uuid", value(id));
    metadata.insert("x-docker-expose-session-sharedkey", value(shared_key));
    for method in methods {
        metadata.append("x-docker-expose-session-grpc-method", value(method));
    }
}

/// A session under way. Closing it ends every call that the daemon has open in it.
#[derive(Debug)]
pub(crate) struct Attached {
    id: String,
    closer: Closer,
    deliveries: Arc<Deliveries>,
    handlers: mpsc::Receiver<()>,
}

/// Closes on drop, so that no way out of a build leaves a session behind.
#[derive(Debug)]
struct Closer(Arc<tunnel::Pipe>);

impl Drop for Closer {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Attached {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn close(&self) {
        self.closer.0.close();
    }

    /// What arrived. Waits, at most for `limit`, for receivers that are still writing; call it after
    /// [`Attached::close`], which ends their streams.
    pub(crate) async fn deliveries(&mut self, limit: Duration) -> Delivered {
        self.deliveries.stop_accepting();
        let _ = tokio::time::timeout(limit, self.handlers.recv()).await;
        self.deliveries.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_repeated_entries() {
        let mut metadata = MetadataMap::new();
        introduce(&mut metadata, "s1", "", &["/a.B/C", "/d.E/F"]);
        let methods: Vec<_> = metadata.get_all("x-docker-expose-session-grpc-method").iter().collect();
        assert_eq!(methods, ["/a.B/C", "/d.E/F"]);
        assert_eq!(metadata.get("x-docker-expose-session-sharedkey").unwrap(), "");
        introduce(&mut metadata, "s1", "line\nbreak", &[]);
        assert_eq!(metadata.get("x-docker-expose-session-sharedkey").unwrap(), "");
    }
}
