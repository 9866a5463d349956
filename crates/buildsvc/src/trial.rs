//! One step that is run for what it sees: a program of ours in the daemon's own sandbox, and what it writes there.
//!
//! What a daemon does to steps cannot be learned by asking it. So a step is run, from a definition of this crate's own and by no
//! frontend, in a solve and a session of its own: nothing of a build is offered to it, nothing is exported, and it is never taken
//! from the cache. Its answer is read out of its root. Follows moby/buildkit `client/llb/{source,exec}.go` for the definition and
//! `client/build.go` for the solve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::client::{self, Client};
use crate::context::LocalDir;
use crate::digest::Digest;
use crate::error::BuildError;
use crate::failure;
use crate::gateway::{beside, file_of};
use crate::identity;
use crate::platform::Platform;
use crate::proto::moby::buildkit::v1 as control;
use crate::proto::moby::buildkit::v1::frontend as wire;
use crate::proto::pb;
use crate::session::Session;
use crate::session::host::Host;
use crate::session::policy::Verifier;

const DURING: &str = "a step of ktl's own";
/// Under which the daemon asks for the step's root.
const LOCAL: &str = "trial";
/// Of an answer; more than that is read from nobody.
const MAX_ANSWER: i64 = 256 << 10;

/// A program, and how it is run.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The directory whose one file becomes the step's root, and the file's name.
    pub dir: &'a std::path::Path,
    pub program: &'a str,
    pub args: Vec<String>,
    pub network: Network,
    /// Traffic goes through the daemon's proxy for steps.
    pub proxy_network: bool,
    pub entitlements: Vec<String>,
    /// Asked about the step's sources and, where it has the daemon's proxy, about its requests.
    pub verifier: Option<Arc<dyn Verifier>>,
    /// Absolute path in the step's root of the file that the program leaves.
    pub answer: &'a str,
}

/// What a step has for a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// What the daemon has for steps.
    Default,
    Host,
    None,
}

impl Network {
    /// What the Dockerfile frontend makes of its attribute `force-network-mode`.
    pub fn forced(mode: Option<&str>) -> Network {
        match mode {
            Some("none") => Network::None,
            Some("host") => Network::Host,
            _ => Network::Default,
        }
    }
}

/// Runs `trial` and gives its answer. The program is sent once: a daemon that has it already is only asked whether it does.
pub async fn run(
    client: &Client,
    trial: &Trial<'_>,
    host: Arc<dyn Host>,
    limit: Duration,
) -> Result<Vec<u8>, BuildError> {
    let workers = client.workers(limit).await?;
    let info = client.info(limit).await?;
    let (first, own) = (workers.first().and_then(|worker| worker.platforms.first()), Platform::local());
    if first.is_none_or(|first| (&first.os, &first.architecture) != (&own.os, &own.architecture)) {
        let theirs = first.map_or_else(|| "nothing that it tells".to_owned(), Platform::to_string);
        let what = format!("run a program for {own}: it is for {theirs}");
        return Err(BuildError::Unsupported { version: info.version, what });
    }
    let unreadable =
        |source| BuildError::Output { operation: "open", path: trial.dir.display().to_string(), source };
    let root = LocalDir::open(LOCAL, trial.dir).map_err(unreadable)?;
    let session = Session {
        // The same for every build, so that the daemon keeps one copy.
        shared_key: "ktl".to_owned(),
        locals: [(LOCAL.to_owned(), root)].into(),
        outputs: Vec::new(),
        host,
        secrets: Default::default(),
        agents: Default::default(),
        stores: Default::default(),
        upload: None,
        verifier: trial.verifier.clone(),
        witness: None,
    };
    let attached = session.open(client, limit).await?;
    let reference = identity::fresh();
    let request = control::SolveRequest {
        r#ref: reference.clone(),
        session: attached.id().to_owned(),
        cache: Some(control::CacheOptions::default()),
        entitlements: trial.entitlements.clone(),
        proxy_network: trial.proxy_network,
        source_policy_session: trial.verifier.as_ref().map(|_| attached.id().to_owned()).unwrap_or_default(),
        internal: true,
        ..control::SolveRequest::default()
    };
    let definition = definition(trial, &own);
    let step = wire::SolveRequest {
        definition: Some(definition),
        allow_result_return: true,
        allow_result_array_ref: true,
        evaluate: true,
        ..wire::SolveRequest::default()
    };
    let both = beside(client, request, file_of(client, &reference, step, trial.answer, MAX_ANSWER));
    let answer = client.ask(DURING, limit, both).await;
    attached.close();
    answer?.map_err(|status| match client::is_broken(&status) {
        true => client::lost(DURING, &status),
        false => BuildError::Solve(Box::new(failure::read(&status))),
    })
}

/// The directory as a root, the program in it, and the root after it as the result.
fn definition(trial: &Trial<'_>, platform: &Platform) -> pb::Definition {
    let mut definition = pb::Definition::default();
    let mut add = |op: pb::Op, name: &str, ignore_cache: bool| {
        let bytes = op.encode_to_vec();
        let digest = digest_of(&bytes);
        let metadata = pb::OpMetadata {
            ignore_cache,
            description: [("llb.customname".to_owned(), name.to_owned())].into(),
            ..pb::OpMetadata::default()
        };
        if !name.is_empty() {
            definition.metadata.insert(digest.clone(), metadata);
        }
        definition.def.push(bytes.into());
        digest
    };
    let platform = pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..pb::Platform::default()
    };
    let only = serde_json::json!([trial.program]).to_string();
    let source = pb::SourceOp {
        identifier: format!("local://{LOCAL}"),
        attrs: BTreeMap::from([
            ("local.includepattern".to_owned(), only),
            ("local.sharedkeyhint".to_owned(), LOCAL.to_owned()),
        ])
        .into_iter()
        .collect(),
    };
    let source = pb::Op {
        op: Some(pb::op::Op::Source(source)),
        platform: Some(platform.clone()),
        ..pb::Op::default()
    };
    let source = add(source, "[ktl] load itself", false);
    let mut args = vec![format!("/{}", trial.program)];
    args.extend(trial.args.iter().cloned());
    let network = match trial.network {
        Network::Default => pb::NetMode::Unset,
        Network::Host => pb::NetMode::Host,
        Network::None => pb::NetMode::None,
    };
    let exec = pb::ExecOp {
        meta: Some(pb::Meta { args, env: Vec::new(), cwd: "/".to_owned() }),
        mounts: vec![pb::Mount { dest: "/".to_owned(), ..pb::Mount::default() }],
        network: network.into(),
    };
    let exec = pb::Op {
        inputs: vec![pb::Input { digest: source, index: 0 }],
        op: Some(pb::op::Op::Exec(exec)),
        platform: Some(platform),
    };
    let exec = add(exec, "[ktl] look from inside a step", true);
    let last = pb::Op { inputs: vec![pb::Input { digest: exec, index: 0 }], ..pb::Op::default() };
    add(last, "", false);
    definition
}

/// What the parts of a definition call each other.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    Digest::sha256(&Sha256::digest(bytes).into()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_hangs_together() {
        let trial = Trial {
            dir: std::path::Path::new("/x"),
            program: "p",
            args: vec!["look".to_owned()],
            network: Network::forced(Some("none")),
            proxy_network: false,
            entitlements: Vec::new(),
            verifier: None,
            answer: "/answer",
        };
        let definition = definition(&trial, &Platform::local());
        let ops: Vec<pb::Op> = definition.def.iter().map(|op| pb::Op::decode(op.as_ref()).unwrap()).collect();
        let digests: Vec<String> = definition.def.iter().map(|op| digest_of(op)).collect();
        let [source, exec, last] = ops.as_slice() else { panic!("{ops:?}") };
        assert!(source.inputs.is_empty() && last.op.is_none());
        assert_eq!((&exec.inputs[0].digest, &last.inputs[0].digest), (&digests[0], &digests[1]));
        let Some(pb::op::Op::Exec(step)) = &exec.op else { panic!("{exec:?}") };
        assert_eq!(step.network(), pb::NetMode::None);
        assert_eq!(step.meta.as_ref().unwrap().args, ["/p", "look"]);
        assert!(
            definition.metadata[&digests[1]].ignore_cache && !definition.metadata[&digests[0]].ignore_cache
        );
        for (mode, network) in
            [(None, Network::Default), (Some("host"), Network::Host), (Some("x"), Network::Default)]
        {
            assert_eq!(Network::forced(mode), network, "{mode:?}");
        }
    }
}
