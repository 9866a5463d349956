//! Several places that speak of one flag.
//!
//! Of most flags the first counts: a variable, then the user's file. Of those that protect, all are heard and the strictest
//! counts, so that none of them can undo what another asks for.

use std::io;

use buildsvc::egress::Rule;

use super::fit::Settled;
use super::reach::{Order, Reach};
use super::value::{Setting, Source};
use crate::commands::build::read_bounded;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan;

/// One setting for each flag. Of `settings` the first count most.
pub fn merge(settings: Vec<Setting>) -> Result<Settled, Failure> {
    let mut groups: Vec<Vec<Setting>> = Vec::new();
    for setting in settings {
        match groups.iter_mut().find(|group| group[0].flag.id == setting.flag.id) {
            Some(group) => group.push(setting),
            None => groups.push(vec![setting]),
        }
    }
    let mut settled = Settled::default();
    for group in groups {
        match group[0].flag.reach {
            Reach::Stricter(Order::Servers) => settled.in_effect.push(servers(group)?),
            Reach::Stricter(order) => settled.take(group, |setting| rank(order, setting), "is stricter"),
            Reach::Free | Reach::Elsewhere | Reach::Typed(_) => settled.take(group, |_| 0, "goes before"),
        }
    }
    Ok(settled)
}

fn rank(order: Order, setting: &Setting) -> u128 {
    setting.values.iter().filter_map(|value| order.rank(value)).max().unwrap_or_default()
}

impl Settled {
    /// Takes the first of the highest.
    fn take(&mut self, group: Vec<Setting>, rank: impl Fn(&Setting) -> u128, why: &str) {
        let highest = group.iter().map(&rank).max().unwrap_or_default();
        let (first, mut rest): (Vec<_>, Vec<_>) =
            group.into_iter().partition(|setting| rank(setting) == highest);
        let mut first = first.into_iter();
        let Some(taken) = first.next() else { return };
        rest.extend(first);
        let why = format!("{} {why}", taken.source);
        self.unused.extend(rest.into_iter().map(|setting| (setting, why.clone())));
        self.in_effect.push(taken);
    }
}

/// What is on every list. A repository's alone opens no more than a build without one has: what is not public has to be on a
/// list of the user's.
fn servers(group: Vec<Setting>) -> Result<Setting, Failure> {
    let cwd = std::env::current_dir().map_err(|error: io::Error| {
        Failure::usage(format!("the current directory cannot be read: {error}"))
    })?;
    let rules = |setting: &Setting| -> Result<Vec<Rule>, Failure> {
        let of_repository = matches!(setting.source, Source::Repository { .. });
        if let Some(text) = setting.values.iter().find(|text| of_repository && text.starts_with('@')) {
            return Err(Failure::new(Exit::Policy, format!("{}: {text:?} names a file", setting.source))
                .hint("A repository's list stands in its ktl.toml."));
        }
        plan::egress_rules(&setting.values, &cwd, read_bounded).map_err(|mut failure| {
            failure.title = format!("{}: {}", setting.source, failure.title);
            failure
        })
    };
    let mut group = group.into_iter();
    let Some(first) = group.next() else { return Err(Failure::internal("no list of servers")) };
    let mut sources = vec![first.source.clone()];
    let mut list = rules(&first)?;
    for other in group {
        let narrower = rules(&other)?;
        list = list.iter().flat_map(|rule| narrower.iter().filter_map(|other| rule.meet(other))).collect();
        sources.push(other.source);
    }
    let source = if sources.len() == 1 { sources.remove(0) } else { Source::All(sources) };
    if list.is_empty() {
        return Err(Failure::new(Exit::Policy, format!("{source}: no server is on all of these lists"))
            .hint("Type the list that you mean: --egress HOST."));
    }
    if matches!(source, Source::Repository { .. })
        && let Some((rule, what)) = list.iter().find_map(|rule| Some((rule, rule.special()?)))
    {
        return Err(Failure::new(
            Exit::Policy,
            format!("{source}: {rule} is {what}, and not for a repository to open"),
        )
        .hint(format!("Name it yourself, with --egress {rule} or in your own ktl.toml.")));
    }
    let values = list.iter().map(ToString::to_string).collect();
    Ok(Setting { values, source, ..first })
}
