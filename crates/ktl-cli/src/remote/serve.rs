//! `ktl __remote`: the server's side, before and around the jail of the relay.
//!
//! It reads one line of standard input and no byte more, settles the terms, gets the builder and starts the relay, to which
//! both streams then belong. The lease on a private builder is held until that ends, which is when the client is gone.

use std::cell::Cell;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::Shutdown;
use sandbox_linux::{Overrides, Policy};

use super::pinned::{self, Pinned};
use super::relay::{RelayPlan, say};
use super::{Answer, Ask, HEARD, Jailed, PROTOCOL, Reply, line};
use crate::attested;
use crate::builder::{self, Address, Candidate, DEFAULT_NAME};
use crate::carry::carry;
use crate::cli::{BuilderFlags, JailFlags, PrivateFlags};
use crate::commands::build::facts;
use crate::dial::Connection;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::fd;
use crate::inside::Controls;
use crate::launch::{self, Prepared};
use crate::log::Log;
use crate::plan::{self, Facts, SandboxPlan, guest_path};
use crate::private::{Lock, Network, Way, peer, start, trust};
use crate::runtime;
use crate::ui::Ui;

/// The hidden command. A failure is told on standard output until the relay has that, and on standard error from then on.
pub fn run(env: &Env) -> Result<Exit, Failure> {
    let handed_over = Cell::new(false);
    match read().and_then(|ask| serve(ask, env, &handed_over)) {
        Err(failure) if !handed_over.get() => {
            let exit = failure.exit;
            say(&Reply::Refused(failure.into()))?;
            Ok(exit)
        }
        ended => ended,
    }
}

fn read() -> Result<Ask, Failure> {
    let wrong = |why: String| Failure::internal(format!("the client's wishes cannot be read: {why}"));
    let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(|error| wrong(error.to_string()))?;
    let text = line(std::fs::File::from(stdin)).map_err(|error| wrong(error.to_string()))?;
    let text = text.ok_or_else(|| wrong("the client has hung up".to_owned()))?;
    let ask: Ask = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if ask.protocol != PROTOCOL {
        return Err(wrong(format!("they are of protocol {}, not {PROTOCOL}", ask.protocol)));
    }
    Ok(ask)
}

fn serve(mut ask: Ask, env: &Env, handed_over: &Cell<bool>) -> Result<Exit, Failure> {
    // Standard error is the client's to show when all else fails.
    let ui = Ui { verbose: false, quiet: true };
    let facts = facts(env)?;
    let pinned = Pinned::of(env)?;
    let told = pinned.narrow(&mut ask)?;
    // Before the builder is started: it costs nothing, and a jail that cannot be had needs none.
    let jail = ask.jailed.then(|| Jail::of(&ask, &pinned, env, &facts)).transpose()?;
    let Reached { connection, lease, way, name } = reach(&ask, &pinned, env, &ui)?;
    let private = lease.as_ref().map(|_| way.network);
    let claims = private.map(|network| peer::claims(&connection.stream, network)).unwrap_or_default();
    let controls = ask.looks_inside.map(|proxied| Controls::open(&ask.nonce, proxied)).transpose()?;
    let answer = Answer {
        protocol: PROTOCOL,
        jail: None,
        builder: name,
        private,
        claims,
        question: controls.as_ref().map(|controls| controls.question().clone()),
        pinned: told,
    };
    let ended = match jail {
        Some(jail) => jail.relay(answer, &ask, connection.stream, env, handed_over, &ui),
        None => {
            say(&Reply::Ready(Box::new(answer)))?;
            handed_over.set(true);
            carry(connection.stream, Shutdown::Both).map(|()| Exit::Ok)
        }
    };
    if let Some(controls) = controls {
        let mut heard = Vec::new();
        controls.heard(&mut heard);
        let json = serde_json::to_string(&heard).map_err(|error| Failure::internal(error.to_string()))?;
        // A client that is gone does not hear it, and needs not to.
        let _ = writeln!(io::stderr().lock(), "{HEARD}{json}");
    }
    drop(lease);
    ended
}

struct Reached {
    connection: Connection,
    /// On a private builder.
    lease: Option<Lock>,
    way: Way,
    /// The builder's address for people.
    name: String,
}

/// The builder, among those that the client and the server's policy both allow.
fn reach(ask: &Ask, pinned: &Pinned, env: &Env, ui: &Ui) -> Result<Reached, Failure> {
    let flags = BuilderFlags {
        builder: ask.builder.clone(),
        private: PrivateFlags {
            trust: ask.private.trust.clone(),
            builder_memory: ask.private.memory,
            builder_cpus: ask.private.cpus,
            builder_pids: ask.private.pids,
            idle_timeout: ask.private.idle.map(Duration::from_secs),
            ..PrivateFlags::default()
        },
        ..BuilderFlags::default()
    };
    let way = match &ask.egress {
        _ if pinned.is_without_network() => Network::None.into(),
        Some(list) => Way::to(list)?,
        None if ask.hermetic.is_on() => Network::None.into(),
        None => Network::Host.into(),
    };
    let candidates = builder::of_build(&flags, env, ask.hermetic, ask.egress.is_some())?;
    let candidates = local(pinned.builders(candidates)?)?;
    let private = candidates.iter().find_map(|found| match &found.address {
        Address::Jail(name) => Some(name.clone()),
        Address::Ephemeral => Some("?ephemeral".to_owned()),
        _ => None,
    });
    let (connection, lease) = start::dial(candidates, None, &flags.private, &way, env, ui)?;
    let name = match (&lease, private) {
        (None, _) => connection.address.to_string(),
        (Some(_), Some(name)) if name.starts_with('?') => format!("jail://{name}"),
        (Some(_), name) => {
            let name = name.as_deref().unwrap_or(DEFAULT_NAME);
            format!("jail://{}", trust::name(name, &flags.private, env)?)
        }
    };
    Ok(Reached { connection, lease, way, name })
}

/// Those of this machine: the relay goes no further.
fn local(mut candidates: Vec<Candidate>) -> Result<Vec<Candidate>, Failure> {
    let is_local =
        |found: &Candidate| matches!(found.address, Address::Unix(_)) || found.address.is_private();
    if let Some(far) = candidates.iter().find(|found| found.demanded && !is_local(found)) {
        let Candidate { address, named_by, .. } = far;
        return Err(Failure::usage(format!(
            "{address} (named by {named_by}) is no builder of that machine's own"
        ))
        .hint("With --remote a builder is unix://PATH, jail:// or jail://NAME, as seen on the server."));
    }
    candidates.retain(is_local);
    Ok(candidates)
}

/// The relay's jail, not yet made.
struct Jail {
    sandbox: SandboxPlan,
    policy: Policy,
    nonce: String,
}

impl Jail {
    fn of(ask: &Ask, pinned: &Pinned, env: &Env, facts: &Facts) -> Result<Jail, Failure> {
        let flags = JailFlags { sandbox_runtime: Some(ask.runtime), ..JailFlags::default() };
        let flags = if ask.runtime == Default::default() { JailFlags::default() } else { flags };
        let sandbox = plan::sandbox_plan(&flags, ask.hermetic.is_on(), env, facts)?;
        let asked = match &ask.policy {
            Some(policy) => pinned::given(policy)?,
            None => launch::policy(&sandbox)?,
        };
        let policy = pinned.policy(asked)?;
        Ok(Jail {
            sandbox: SandboxPlan { workdir: "/".into(), ..sandbox },
            policy,
            nonce: facts.nonce.clone(),
        })
    }

    fn prepare<'l>(&self, env: &Env, log: &'l Log, ui: &Ui) -> Result<(Prepared<'l>, String), Failure> {
        let cache = env.cache_dir().ok_or_else(|| {
            Failure::sandbox("neither KTL_CACHE_DIR nor HOME is set, so ktl has no place for the jail")
        })?;
        let runtime = runtime::find(&self.sandbox)?;
        let name = runtime.to_string();
        let overrides = Overrides {
            binds: vec![launch::bind(&launch::staged(&cache)?, guest_path::BINARY, false)],
            env: self.sandbox.env.clone(),
            cwd: Path::new("/").to_owned(),
            no_network: true,
            pass_fds: vec![fd::PLAN, fd::CONNECTION, fd::RESULT],
            ..Overrides::default()
        };
        let settled = launch::jail(self.policy.clone(), overrides, Vec::new())?;
        Ok((launch::ready(runtime, settled, &self.sandbox, None, log, ui)?, name))
    }

    fn relay(
        self,
        answer: Answer,
        ask: &Ask,
        builder: OwnedFd,
        env: &Env,
        handed_over: &Cell<bool>,
        ui: &Ui,
    ) -> Result<Exit, Failure> {
        let log = Log::off(ui);
        let (prepared, runtime) = self.prepare(env, &log, ui)?;
        let jail = Jailed {
            policy: self.policy.name().to_owned(),
            digest: attested::digest(&self.policy).to_string(),
            runtime,
            proof: String::new(),
            probes: Vec::new(),
        };
        let plan = RelayPlan {
            version: plan::VERSION,
            nonce: self.nonce,
            verbose: 0,
            probes: ask.probes.clone(),
            answer: Answer { jail: Some(jail), ..answer },
            promises: Some(prepared.promises()),
        };
        launch::relay(prepared, &plan, builder, ui, || {
            handed_over.set(true);
            Ok(())
        })
    }
}
