//! `-f URL`: a Dockerfile that the builder gets before the build begins.
//!
//! As with docker buildx it is the builder that goes to the web, and its answer is read in the jail. What it was given goes the way
//! of a Dockerfile on standard input, so the build knows what it names.

use crate::builder;
use crate::cli::{BuildArgs, SandboxSwitch};
use crate::commands::builder::ask::{ask_from, ask_unjailed, astray};
use crate::commands::builder::target::Target;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::look::{Question, Said};
use crate::plan;
use crate::private::{Network, start};
use crate::tls::TlsFiles;
use crate::ui::Ui;

/// As docker buildx has it.
const LIMIT: u32 = 2 << 20;

/// What is at the URL that `-f` names; nothing where it names none.
pub fn get(args: &BuildArgs, env: &Env, ui: &Ui) -> Result<Option<Vec<u8>>, Failure> {
    let Some(url) = plan::url_of(args.build.file.as_deref()) else { return Ok(None) };
    let pipe = "Pipe it in: curl -fsSL URL | ktl build -f - PATH";
    let rule = match (args.sandbox.hermetic.is_on(), args.egress.is_limited(), &args.remote) {
        (true, ..) => Some("--hermetic"),
        (_, true, _) => Some("--egress"),
        (_, _, Some(_)) => Some("--remote"),
        (false, false, None) => None,
    };
    if let Some(rule) = rule {
        let why = format!("{rule}: the Dockerfile {url} would be fetched before that rule holds");
        return Err(Failure::new(Exit::Policy, why).hint(pipe));
    }
    let tls = TlsFiles::from_flags(&args.builder).map_err(Failure::usage)?;
    let candidates = builder::of_build(&args.builder, env, args.sandbox.hermetic, false)?;
    let way = Network::Host.into();
    let (connection, lease) = start::dial(candidates, tls.as_ref(), &args.builder.private, &way, env, ui)?;
    let target = Target { name: connection.address.to_string(), connection, _lease: lease };
    let question = Question::Download { url: url.to_owned(), limit: LIMIT + 1 };
    let said = match args.sandbox.sandbox {
        Some(SandboxSwitch::Off) => ask_unjailed(target, &question)?,
        _ => ask_from(&args.sandbox.jail, target, question, env, ui)?,
    };
    match said {
        Said::Downloaded(text) if text.len() > LIMIT as usize => {
            Err(Failure::usage(format!("the file at {url} is too large for a Dockerfile")))
        }
        Said::Downloaded(text) => Ok(Some(text)),
        _ => Err(astray()),
    }
}
