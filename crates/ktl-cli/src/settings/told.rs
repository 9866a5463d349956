//! What people are told of settings: with `-v`, in the report, and when a build fails over a flag that nobody typed.

use serde::Serialize;

use super::fit::Settled;
use super::value::{Setting, Source};
use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::ui::Ui;

/// Of one failure.
const MAX_HINTS: usize = 8;

/// One setting that took effect.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    pub flag: String,
    pub from: Source,
    /// Of flags that protect; of others it may be private.
    pub value: Option<String>,
}

impl Told {
    fn of(setting: &Setting) -> Told {
        let value = setting.told().map(|value| inert::text(&value).into());
        Told { flag: format!("--{}", setting.flag.long), from: setting.source.clone(), value }
    }

    fn text(&self) -> String {
        let Told { flag, from, value } = self;
        match value {
            Some(value) => format!("{flag} {value} ({from})"),
            None => format!("{flag} ({from})"),
        }
    }
}

impl Settled {
    pub fn told(&self) -> Vec<Told> {
        self.in_effect.iter().filter(|setting| !setting.is_off()).map(Told::of).collect()
    }

    /// Says it all, to whoever wants to know.
    pub fn tell(&self, ui: &Ui) {
        for told in self.told() {
            ui.verbose(format_args!("[config] {}", told.text()));
        }
        for (setting, why) in &self.unused {
            let Setting { flag, source, .. } = setting;
            ui.verbose(format_args!("[config] --{} ({source}): not used, {why}", flag.long));
        }
    }

    /// What may have to do with a failure, for someone who has not typed it.
    pub fn explain(&self, failure: Failure) -> Failure {
        let told = self.told();
        if !matches!(failure.exit, Exit::Usage | Exit::Policy) || told.is_empty() {
            return failure;
        }
        let list: Vec<String> = told.iter().take(MAX_HINTS).map(Told::text).collect();
        let more = if told.len() > MAX_HINTS { ", …" } else { "" };
        failure.hint(format!("Not typed, but set: {}{more}", list.join(", ")))
    }
}
