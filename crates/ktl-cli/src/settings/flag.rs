//! The flags of a command, as far as something else than the command line may set them.

use std::fmt;

use clap::{Arg, ArgAction, Command, Id};

use super::reach::Reach;
use crate::env;

/// One flag with a long name.
#[derive(Debug, Clone)]
pub struct Flag {
    pub id: Id,
    pub long: String,
    /// The variable that stands for it.
    pub variable: String,
    /// Its table and key in `ktl.toml`, which has those of `ktl build`.
    pub key: Option<Key>,
    pub kind: Kind,
    pub reach: Reach,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    pub table: &'static str,
    pub name: String,
}

impl Key {
    /// The flag's name, without what the table says already.
    fn of(long: &str) -> Option<Key> {
        let (table, name) = match long.split_once('-') {
            // The jail is there anyway, and how much is said is a matter of one run.
            _ if matches!(long, "sandbox" | "verbose") => return None,
            _ if long == "egress" => ("egress", "allow"),
            _ if long == "builder" => ("builder", "address"),
            _ if matches!(long, "trust" | "buildkitd-bin" | "idle-timeout") => ("builder", long),
            _ if matches!(long, "hermetic" | "json") => ("sandbox", long),
            _ if long.starts_with("tls") => ("builder", long),
            Some(("sandbox", name)) => ("sandbox", name),
            Some(("builder", name)) => ("builder", name),
            Some(("egress", name)) => ("egress", name),
            _ => ("build", long),
        };
        Some(Key { table, name: name.to_owned() })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.table, self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There or not there.
    Switch,
    /// How often it is there.
    Count,
    /// One value; the words that true and false mean, where it is a switch as well.
    One(Option<(&'static str, &'static str)>),
    /// Any number of values; with commas between them as well.
    Many { commas: bool },
}

/// Variables that are read where they count, because more than the flag decides: other variables, or what kind of builder it is.
/// Beside the flag's name, the command's where it is another one than `ktl build`.
const READ_ELSEWHERE: [(&str, &str, &str); 9] = [
    ("", "builder", env::KTL_BUILDER),
    ("", "trust", env::KTL_TRUST),
    ("", "builder-memory", env::KTL_BUILDER_MEMORY),
    ("", "builder-cpus", env::KTL_BUILDER_CPUS),
    ("", "builder-pids", env::KTL_BUILDER_PIDS),
    ("", "sandbox-bin", env::KTL_SANDBOX_BIN),
    ("", "sandbox-runtime", env::KTL_SANDBOX_RUNTIME),
    ("", "store", env::KTL_STORE),
    ("stage", "to", env::KTL_STORE),
];

/// Switches that may be typed with a value, as docker's can.
const WITH_VALUE: [&str; 5] = ["no-cache", "pull", "push", "load", "quiet"];

impl Flag {
    /// Those of the command that `path` leads to.
    pub fn of(path: &[String], root: &Command) -> Vec<Flag> {
        let command = path.iter().try_fold(root, |command, name| command.find_subcommand(name));
        let Some(command) = command else { return Vec::new() };
        let build = root.find_subcommand("build");
        command.get_arguments().filter_map(|arg| Flag::new(path, arg, build?)).collect()
    }

    fn new(path: &[String], arg: &Arg, build: &Command) -> Option<Flag> {
        let long = arg.get_long()?.to_owned();
        if matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
        ) {
            return None;
        }
        let shared = path == ["build"] || arg.is_global_set() || is_shared(arg, build);
        let own = if shared { String::new() } else { path.join(" ") };
        let elsewhere = READ_ELSEWHERE.iter().find(|(command, flag, _)| *command == own && *flag == long);
        let variable = match elsewhere {
            Some((_, _, variable)) => (*variable).to_owned(),
            None => format!("KTL {own} {long}")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join("_")
                .replace('-', "_")
                .to_uppercase(),
        };
        let kind = kind(arg, &long);
        let reach = match elsewhere {
            Some(_) => Reach::Elsewhere,
            None => Reach::of(&own, &long),
        };
        let key = if shared { Key::of(&long) } else { None };
        Some(Flag { id: arg.get_id().clone(), long, variable, key, kind, reach })
    }
}

/// Whether another command's flag is that of `ktl build`. Those that name what a Dockerfile holds are explained in their own words.
fn is_shared(arg: &Arg, build: &Command) -> bool {
    let text = |arg: &Arg| arg.get_help().map(ToString::to_string);
    let same = build.get_arguments().find(|other| other.get_long() == arg.get_long());
    same.is_some_and(|same| arg.get_help_heading() == Some("Dockerfile") || text(same) == text(arg))
}

fn kind(arg: &Arg, long: &str) -> Kind {
    match arg.get_action() {
        ArgAction::SetTrue => Kind::Switch,
        _ if WITH_VALUE.contains(&long) => Kind::Switch,
        ArgAction::Count => Kind::Count,
        ArgAction::Append => Kind::Many { commas: arg.get_value_delimiter() == Some(',') },
        _ => Kind::One(match long {
            "hermetic" => Some(("required", "off")),
            "sandbox" => Some(("on", "off")),
            "check" => Some(("true", "false")),
            _ => None,
        }),
    }
}
