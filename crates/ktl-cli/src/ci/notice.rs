//! What of a build is worth an annotation, as the guest hands it out.

use buildsvc::error::BuildError;
use buildsvc::event::{SourceInfo, SourceRange, VertexWarning};
use serde::{Deserialize, Serialize};

use crate::display::{Summary, inert};

/// GitHub shows ten of a kind for each step.
const WARNINGS_MAX: usize = 10;
const TEXT_MAX: usize = 2 << 10;

/// A warning or the failure. The text is untrusted, bounded and not yet inert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    level: Level,
    pub text: String,
    /// A line of the Dockerfile, counted from 1.
    pub line: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Warning,
    Error,
}

/// What was done, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub steps: u64,
    pub cached: u64,
    pub seconds: f64,
}

impl Tally {
    pub fn of(summary: &Summary) -> Tally {
        let counts = summary.counts;
        Tally { steps: counts.total, cached: counts.cached, seconds: summary.elapsed.as_secs_f64() }
    }
}

impl Notice {
    /// The warnings of a build and, where it failed, why. `dockerfile` is the name that the builder knows it by.
    pub fn all(summary: &Summary, failure: Option<&BuildError>, dockerfile: &str) -> Vec<Notice> {
        let warning = |warning: &VertexWarning| {
            let line = warning.source.as_ref().and_then(|source| line(source, &warning.ranges, dockerfile));
            Notice { line, ..Notice::new(Level::Warning, &String::from_utf8_lossy(&warning.short)) }
        };
        let mut notices: Vec<Notice> = summary.warnings.iter().take(WARNINGS_MAX).map(warning).collect();
        if let Some(failure) = failure {
            let sources = match failure {
                BuildError::Solve(solve) => &solve.sources[..],
                _ => &[],
            };
            let line = sources.iter().find_map(|(source, ranges)| line(source, ranges, dockerfile));
            notices.push(Notice { line, ..Notice::error(&crate::failure::chain(failure)) });
        }
        notices
    }

    pub fn error(text: &str) -> Notice {
        Notice::new(Level::Error, text)
    }

    fn new(level: Level, text: &str) -> Notice {
        Notice { level, text: inert::bounded(text.trim(), TEXT_MAX), line: None }
    }

    pub fn is_error(&self) -> bool {
        self.level == Level::Error
    }

    /// The name that GitHub has for it.
    pub fn kind(&self) -> &'static str {
        match self.level {
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

fn line(source: &SourceInfo, ranges: &[SourceRange], dockerfile: &str) -> Option<u32> {
    let first = ranges.iter().map(|range| range.start.line).filter(|line| *line > 0).min()?;
    (source.filename == dockerfile).then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use buildsvc::error::SolveFailure;
    use buildsvc::event::Position;

    use super::*;

    #[test]
    fn only_the_dockerfile_gives_a_line() {
        let at = |line| Position { line, character: 0 };
        let ranges = [SourceRange { start: at(7), end: at(9) }, SourceRange { start: at(3), end: at(3) }];
        for (filename, expected) in [("Dockerfile", Some(3)), ("/etc/passwd", None)] {
            let source = SourceInfo { filename: filename.into(), ..SourceInfo::default() };
            let solve = SolveFailure {
                message: "no".into(),
                sources: vec![(source, ranges.to_vec())],
                ..SolveFailure::default()
            };
            let failure = BuildError::Solve(Box::new(solve));
            let notices = Notice::all(&Summary::default(), Some(&failure), "Dockerfile");
            assert_eq!(notices, [Notice { line: expected, ..Notice::error("no") }]);
        }
    }

    #[test]
    fn warnings_are_bounded() {
        let warning = VertexWarning { short: vec![b'x'; 10 << 10], ..VertexWarning::default() };
        let summary = Summary { warnings: vec![warning; 100], ..Summary::default() };
        let notices = Notice::all(&summary, None, "Dockerfile");
        assert_eq!(notices.len(), WARNINGS_MAX);
        assert!(notices.iter().all(|notice| !notice.is_error() && notice.text.len() <= TEXT_MAX));
    }
}
