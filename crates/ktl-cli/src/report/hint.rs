//! What to do about a failure whose cause is a known one.
//!
//! The daemon reports most failures as text only, so the causes are recognised by their words: those of BuildKit, of
//! containerd's resolver and of Go's network stack. The table in the tests quotes the real messages.

use buildsvc::error::{BuildError, SolveFailure};

use crate::display::Summary;

/// gRPC's code for exhausted disk or memory.
const RESOURCE_EXHAUSTED: i32 = 8;
/// Stages that are listed.
const STAGES_MAX: usize = 20;

/// Hints, most specific first; often none.
pub fn of(failure: &BuildError, summary: &Summary) -> Vec<String> {
    match failure {
        BuildError::Solve(solve) => solve_hints(solve, summary),
        BuildError::Lost { .. } => vec![
            "the builder may have been stopped or have run out of memory; see its own log (`docker logs` of the \
             buildkitd container, or `journalctl -u buildkit`)"
                .to_owned(),
        ],
        BuildError::TimedOut(_) => vec!["give it more with `--timeout`".to_owned()],
        BuildError::Unsupported { .. } | BuildError::Unenforceable { .. } => {
            vec!["upgrade the builder, or choose another one with `--builder`".to_owned()]
        }
        BuildError::Output { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            vec!["the disk of the output is full".to_owned()]
        }
        BuildError::Output { source, .. } if source.kind() == std::io::ErrorKind::FileTooLarge => {
            vec![
                "an output may be as large as `--output-limit` says, and no larger than the free space of its disk"
                    .to_owned(),
            ]
        }
        BuildError::Mismatch { .. } => {
            vec!["nothing of it was kept; what went to standard output must not be used".to_owned()]
        }
        BuildError::Cancelled | BuildError::NoCredential { .. } | BuildError::Output { .. } => Vec::new(),
    }
}

fn solve_hints(solve: &SolveFailure, summary: &Summary) -> Vec<String> {
    let message = solve.message.as_str();
    let mut hints = Vec::new();
    if let Some(stage) = between(message, "target stage \"", "\"") {
        hints.push(unknown_stage(stage, solve));
    } else if message.contains("failed to calculate checksum of ref") && message.ends_with(": not found") {
        let path = message.rsplit('"').nth(1).unwrap_or("the file");
        hints.push(format!(
            "{path} is not in what is copied from: paths are relative to the root of the build context (or of the stage \
             named by --from), and a file that .dockerignore excludes is not there either"
        ));
    } else if message.contains("failed to read dockerfile") {
        hints.push(
            "the Dockerfile is looked for in the build context unless `--file` names another one".to_owned(),
        );
    } else if let Some(entitlement) = refused_entitlement(message) {
        hints.push(format!(
            "the Dockerfile asks for the entitlement {entitlement}: allow it with `--allow {entitlement}`, or take the `RUN \
             --network`, `--security` or `--device` that needs it out"
        ));
    } else if let Some(entitlement) = ungranted_entitlement(message) {
        hints.push(format!(
            "this builder grants {entitlement} to nobody; its own configuration has to allow it: `buildkitd \
             --allow-insecure-entitlement {entitlement}`"
        ));
    } else if let Some(id) = between(message, "secret ", ": not found").filter(|id| !id.contains(' ')) {
        hints.push(format!(
            "give the build the secret with `--secret id={id},src=…` or `--secret id={id},env=…`"
        ));
    } else if message.contains("forwarded from the client") && message.contains("no SSH key") {
        hints.push("forward an agent or a key with `--ssh default` or `--ssh id=path`".to_owned());
    } else if denied_by_policy(message) {
        hints.push("a source policy of this build or of the builder forbids this source".to_owned());
    } else if message.contains("is not supported by build server") {
        hints.push("upgrade the builder, or choose another one with `--builder`".to_owned());
    } else if message.contains("has been disabled on the build server") {
        hints.push("the builder's configuration has to enable this feature".to_owned());
    } else if message.contains("server gave HTTP response to HTTPS client")
        || message.contains("first record does not look like a TLS handshake")
    {
        hints.push(
            "the registry speaks plain HTTP: push with `registry.insecure=true` in `--output`, and for pulls set \
             `http = true` under `[registry.\"host:port\"]` in buildkitd.toml"
                .to_owned(),
        );
    } else if message.contains("x509: ") {
        hints.push(
            "the builder does not trust the registry's certificate: name its CA under `[registry.\"host:port\"]` in \
             buildkitd.toml (`ca = [\"…\"]`)"
                .to_owned(),
        );
    } else if denied(message) {
        hints.push(
            "log in with `docker login REGISTRY`: credentials come from config.json in $DOCKER_CONFIG or ~/.docker and \
             from the helpers it names; a private image that does not exist is denied too"
                .to_owned(),
        );
    } else if message.contains("toomanyrequests") || message.contains("429 Too Many Requests") {
        hints.push("the registry limits pulls: log in with `docker login`, or use a mirror".to_owned());
    } else if message.contains("no match for platform") || message.contains("no matching manifest for") {
        hints.push("the image does not exist for this platform; see `--platform`".to_owned());
    } else if message.contains("failed to resolve source metadata for") && message.contains(": not found") {
        hints.push(
            "the registry has no such image or tag; check the spelling, and that a name meant to be a stage is one".to_owned(),
        );
    } else if unreachable(message) {
        let host = between(message, "://", "/").unwrap_or("the registry");
        hints.push(format!(
            "the builder cannot reach {host}: it connects from where it runs, with its own DNS and proxy settings"
        ));
    } else if message.contains("exporter \"") && message.ends_with("could not be found") {
        hints.push("this builder does not have this output type".to_owned());
    }
    if full(solve, summary) {
        hints.push(
            "a disk is full: the builder's, whose cache `docker buildx prune` or `buildctl prune` frees, or the output's"
                .to_owned(),
        );
    }
    if solve.exit_code == Some(137) || message.ends_with("exit code: 137") {
        hints.push("exit code 137 means the step was killed, most often for want of memory".to_owned());
    }
    if solve.message.contains("exec format error") || said(summary, "exec format error") {
        hints.push(
            "the step's program is for another platform: install emulators on the builder's host (binfmt_misc), or \
             cross-compile from $BUILDPLATFORM"
                .to_owned(),
        );
    }
    if said(summary, "exec: \"/bin/sh\"") {
        hints.push("the image has no /bin/sh: use the exec form, RUN [\"program\", \"argument\"]".to_owned());
    }
    hints
}

fn unknown_stage(stage: &str, solve: &SolveFailure) -> String {
    let mut stages: Vec<String> = Vec::new();
    for (source, _) in &solve.sources {
        for line in String::from_utf8_lossy(&source.data).lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [from, .., marker, name] = words.as_slice()
                && from.eq_ignore_ascii_case("FROM")
                && marker.eq_ignore_ascii_case("AS")
                && stages.len() < STAGES_MAX
            {
                stages.push((*name).to_owned());
            }
        }
    }
    if stages.is_empty() {
        format!(
            "no `FROM … AS {stage}` in the Dockerfile; `--target` takes the name or the number of a stage"
        )
    } else {
        format!("the Dockerfile has the stages {}", stages.join(", "))
    }
}

pub(super) fn refused_entitlement(message: &str) -> Option<&'static str> {
    let subject = message.strip_suffix(" is not allowed")?.rsplit(' ').next()?;
    ["security.insecure", "network.host", "device"].into_iter().find(|e| subject.starts_with(e))
}

fn ungranted_entitlement(message: &str) -> Option<&str> {
    between(message, "granting entitlement ", " is not allowed by build daemon configuration")
}

fn denied_by_policy(message: &str) -> bool {
    message.contains("denied by policy") || message.contains("not allowed by policy")
}

/// Whether it was a rule of the user's or of the builder's that a build failed by.
pub fn forbidden(message: &str) -> bool {
    ungranted_entitlement(message).is_some() || denied_by_policy(message)
}

fn denied(message: &str) -> bool {
    [
        "401 Unauthorized",
        "403 Forbidden",
        "pull access denied",
        "insufficient_scope",
        "no basic auth credentials",
    ]
    .iter()
    .any(|text| message.contains(text))
}

pub(super) fn unreachable(message: &str) -> bool {
    message.contains("failed to do request: ")
        && [
            "no such host",
            "connection refused",
            "i/o timeout",
            "no route to host",
            "network is unreachable",
            "server misbehaving",
        ]
        .iter()
        .any(|text| message.contains(text))
}

fn full(solve: &SolveFailure, summary: &Summary) -> bool {
    let message = solve.message.to_ascii_lowercase();
    message.contains("no space left on device")
        || message.contains("disk quota exceeded")
        || (solve.code == RESOURCE_EXHAUSTED && message.contains("space"))
        || said(summary, "No space left on device")
}

/// Whether a failed step said so in its last lines.
fn said(summary: &Summary, text: &str) -> bool {
    summary.failed.iter().any(|step| step.log.iter().any(|line| line.contains(text)))
}

pub(super) fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}
