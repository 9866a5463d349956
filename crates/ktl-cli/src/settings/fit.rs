//! Settings beside what was typed, and beside each other: one that is about something which is not the case steps back.
//!
//! On the command line such a flag is a mistake that is told. A setting is written down once for many builds, and must not end those
//! that it is not about. None that protects steps back for one that does not.

use std::collections::BTreeSet;
use std::mem;

use super::value::{Setting, Source};
use super::{Typed, merge};
use crate::cli::SandboxSwitch;
use crate::failure::Failure;
use crate::plan::Hermetic;

/// What became of the settings.
#[derive(Debug, Clone, Default)]
pub struct Settled {
    pub in_effect: Vec<Setting>,
    /// With the reason.
    pub unused: Vec<(Setting, String)>,
}

/// Sorts `settings`, of which the first counts most.
pub fn fit(settings: Vec<Setting>, typed: &Typed<'_>) -> Result<Settled, Failure> {
    let mut settled = merge::merge(settings)?;
    for setting in mem::take(&mut settled.in_effect) {
        let clash = (!setting.is_off()).then(|| clash(&setting, &settled.in_effect, typed)).flatten();
        match clash {
            None => settled.in_effect.push(setting),
            Some(Clash::Typed(flag)) => settled.unused.push((setting, format!("--{flag} was typed"))),
            Some(Clash::Set(other)) if !other.is_beside(&setting.source) => {
                settled.unused.push((setting, format!("{other} goes before")));
            }
            Some(Clash::Set(other)) => {
                return Err(Failure::usage(format!("{other} and {} contradict each other", setting.source))
                    .hint("Leave one of them out."));
            }
        }
    }
    if typed.is_build() {
        settled.step_back(typed);
    }
    Ok(settled)
}

enum Clash {
    Typed(String),
    Set(Source),
}

/// What `setting` cannot be together with.
fn clash(setting: &Setting, others: &[Setting], typed: &Typed<'_>) -> Option<Clash> {
    let arg = |id: &str| typed.command.get_arguments().find(|arg| arg.get_id() == id);
    let own = arg(setting.flag.id.as_str())?;
    let exclude = |id: &str| {
        let other = arg(id)?;
        let one = typed.command.get_arg_conflicts_with(own).iter().any(|arg| arg.get_id() == id);
        let both =
            one || typed.command.get_arg_conflicts_with(other).iter().any(|arg| arg.get_id() == own.get_id());
        both.then(|| other.get_long().unwrap_or(id).to_owned())
    };
    let given = typed.command.get_arguments().map(|arg| arg.get_id().as_str()).filter(|id| typed.has_id(id));
    if let Some(flag) = given.into_iter().find_map(exclude) {
        return Some(Clash::Typed(flag));
    }
    let other = others.iter().filter(|other| !other.is_off());
    other
        .into_iter()
        .find(|other| exclude(other.flag.id.as_str()).is_some())
        .map(|other| Clash::Set(other.source.clone()))
}

impl Settled {
    fn says(&self, long: &str) -> Option<&Setting> {
        self.in_effect.iter().find(|setting| setting.flag.long == long)
    }

    /// A build's settings that are about nothing.
    fn step_back(&mut self, typed: &Typed<'_>) {
        let is_typed = |ids: &[&str]| ids.iter().any(|id| typed.has_id(id));
        let hermetic = match typed.has_id("hermetic") {
            true => typed.matches.get_one::<Hermetic>("hermetic").is_some_and(|hermetic| hermetic.is_on()),
            false => self.says("hermetic").is_some_and(|setting| !setting.is_off()),
        };
        let listed = is_typed(&["egress", "egress_learn"]) || self.says("egress").is_some();
        let logged = is_typed(&["sandbox_logs", "sandbox_log_file"])
            || ["sandbox-logs", "sandbox-log-file"]
                .iter()
                .any(|long| self.says(long).is_some_and(|setting| !setting.is_off()));
        let unjailed = typed.has_id("sandbox")
            && typed.matches.get_one::<SandboxSwitch>("sandbox") == Some(&SandboxSwitch::Off);
        let mut step = |why: &str, longs: &[&str], also: fn(&Setting) -> bool| {
            let longs: BTreeSet<&str> = longs.iter().copied().collect();
            let (back, stay) = mem::take(&mut self.in_effect)
                .into_iter()
                .partition(|setting| longs.contains(setting.flag.long.as_str()) && also(setting));
            self.in_effect = stay;
            let back: Vec<Setting> = back;
            self.unused.extend(back.into_iter().map(|setting| (setting, why.to_owned())));
        };
        let any: fn(&Setting) -> bool = |_| true;
        if hermetic {
            step("--hermetic denies by itself", &["context-guard"], |setting| setting.values != ["deny"]);
            step("--hermetic has no network at all", &["egress", "egress-record"], any);
        } else {
            step("it is for --hermetic", &["lock", "store"], any);
        }
        if !listed {
            step("there is no --egress", &["egress-record"], any);
        }
        if unjailed {
            let of_jail =
                ["sandbox-workdir", "sandbox-probe-path", "sandbox-logs", "sandbox-log-file", "json"];
            step("there is no jail", &of_jail, any);
        }
        if !logged {
            step("no log is written", &["json"], any);
        }
    }
}
