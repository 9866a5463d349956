//! `ktl build`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use base64::Engine as _;
use buildsvc::dockerconfig::DockerConfig;
use buildsvc::output::Destination;

use super::answer;
use crate::broker::{Desk, Record, Rules};
use crate::builder;
use crate::caches::PendingCaches;
use crate::cancel::Cancel;
use crate::cli::BuildArgs;
use crate::dial::{self, Connection};
use crate::display::inert;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::guest::{self, Ends, GuestResult};
use crate::launch::{self, Handed};
use crate::outputs::{self, Opened, PendingFile};
use crate::piped::{self, Intake};
use crate::plan::{self, BuildPlan, Facts, GuestOutput, HostPlan, Kind};
use crate::tls::TlsFiles;
use crate::ui::Ui;

pub fn run(args: &BuildArgs, verbose: u8, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: verbose > 0, quiet: args.display.quiet };
    let mut facts = facts(env)?;
    let intake = Intake::take(args, &facts, &plan::cache_dir(env, &facts)?)?;
    facts.scratch = intake.dir.clone();
    facts.piped = intake.piped.clone();
    let (mut plan, host) = plan::resolve(args, verbose, env, &facts)?;
    refuse_tar_on_a_terminal(&host)?;
    let tls = TlsFiles::from_flags(&args.builder).map_err(Failure::usage)?;
    let candidates = builder::candidates(&args.builder, env)?;
    if host.sandbox.is_none() {
        ui.line(format_args!("[sandbox] off: this build's client runs with all your rights"));
    }
    let connection = dial::dial(&candidates, tls.as_ref(), &ui)?;
    plan.builder = connection.address.to_string();

    let mut files = ResultFiles::open(&host, &plan.nonce)?;
    for warning in &host.warnings {
        ui.line(format_args!("WARNING: {warning}"));
    }
    let caches = PendingCaches::open(&host.cache_stores)?;
    let (mut opened, _tidier) = outputs::open(&host.destinations, &plan.nonce)?;
    match hold(&mut plan, &host, connection, &mut opened, env, &ui) {
        Ok((Exit::Ok, Some(result))) => {
            opened.into_iter().try_for_each(Opened::commit)?;
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
            announce(&plan, &host, &result, &ui)?;
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

/// Runs the conversation in the jail, or here when that was the user's choice.
fn hold(
    plan: &mut BuildPlan,
    host: &HostPlan,
    connection: Connection,
    opened: &mut [Opened],
    env: &Env,
    ui: &Ui,
) -> Result<(Exit, Option<GuestResult>), Failure> {
    let Connection { stream, relay, .. } = connection;
    let (desk_end, guest_end) = UnixStream::pair()
        .map_err(|error| Failure::internal(format!("failed to make the broker's socket: {error}")))?;
    let rules = rules(host, env, ui)?;
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
            let prepared = launch::prepare(plan, host, sandbox, opened, ui)?;
            let outputs = opened.iter_mut().map(Opened::descriptor).collect::<Result<Vec<_>, _>>()?;
            let handed = Handed { connection: stream, broker: guest_end.into(), outputs, upload };
            launch::run(prepared, plan, handed, ui, serve)
        }
        None => {
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
            Ok(guest::run(plan, ends))
        }
    };
    if let Some(record) = desk.and_then(|thread| thread.join().ok()) {
        tell(&record, ui);
    }
    outcome
}

/// What the builder asked of the user's things, and what it was refused.
fn tell(record: &Record, ui: &Ui) {
    if !record.asked.is_empty() {
        let asked: Vec<String> = record.asked.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        ui.verbose(format_args!(
            "[broker] asked: {}; refused {}, failed {}",
            asked.join(", "),
            record.refused,
            record.failed
        ));
    }
    for refusal in &record.refusals {
        ui.note(format_args!("[broker] refused {}: {}", refusal.kind, inert::text(&refusal.reason)));
    }
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
    io::Read::read_to_end(&mut io::Read::take(file, limit + 1), &mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

fn random_hex<const BYTES: usize>() -> Result<String, Failure> {
    let mut bytes = [0; BYTES];
    io::Read::read_exact(&mut File::open("/dev/urandom").map_err(no_random)?, &mut bytes)
        .map_err(no_random)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn no_random(error: io::Error) -> Failure {
    Failure::internal(format!("failed to read /dev/urandom: {error}"))
}

fn rules(host: &HostPlan, env: &Env, ui: &Ui) -> Result<Rules, Failure> {
    let mut locals = BTreeMap::new();
    for (name, path) in &host.locals {
        let dir = File::open(path)
            .map_err(|error| Failure::usage(format!("failed to open {}: {error}", path.display())))?;
        locals.insert(name.clone(), OwnedFd::from(dir));
    }
    let docker_config = match &host.docker_config {
        Some(dir) => DockerConfig::read(&dir.join("config.json")).unwrap_or_else(|error| {
            // As docker does: a build may need no login, and one that does will say so.
            ui.line(format_args!("WARNING: no registry logins: {}", chain(&error)));
            DockerConfig::default()
        }),
        None => DockerConfig::default(),
    };
    Ok(Rules {
        docker_config,
        token_seeds: host.docker_config.clone(),
        secrets: host.secrets.clone(),
        agents: host.agents.clone(),
        locals,
        program_search_path: env.get("PATH").unwrap_or_default(),
    })
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
        Ok(ResultFiles { metadata: open(&host.metadata_file)?, iid: open(&host.iidfile)? })
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
        Ok(())
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
    fn the_image_id_is_the_configs_digest() {
        let mut response = BTreeMap::from([("containerimage.digest".to_owned(), "sha256:m".to_owned())]);
        assert_eq!(image_id(&response), Some("sha256:m"));
        response.insert("containerimage.config.digest".to_owned(), "sha256:c".to_owned());
        assert_eq!(image_id(&response), Some("sha256:c"));
        assert_eq!(image_id(&BTreeMap::new()), None);
    }
}
