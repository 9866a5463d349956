//! The table of what passes.
//!
//! Routes and parameters follow the Engine's API (moby, `daemon/server/router`, versions 1.24 to 1.55). Whatever is not in
//! the table is refused, so a call or a parameter that a later Engine brings is refused until somebody has read about it.

use hyper::Method;
use hyper::header::HeaderName;

use super::path::{self, Normal};
use super::query::{self, Parameter, any, checked, list};

/// How a call's answer is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// The Engine's description of itself and its host, cut to what a build reads.
    Info,
    /// The connection becomes HTTP/2, and the client calls BuildKit's services over it.
    Grpc,
    /// The connection becomes HTTP/2, and BuildKit calls the client's services over it.
    Session,
}

/// One row of the table.
#[derive(Debug)]
pub struct Rule {
    /// As it is counted.
    pub name: &'static str,
    methods: &'static [Method],
    path: Route,
    query: &'static [Parameter],
    pub kind: Kind,
    /// The type that the request's body has for the Engine, whatever the client called it: a form's fields would count as
    /// parameters (Go's `ParseForm`), past the check of the query. `None`: no body is forwarded.
    pub body: Option<&'static str>,
    /// Request headers that are forwarded, beside those that every call may have.
    pub headers: &'static [&'static str],
}

#[derive(Debug)]
enum Route {
    Exact(&'static str),
    /// An image's name between the two.
    Image(&'static str, &'static str),
}

/// A call that passes.
#[derive(Debug)]
pub struct Call {
    pub rule: &'static Rule,
    /// Normalised path and rewritten query.
    pub target: String,
}

/// A call that does not, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub path: String,
    pub reason: String,
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const TAR: Option<&str> = Some("application/x-tar");

static RULES: &[Rule] = &[
    Rule { methods: &[Method::GET, Method::HEAD], ..plain("GET /_ping", Route::Exact("/_ping")) },
    plain("GET /version", Route::Exact("/version")),
    Rule { kind: Kind::Info, ..plain("GET /info", Route::Exact("/info")) },
    Rule { methods: POST, kind: Kind::Grpc, ..plain("POST /grpc", Route::Exact("/grpc")) },
    Rule { methods: POST, kind: Kind::Session, ..plain("POST /session", Route::Exact("/session")) },
    Rule {
        methods: POST,
        query: BUILD,
        body: TAR,
        headers: &["x-registry-config"],
        ..plain("POST /build", Route::Exact("/build"))
    },
    Rule { methods: POST, query: &[any("id")], ..plain("POST /build/cancel", Route::Exact("/build/cancel")) },
    Rule {
        methods: POST,
        query: &[any("quiet"), list("platform")],
        body: TAR,
        ..plain("POST /images/load", Route::Exact("/images/load"))
    },
    Rule {
        query: &[
            any("all"),
            any("filters"),
            any("filter"),
            any("digests"),
            any("shared-size"),
            any("manifests"),
            any("identity"),
        ],
        ..plain("GET /images/json", Route::Exact("/images/json"))
    },
    Rule {
        query: &[any("manifests"), any("platform")],
        ..plain("GET /images/NAME/json", Route::Image("/images/", "/json"))
    },
    Rule {
        headers: &["x-registry-auth"],
        ..plain("GET /distribution/NAME/json", Route::Image("/distribution/", "/json"))
    },
];

/// A GET without parameters, body and headers of its own.
const fn plain(name: &'static str, path: Route) -> Rule {
    Rule { name, methods: GET, path, query: &[], kind: Kind::Plain, body: None, headers: &[] }
}

/// `POST /build`. Left out on purpose: `cgroupparent` (a RUN in a control group of the caller's choice, outside of the
/// limits of the Engine's own), `securityopt`, and what no Engine on Linux reads. `outputs` needs no check: exporters write to
/// the Engine's image store, to a registry, or to the client over its session; none takes a path of the Engine's host.
static BUILD: &[Parameter] = &[
    any("dockerfile"),
    list("t"),
    any("target"),
    any("platform"),
    any("buildargs"),
    any("labels"),
    any("cachefrom"),
    any("q"),
    any("nocache"),
    any("pull"),
    any("rm"),
    any("forcerm"),
    any("squash"),
    any("session"),
    any("buildid"),
    checked("version", builder),
    checked("remote", context),
    any("outputs"),
    checked("networkmode", network),
    list("extrahosts"),
    any("memory"),
    any("memswap"),
    any("cpushares"),
    any("cpuperiod"),
    any("cpuquota"),
    any("cpusetcpus"),
    any("cpusetmems"),
    any("shmsize"),
    any("ulimits"),
    checked("isolation", isolation),
    checked("cgroupparent", unset),
];

/// `container:ID` would put a RUN into another container's network, a name into a network that somebody else made.
/// `host` stays the Engine's decision: BuildKit has its own rule for it, and a solve over `/grpc` may ask for it as well.
fn network(value: &str) -> Result<(), &'static str> {
    match value {
        "" | "default" | "bridge" | "none" | "host" => Ok(()),
        _ => Err("may only be default, bridge, none or host: other networks belong to other containers"),
    }
}

/// A git or web address is fetched by the Engine, as `ADD` of a Dockerfile would.
fn context(value: &str) -> Result<(), &'static str> {
    let remote = ["http://", "https://", "git://", "git@", "ssh://", "github.com/"];
    if matches!(value, "" | "client-session" | "upload-request")
        || remote.iter().any(|start| value.starts_with(start))
    {
        Ok(())
    } else {
        Err("may only be a git or http address, or come from the client")
    }
}

fn builder(value: &str) -> Result<(), &'static str> {
    if matches!(value, "" | "1" | "2") { Ok(()) } else { Err("names an unknown builder") }
}

fn isolation(value: &str) -> Result<(), &'static str> {
    if matches!(value, "" | "default") { Ok(()) } else { Err("may only be default") }
}

/// Clients send it empty.
fn unset(value: &str) -> Result<(), &'static str> {
    if value.is_empty() { Ok(()) } else { Err("gives a build's containers more than a build needs") }
}

/// Headers that any call may have: what the client is, and what it calls its session.
pub fn is_forwarded(rule: &Rule, name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "user-agent"
        || name.starts_with("x-meta-")
        || rule.headers.contains(&name)
        || (matches!(rule.kind, Kind::Session | Kind::Grpc) && name.starts_with("x-docker-expose-session-"))
}

/// Decides on a request by its method, path and query.
pub fn judge(method: &Method, path: &str, query: &str) -> Result<Call, Refusal> {
    let refuse = |path: &str, reason: String| Refusal { path: path.to_owned(), reason };
    let Normal { version, path } = path::normalise(path)
        .map_err(|reason| refuse(path, format!("ktl: the gate does not pass this: {reason}")))?;
    let rule = RULES.iter().find(|rule| rule.methods.contains(method) && rule.path.matches(&path));
    let Some(rule) = rule else {
        let reason = format!(
            "ktl: the gate passes what a build needs; {method} {path} is not part of it ({})",
            advice(&path)
        );
        return Err(refuse(&path, reason));
    };
    let query = query::rewrite(query, rule.query).map_err(|reason| {
        refuse(&path, format!("ktl: the gate does not pass this {}: {reason}", rule.name))
    })?;
    Ok(Call { rule, target: format!("{version}{path}{query}") })
}

impl Route {
    fn matches(&self, path: &str) -> bool {
        match self {
            Route::Exact(exact) => path == *exact,
            Route::Image(prefix, suffix) => path
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(suffix))
                .is_some_and(|name| !name.is_empty()),
        }
    }
}

/// What to do instead.
fn advice(path: &str) -> &'static str {
    let within =
        |start: &str| path == start || path.strip_prefix(start).is_some_and(|rest| rest.starts_with('/'));
    if within("/auth") {
        "run docker login outside of the jail"
    } else if path == "/images/create" {
        "the build itself pulls what FROM names"
    } else if within("/images") && path.ends_with("/push") {
        "let the build push: docker buildx build --push"
    } else if within("/build") {
        "clear the build cache outside of the jail"
    } else {
        "run it outside of the jail, with docker itself"
    }
}
