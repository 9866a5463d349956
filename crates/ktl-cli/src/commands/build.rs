//! `ktl build`.

mod asked;
mod materials;
mod report;
pub mod verify;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use base64::Engine as _;
use buildsvc::digest::Digest;
use buildsvc::dockerconfig::DockerConfig;
use buildsvc::dockerfile;
use buildsvc::output::Destination;

use super::answer;
use crate::attested;
use crate::audit::{self, Audit};
use crate::broker::{Desk, Rules};
use crate::builder;
use crate::caches::PendingCaches;
use crate::cancel::Cancel;
use crate::claims::{self, Claim, State};
use crate::cli::BuildArgs;
use crate::dial::Connection;
use crate::egress;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::guest::{self, Ends, GuestResult};
use crate::hermetic;
use crate::inside::{Controls, InsidePlan};
use crate::launch::{self, Handed};
use crate::log::Log;
use crate::outputs::{self, Opened, PendingFile};
use crate::piped::{self, Intake};
use crate::plan::{self, BuildPlan, Facts, GuestOutput, Hermetic, HostPlan, Kind, guest_path};
use crate::private::{Network, Way, peer, start};
use crate::repository::Repository;
use crate::tls::TlsFiles;
use crate::ui::Ui;
use report::{ReportFile, Run};

pub fn run(args: &BuildArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: args.display.quiet };
    if args.build.verify_reproducible {
        return verify::run(args, env, &ui);
    }
    let facts = facts(env)?;
    let report = ReportFile::open(args.result.report.as_deref(), &facts)?;
    let mut told = Run::default();
    let outcome = settled(args, verbose, facts, env, &mut told, &ui);
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
    let intake = Intake::take(args, &facts, &plan::cache_dir(env, &facts)?)?;
    facts.scratch = intake.dir.clone();
    facts.piped = intake.piped.clone();
    let (plan, mut host) = plan::resolve(args, verbose, env, &facts)?;
    host.audit = Audit::open(args.result.audit.as_deref())?;
    told.hermetic = Some(plan.hermetic);
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
    let candidates = builder::of_build(&args.builder, env, plan.hermetic, plan.egress.is_some())?;
    let private = candidates.first().is_some_and(|candidate| candidate.address.is_private());
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
    let (connection, lease) = start::dial(candidates, tls.as_ref(), &args.builder.private, &way, env, ui)?;
    plan.builder = connection.address.to_string();
    if let Some(store) = connection.engine {
        plan::for_engine(&mut plan, &mut host, store)?;
    }
    let host = &host;
    let private_network = lease.is_some().then_some(way.network);
    let list = plan.egress.as_ref();
    attested::builder(&mut plan.build.frontend_attrs, private_network, plan.hermetic, list)?;
    if let Some(locked) = &host.locked {
        attested::lock(&mut plan.build.frontend_attrs, &locked.lock.digest());
    }
    told.builder = Some(plan.builder.clone());
    host.audit.tell("begin", false, &audit::Begin::of(&plan.builder, &plan.build.reference));
    told.private = Some(lease.is_some());
    told.reference.clone_from(&plan.build.reference);
    if plan.hermetic.is_on() && !private {
        told.claims = hermetic::unproven(&plan);
        for claim in &told.claims {
            ui.line(format_args!("[hermetic] {claim}"));
        }
    }

    if host.looks_inside && lease.is_some() {
        let claims = peer::claims(&connection.stream, way.network);
        tell(&claims, plan.hermetic, ui);
        told.claims.extend(claims);
    }
    if plan.egress.is_some() && !private {
        for claim in egress::UNPROVEN {
            ui.note(format_args!("[egress] unproven: {claim}"));
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
    let (mut opened, _tidier) = outputs::open(&host.destinations, &plan.nonce)?;
    let lock = if host.looks_inside { materials::lock(host)? } else { None };
    let controls =
        host.looks_inside.then(|| Controls::open(&plan.nonce, plan.build.proxy_network)).transpose()?;
    if let Some(controls) = &controls {
        let dir = match host.sandbox {
            Some(_) => Path::new(guest_path::BINARY).into(),
            None => launch::staged(&host.cache)?,
        };
        let dir = dir.parent().unwrap_or(Path::new("/")).to_owned();
        plan.inside = Some(InsidePlan { dir, question: controls.question().clone() });
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
        if let Some(found) = result.as_ref().and_then(|result| result.materials.as_ref()) {
            told.claims.push(materials::claim(found, lock.as_ref(), plan.hermetic));
        }
        tell(&told.claims[known..], plan.hermetic, ui);
        if exit == Exit::Ok {
            claims::verdict(&told.claims, plan.hermetic)?;
            if let Some(result) = &result {
                check_digests(&result.exporter_response)?;
            }
        }
        Ok((exit, result))
    });
    if let Ok((_, Some(result))) = &held {
        files.record(result)?;
    }
    match held {
        Ok((Exit::Ok, Some(result))) => {
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
        Ok((exit, _)) => {
            opened.into_iter().for_each(Opened::abandon);
            Ok(exit)
        }
        Err(failure) => {
            opened.into_iter().for_each(Opened::abandon);
            Err(failure)
        }
    }
}

/// One line for each link of a hermetic build. What does not hold is told to the quiet as well.
fn tell(claims: &[Claim], hermetic: Hermetic, ui: &Ui) {
    for claim in claims.iter().filter(|_| hermetic.is_on()) {
        match claim.state {
            State::Held => ui.note(format_args!("[hermetic] {claim}")),
            State::Broken | State::Unproven => ui.line(format_args!("[hermetic] {claim}")),
        }
    }
}

/// Runs the conversation in the jail, or here when that was the user's choice.
fn hold(
    plan: &mut BuildPlan,
    host: &HostPlan,
    connection: Connection,
    opened: &mut [Opened],
    env: &Env,
    log: &Log,
    ui: &Ui,
) -> Result<(Exit, Option<GuestResult>), Failure> {
    let Connection { stream, relay, .. } = connection;
    let (desk_end, guest_end) = UnixStream::pair()
        .map_err(|error| Failure::internal(format!("failed to make the broker's socket: {error}")))?;
    let rules = rules(plan, host, env, ui)?;
    let upload = plan.upload.as_ref().map(|_| piped::stdin()).transpose();
    let upload =
        upload.map_err(|error| Failure::internal(format!("failed to duplicate standard input: {error}")))?;
    let mut desk = None;
    let serve = || {
        if let Some(relay) = relay {
            // The guest sees the end of its stream and says so; a second message would be noise.
            std::thread::spawn(move || drop(relay.run()));
        }
        let thread = Desk::new(rules).serve(desk_end);
        desk =
            Some(thread.map_err(|error| Failure::internal(format!("failed to start the broker: {error}")))?);
        Ok(())
    };
    let outcome = match &host.sandbox {
        Some(sandbox) => {
            let prepared = launch::prepare(plan, host, sandbox, opened, log, ui)?;
            let outputs = opened.iter_mut().map(Opened::descriptor).collect::<Result<Vec<_>, _>>()?;
            let handed = Handed { connection: stream, broker: guest_end.into(), outputs, upload };
            launch::run(prepared, plan, handed, ui, serve)
        }
        None => {
            attested::no_jail(&mut plan.build.frontend_attrs);
            serve()?;
            let mut outputs: Vec<(i32, OwnedFd)> = Vec::new();
            for (index, output) in opened.iter_mut().enumerate() {
                let number = i32::try_from(index).unwrap_or(i32::MAX);
                plan.outputs[index] = match (output.staging().map(Path::to_owned), output.descriptor()?) {
                    (Some(staging), _) => GuestOutput::Directory(staging),
                    (None, Some(fd)) => {
                        outputs.push((number, fd));
                        GuestOutput::Descriptor { number, name: output.descriptor_name().unwrap_or_default() }
                    }
                    (None, None) => GuestOutput::None,
                };
            }
            let ends = Ends {
                connection: stream,
                broker: guest_end.into(),
                cancel: Cancel::Signals,
                outputs,
                upload,
            };
            Ok(guest::run(plan, ends, Vec::new()))
        }
    };
    if let Some(record) = desk.and_then(|thread| thread.join().ok()) {
        log.broker(&record);
        asked::tell(&record, ui);
        audit::signatures(&host.audit, &record);
    }
    outcome
}

/// What a plan needs to know of this machine.
pub fn facts(env: &Env) -> Result<Facts, Failure> {
    let cwd = std::env::current_dir()
        .map_err(|error| Failure::usage(format!("the current directory cannot be read: {error}")))?;
    let host_name = nix::sys::utsname::uname()
        .map(|name| name.nodename().to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Facts {
        cwd,
        uid: nix::unistd::getuid().as_raw(),
        host_name,
        live_view: io::stderr().is_terminal() && env.get(env::CI).is_none() && !env.is_dumb_terminal(),
        nonce: random_hex::<16>()?,
        reference: random_hex::<12>()?,
        scratch: None,
        piped: None,
        kind_of,
        real: |path| path.canonicalize().ok(),
        repository: Repository::around,
        read: read_bounded,
    })
}

fn kind_of(path: &Path) -> Kind {
    match fs::metadata(path) {
        Err(_) => Kind::Missing,
        Ok(found) if found.is_dir() => Kind::Directory,
        Ok(found) if found.is_file() => Kind::File,
        Ok(_) => Kind::Other,
    }
}

/// Of a regular file: a pipe without a writer would hold ktl up before it has said anything.
fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

fn random_hex<const BYTES: usize>() -> Result<String, Failure> {
    let mut bytes = [0; BYTES];
    File::open("/dev/urandom").map_err(no_random)?.read_exact(&mut bytes).map_err(no_random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_random(error: io::Error) -> Failure {
    Failure::internal(format!("failed to read /dev/urandom: {error}"))
}

fn rules(plan: &BuildPlan, host: &HostPlan, env: &Env, ui: &Ui) -> Result<Rules, Failure> {
    let mut locals = BTreeMap::new();
    for (name, path) in &host.locals {
        let dir = File::open(path)
            .map_err(|error| Failure::usage(format!("failed to open {}: {error}", path.display())))?;
        locals.insert(name.clone(), OwnedFd::from(dir));
    }
    let logins = host.login_file.clone().or_else(|| Some(host.docker_config.as_ref()?.join("config.json")));
    if let Some(file) = &host.login_file {
        ui.note(format_args!(
            "[broker] registry logins come from {} (--sandbox-bind); they are used outside of the jail, which does not see the \
             file",
            file.display()
        ));
    }
    let docker_config = match logins {
        Some(file) => DockerConfig::read(&file).unwrap_or_else(|error| {
            // As docker does: a build may need no login, and one that does will say so.
            ui.line(format_args!("WARNING: no registry logins: {}", chain(&error)));
            DockerConfig::default()
        }),
        None => DockerConfig::default(),
    };
    let names =
        plan::names(&plan.build, &dockerfile(host.dockerfile.as_deref(), ui), &host.allowed_registries);
    ui.verbose(format_args!(
        "[broker] registries of this build: {}",
        names.hosts().collect::<Vec<_>>().join(", ")
    ));
    Ok(Rules {
        docker_config,
        names,
        token_seeds: host.docker_config.clone(),
        secrets: host.secrets.clone(),
        agents: host.agents.clone(),
        max_signatures: host.max_signatures,
        locals,
        program_search_path: env.get("PATH").unwrap_or_default(),
        audit: host.audit.clone(),
    })
}

/// The Dockerfile's text, for the images that it names. One that cannot be read names none, and the builder will say what
/// is wrong with it.
fn dockerfile(path: Option<&Path>, ui: &Ui) -> String {
    let Some(path) = path else {
        ui.verbose(format_args!(
            "[broker] the Dockerfile comes with the remote context, so logins go to registries of --tag, caches and --allow-registry only"
        ));
        return String::new();
    };
    let mut bytes = Vec::new();
    let read = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let read = read.and_then(|file| match file.metadata()?.is_file() {
        true => file.take(dockerfile::TEXT_LIMIT as u64 + 1).read_to_end(&mut bytes),
        false => Err(io::Error::other("it is no regular file")),
    });
    let why = match read {
        Ok(_) if bytes.len() > dockerfile::TEXT_LIMIT => "it is too long".to_owned(),
        Ok(_) => return String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => error.to_string(),
    };
    ui.line(format_args!("WARNING: {} is not read for the registries that it names: {why}", path.display()));
    String::new()
}

fn refuse_tar_on_a_terminal(host: &HostPlan) -> Result<(), Failure> {
    if host.destinations.contains(&Destination::Stdout) && io::stdout().is_terminal() {
        return Err(Failure::usage("refusing to write a tar to the terminal")
            .hint("Redirect it, or name a file with dest=FILE."));
    }
    Ok(())
}

/// `--metadata-file` and `--iidfile`, made ready before the build so that a bad path is told before the work.
struct ResultFiles {
    metadata: Option<PendingFile>,
    iid: Option<PendingFile>,
    egress_learn: Option<PendingFile>,
    egress_record: Option<PendingFile>,
}

impl ResultFiles {
    fn open(host: &HostPlan, nonce: &str) -> Result<ResultFiles, Failure> {
        let open = |path: &Option<std::path::PathBuf>| {
            path.as_ref().map(|path| PendingFile::create(path, nonce)).transpose().map_err(|error| {
                let mut failure = Failure::from(error);
                failure.exit = Exit::Usage;
                failure
            })
        };
        Ok(ResultFiles {
            metadata: open(&host.metadata_file)?,
            iid: open(&host.iidfile)?,
            egress_learn: open(&host.egress_learn)?,
            egress_record: open(&host.egress_record)?,
        })
    }

    fn write(&mut self, result: &GuestResult, reference: &str) -> Result<(), Failure> {
        if let Some(mut file) = self.metadata.take() {
            file.write_all(&metadata(result, reference))?;
            file.commit()?;
        }
        if let Some(mut file) = self.iid.take() {
            let id = image_id(&result.exporter_response).ok_or_else(|| {
                Failure::usage("--iidfile: this build made no image")
                    .hint("Name it with -t, or ask for an image with -o.")
            })?;
            file.write_all(id.as_bytes())?;
            file.commit()?;
        }
        if let (Some(told), Some(mut file)) = (&result.egress, self.egress_learn.take()) {
            file.write_all(told.list().as_bytes())?;
            file.commit()?;
        }
        Ok(())
    }

    /// The record of requests, also of a build that failed.
    fn record(&mut self, result: &GuestResult) -> Result<(), Failure> {
        let (Some(told), Some(mut file)) = (&result.egress, self.egress_record.take()) else { return Ok(()) };
        let record = told
            .record()
            .map_err(|error| Failure::internal(format!("failed to write the record of requests: {error}")))?;
        file.write_all(&record)?;
        Ok(file.commit()?)
    }
}

/// The exporters' answers as docker buildx writes them, where values that are base64 of a JSON object or of a list of them become
/// JSON, and what the builder has recorded of the build.
fn metadata(result: &GuestResult, reference: &str) -> Vec<u8> {
    let filled = |value: &serde_json::Value| value.as_object().is_some_and(|object| !object.is_empty());
    let decoded = |value: &String| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(value).ok()?;
        let json: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
        let list = json
            .as_array()
            .is_some_and(|list| !list.is_empty() && list.iter().all(serde_json::Value::is_object));
        (filled(&json) || list).then_some(json)
    };
    let mut object: serde_json::Map<String, serde_json::Value> = result
        .exporter_response
        .iter()
        .map(|(key, value)| (key.clone(), decoded(value).unwrap_or_else(|| value.clone().into())))
        .collect();
    if !result.answer.is_empty() {
        for (key, value) in &result.answer {
            let json = (key == "result.json").then(|| serde_json::from_str(value).ok()).flatten();
            object.insert(key.clone(), json.unwrap_or_else(|| value.clone().into()));
        }
        return serde_json::to_vec_pretty(&object).unwrap_or_default();
    }
    // docker buildx has a builder and a node before the reference; ktl has no names for them.
    object.insert("buildx.build.ref".to_owned(), format!("ktl/ktl/{reference}").into());
    for (platform, provenance) in &result.provenance {
        let platform = if platform.is_empty() { String::new() } else { format!("/{platform}") };
        object.insert(format!("buildx.build.provenance{platform}"), provenance.clone());
    }
    if !result.warnings.is_empty() {
        object.insert("buildx.build.warnings".to_owned(), result.warnings.clone().into());
    }
    serde_json::to_vec_pretty(&object).unwrap_or_default()
}

/// Digests go to stdout and into files, for programs to read: a text that is none must not.
fn check_digests(response: &BTreeMap<String, String>) -> Result<(), Failure> {
    for key in ["containerimage.digest", "containerimage.config.digest"] {
        if response.get(key).is_some_and(|digest| digest.parse::<Digest>().is_err()) {
            return Err(Failure::new(
                Exit::Builder,
                format!("the builder reports a result whose {key} is no digest"),
            ));
        }
    }
    Ok(())
}

/// The image's ID: the digest of its config, as docker has it, else that of its manifest.
fn image_id(response: &BTreeMap<String, String>) -> Option<&str> {
    let id =
        response.get("containerimage.config.digest").or_else(|| response.get("containerimage.digest"))?;
    Some(id.as_str())
}

/// The last words: the digest on stdout, and where the result is.
fn announce(plan: &BuildPlan, host: &HostPlan, result: &GuestResult, ui: &Ui) -> Result<(), Failure> {
    let response = &result.exporter_response;
    let digest = if plan.quiet {
        image_id(response)
    } else {
        response.get("containerimage.digest").map(String::as_str)
    };
    if let Some(digest) = digest
        && !host.destinations.contains(&Destination::Stdout)
    {
        writeln!(io::stdout().lock(), "{digest}").map_err(|error| {
            Failure::new(Exit::BuildFailed, format!("failed to print the digest: {error}"))
        })?;
    }
    if host.stays_in_cache {
        ui.note(format_args!(
            "The result stays in the builder's cache; --push, --load or -o bring it elsewhere."
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_decodes_what_holds_json() {
        let encoded = base64::engine::general_purpose::STANDARD.encode(r#"{"size":7}"#);
        let exporter_response = BTreeMap::from([
            ("containerimage.descriptor".to_owned(), encoded),
            ("containerimage.digest".to_owned(), "sha256:ab".to_owned()),
            ("image.name".to_owned(), "dGVzdA==".to_owned()),
        ]);
        let provenance = [("linux/amd64".to_owned(), serde_json::json!({"builder": {}}))].into();
        let result = GuestResult { exporter_response, provenance, ..GuestResult::default() };
        let written: serde_json::Value = serde_json::from_slice(&metadata(&result, "r1")).unwrap();
        assert_eq!(written["buildx.build.ref"], "ktl/ktl/r1");
        assert!(written["buildx.build.provenance/linux/amd64"].is_object());
        assert!(written.get("buildx.build.warnings").is_none());
        assert_eq!(written["containerimage.descriptor"]["size"], 7);
        assert_eq!(written["containerimage.digest"], "sha256:ab");
        assert_eq!(written["image.name"], "dGVzdA==");
    }

    #[test]
    fn what_is_no_digest_is_not_passed_on() {
        let response =
            |digest: &str| BTreeMap::from([("containerimage.digest".to_owned(), digest.to_owned())]);
        assert!(check_digests(&response(&format!("sha256:{}", "a".repeat(64)))).is_ok());
        assert!(check_digests(&BTreeMap::new()).is_ok());
        for wrong in ["", "sha256:ab", "\u{1b}[2J", "sha256:../../x"] {
            assert!(check_digests(&response(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_image_id_is_the_configs_digest() {
        let mut response = BTreeMap::from([("containerimage.digest".to_owned(), "sha256:m".to_owned())]);
        assert_eq!(image_id(&response), Some("sha256:m"));
        response.insert("containerimage.config.digest".to_owned(), "sha256:c".to_owned());
        assert_eq!(image_id(&response), Some("sha256:c"));
        assert_eq!(image_id(&BTreeMap::new()), None);
    }
}
