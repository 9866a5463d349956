//! What a build leaves for people and programs to read: its digest on stdout, and files beside its outputs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use base64::Engine as _;
use buildsvc::digest::Digest;
use buildsvc::output::Destination;

use crate::display::Mode;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::GuestResult;
use crate::outputs::PendingFile;
use crate::plan::{BuildPlan, HostPlan};
use crate::ui::Ui;

/// `--metadata-file`, `--iidfile` and `--iidfile`, made ready before the build so that a bad path is told before the work.
pub struct ResultFiles {
    metadata: Option<PendingFile>,
    iid: Option<PendingFile>,
    egress_learn: Option<PendingFile>,
    egress_record: Option<PendingFile>,
}

impl ResultFiles {
    pub fn open(host: &HostPlan, nonce: &str) -> Result<ResultFiles, Failure> {
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

    pub fn write(&mut self, result: &GuestResult, reference: &str) -> Result<(), Failure> {
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
    pub fn record(&mut self, result: &GuestResult) -> Result<(), Failure> {
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
pub fn check_digests(response: &BTreeMap<String, String>) -> Result<(), Failure> {
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
pub fn announce(plan: &BuildPlan, host: &HostPlan, result: &GuestResult, ui: &Ui) -> Result<(), Failure> {
    let response = &result.exporter_response;
    let digest = if plan.quiet {
        image_id(response)
    } else {
        response.get("containerimage.digest").map(String::as_str)
    };
    if let Some(digest) = digest
        && !host.destinations.contains(&Destination::Stdout)
        && plan.progress != Mode::None
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
