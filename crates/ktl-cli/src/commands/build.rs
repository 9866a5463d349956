//! `ktl build`.

mod asked;
mod facts;
mod files;
mod hold;
mod materials;
mod report;
mod rules;
pub mod verify;
mod web_dockerfile;

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use buildsvc::output::Destination;

use super::answer;
use crate::attested;
use crate::audit::{self, Audit};
use crate::builder;
use crate::caches::PendingCaches;
use crate::ci::Github;
use crate::claims::{self, Claim, State};
use crate::cli::BuildArgs;
use crate::display::Mode;
use crate::egress;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::hermetic;
use crate::inside::{Controls, InsidePlan};
use crate::launch;
use crate::log::Log;
use crate::outputs::{self, Opened};
use crate::piped::Intake;
use crate::plan::{self, BuildPlan, Facts, HostPlan, guest_path};
use crate::private::{Network, Way, peer, start};
use crate::remote::client::{Server, Wish};
use crate::tls::TlsFiles;
use crate::ui::Ui;
pub use facts::{facts, read_bounded};
use files::{ResultFiles, announce, check_digests};
use hold::hold;
pub use report::Run;
use report::{Listed, ReportFile};

pub fn run(args: &BuildArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: plan::is_quiet(args, env) };
    if args.build.verify_reproducible {
        return verify::run(args, env, &ui);
    }
    let facts = facts(env)?;
    let github = Github::of(args.display.ci, env, &facts.cwd);
    let report = ReportFile::open(args.result.report.as_deref(), &facts)?;
    let mut told = Run { settings: env.settings().told(), ..Run::default() };
    let outcome = settled(args, verbose, facts, env, &mut told, &ui);
    if let Some(github) = github {
        github.tell(&told, &outcome, &ui);
    }
    report.write(told, outcome)
}

/// From what was asked to its end.
fn settled(
    args: &BuildArgs,
    verbose: u8,
    mut facts: Facts,
    env: &Env,
    told: &mut Run,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let downloaded = web_dockerfile::get(args, env, ui)?;
    let intake = Intake::take(args, &facts, &plan::cache_dir(env, &facts)?, downloaded.as_deref())?;
    facts.scratch = intake.dir.clone();
    facts.piped = intake.piped.clone();
    let (plan, mut host) = plan::resolve(args, verbose, env, &facts)?;
    host.audit = Audit::open(args.result.audit.as_deref())?;
    told.hermetic = Some(plan.hermetic);
    told.is_json = plan.progress == Mode::RawJson;
    told.dockerfile.clone_from(&host.dockerfile);
    refuse_tar_on_a_terminal(&host)?;
    let log = match host.sandbox {
        Some(_) => Log::open(&host.log, "build", &host.cache, ui)?,
        None => Log::off(ui),
    };
    let audit = host.audit.clone();
    let outcome = build(args, plan, host, env, &log, told, ui);
    audited(&audit, args, log.close(outcome), ui)
}

/// Ends the audit; one that could not be written ends a build that went well.
fn audited(
    audit: &Audit,
    args: &BuildArgs,
    outcome: Result<Exit, Failure>,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let exit = outcome.as_ref().map_or_else(|failure| failure.exit, |exit| *exit);
    let refused = audit.end(exit.code());
    if let (Ok(1..), Some(file)) = (&refused, &args.result.audit) {
        let refused = refused.as_ref().copied().unwrap_or_default();
        ui.note(format_args!(
            "[audit] {refused} requests were refused: ktl audit show --refused {}",
            file.display()
        ));
    }
    match (outcome, refused) {
        (Ok(Exit::Ok), Err(failure)) => Err(failure),
        (outcome, _) => outcome,
    }
}

fn build(
    args: &BuildArgs,
    mut plan: BuildPlan,
    mut host: HostPlan,
    env: &Env,
    log: &Log,
    told: &mut Run,
    ui: &Ui,
) -> Result<Exit, Failure> {
    let tls = TlsFiles::from_flags(&args.builder).map_err(Failure::usage)?;
    let wish = Wish::of(args, &plan, &host, env)?;
    let way = match &plan.egress {
        Some(list) => Way::to(list)?,
        None if plan.hermetic.is_on() => Network::None.into(),
        None => Network::Host.into(),
    };
    if let Some(locked) = &host.locked {
        locked.check()?;
        ui.note(format_args!("[hermetic] {}", locked.told()));
    }
    if host.sandbox.is_none() {
        ui.line(format_args!("[sandbox] off: this build's client runs with all your rights"));
    }
    let (connection, lease, server) = match &wish {
        Some(wish) => {
            let (connection, server) = wish.dial(env, ui)?;
            (connection, None, Some(server))
        }
        None => {
            let candidates = builder::of_build(&args.builder, env, plan.hermetic, plan.egress.is_some())?;
            let (connection, lease) =
                start::dial(candidates, tls.as_ref(), &args.builder.private, &way, env, ui)?;
            (connection, lease, None)
        }
    };
    plan.builder = connection.address.to_string();
    if let Some(store) = connection.engine {
        plan::for_engine(&mut plan, &mut host, store)?;
    }
    let host = &host;
    let private_network = match &server {
        Some(server) => server.network(),
        None => lease.is_some().then_some(way.network),
    };
    let list = plan.egress.as_ref();
    attested::builder(&mut plan.build.frontend_attrs, private_network, plan.hermetic, list)?;
    if let Some(locked) = &host.locked {
        attested::lock(&mut plan.build.frontend_attrs, &locked.lock.digest());
    }
    told.builder = Some(plan.builder.clone());
    host.audit.tell("begin", false, &audit::Begin::of(&plan.builder, &plan.build.reference));
    told.private = Some(private_network.is_some());
    told.reference.clone_from(&plan.build.reference);
    let private = private_network.is_some();
    if plan.hermetic.is_on() && !private {
        told.claims = hermetic::unproven(&plan);
        tell(&told.claims, &plan, ui);
    }
    if let Some(list) = list {
        told.egress = Some(Listed {
            list: list.rules().cloned().collect(),
            learned: list.learns(),
            ..Listed::default()
        });
        if !private {
            told.claims.extend(egress::link::unproven());
            tell(&told.claims, &plan, ui);
        }
    }
    if host.looks_inside && private {
        told.claims.extend(match &server {
            Some(server) => server.claims(),
            None => peer::claims(&connection.stream, way.network),
        });
        tell(&told.claims, &plan, ui);
        // Nothing of the build has been done yet.
        claims::verdict(&told.claims, plan.hermetic)?;
        if list.is_some() {
            egress::link::verdict(&told.claims, private)?;
        }
    }

    let mut files = ResultFiles::open(host, &plan.nonce)?;
    for warning in &host.warnings {
        ui.line(format_args!("WARNING: {warning}"));
    }
    for note in &host.notes {
        ui.note(format_args!("[hermetic] {note}"));
    }
    let caches = PendingCaches::open(&host.cache_stores)?;
    let (mut opened, _tidier) = outputs::open(&host.destinations, &plan.nonce, host.delete_anything)?;
    let lock = if host.compares_materials { materials::lock(host)? } else { None };
    let controls = (host.looks_inside && server.is_none())
        .then(|| Controls::open(&plan.nonce, plan.build.proxy_network))
        .transpose()?;
    let question = controls.as_ref().map(Controls::question);
    if let Some(question) = question.or(server.as_ref().and_then(Server::question)) {
        let dir = match host.sandbox {
            Some(_) => Path::new(guest_path::BINARY).into(),
            None => launch::staged(&host.cache)?,
        };
        let dir = dir.parent().unwrap_or(Path::new("/")).to_owned();
        plan.inside = Some(InsidePlan { dir, question: question.clone() });
    }
    for (bounds, output) in plan.output_bounds.iter_mut().zip(&opened) {
        bounds.bytes = bounds.bytes.min(output.room()?.unwrap_or(u64::MAX));
    }
    let held = hold(&mut plan, host, connection, &mut opened, env, log, ui).and_then(|(exit, result)| {
        let known = told.claims.len();
        if let Some(result) = &result {
            told.hear(result);
        }
        if let Some(controls) = &controls {
            controls.heard(&mut told.claims);
        }
        if let Some(server) = server {
            server.end(host.looks_inside, exit, &mut told.claims, ui);
        }
        if let (Some(list), true) = (&plan.egress, host.looks_inside && result.is_some()) {
            told.claims.push(egress::link::reaches(&told.claims, list, private_network));
        }
        if host.compares_materials && exit == Exit::Ok {
            let found = result.as_ref().and_then(|result| result.materials.clone());
            let found = found.unwrap_or_else(|| Err("the guest says nothing of them".to_owned()));
            told.claims.push(materials::claim(&found, lock.as_ref(), plan.hermetic));
        }
        tell(&told.claims[known..], &plan, ui);
        if exit == Exit::Ok {
            claims::verdict(&told.claims, plan.hermetic)?;
            if plan.egress.is_some() {
                egress::link::verdict(&told.claims, private)?;
            }
            if let Some(result) = &result {
                check_digests(&result.exporter_response)?;
            }
        }
        Ok((exit, result))
    });
    if let Ok((_, Some(result))) = &held {
        files.record(result)?;
    }
    let result = match held {
        Ok((Exit::Ok, Some(result))) => result,
        other => {
            opened.into_iter().for_each(Opened::abandon);
            return other.map(|(exit, _)| exit);
        }
    };
    land(opened, host, ui)?;
    let manifest = result.exporter_response.get("cache.manifest");
    caches.commit(manifest.map(String::as_str), &plan.nonce)?;
    files.write(&result, &plan.build.reference)?;
    if let Some(call) = &host.call {
        let answer::Shown { text, end } = answer::show(call, &result.answer);
        io::stdout().lock().write_all(text.as_bytes()).map_err(|error| {
            Failure::new(Exit::BuildFailed, format!("failed to print the answer: {error}"))
        })?;
        return end;
    }
    announce(&plan, host, &result, ui)?;
    Ok(Exit::Ok)
}

/// Puts what the exporters sent in its places.
fn land(opened: Vec<Opened>, host: &HostPlan, ui: &Ui) -> Result<(), Failure> {
    let mut tamed = 0;
    for output in opened {
        let landed = output.landed();
        tamed += output.commit(host.output_privileged)?;
        audit::output(&host.audit, landed)?;
    }
    if tamed > 0 {
        ui.note(format_args!(
            "{tamed} files of the output have lost their set-user-id bits; --output-privileged keeps them."
        ));
    }
    Ok(())
}

/// One line for each link of a hermetic build, and for the sum of those of a build with a list of servers. What does not hold is
/// told to the quiet as well.
fn tell(claims: &[Claim], plan: &BuildPlan, ui: &Ui) {
    let label = match &plan.egress {
        _ if plan.hermetic.is_on() => "hermetic",
        Some(_) => "egress",
        None => return,
    };
    for claim in claims.iter().filter(|claim| plan.hermetic.is_on() || egress::link::is_told(claim)) {
        match claim.state {
            State::Held => ui.note(format_args!("[{label}] {claim}")),
            State::Broken | State::Unproven => ui.line(format_args!("[{label}] {claim}")),
        }
    }
}

fn refuse_tar_on_a_terminal(host: &HostPlan) -> Result<(), Failure> {
    if host.destinations.contains(&Destination::Stdout) && io::stdout().is_terminal() {
        return Err(Failure::usage("refusing to write a tar to the terminal")
            .hint("Redirect it, or name a file with dest=FILE."));
    }
    Ok(())
}
