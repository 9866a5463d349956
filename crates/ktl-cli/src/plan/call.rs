//! `--call`: what is asked of the frontend instead of a build.
//!
//! Follows docker buildx (`util/buildflags/callfunc.go`).

use buildsvc::csv::{self, boolean};

use crate::cli::BuildArgs;
use crate::failure::Failure;

/// A question, and how its answer is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// As frontends name it, without `frontend.`.
    pub method: String,
    pub json: bool,
    /// Whether findings are no failure.
    pub ignore_status: bool,
    /// What the Dockerfile is called in findings.
    pub dockerfile: String,
}

impl Call {
    /// `None` for a build.
    pub fn resolve(args: &BuildArgs) -> Result<Option<Call>, Failure> {
        let text = match (args.build.check, args.build.call.as_deref()) {
            (Some(true), None | Some("build" | "check")) => "check",
            (Some(true), Some(other)) => {
                return Err(Failure::usage(format!("--check and --call {other} ask for different things")));
            }
            (_, None) => return Ok(None),
            (_, Some(text)) => text,
        };
        let bad = |why: &dyn std::fmt::Display| Failure::usage(format!("--call {text}: {why}"));
        let (mut method, mut json, mut ignore_status) = (String::new(), false, false);
        for field in csv::fields(text).map_err(|error| bad(&error))? {
            match field.split_once('=') {
                Some(("format", "json")) => json = true,
                Some(("format", "" | "text")) => json = false,
                Some(("format", _)) => return Err(bad(&"the format is json or text")),
                Some(("ignorestatus", value)) => {
                    ignore_status = boolean(value).ok_or_else(|| bad(&"ignorestatus is no boolean"))?;
                }
                Some((key, _)) => return Err(bad(&format!("there is no {key}"))),
                None if method.is_empty() => method = field,
                None => return Err(bad(&"one thing can be asked at a time")),
            }
        }
        let method = match method.as_str() {
            "" | "build" => return Ok(None),
            "check" => "lint",
            known @ ("lint" | "outline" | "targets" | "subrequests.describe") => known,
            _ => return Err(bad(&"there are build, check, outline and targets")),
        };
        for (flag, given) in [
            ("--push", args.result.push),
            ("--load", args.result.load),
            ("--iidfile", args.result.iidfile.is_some()),
        ] {
            if given {
                return Err(bad(&format!("nothing is built, so {flag} has no meaning")));
            }
        }
        let dockerfile = match &args.build.file {
            Some(file) if file.as_os_str() == "-" => "stdin".to_owned(),
            Some(file) => file.display().to_string(),
            None => args.context.join("Dockerfile").components().as_path().display().to_string(),
        };
        Ok(Some(Call { method: method.to_owned(), json, ignore_status, dockerfile }))
    }
}
