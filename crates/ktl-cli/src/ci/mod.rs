//! Builds that a CI system runs: nobody looks at a live view, and the system has places of its own for what matters.
//!
//! On GitHub the progress is folded into a group, warnings and the failure become annotations at their lines, and the job gets
//! a summary. All of these are ktl's own words about the build: what comes from builders, steps and registries is made inert
//! (`display/inert.rs`) and escaped before it goes in, so that a log line cannot give the runner an order. Follows GitHub's
//! "Workflow commands for GitHub Actions".

mod command;
mod notice;
mod summary;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

pub use command::{GROUP, GROUP_END};
pub use notice::{Notice, Tally};

use crate::commands::build::Run;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::ui::Ui;

/// Variables by which CI systems make themselves known: GitHub, GitLab and many others, Jenkins, Azure, TeamCity.
const MARKS: [&str; 6] =
    [env::CI, env::GITHUB_ACTIONS, "GITLAB_CI", "JENKINS_URL", "TF_BUILD", "TEAMCITY_VERSION"];

/// Whether a CI system runs this; those that set their variable to `false` do not mean it.
pub fn is_ci(env: &Env) -> bool {
    MARKS.iter().any(|mark| env.get(mark).is_some_and(|value| value != "false" && value != "0"))
}

/// For whom annotations are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Ci {
    /// Whoever the environment says runs this.
    #[default]
    Auto,
    Github,
    Off,
}

/// GitHub's runner, as far as a build has to do with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Github {
    /// The file that the job's summary is appended to.
    summary: Option<PathBuf>,
    /// What annotations name their files relative to.
    workspace: PathBuf,
}

impl Github {
    pub fn of(ci: Ci, env: &Env, cwd: &Path) -> Option<Github> {
        let runs = env.text(env::GITHUB_ACTIONS).is_some_and(|value| value == "true");
        let wanted = match ci {
            Ci::Auto => runs,
            Ci::Github => true,
            Ci::Off => false,
        };
        wanted.then(|| Github {
            summary: env.path(env::GITHUB_STEP_SUMMARY).map(|path| cwd.join(path)),
            workspace: env.path(env::GITHUB_WORKSPACE).unwrap_or_else(|| cwd.to_owned()),
        })
    }

    /// Says how a build ended. The Dockerfile is the only file that gets a place: other names are the builder's invention.
    /// A summary that cannot be written is told and ends nothing.
    pub fn tell(&self, run: &Run, outcome: &Result<Exit, Failure>, ui: &Ui) {
        if !run.is_json {
            self.annotate(run, outcome, ui);
        }
        let Some(path) = &self.summary else { return };
        let text = summary::markdown(run, outcome);
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written {
            ui.line(format_args!("WARNING: no job summary: failed to write {}: {error}", path.display()));
        }
    }

    fn annotate(&self, run: &Run, outcome: &Result<Exit, Failure>, ui: &Ui) {
        let place =
            run.dockerfile.as_ref().and_then(|path| path.strip_prefix(&self.workspace).ok()?.to_str());
        for notice in &run.notices {
            ui.line(format_args!("{}", command::annotation(notice, place)));
        }
        let reason = match outcome {
            Err(failure) => Some(failure.title.as_str()),
            Ok(_) => run.failure.as_deref(),
        };
        if let (Some(reason), true) = (reason, run.notices.iter().all(|notice| !notice.is_error())) {
            ui.line(format_args!("{}", command::annotation(&Notice::error(reason), None)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_known_by_their_variables() {
        for (vars, expected) in [
            (&[][..], false),
            (&[("CI", "true")], true),
            (&[("CI", "1")], true),
            (&[("CI", "false")], false),
            (&[("CI", "")], false),
            (&[("JENKINS_URL", "https://ci.example/")], true),
            (&[("TF_BUILD", "True")], true),
            (&[("GITHUB_ACTIONS", "true")], true),
        ] {
            assert_eq!(is_ci(&Env::of(vars)), expected, "{vars:?}");
        }
    }

    #[test]
    fn annotations_are_for_github_or_who_asks() {
        let cwd = Path::new("/src");
        let github = Env::of(&[
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_STEP_SUMMARY", "/s/summary"),
            ("GITHUB_WORKSPACE", "/w"),
        ]);
        let found = Github { summary: Some("/s/summary".into()), workspace: "/w".into() };
        assert_eq!(Github::of(Ci::Auto, &github, cwd), Some(found));
        assert_eq!(Github::of(Ci::Off, &github, cwd), None);
        assert_eq!(Github::of(Ci::Auto, &Env::of(&[("CI", "true")]), cwd), None);
        let asked = Github { summary: None, workspace: "/src".into() };
        assert_eq!(Github::of(Ci::Github, &Env::of(&[]), cwd), Some(asked));
    }
}
