//! What a case is.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use tonic::Status;

use super::ground::Ground;
use super::raw::Talk;
use super::visit::Visit;

/// What the exporters "made", or why the build failed.
pub type End = Result<HashMap<String, String>, Status>;
/// What the daemon does with a build.
pub type Script = fn(Visit) -> Pin<Box<dyn Future<Output = End> + Send>>;

/// One way to harm a client.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// `group/what`.
    pub name: &'static str,
    /// What the daemon does, for the table.
    pub about: &'static str,
    pub script: Script,
    /// Takes the place of the whole daemon.
    pub talk: Option<Talk>,
    /// A method of `Control` that is never answered.
    pub silent: Option<&'static str>,
    pub told: Told,
    /// How ktl ends.
    pub codes: &'static [i32],
    /// What ktl says; all of them.
    pub says: &'static [&'static str],
    /// Whether the daemon, or the screen, must have come by the honest part.
    pub honest: Honest,
    /// Makes the ground such that the same requests are the user's wish: the judge must then find a leak.
    pub granted: Option<fn(&Ground)>,
    /// A client that is still there after this hangs.
    pub limit: Duration,
}

/// What a client is told beyond the address and the context.
#[derive(Debug, Clone, Copy)]
pub struct Told {
    pub output: Output,
    pub progress: &'static str,
    /// Further arguments of ktl alone.
    pub ktl: &'static [&'static str],
    /// Variables of ktl alone.
    pub env: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// `out`, a directory.
    Local,
    /// `out.tar`.
    Tar,
    None,
}

/// What shows that a case reached its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Honest {
    /// The daemon came by something permitted.
    Given,
    /// The client has shown this word.
    Shown(&'static str),
    /// The client's `out` holds this file.
    Written(&'static str),
    /// The client came at all.
    Visited,
}

impl Case {
    /// A case in which the build fails in the end and the daemon got what it is given.
    pub const fn new(name: &'static str, about: &'static str, script: Script) -> Case {
        Case {
            name,
            about,
            script,
            talk: None,
            silent: None,
            told: Told { output: Output::None, progress: "plain", ktl: &[], env: &[] },
            codes: &[1],
            says: &[],
            honest: Honest::Given,
            granted: None,
            limit: Duration::from_secs(120),
        }
    }

    pub const fn output(mut self, output: Output) -> Case {
        self.told.output = output;
        self
    }

    pub const fn progress(mut self, progress: &'static str) -> Case {
        self.told.progress = progress;
        self
    }

    pub const fn env(mut self, env: &'static [(&'static str, &'static str)]) -> Case {
        self.told.env = env;
        self
    }

    pub const fn ends(mut self, codes: &'static [i32]) -> Case {
        self.codes = codes;
        self
    }

    pub const fn says(mut self, says: &'static [&'static str]) -> Case {
        self.says = says;
        self
    }

    pub const fn honest(mut self, honest: Honest) -> Case {
        self.honest = honest;
        self
    }

    pub const fn silent(mut self, method: &'static str) -> Case {
        self.silent = Some(method);
        self
    }

    pub const fn granted(mut self, granted: fn(&Ground)) -> Case {
        self.granted = Some(granted);
        self
    }

    pub const fn talk(mut self, talk: Talk) -> Case {
        self.talk = Some(talk);
        self
    }

    pub fn group(&self) -> &'static str {
        self.name.split('/').next().unwrap_or_default()
    }
}

/// How a script ends that has done its harm: as a build that failed.
pub fn over() -> End {
    Err(Status::unknown("the hostile case is over"))
}
