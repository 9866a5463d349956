//! What is attested of a build, and what its metadata file is to tell.

use buildsvc::attest;
use buildsvc::build::Build;
use buildsvc::csv::boolean;
use buildsvc::provenance::Detail;
use serde::{Deserialize, Serialize};

use crate::cli::BuildArgs;
use crate::env::{self, Env};
use crate::failure::Failure;

/// What a metadata file holds beside the exporters' answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    pub provenance: Option<Detail>,
    pub warnings: bool,
}

impl Metadata {
    /// As docker buildx reads its variables (`util/confutil/metadata.go`).
    pub fn of_env(env: &Env) -> Metadata {
        let provenance = match env.text(env::BUILDX_METADATA_PROVENANCE).as_deref() {
            Some("max") => Some(Detail::Max),
            Some("disabled") => None,
            Some(text) if boolean(text) == Some(false) => None,
            _ => Some(Detail::Min),
        };
        let warnings = env.text(env::BUILDX_METADATA_WARNINGS).and_then(|text| boolean(&text));
        Metadata { provenance, warnings: warnings == Some(true) }
    }
}

/// Adds to `build`, whose exports are known, what is to be attested.
pub fn add(args: &BuildArgs, env: &Env, build: &mut Build) -> Result<(), Failure> {
    let flags = &args.result;
    let attestations = attest::list(&flags.attest, flags.provenance.as_deref(), flags.sbom.as_deref())
        .map_err(|error| Failure::usage(format!("--attest, --provenance, --sbom: {error}")))?;
    let no_default = match env.text(env::BUILDX_NO_DEFAULT_ATTESTATIONS) {
        None => false,
        Some(text) => boolean(&text).ok_or_else(|| {
            Failure::usage(format!("{}={text} is no boolean", env::BUILDX_NO_DEFAULT_ATTESTATIONS))
        })?,
    };
    build.default_provenance = !no_default && !attestations.contains_key("provenance");
    let wanted = attestations.into_iter().filter_map(|(kind, value)| Some((kind, value?)));
    for (kind, value) in wanted {
        if build.exports.iter().any(|export| export.kind == "docker") {
            return Err(Failure::usage(format!("an image for `docker load` cannot hold {kind}"))
                .hint("Use type=oci or push the image."));
        }
        build.frontend_attrs.insert(format!("attest:{kind}"), value);
    }
    Ok(())
}
