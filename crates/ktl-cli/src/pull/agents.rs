//! The ways to speak to a server: over TLS alone, or, for what is on this machine or was so named, without.

use std::sync::Arc;
use std::time::Duration;

use ureq::config::RedirectAuthHeaders;
use ureq::unversioned::transport::{Connector, DefaultConnector};
use ureq::{Agent, Proxy};

use super::bounds::{Bounds, Guard};
use crate::web;

const CONNECT_TIME: Duration = Duration::from_secs(15);
/// For the beginning of an answer.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// For the next part of a body: one that has stopped is gone on with.
const PART_TIME: Duration = Duration::from_secs(60);
const REDIRECTS: u32 = 10;

#[derive(Debug)]
pub struct Agents {
    /// https only, redirects included.
    pub sealed: Agent,
    /// Without the proxy: for servers on this machine.
    pub local: Agent,
    /// As the URL has it.
    pub any: Agent,
}

impl Agents {
    /// Agents that keep within `bounds`.
    pub fn new(bounds: &Arc<Bounds>) -> Agents {
        let tls = web::system_tls();
        let agent = |sealed, proxy: Option<Proxy>| {
            let place = proxy.as_ref().map(|proxy| (proxy.host().to_owned(), proxy.port()));
            let guard = Guard { bounds: bounds.clone(), proxy: place };
            let config = Agent::config_builder()
                .http_status_as_error(false)
                .https_only(sealed)
                .max_redirects(REDIRECTS)
                // A login goes to the host that it is for and nowhere else.
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .timeout_connect(Some(CONNECT_TIME))
                .timeout_recv_response(Some(ANSWER_TIME))
                .timeout_per_read(Some(PART_TIME))
                .user_agent(concat!("ktl/", env!("CARGO_PKG_VERSION")))
                .tls_config(tls.clone())
                .proxy(proxy)
                .build();
            Agent::with_parts(config, guard.clone().chain(DefaultConnector::default()), guard)
        };
        Agents {
            sealed: agent(true, Proxy::try_from_env()),
            local: agent(false, None),
            any: agent(false, Proxy::try_from_env()),
        }
    }
}
