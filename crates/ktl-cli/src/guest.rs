//! The build itself: inside the jail, or in ktl's own process when the user chose to have none.
//!
//! In the jail this is where ktl starts: [`main`] believes nothing but the plan in the sealed descriptor, and that only after
//! the kernel has confirmed every promise in it. [`run`] then holds the whole BuildKit conversation over the connection that
//! the host side made. It reads no environment and no file but the context.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use buildsvc::client::Client;
use buildsvc::context::guard::Guard;
use buildsvc::context::{LocalDir, fence};
use buildsvc::dockerfile::TEXT_LIMIT;
use buildsvc::error::BuildError;
use buildsvc::event::Event;
use buildsvc::export::Receiver;
use buildsvc::provenance::Detail;
use buildsvc::provenance::Material;
use buildsvc::session::{Output, Session, Sink, Upload, Witness};
use buildsvc::store::ContentStore;
use buildsvc::{build, provenance, version};
use sandbox_linux::Proof;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerClient;
use crate::cancel::{self, Cancel};
use crate::ci::{self, Notice, Tally};
use crate::claims::{self, Claim, State};
use crate::display::{self, Display};
use crate::egress::{self, Ledger};
use crate::env::{self, Env};
use crate::exec;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::inside;
use crate::log::Reported;
use crate::look;
use crate::plan::{self, BuildPlan, GuestOutput, GuestPlan};
use crate::private::outlet;
use crate::remote::relay;
use crate::report;
use crate::stream::Stream;
use crate::watched;

/// Descriptors of the guest, by number. Outputs follow from [`fd::OUTPUTS`] on.
pub mod fd {
    pub const PLAN: i32 = 3;
    pub const CONNECTION: i32 = 4;
    pub const BROKER: i32 = 5;
    /// Where the sockets of a private daemon are handed out, which has no broker.
    pub const OUTLET: i32 = BROKER;
    pub const CONTROL: i32 = 6;
    pub const RESULT: i32 = 7;
    pub const OUTPUTS: i32 = 8;
}

/// A plan is small; one that is not was not made by ktl.
const PLAN_LIMIT: usize = 4 << 20;

/// What the guest tells the host side at the end of a build. Of one that did not go well only the claims and the failure count.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct GuestResult {
    pub exporter_response: BTreeMap<String, String>,
    /// What the frontend answered to a question.
    pub answer: BTreeMap<String, String>,
    /// For the metadata file: the provenance of the one result, or of each platform's.
    pub provenance: BTreeMap<String, serde_json::Value>,
    pub warnings: Vec<serde_json::Value>,
    /// What was found of the build's isolation.
    pub claims: Vec<Claim>,
    /// What the builder says went in, where that was asked for, or why it does not say.
    pub materials: Option<Result<Vec<Material>, String>>,
    /// Why there is no result, for the report. A person has read it on stderr.
    pub failure: Option<String>,
    /// What annotations can be made of.
    pub notices: Vec<Notice>,
    pub tally: Tally,
    /// What was asked of the network, where the build has a list of servers.
    pub egress: Option<egress::Told>,
}

/// The open ends that the build works with.
#[derive(Debug)]
pub struct Ends {
    pub connection: OwnedFd,
    pub broker: OwnedFd,
    pub cancel: Cancel,
    /// By number, as [`GuestOutput::Descriptor`] has them.
    pub outputs: Vec<(i32, OwnedFd)>,
    pub upload: Option<OwnedFd>,
}

/// Entry of the staged binary inside the jail.
pub fn main(env: &Env) -> ExitCode {
    match enter(env) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let _ = write!(io::stderr().lock(), "{failure}");
            failure.exit.into()
        }
    }
}

fn enter(env: &Env) -> Result<Exit, Failure> {
    let (plan, proof, result_fd) = prove(env)?;
    let take = |number| {
        sandbox_linux::take_fd(number).map_err(|error| {
            Failure::sandbox(format!("the jail was started without descriptor {number}: {error}"))
        })
    };
    let plan = match plan {
        GuestPlan::Build(plan) => plan,
        GuestPlan::Look(plan) => {
            let connection = plan.question.as_ref().map(|_| take(fd::CONNECTION)).transpose()?;
            let looked = look::around(&plan, proof, connection)?;
            return hand_out(result_fd, &looked).map(|()| Exit::Ok);
        }
        GuestPlan::Exec(plan) => {
            if let Some(ports) = &plan.outlet {
                outlet::inside::hand_out(ports, take(fd::OUTLET)?).map_err(|error| {
                    Failure::sandbox(format!("failed to make the way out of the jail: {error}"))
                })?;
            }
            let ended = exec::run(&plan, take(fd::CONTROL)?)?;
            return hand_out(result_fd, &ended).map(|()| Exit::Ok);
        }
        GuestPlan::Relay(plan) => {
            relay::run(*plan, &proof, take(fd::CONNECTION)?)?;
            return hand_out(result_fd, &()).map(|()| Exit::Ok);
        }
    };
    for path in &plan.probes {
        let _ = writeln!(io::stderr().lock(), "[probe] {}: {}", path.display(), sandbox_linux::probe(path));
    }
    let outputs = plan
        .outputs
        .iter()
        .filter_map(|output| match output {
            GuestOutput::Descriptor { number, .. } => Some(take(*number).map(|fd| (*number, fd))),
            _ => None,
        })
        .collect::<Result<_, _>>()?;
    let upload = plan.upload.as_ref().map(|upload| take(upload.descriptor)).transpose()?;
    let ends = Ends {
        connection: take(fd::CONNECTION)?,
        broker: take(fd::BROKER)?,
        cancel: Cancel::Control(take(fd::CONTROL)?),
        outputs,
        upload,
    };
    let claims = vec![Claim::held("the client's jail", proof.to_string()).forced()];
    let (exit, result) = run(&plan, ends, claims);
    if let Some(result) = result {
        hand_out(result_fd, &result)?;
    }
    Ok(exit)
}

fn hand_out(fd: OwnedFd, result: &impl Serialize) -> Result<(), Failure> {
    serde_json::to_writer(File::from(fd), result)
        .map_err(|error| Failure::internal(format!("failed to hand the result out of the jail: {error}")))
}

/// Compares what the kernel says with what the plan promises, before anything else is done. The verdict is handed out at once;
/// the result goes into the same descriptor later.
fn prove(env: &Env) -> Result<(GuestPlan, Proof, OwnedFd), Failure> {
    let not_in_a_jail = |why: String| {
        Failure::sandbox(format!("{} is set, but this is not ktl's jail: {why}", env::KTL_SANDBOX_ACTIVE))
            .hint(format!(
                "That variable is set by ktl inside the jail and proves nothing. Unset it: env -u {} ktl …",
                env::KTL_SANDBOX_ACTIVE
            ))
    };
    let memfd =
        sandbox_linux::take_fd(fd::PLAN).map_err(|_| not_in_a_jail("no plan was handed in".into()))?;
    let bytes = sandbox_linux::read_sealed_memfd(memfd.as_fd(), PLAN_LIMIT)
        .map_err(|error| not_in_a_jail(format!("descriptor {} is no sealed plan ({error})", fd::PLAN)))?;
    let plan: GuestPlan = serde_json::from_slice(&bytes)
        .map_err(|error| not_in_a_jail(format!("the plan cannot be read: {error}")))?;
    if plan.version() != plan::VERSION {
        return Err(not_in_a_jail(format!(
            "the plan is of version {}, not {}",
            plan.version(),
            plan::VERSION
        )));
    }
    let nonce = plan.nonce();
    if nonce.is_empty() || env.text(env::KTL_SANDBOX_NONCE).as_deref() != Some(nonce) {
        return Err(not_in_a_jail("the plan belongs to another run".into()));
    }
    let promises = plan.promises().ok_or_else(|| not_in_a_jail("the plan promises nothing".into()))?;
    let verdict = sandbox_linux::verify(promises);
    let result = sandbox_linux::take_fd(fd::RESULT);
    let reported = result.and_then(|result| {
        let result = File::from(result);
        Reported::of(&verdict).hand_out(&result).map(|()| OwnedFd::from(result))
    });
    let proof = verdict.map_err(|error| {
        Failure::sandbox(format!("the jail is not what was promised: {}", chain(&error))).hint(
            "Nothing was done. Is the nsjail program really nsjail? See --sandbox-bin and --sandbox-logs.",
        )
    })?;
    let result = reported.map_err(|error| {
        Failure::sandbox(format!("the proof could not be handed out of the jail: {error}"))
    })?;
    if plan.verbose() > 0 {
        let _ = writeln!(io::stderr().lock(), "[sandbox] proof: {proof}");
    }
    Ok((plan, proof, result))
}

/// Builds. Everything that a person should see has been printed when this returns.
/// `claims` are what is known already.
pub fn run(plan: &BuildPlan, ends: Ends, claims: Vec<Claim>) -> (Exit, Option<GuestResult>) {
    if plan.verbose > 1 {
        tracing_subscriber::fmt()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(io::stderr)
            .with_ansi(plan.colour)
            .init();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = write!(
                io::stderr().lock(),
                "{}",
                Failure::internal(format!("failed to start threads: {error}"))
            );
            return (Exit::Internal, None);
        }
    };
    let outcome = runtime.block_on(hold_conversation(plan, ends, claims));
    // A blocking read of a slow file system must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome
}

async fn hold_conversation(
    plan: &BuildPlan,
    ends: Ends,
    mut claims: Vec<Claim>,
) -> (Exit, Option<GuestResult>) {
    let cancel = CancellationToken::new();
    let Ends { connection, broker, outputs, upload, cancel: source } = ends;
    let signal = cancel::watch(source, cancel.clone());
    let (events, updates) = mpsc::channel(256);
    let (notes, noted) = mpsc::unbounded_channel();
    if plan.is_grouped {
        let _ = writeln!(io::stderr().lock(), "{}", ci::GROUP);
    }
    let display = Display::new(plan.progress, display::Output::stderr(plan.colour));
    let ledger = plan.egress.clone().map(|list| {
        let upload = plan.upload.as_ref().map(|upload| Upload::url(&upload.id));
        Arc::new(Ledger::new(list, upload))
    });
    let display = tokio::spawn(show(display, updates, noted, ledger.clone()));

    let guard = Arc::new(Guard::new(plan.context_guard));
    let broker = BrokerClient::new(broker)
        .map_err(|error| Failure::internal(format!("failed to use the broker's socket: {error}")));
    let session = broker.and_then(|broker| Ok((session(plan, &broker, outputs, upload, &guard)?, broker)));
    let outcome = match session {
        Ok((mut session, reporter)) => {
            session.verifier = ledger.clone().map(|ledger| ledger as _);
            // The display ends with the last of those who tell events, and notes are to come before that.
            let open = events.clone();
            let outcome = converse(
                plan,
                connection,
                session,
                (events, notes.clone()),
                (&mut claims, ledger.as_deref()),
                cancel,
            )
            .await;
            watched::tell(&guard, &notes);
            if plan.audit {
                watched::report(&guard, &reporter);
            }
            drop(open);
            outcome.map_err(|ended| watched::denial(&guard).map_or(ended, Ended::Refused))
        }
        Err(failure) => Err(failure.into()),
    };
    drop(notes);
    let mut display = match display.await {
        Ok(display) => display,
        Err(_) => return (Exit::Internal, None),
    };
    let summary = display.finish(match &outcome {
        Ok(_) => display::Outcome::Done,
        Err(Ended::Build(BuildError::Cancelled)) => display::Outcome::Cancelled,
        Err(_) => display::Outcome::Failed,
    });
    let mut stderr = io::stderr().lock();
    if plan.is_grouped {
        let _ = writeln!(stderr, "{}", ci::GROUP_END);
    }
    let failure = match &outcome {
        Err(Ended::Build(error)) => Some(error),
        _ => None,
    };
    let notices = Notice::all(&summary, failure, dockerfile_name(plan));
    if let Some(ledger) = ledger.as_ref().filter(|_| !plan.progress.is_for_programs()) {
        for line in ledger.summary() {
            let _ = writeln!(stderr, "{line}");
        }
    }
    let failed = |failure: String| Some(GuestResult { failure: Some(failure), ..GuestResult::default() });
    let (exit, mut result) = match outcome {
        Ok(mut result) => {
            if plan.metadata.as_ref().is_some_and(|metadata| metadata.warnings) {
                result.warnings = summary.warnings.iter().map(display::rawjson::warning).collect();
            }
            if !plan.progress.is_for_programs() {
                let _ = write!(stderr, "{}", report::warnings(&summary));
                if plan.verbose > 0 {
                    let (counts, seconds) = (summary.counts, summary.elapsed.as_secs_f64());
                    let _ = writeln!(
                        stderr,
                        "{} steps in {seconds:.1}s, {} from the cache",
                        counts.total, counts.cached
                    );
                }
            }
            (Exit::Ok, Some(result))
        }
        Err(Ended::Refused(failure)) => {
            let _ = write!(stderr, "{failure}");
            (failure.exit, failed(failure.title))
        }
        Err(Ended::Build(mut error)) => {
            let rule = report::rule::broken(&error, plan.hermetic).filter(|_| plan.hermetic.is_on());
            if rule.is_some() {
                let (name, text) = dockerfile(plan);
                report::rule::place(&mut error, plan.hermetic, name, &text);
            }
            let _ = write!(stderr, "{}", report::render(&error, &summary, rule.as_deref(), plan.colour));
            let exit = match (&error, signal.received()) {
                (BuildError::Cancelled, Some(signal)) => Exit::Signal(signal),
                _ if rule.is_some() => Exit::Policy,
                _ => Exit::Guest(report::exit_code(&error)),
            };
            (exit, failed(chain(&error)))
        }
    };
    if let Some(result) = &mut result {
        result.claims = claims;
        result.notices = notices;
        result.tally = Tally::of(&summary);
        // Only now has all of the progress been heard.
        result.egress = ledger.map(|ledger| ledger.told());
    }
    (exit, result)
}

fn dockerfile_name(plan: &BuildPlan) -> &str {
    plan.build.frontend_attrs.get("filename").map_or("Dockerfile", String::as_str)
}

/// The Dockerfile's name and, where it is a file that can be read here, its text.
fn dockerfile(plan: &BuildPlan) -> (&str, Vec<u8>) {
    let name = dockerfile_name(plan);
    let mut text = Vec::new();
    if let Some(local) = plan.locals.iter().find(|local| local.name == "dockerfile")
        && let Ok(file) = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(local.path.join(name))
        && file.metadata().is_ok_and(|found| found.is_file())
        && file.take(TEXT_LIMIT as u64).read_to_end(&mut text).is_err()
    {
        text.clear();
    }
    (name, text)
}

/// How a conversation ends without a result.
enum Ended {
    /// ktl itself says no.
    Refused(Failure),
    Build(BuildError),
}

impl From<BuildError> for Ended {
    fn from(error: BuildError) -> Ended {
        Ended::Build(error)
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Ended {
        Ended::Refused(failure)
    }
}

/// A link that the request itself makes.
fn forced(about: &str, is_asked_for: bool, how: String) -> Claim {
    let claim = match is_asked_for {
        true => Claim::held(about, how),
        false => Claim::new(about, State::Broken, "the request does not ask for it"),
    };
    claim.forced()
}

async fn converse(
    plan: &BuildPlan,
    connection: OwnedFd,
    session: Session,
    (events, notes): (mpsc::Sender<Event>, mpsc::UnboundedSender<String>),
    (claims, ledger): (&mut Vec<Claim>, Option<&Ledger>),
    cancel: CancellationToken,
) -> Result<GuestResult, Ended> {
    let stream = Stream::open(connection)
        .map_err(|error| Failure::internal(format!("failed to use the builder's connection: {error}")))?;
    let client = tokio::select! {
        client = Client::over(stream) => client?,
        () = cancel.cancelled() => return Err(BuildError::Cancelled.into()),
    };
    if plan.hermetic.is_on() {
        let limit = plan.patience.answer;
        let (info, workers) = tokio::select! {
            answers = async { tokio::try_join!(client.info(limit), client.workers(limit)) } => answers?,
            () = cancel.cancelled() => return Err(BuildError::Cancelled.into()),
        };
        version::supports_hermetic(&info, &workers).map_err(|error| {
            Failure::new(
                Exit::Policy,
                format!(
                    "--hermetic: the builder at {} cannot keep a build to what is pinned: {error}",
                    plan.builder
                ),
            )
            .hint("Use a buildkitd of a newer version, or leave --hermetic out.")
        })?;
        let how = format!(
            "none, forced in the solve; the builder says it is BuildKit {}, which keeps to that",
            info.version
        );
        claims.push(forced("network mode of RUN", plan.build.is_without_network(), how));
        let how = "directories and stores of this build and images by digest alone; the policy that denies all else is part of \
                   the request";
        claims.push(forced("sources", plan.build.source_policy.is_some(), how.to_owned()));
    }
    if plan.egress.is_some() {
        let limit = plan.patience.answer;
        let info = tokio::select! {
            info = async { plan.build.admit(&client, limit).await?; client.info(limit).await } => info?,
            () = cancel.cancelled() => return Err(BuildError::Cancelled.into()),
        };
        claims.push(egress::link::proxy(&info.version));
    }
    if let Some(inside) = &plan.inside {
        let found = tokio::select! {
            found = inside::look(&client, inside, &plan.build, session.host.clone()) => found,
            () = cancel.cancelled() => return Err(BuildError::Cancelled.into()),
        };
        claims.extend(found);
        // Nothing of the build has been done yet.
        claims::verdict(claims, plan.hermetic)?;
        if plan.egress.is_some() {
            // Whether all is proven that must be, the host side says.
            egress::link::verdict(claims, false)?;
        }
    }
    let result = build::run(&client, &plan.build, session, &plan.patience, events, cancel).await?;
    if let Some(ledger) = ledger {
        match provenance::of_build(&client, &plan.build.reference, Detail::Max).await {
            Ok(found) => ledger.learn_bodies(&found),
            Err(error) => drop(notes.send(format!("[egress] no digests of what was fetched: {error}"))),
        }
    }
    let mut provenance = BTreeMap::new();
    if let Some(detail) = plan.metadata.as_ref().and_then(|metadata| metadata.provenance) {
        match provenance::of_build(&client, &plan.build.reference, detail).await {
            Ok(found) => provenance = found,
            // A builder without history has none, and the build has succeeded.
            Err(error) => drop(notes.send(format!("no provenance for the metadata file: {error}"))),
        }
    }
    let mut materials = None;
    if plan.inside.is_some() {
        let told = provenance::materials(&client, &plan.build.reference).await;
        materials = Some(told.map_err(|error| chain(&error)));
    }
    let build::BuildResult { exporter_response, answer } = result;
    Ok(GuestResult { exporter_response, answer, provenance, materials, ..GuestResult::default() })
}

/// What this build offers to the daemon, and nothing else.
fn session(
    plan: &BuildPlan,
    broker: &Arc<BrokerClient>,
    mut outputs: Vec<(i32, OwnedFd)>,
    upload: Option<OwnedFd>,
    guard: &Arc<Guard>,
) -> Result<Session, Failure> {
    let mut session = Session {
        shared_key: plan.shared_key.clone(),
        locals: Default::default(),
        outputs: Vec::new(),
        host: broker.clone(),
        secrets: plan.secrets.iter().cloned().collect(),
        agents: plan.agents.iter().cloned().collect(),
        stores: Default::default(),
        upload: None,
        witness: plan.audit.then(|| broker.clone() as Arc<dyn Witness>),
        verifier: None,
    };
    let hidden = crate::outputs::staging_name(&plan.nonce);
    for local in &plan.locals {
        let dir = LocalDir::open(&local.name, &local.path)
            .map_err(|error| Failure::usage(format!("failed to open {}: {error}", local.path.display())))?;
        let dir = dir.with_opener(broker.clone()).hiding(&hidden).guarded(guard.clone());
        let dir = match plan.times {
            Some(seconds) => dir.timed(seconds),
            None => dir,
        };
        session.locals.insert(local.name.clone(), dir);
    }
    let dockerfile = plan.build.frontend_attrs.get("filename").map_or("Dockerfile", String::as_str);
    session.locals = fence(std::mem::take(&mut session.locals), dockerfile)
        .map_err(|error| Failure::usage(format!("the build context: {}", chain(&error))))?;
    for store in &plan.stores {
        let open = |path: &PathBuf| {
            let dir = LocalDir::open(&store.id, path)
                .map_err(|error| Failure::usage(format!("failed to open {}: {error}", path.display())))?;
            Ok::<_, Failure>(dir.with_opener(broker.clone()))
        };
        let mut opened = ContentStore::reading(store.existing.as_ref().map(open).transpose()?);
        if let Some(dir) = &store.arriving {
            opened = opened.writing_to(dir.clone());
        }
        session.stores.insert(store.id.clone(), opened);
    }
    if let (Some(upload), Some(rest)) = (&plan.upload, upload) {
        session.upload = Some(Upload { id: upload.id.clone(), head: upload.head.clone(), rest: rest.into() });
    }
    for (output, bounds) in plan.outputs.iter().zip(&plan.output_bounds) {
        let bounded = |path: String, sink| {
            let output = Output::new(path, sink);
            Some(Output { most: bounds.bytes, calls: bounds.calls, ..output })
        };
        session.outputs.push(match output {
            GuestOutput::None => None,
            GuestOutput::Descriptor { number, name } => {
                let at = outputs.iter().position(|(other, _)| other == number);
                let (_, fd) = at
                    .map(|at| outputs.swap_remove(at))
                    .ok_or_else(|| Failure::internal(format!("output descriptor {number} is missing")))?;
                bounded(
                    name.clone(),
                    if bounds.image { Sink::Image(fd.into()) } else { Sink::File(fd.into()) },
                )
            }
            GuestOutput::Directory(path) => {
                let dir = File::open(path).map_err(|error| {
                    Failure::new(Exit::BuildFailed, format!("failed to open {}: {error}", path.display()))
                })?;
                let receiver = Receiver::new(dir.into()).bounded(bounds.bytes);
                let receiver = if bounds.devices { receiver.with_devices() } else { receiver };
                bounded(path.display().to_string(), Sink::Directory(Arc::new(receiver)))
            }
        });
    }
    Ok(session)
}

/// Feeds the display until the build has no more to say, then gives it back for the last word.
async fn show(
    mut display: Display,
    mut updates: mpsc::Receiver<Event>,
    mut notes: mpsc::UnboundedReceiver<String>,
    ledger: Option<Arc<Ledger>>,
) -> Display {
    let mut tick = tokio::time::interval(Duration::from_millis(70));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = updates.recv() => match event {
                Some(event) => {
                    if let Some(ledger) = &ledger {
                        ledger.hear(&event);
                    }
                    display.event(event);
                }
                None => {
                    while let Ok(note) = notes.try_recv() {
                        display.note(&note);
                    }
                    return display;
                }
            },
            Some(note) = notes.recv() => display.note(&note),
            _ = tick.tick() => {
                for line in ledger.iter().flat_map(|ledger| ledger.news()) {
                    display.note(&line);
                }
                display.tick();
            }
        }
    }
}
