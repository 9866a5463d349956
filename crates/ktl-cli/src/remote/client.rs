//! The client's side of `--remote`: has its binary started on the server, says what it wants, and checks what it gets.
//!
//! One program of ssh's over the shared connection does it all where the binary is there already. What the server answers is
//! the server's word: it is checked against what was asked for, and told as the server's.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use sandbox_linux::Policy;

use super::stage::{self, Binary};
use super::{Answer, Ask, GivenPolicy, HEARD, PROTOCOL, Private, REPLY, Reply, line};
use crate::builder::{Address, Ssh};
use crate::claims::{Claim, State};
use crate::cli::BuildArgs;
use crate::dial::program::{self, FirstWord, Program};
use crate::dial::{self, Connection, ssh};
use crate::display::inert;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::inside::Question;
use crate::launch;
use crate::plan::{BuildPlan, Hermetic, HostPlan};
use crate::private::Network;
use crate::ui::Ui;

/// For the server's answer, which may have to start a private builder first.
const PATIENCE: Duration = Duration::from_secs(180);
/// For the server's last words.
const FAREWELL: Duration = Duration::from_secs(60);
/// What login scripts may print before the answer.
const NOISE: usize = 1000;

/// A server, and what is wanted of it.
#[derive(Debug)]
pub struct Wish {
    ssh: Ssh,
    ask: Ask,
}

/// The server during a build.
#[derive(Debug)]
pub struct Server {
    ssh: Ssh,
    answer: Answer,
    program: Program,
}

impl Wish {
    /// What `--remote` and the flags beside it mean.
    pub fn of(
        args: &BuildArgs,
        plan: &BuildPlan,
        host: &HostPlan,
        env: &Env,
    ) -> Result<Option<Wish>, Failure> {
        let Some(text) = &args.remote else { return Ok(None) };
        let ssh = server(text)?;
        let flags = &args.builder;
        let builder = match (&flags.builder, &ssh.socket) {
            (Some(builder), Some(socket)) => {
                return Err(Failure::usage(format!(
                    "--remote names the server's builder {}, and --builder {builder}",
                    socket.display()
                ))
                .hint("Leave one of them out."));
            }
            (builder, socket) => {
                builder.clone().or_else(|| Some(format!("unix://{}", socket.as_ref()?.display())))
            }
        };
        let config = host.sandbox.as_ref().and_then(|sandbox| sandbox.config.as_deref());
        let private = &flags.private;
        let ask = Ask {
            protocol: PROTOCOL,
            nonce: plan.nonce.clone(),
            jailed: host.sandbox.is_some(),
            hermetic: plan.hermetic,
            policy: config.map(given).transpose()?,
            runtime: args.sandbox.jail.sandbox_runtime.unwrap_or_default(),
            builder,
            egress: plan.egress.clone(),
            private: Private {
                trust: private.trust.clone().or_else(|| env.text(env::KTL_TRUST)),
                memory: private.builder_memory,
                cpus: private.builder_cpus,
                pids: private.builder_pids,
                idle: private.idle_timeout.map(|time| time.as_secs().max(1)),
            },
            probes: plan.probes.clone(),
            looks_inside: host.looks_inside.then_some(plan.build.proxy_network),
        };
        Ok(Some(Wish { ssh, ask }))
    }

    /// Returns with the builder's bytes next on the stream, and the terms as the server says it keeps them.
    pub fn dial(&self, env: &Env, ui: &Ui) -> Result<(Connection, Server), Failure> {
        let dir = ssh::ready(&self.ssh, &dial::for_sockets(env)?, ui)?;
        let binary =
            Binary::own().map_err(|error| self.failed(format!("this ktl cannot be read: {error}")))?;
        let started = match self.start(&binary, &dir)? {
            Some(started) => started,
            None => {
                self.store(&binary, &dir, ui)?;
                let gone = || self.failed("the ktl that was put there a moment ago is not there any more");
                self.start(&binary, &dir)?.ok_or_else(gone)?
            }
        };
        let (stream, program, answer) = started;
        self.check(&answer)?;
        tell(&answer, ui);
        match program::await_settings(&stream) {
            Ok(FirstWord::Settings) => {}
            Ok(FirstWord::Closed) => return Err(self.ended(program)),
            Err(error) => return Err(self.failed(format!("the builder there does not answer: {error}"))),
        }
        let connection = Connection {
            stream: stream.into(),
            relay: None,
            program: None,
            engine: None,
            address: Address::Ssh(self.ssh.clone()),
        };
        Ok((connection, Server { ssh: self.ssh.clone(), answer, program }))
    }

    fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::new(Exit::Builder, format!("--remote {}: {why}", self.ssh))
    }

    /// Starts ktl on the server; `None` where it is not there with its hash.
    fn start(&self, binary: &Binary, dir: &Path) -> Result<Option<(UnixStream, Program, Answer)>, Failure> {
        let mut command = ssh::script(&self.ssh, dir, &binary.start());
        let (stream, program) = program::open(&mut command)
            .map_err(|error| self.failed(error).hint("--remote needs OpenSSH's client on PATH."))?;
        // It holds the far end open as well.
        drop(command);
        let mut ask = serde_json::to_vec(&self.ask)
            .map_err(|error| Failure::internal(format!("failed to write the wishes: {error}")))?;
        ask.push(b'\n');
        // One that has hung up says why on the way back.
        let _ = (&stream).write_all(&ask);
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => self.failed(format!("no answer for {} seconds", PATIENCE.as_secs())),
            _ => self.failed(format!("its answer cannot be read: {error}")),
        };
        let deadline = Instant::now() + PATIENCE;
        for _ in 0..NOISE {
            let left = deadline.saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1)))).map_err(lost)?;
            let Some(line) = line(&stream).map_err(lost)? else { return Err(self.ended(program)) };
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if line == stage::ABSENT {
                return Ok(None);
            }
            if let Some(system) = line.strip_prefix(stage::SYSTEM) {
                self.fits(system)?;
            } else if let Some(trouble) = line.strip_prefix(stage::TROUBLE) {
                return Err(self.failed(trouble));
            } else if let Some(reply) = line.strip_prefix(REPLY) {
                stream.set_read_timeout(None).map_err(lost)?;
                return match serde_json::from_str(reply) {
                    Ok(Reply::Ready(answer)) => Ok(Some((stream, program, *answer))),
                    Ok(Reply::Refused(refusal)) => Err(refusal.into_failure()),
                    Err(error) => Err(self.failed(format!("its answer cannot be read: {error}"))),
                };
            }
        }
        Err(self.failed("it prints without an end before it answers"))
    }

    /// Whether this binary runs there.
    fn fits(&self, system: &str) -> Result<(), Failure> {
        let ours = format!("Linux {}", std::env::consts::ARCH);
        match system == ours {
            true => Ok(()),
            false => Err(self
                .failed(format!(
                    "the server is a {system}, and this ktl, which would be put there, runs on {ours}"
                ))
                .hint("--builder ssh:// needs no ktl on the server, and enforces nothing there.")),
        }
    }

    fn store(&self, binary: &Binary, dir: &Path, ui: &Ui) -> Result<(), Failure> {
        ui.note(format_args!("[remote] putting ktl onto the server ({} MB, once)", binary.size / 1_000_000));
        let file =
            Binary::open().map_err(|error| self.failed(format!("this ktl cannot be read: {error}")))?;
        let output = program::feed(ssh::script(&self.ssh, dir, &binary.store()), Stdio::from(file))
            .map_err(|error| self.failed(error))?;
        let found = |word: &str| output.answer.lines().find_map(|line| line.trim_end().strip_prefix(word));
        if found(stage::STORED).is_some() {
            return Ok(());
        }
        let said = output.said.lines().last().unwrap_or_default().to_owned();
        Err(match found(stage::TROUBLE) {
            Some(trouble) => self.failed(trouble).hints((!said.is_empty()).then_some(said)),
            None => ssh::explained(&self.ssh, &output.said),
        })
    }

    /// A server that hung up before it had answered.
    fn ended(&self, program: Program) -> Failure {
        let (end, said) = match program.end(FAREWELL) {
            Ok(ended) => ended,
            Err(error) => return self.failed(error),
        };
        let code = end.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255);
        if code == 255 {
            return ssh::explained(&self.ssh, &said);
        }
        let exit = if code == Exit::Sandbox.code() { Exit::Sandbox } else { Exit::Builder };
        let mut lines = said.lines().map(|line| line.trim_start_matches("ERROR: ").to_owned());
        let title = lines.next().unwrap_or_else(|| format!("ktl there ended with code {code} and no word"));
        Failure::new(exit, format!("the server says: {title}")).hints(lines)
    }

    /// Whether the answer is one to what was asked.
    fn check(&self, answer: &Answer) -> Result<(), Failure> {
        let Ask { jailed, hermetic, probes, looks_inside, nonce, .. } = &self.ask;
        let lacks = |exit, what: &str| {
            Err(Failure::new(exit, format!("--remote {}: the server's answer lacks {what}", self.ssh)))
        };
        let seen = answer.jail.as_ref().map_or(0, |jail| jail.probes.len());
        if answer.protocol != PROTOCOL {
            return lacks(Exit::Builder, "the protocol that was asked for");
        }
        if *jailed && answer.jail.as_ref().is_none_or(|jail| jail.proof.is_empty()) {
            return lacks(Exit::Sandbox, "a jail");
        }
        if *jailed && seen != probes.len() {
            return lacks(Exit::Sandbox, "what was seen of the probes");
        }
        if *hermetic == Hermetic::Required && answer.private != Some(Network::None) {
            return lacks(Exit::Policy, "a private builder without a network");
        }
        if looks_inside.is_some() && answer.question.as_ref().is_none_or(|question| question.nonce != *nonce)
        {
            return lacks(Exit::Policy, "its sockets for the look from inside");
        }
        Ok(())
    }
}

impl Server {
    /// The network of a private builder's steps.
    pub fn network(&self) -> Option<Network> {
        self.answer.private
    }

    pub fn question(&self) -> Option<&Question> {
        self.answer.question.as_ref()
    }

    /// What the server says of its isolation, as its own word.
    pub fn claims(&self) -> Vec<Claim> {
        let jail = self.answer.jail.iter().map(|jail| Claim::held("the relay's jail", jail.proof.clone()));
        let all = jail.chain(self.answer.claims.iter().cloned());
        all.map(|claim| Claim { detail: format!("server: {}", claim.detail), ..claim }).collect()
    }

    /// The last words: with `listens`, who came to the server's sockets meanwhile.
    pub fn end(self, listens: bool, exit: Exit, claims: &mut Vec<Claim>, ui: &Ui) {
        let said = self.program.end(FAREWELL).map(|(_, said)| said).unwrap_or_default();
        if listens {
            hear(&said, claims);
        }
        if exit.code() == Exit::Builder.code() {
            for line in said.lines().filter(|line| !line.starts_with(HEARD)).take(5) {
                ui.note(format_args!("[remote] {}: {}", self.ssh, inert::text(line)));
            }
        }
    }
}

/// A link whose socket somebody has reached is broken, whatever else was said of it.
fn hear(said: &str, claims: &mut Vec<Claim>) {
    let heard = said.lines().find_map(|line| line.strip_prefix(HEARD));
    match heard.map(serde_json::from_str::<Vec<Claim>>) {
        Some(Ok(heard)) => {
            for claim in heard {
                claims.retain(|other| other.about != claim.about);
                claims.push(claim);
            }
        }
        _ => claims.push(Claim::new(
            "RUN: sockets of the host",
            State::Unproven,
            "server: it did not say whether somebody has reached them",
        )),
    }
}

/// Reads the address of a server.
fn server(text: &str) -> Result<Ssh, Failure> {
    match Address::parse(text) {
        Ok(Address::Ssh(ssh)) => Ok(ssh),
        Ok(other) => Err(Failure::usage(format!("--remote: {other} is no server"))
            .hint("The form is ssh://[USER@]HOST[:PORT][/path/to/buildkitd.sock].")),
        Err(why) => Err(Failure::usage(format!("--remote: {why}"))),
    }
}

/// The user's own policy, for the jail there as well.
fn given(path: &Path) -> Result<GivenPolicy, Failure> {
    let policy: Policy = launch::read_policy(path)?;
    Ok(GivenPolicy { name: path.display().to_string(), text: policy.to_text() })
}

fn tell(answer: &Answer, ui: &Ui) {
    let show = |text: &str| inert::text(text).into_owned();
    if !answer.pinned.is_empty() {
        ui.note(format_args!("[remote] server: pinned there: {}", show(&answer.pinned.join(", "))));
    }
    match &answer.jail {
        Some(jail) => {
            let (runtime, policy) = (show(&jail.runtime), show(&jail.policy));
            ui.note(format_args!(
                "[sandbox] server: jailed by {runtime}, policy {policy} {}",
                show(&jail.digest)
            ));
            ui.verbose(format_args!("[sandbox] server: proof: {}", show(&jail.proof)));
            for (path, seen) in &jail.probes {
                ui.line(format_args!(
                    "[probe] server: {}: {}",
                    show(&path.display().to_string()),
                    show(seen)
                ));
            }
        }
        None => ui.line(format_args!("[sandbox] server: off: ktl there has all rights of its user")),
    }
    let network = answer.private.map(|network| format!(" (network {network})")).unwrap_or_default();
    ui.note(format_args!("[builder] server: {}{network}", show(&answer.builder)));
}
