//! Shows a build while it runs.
//!
//! Events go in, text comes out on one stream, usually stderr. [`graph`] reduces the events to the state of the build
//! and knows nothing of output; the renderers ([`plain`], [`tty`], [`rawjson`], or none) turn that state into text and
//! know nothing of the wire. All that comes from the daemon passes [`inert`] before it is written. Nothing here reads
//! the environment: whether there is a terminal and whether colour is wanted is told by [`Output`].

pub mod amounts;
mod cells;
mod graph;
pub mod inert;
mod intervals;
mod lines;
mod plain;
pub mod rawjson;
mod step;
#[cfg(test)]
mod tests;
mod tty;

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use buildsvc::event::{Event, VertexWarning};

pub use graph::Counts;
use graph::Graph;
use step::State;

/// Failed steps that a summary names.
const FAILED_MAX: usize = 16;

/// How progress is shown, by the names that buildx uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `tty` on a terminal and `plain` elsewhere.
    #[default]
    Auto,
    Plain,
    Tty,
    Quiet,
    RawJson,
    /// Not even the image ID.
    None,
}

impl Mode {
    /// Whether standard error is nothing that a person reads along.
    pub fn is_for_programs(self) -> bool {
        matches!(self, Self::Quiet | Self::None | Self::RawJson)
    }
}

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, UnknownMode> {
        match name {
            "auto" => Ok(Self::Auto),
            "plain" => Ok(Self::Plain),
            "tty" => Ok(Self::Tty),
            "quiet" => Ok(Self::Quiet),
            "none" => Ok(Self::None),
            "rawjson" => Ok(Self::RawJson),
            _ => Err(UnknownMode),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Plain => "plain",
            Self::Tty => "tty",
            Self::Quiet => "quiet",
            Self::None => "none",
            Self::RawJson => "rawjson",
        })
    }
}

/// The name is none of a [`Mode`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownMode;

impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected auto, plain, tty, quiet or rawjson")
    }
}

impl std::error::Error for UnknownMode {}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// Where a display writes, and what is known of that place.
pub struct Output {
    pub writer: Box<dyn Write + Send>,
    /// What `auto` goes by.
    pub terminal: bool,
    /// Asked before each frame, since terminals are resized; 80 by 24 when it does not know.
    pub size: Box<dyn Fn() -> Option<Size> + Send>,
    pub colour: bool,
}

impl Output {
    /// Standard error. `colour` is what the environment wants (`NO_COLOR`, `--color`); without a terminal there is none.
    pub fn stderr(colour: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let size = || {
            let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
            let size = Size { columns: size.ws_col, rows: size.ws_row };
            (size.columns > 0 && size.rows > 0).then_some(size)
        };
        Self { writer: Box::new(io::stderr()), terminal, size: Box::new(size), colour: colour && terminal }
    }

    fn size(&self) -> Size {
        (self.size)().unwrap_or(Size { columns: 80, rows: 24 })
    }

    /// One write per call. A reader that went away is no reason to end the build; the result comes elsewhere.
    fn put(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush());
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("terminal", &self.terminal)
            .field("colour", &self.colour)
            .finish_non_exhaustive()
    }
}

/// How the build ended, as far as a display cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed,
    Cancelled,
}

/// A step that failed. Texts are inert.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedStep {
    /// Of the vertex.
    pub digest: String,
    pub name: String,
    /// The last lines of its output, each with its time.
    pub log: Vec<String>,
}

impl FailedStep {
    /// The block that tells what a step said last.
    pub fn block(&self) -> String {
        let mut out = format!("------\n > {}:\n", self.name);
        for line in &self.log {
            out.push_str(line);
            out.push('\n');
        }
        out.push_str("------\n");
        out
    }
}

/// What is left to say when the build is over.
#[derive(Debug, Default)]
pub struct Summary {
    pub counts: Counts,
    pub elapsed: Duration,
    /// The first ones; untrusted.
    pub warnings: Vec<VertexWarning>,
    pub warnings_dropped: u64,
    /// In the order in which they started.
    pub failed: Vec<FailedStep>,
    /// The display has shown the output of the failed steps already.
    pub logs_shown: bool,
}

/// Shows one build. Errors of the output are ignored: progress is not the result.
#[derive(Debug)]
pub struct Display {
    graph: Graph,
    renderer: Renderer,
    out: Output,
    began: Instant,
    notes: u64,
    /// Parts of events that nobody could show.
    dropped: u64,
}

#[derive(Debug)]
enum Renderer {
    Plain(plain::Plain),
    Tty(tty::Tty),
    RawJson,
    Quiet,
}

impl Display {
    pub fn new(mode: Mode, out: Output) -> Self {
        let renderer = match mode {
            Mode::Auto if out.terminal => Renderer::Tty(tty::Tty::new(out.colour)),
            Mode::Tty => Renderer::Tty(tty::Tty::new(out.colour)),
            Mode::Auto | Mode::Plain => Renderer::Plain(plain::Plain::default()),
            Mode::RawJson => Renderer::RawJson,
            Mode::Quiet | Mode::None => Renderer::Quiet,
        };
        let graph = Graph::new(matches!(renderer, Renderer::Plain(_)));
        Self { graph, renderer, out, began: Instant::now(), notes: 0, dropped: 0 }
    }

    /// Takes an event. Much of it may be shown only by a later event or [`Self::tick`].
    pub fn event(&mut self, event: Event) {
        self.event_at(&event, self.began.elapsed());
    }

    /// Shows a line of ktl's own, at once and without tearing what is being drawn. Dropped by `quiet`.
    pub fn note(&mut self, line: &str) {
        self.note_at(line, self.began.elapsed());
    }

    /// To be called about 15 times a second: clocks go on, and what was held back is shown.
    pub fn tick(&mut self) {
        self.tick_at(self.began.elapsed());
    }

    /// Shows the end. Nothing may come after it.
    pub fn finish(&mut self, outcome: Outcome) -> Summary {
        self.finish_at(outcome, self.began.elapsed())
    }

    fn event_at(&mut self, event: &Event, now: Duration) {
        self.graph.apply(event, now);
        self.dropped += event.dropped;
        if matches!(self.renderer, Renderer::RawJson) {
            self.out.put(&rawjson::line(event));
        }
        self.tick_at(now);
    }

    fn tick_at(&mut self, now: Duration) {
        let mut text = String::new();
        match &mut self.renderer {
            Renderer::Plain(plain) => plain.draw(&mut self.graph, now, &mut text),
            Renderer::Tty(tty) => tty.draw(&self.graph, now, self.out.size(), &mut text),
            Renderer::RawJson | Renderer::Quiet => {}
        }
        self.out.put(&text);
    }

    fn note_at(&mut self, line: &str, now: Duration) {
        let line = inert::paragraph(line);
        let mut text = String::new();
        match &mut self.renderer {
            Renderer::Plain(plain) => plain.note(&line, &mut text),
            Renderer::Tty(tty) => tty.note(&line, &self.graph, now, self.out.size(), &mut text),
            Renderer::RawJson => {
                self.notes += 1;
                text = rawjson::note(self.notes, &line, SystemTime::now());
            }
            Renderer::Quiet => {}
        }
        self.out.put(&text);
    }

    fn finish_at(&mut self, outcome: Outcome, now: Duration) -> Summary {
        // Raw lines are passed on without regard to what there is room for.
        let dropped = match self.renderer {
            Renderer::RawJson => self.dropped,
            _ => self.graph.counts().refused,
        };
        if dropped > 0 {
            self.note_at(
                &format!("[progress] dropped {dropped} parts of the builder's progress: more or larger than ktl keeps"),
                now,
            );
        }
        let mut text = String::new();
        match &mut self.renderer {
            Renderer::Plain(plain) => plain.finish(&mut self.graph, &mut text),
            Renderer::Tty(tty) => {
                self.graph.end();
                tty.finish(&self.graph, now, self.out.size(), outcome, &mut text);
            }
            Renderer::RawJson | Renderer::Quiet => self.graph.end(),
        }
        let failed = failed_steps(&self.graph);
        if matches!(self.renderer, Renderer::Plain(_) | Renderer::Tty(_)) {
            for step in &failed {
                text.push_str(&step.block());
            }
        }
        self.out.put(&text);
        let (warnings, warnings_dropped) = self.graph.warnings();
        Summary {
            counts: self.graph.counts(),
            elapsed: now,
            warnings: warnings.to_vec(),
            warnings_dropped,
            failed,
            logs_shown: !matches!(self.renderer, Renderer::Quiet),
        }
    }
}

fn failed_steps(graph: &Graph) -> Vec<FailedStep> {
    let failed = graph.started().filter(|s| s.state() == State::Failed).take(FAILED_MAX);
    failed
        .map(|step| FailedStep {
            digest: step.digest.clone(),
            name: inert::text(&step.name).into_owned(),
            log: step
                .tail
                .iter()
                .map(|line| {
                    format!("{} {}", amounts::stamp(line.at), inert::line(&line.text, inert::Sgr::Drop))
                })
                .collect(),
        })
        .collect()
}
