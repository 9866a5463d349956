//! Whether a build is to be hermetic, and what that makes of it: nothing in it reaches a network, and nothing goes in that is not
//! pinned. What the flags already show is refused here; what the Dockerfile asks for is stopped by the rules that the request
//! carries. See docs/hermetic.md.

use buildsvc::build::{Build, CacheEntry};
use buildsvc::csv;
use buildsvc::reference::ImageRef;
use buildsvc::session::Upload;
use buildsvc::sourcepolicy::Pinned;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{BuildPlan, Locked};
use crate::cli::BuildArgs;
use crate::exit::Exit;
use crate::failure::Failure;

/// `--hermetic`: nothing in the build reaches a network, and nothing goes in that is not pinned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hermetic {
    #[default]
    Off,
    /// All that the client can force is forced, on any builder; what then is not proven is told.
    BestEffort,
    /// What is not proven ends the build.
    Required,
}

impl Hermetic {
    pub fn is_on(self) -> bool {
        self != Hermetic::Off
    }
}

/// Makes `plan`, which is settled but for this, hermetic: it may use its own directories and stores, and images by digest.
pub fn seal(args: &BuildArgs, plan: &mut BuildPlan, locked: Option<&Locked>) -> Result<(), Failure> {
    refuse_sources(args, &plan.build, locked)?;
    if plan.hermetic == Hermetic::Required {
        refuse_uploads(&plan.build)?;
    }
    let mut pinned = Pinned::default();
    pinned.locals.extend(plan.locals.iter().map(|local| local.name.clone()));
    let stores = plan.stores.iter().filter_map(|store| store.id.strip_prefix("oci:"));
    pinned.stores.extend(stores.map(str::to_owned));
    pinned.served.extend(plan.upload.iter().map(|upload| Upload::url(&upload.id)));
    let build = &mut plan.build;
    build.without_network();
    build.source_policy = Some(build.source_policy.take().unwrap_or_default().pinned(&pinned));
    Ok(())
}

/// A build that is asked for something which a hermetic one cannot have.
pub fn contradiction(what: impl std::fmt::Display, why: &str) -> Failure {
    Failure::new(Exit::Policy, format!("--hermetic: {what}: {why}"))
}

/// What the flags bring in from elsewhere, or not pinned.
fn refuse_sources(args: &BuildArgs, build: &Build, locked: Option<&Locked>) -> Result<(), Failure> {
    if args.build.pull {
        return Err(contradiction(
            "--pull",
            "it looks for newer images, and a hermetic build takes those it names",
        )
        .hint("Leave one of them out."));
    }
    for (key, value) in &build.frontend_attrs {
        let what = match key.strip_prefix("context:") {
            Some(name) => format!("--build-context {name}={value}"),
            None if key == "context" => format!("the context {value}"),
            None => continue,
        };
        let own = ["local:", "oci-layout://", &Upload::url("")].iter().any(|own| value.starts_with(own));
        match value.strip_prefix("docker-image://") {
            _ if own || locked.is_some_and(|locked| locked.brings(value)) => {}
            Some(image) if is_by_digest(image) => {}
            Some(_) => {
                return Err(contradiction(what, "the image is not named by its digest")
                    .hint("NAME=docker-image://IMAGE@sha256:…, or NAME=oci-layout://DIR for an image in a directory."));
            }
            None => {
                return Err(contradiction(what, "the builder would fetch it")
                    .hint("`ktl stage --build-context …` brings a repository. Or fetch it yourself, at the commit or with the checksum that you want, and name the directory."));
            }
        }
    }
    for entry in &build.cache_imports {
        let by_digest = || entry.attrs.get("ref").is_some_and(|image| is_by_digest(image));
        if entry.kind != "local" && !(entry.kind == "registry" && by_digest()) {
            let what = format!("--cache-from {}", shown(entry));
            return Err(contradiction(what, "what such a cache holds can change")
                .hint("type=local,src=DIR, or type=registry,ref=IMAGE@sha256:…"));
        }
    }
    for (_, value) in build.frontend_attrs.iter().filter(|(key, _)| is_sbom(key)) {
        let fields = csv::fields(value).unwrap_or_default();
        let generator = fields.iter().find_map(|field| field.strip_prefix("generator="));
        if !generator.is_some_and(is_by_digest) {
            // The daemon asks no policy about this image.
            return Err(contradiction("--sbom", "the image that makes the list is not named by its digest")
                .hint("--sbom generator=IMAGE@sha256:…"));
        }
    }
    Ok(())
}

/// Where a private daemon without a network would fail after all the work.
fn refuse_uploads(build: &Build) -> Result<(), Failure> {
    let pushes = |attr: Option<&String>| attr.is_some_and(|value| csv::boolean(value) != Some(false));
    let export =
        build.exports.iter().any(|export| export.kind == "registry" || pushes(export.attrs.get("push")));
    if export {
        return Err(contradiction("--push", "the builder has no network to push through")
            .hint("Write the image to a file or directory, -o type=oci,dest=FILE, and push that."));
    }
    match build.cache_exports.iter().find(|entry| !matches!(entry.kind.as_str(), "local" | "inline")) {
        Some(entry) => {
            let what = format!("--cache-to {}", shown(entry));
            Err(contradiction(what, "the builder has no network to send it through")
                .hint("--cache-to type=local,dest=DIR"))
        }
        None => Ok(()),
    }
}

fn shown(entry: &CacheEntry) -> String {
    let reference = entry.attrs.get("ref").map(|reference| format!(",ref={reference}"));
    format!("type={}{}", entry.kind, reference.unwrap_or_default())
}

/// Whether it is the attribute that asks for a list of packages, of which the frontend knows two.
pub fn is_sbom(key: &str) -> bool {
    let kind = key.strip_prefix("attest:").or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"));
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("sbom"))
}

/// Whether it is an image that cannot become another one.
pub fn is_by_digest(image: &str) -> bool {
    image
        .parse::<ImageRef>()
        .is_ok_and(|image| image.digest().is_some_and(|digest| digest.starts_with("sha256:")))
}
