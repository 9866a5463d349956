//! `cargo xtask demo`: ktl's promises on real parts, claim by claim. Each claim is checked in the run; none is only said.

mod hello;
mod script;

use anyhow::{Result, bail};

pub use script::{Script, Stage};

use crate::setup;
use crate::workspace::{self, Profile};

/// One of the demos.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demo {
    /// Builds demos/hello in a jail, runs it, and asks what the jail hides.
    Hello,
    Script(Script),
}

impl Demo {
    pub const ALL: [Demo; 3] =
        [Demo::Hello, Demo::Script(Script::Sandbox), Demo::Script(Script::DockerVsKtl)];

    pub fn name(self) -> &'static str {
        match self {
            Demo::Hello => "hello",
            Demo::Script(script) => script.name(),
        }
    }
}

/// The demos of these arguments: names, `--all`, or nothing for the first one.
pub fn parse(arguments: &[String]) -> Result<Vec<Demo>> {
    if arguments.is_empty() {
        return Ok(vec![Demo::Hello]);
    }
    if arguments == ["--all"] {
        return Ok(Demo::ALL.to_vec());
    }
    let mut demos = Vec::new();
    for argument in arguments {
        match Demo::ALL.into_iter().find(|demo| demo.name() == argument) {
            Some(demo) => demos.push(demo),
            None => {
                bail!("no demo `{argument}`; there are {}, and --all", Demo::ALL.map(Demo::name).join(", "))
            }
        }
    }
    Ok(demos)
}

/// Runs the demos one after the other; `false` when a claim of any did not hold.
pub fn run(demos: &[Demo]) -> Result<bool> {
    setup::run()?;
    eprintln!("demo: building ktl");
    let ktl = workspace::build_ktl(Profile::Dev)?;
    let mut ends = Vec::new();
    let mut stage = None;
    for demo in demos {
        if demos.len() > 1 {
            println!("\n==== {}", demo.name());
        }
        let held = match demo {
            Demo::Hello => hello::run(ktl.clone()),
            Demo::Script(script) => {
                if stage.is_none() {
                    eprintln!("demo: starting a registry and a buildkitd, pushing base image and frontend");
                    stage = Some(Stage::start(ktl.clone())?);
                }
                stage.as_ref().map_or(Ok(false), |stage| stage.run(*script))
            }
        };
        ends.push((demo, held));
    }
    if demos.len() > 1 {
        println!();
    }
    let mut all = true;
    for (demo, held) in ends {
        let (word, why) = match &held {
            Ok(true) => ("PASS", String::new()),
            Ok(false) => ("FAIL", ": a claim does not hold".to_owned()),
            Err(error) => ("FAIL", format!(": {error:#}")),
        };
        all &= matches!(held, Ok(true));
        if demos.len() > 1 || held.is_err() {
            println!("{word}  demo {}{why}", demo.name());
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demos_are_chosen_by_name() {
        let parsed = |arguments: &[&str]| {
            parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(parsed(&[]).unwrap(), [Demo::Hello]);
        assert_eq!(parsed(&["--all"]).unwrap(), Demo::ALL);
        assert_eq!(parsed(&["sandbox"]).unwrap(), [Demo::Script(Script::Sandbox)]);
        assert!(parsed(&["nothing"]).is_err() && parsed(&["hello", "--all"]).is_err());
    }
}
