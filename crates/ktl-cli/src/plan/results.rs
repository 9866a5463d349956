//! What comes out of a build, and how its progress is shown: `--output` names both.

use std::collections::BTreeMap;

use buildsvc::build::Export;
use buildsvc::output::{self, Destination, OutputKind, OutputSpec};
use buildsvc::reference::ImageRef;
use buildsvc::steps;

use super::{Facts, OutputBounds, destination};
use crate::cli::BuildArgs;
use crate::display::{Mode, UnknownMode};
use crate::env::{self, Env};
use crate::failure::Failure;

/// Exporters, and where what they send goes.
pub struct Results {
    pub exports: Vec<Export>,
    pub destinations: Vec<Destination>,
    pub bounds: Vec<OutputBounds>,
    pub stays_in_cache: bool,
    pub cache_only: bool,
}

impl Results {
    pub fn resolve(
        args: &BuildArgs,
        outputs: Vec<OutputSpec>,
        env: &Env,
        facts: &Facts,
    ) -> Result<Results, Failure> {
        let flags = &args.result;
        let names = flags.tag.iter().map(|tag| tag.parse()).collect::<Result<Vec<ImageRef>, _>>();
        let names = names.map_err(|error| Failure::usage(format!("--tag: {error}")))?;
        let mut specs = outputs;
        if flags.push && flags.load {
            return Err(Failure::usage("--push and --load cannot be given together"));
        }
        if flags.push {
            match specs.iter().position(|spec| spec.kind == OutputKind::Image) {
                Some(at) => drop(specs[at].attrs.insert("push".to_owned(), "true".to_owned())),
                None if specs.is_empty() => specs.push(OutputSpec::push()),
                None => return Err(Failure::usage("--push goes with no --output but type=image")),
            }
        }
        if flags.load {
            specs.push(OutputSpec::load());
        }
        let stays_in_cache = specs.iter().all(|spec| spec.kind == OutputKind::CacheOnly);
        let cache_only = stays_in_cache && !specs.is_empty();
        let asks_for_id = flags.iidfile.is_some() || is_quiet(args, env);
        if specs.is_empty() && (!names.is_empty() || asks_for_id) {
            // Gives the image its digest without sending it anywhere.
            specs.push(OutputSpec {
                kind: OutputKind::Image,
                attrs: BTreeMap::new(),
                destination: Destination::None,
            });
        }
        specs.iter_mut().for_each(|spec| spec.name_it(&names));
        let specs = output::settle(specs).map_err(|error| match error {
            output::OutputError::PushWithoutName => {
                Failure::usage("a push needs the name of the image").hint("Add -t REGISTRY/NAME:TAG")
            }
            error => Failure::usage(format!("--output: {error}")),
        })?;
        let absolute = |destination| match destination {
            Destination::File(path) => Destination::File(facts.cwd.join(path)),
            Destination::Directory(path) => Destination::Directory(facts.cwd.join(path)),
            Destination::Mirror(path) => Destination::Mirror(facts.cwd.join(path)),
            other => other,
        };
        let destinations: Vec<_> = specs.iter().map(|spec| absolute(spec.destination.clone())).collect();
        if !flags.output_force {
            destinations.iter().try_for_each(|to| destination::check(to, env, facts))?;
        }
        let most = match &flags.output_limit {
            Some(size) => {
                steps::bytes(size).map_err(|error| Failure::usage(format!("--output-limit: {error}")))?
            }
            None => i64::MAX,
        };
        let bounds = specs
            .iter()
            .map(|spec| OutputBounds {
                bytes: most.unsigned_abs(),
                calls: args.build.platform.len().max(1),
                image: spec.kind.is_image(),
                devices: flags.output_privileged,
            })
            .collect();
        let exports = specs
            .into_iter()
            .map(|spec| Export { kind: spec.kind.name().to_owned(), attrs: spec.attrs })
            .collect();
        Ok(Results { exports, destinations, bounds, stays_in_cache, cache_only })
    }
}

/// Whether nothing but the result, if that, is to be told: `--progress=quiet` is `--quiet`.
pub fn is_quiet(args: &BuildArgs, env: &Env) -> bool {
    let of_env = || env.text(env::BUILDKIT_PROGRESS)?.parse().ok();
    args.display.quiet || matches!(args.display.progress.or_else(of_env), Some(Mode::Quiet | Mode::None))
}

/// Reads `--output`, of which two words name progress styles.
pub fn progress_and_outputs(args: &BuildArgs, env: &Env) -> Result<(Option<Mode>, Vec<OutputSpec>), Failure> {
    let of_env = || {
        let style = env.text(env::BUILDKIT_PROGRESS)?;
        Some(
            style
                .parse()
                .map_err(|error: UnknownMode| Failure::usage(format!("{}: {error}", env::BUILDKIT_PROGRESS))),
        )
    };
    let mut style = args.display.progress.map_or_else(|| of_env().transpose(), |style| Ok(Some(style)))?;
    let mut outputs = Vec::new();
    for text in &args.result.output {
        match text.as_str() {
            "logs" => style = Some(Mode::Plain),
            "tty" => style = Some(Mode::Tty),
            _ => outputs.push(
                OutputSpec::parse(text)
                    .map_err(|error| Failure::usage(format!("--output {text}: {error}")))?,
            ),
        }
    }
    Ok((style, outputs))
}

/// `auto` ends here: the guest does not see whether a person is looking.
pub fn settle_style(style: Option<Mode>, args: &BuildArgs, facts: &Facts) -> Mode {
    if args.display.quiet {
        return Mode::Quiet;
    }
    match style.unwrap_or(Mode::Auto) {
        // Lines of the jail's log would tear a live view.
        Mode::Auto if facts.live_view && !args.sandbox.log.sandbox_logs => Mode::Tty,
        Mode::Auto => Mode::Plain,
        given => given,
    }
}
