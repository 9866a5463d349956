//! The one owner of stdout and stderr on the host side: results on one, everything else on the other.

use std::fmt;
use std::io::{self, Write};

/// How much is said.
#[derive(Debug, Clone, Copy)]
pub struct Ui {
    pub verbose: bool,
    pub quiet: bool,
}

impl Ui {
    /// A line that explains a decision; shown with `-v`.
    pub fn verbose(&self, line: fmt::Arguments<'_>) {
        if self.verbose {
            self.line(line);
        }
    }

    /// A line that a user should see unless he asked for silence.
    pub fn note(&self, line: fmt::Arguments<'_>) {
        if !self.quiet {
            self.line(line);
        }
    }

    /// A line that is always shown, on stderr. A stderr that cannot be written to must not end a build.
    pub fn line(&self, line: fmt::Arguments<'_>) {
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}
