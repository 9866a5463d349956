//! An error as a person sees it: what failed, why, and what to do next, with the exit code that goes with it.

use std::fmt;

use crate::exit::Exit;

/// The error type of ktl's commands. Libraries return narrow enums; where one reaches a command it becomes a `Failure`, and
/// hints are added where the user's situation is known.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub title: String,
    pub hints: Vec<String>,
}

impl Failure {
    pub fn new(exit: Exit, title: impl Into<String>) -> Failure {
        Failure { exit, title: title.into(), hints: Vec::new() }
    }

    pub fn usage(title: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, title)
    }

    pub fn sandbox(title: impl Into<String>) -> Failure {
        Failure::new(Exit::Sandbox, title)
    }

    pub fn internal(title: impl Into<String>) -> Failure {
        Failure::new(Exit::Internal, title)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }

    pub fn hints(mut self, hints: impl IntoIterator<Item = String>) -> Failure {
        self.hints.extend(hints);
        self
    }
}

impl fmt::Display for Failure {
    /// `ERROR: title`, then one indented line per hint. Control characters in the title other than line breaks and tabs are
    /// escaped: parts of it may come from files and peers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ERROR: {}", inert(&self.title))?;
        for hint in &self.hints {
            writeln!(f, "  {}", inert(hint).replace('\n', "\n  "))?;
        }
        Ok(())
    }
}

fn inert(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The whole chain of an error's causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
