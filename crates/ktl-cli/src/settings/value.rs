//! One setting: what is said of a flag, and where.

use std::fmt;
use std::mem;
use std::path::PathBuf;

use serde::Serialize;

use super::flag::{Flag, Kind};
use super::reach::{Order, Reach};
use crate::display::inert;
use crate::failure::Failure;

#[derive(Debug, Clone)]
pub struct Setting {
    pub flag: Flag,
    /// As they would be typed; of a switch `true` or `false`, of one that is counted the number.
    pub values: Vec<String>,
    pub source: Source,
}

/// Where it is said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(into = "String")]
pub enum Source {
    Variable(String),
    /// `ktl.toml` in the context.
    Repository {
        path: PathBuf,
        line: usize,
    },
    /// `ktl.toml` in the user's configuration directory.
    User {
        path: PathBuf,
        line: usize,
    },
    /// What all of these leave.
    All(Vec<Source>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Variable(name) => f.write_str(name),
            Source::Repository { path, line } | Source::User { path, line } => {
                write!(f, "{}:{line}", inert::text(&path.to_string_lossy()))
            }
            Source::All(sources) => {
                let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
                f.write_str(&sources.join(" and "))
            }
        }
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        source.to_string()
    }
}

impl Source {
    /// Whether both are of the same place, so that neither goes before the other.
    pub fn is_beside(&self, other: &Source) -> bool {
        mem::discriminant(self) == mem::discriminant(other)
    }
}

impl Setting {
    /// Checks what is said. Nothing where the flag has to be typed, and what is said is that it was not.
    pub fn new(flag: &Flag, values: Vec<String>, source: Source) -> Result<Option<Setting>, Failure> {
        let said = || values.join(" ");
        let wrong = |why: String| Failure::usage(format!("{source}: {why}"));
        let values = match flag.kind {
            Kind::Switch => vec![boolean(&said()).ok_or_else(|| wrong(no_boolean(&said())))?.to_string()],
            Kind::Count => {
                let number = said().parse::<u8>();
                vec![number.map_err(|_| wrong(format!("{:?} is no number", said())))?.to_string()]
            }
            Kind::One(Some((yes, no))) => match boolean(&said()) {
                Some(true) => vec![yes.to_owned()],
                Some(false) => vec![no.to_owned()],
                None => values,
            },
            Kind::One(None) | Kind::Many { .. } => values,
        };
        let off = flag.kind == Kind::Switch && values == ["false"];
        let typed = |why: String| {
            wrong(format!("--{} has to be typed: {why}", flag.long))
                .hint(format!("Take it out there, and type --{} where you mean it.", flag.long))
        };
        match flag.reach {
            Reach::Typed(_) if off => return Ok(None),
            Reach::Typed(why) => return Err(typed(format!("{why}, and nobody but you may say so"))),
            Reach::Stricter(order) => {
                if let Some(looser) = values.iter().find(|value| !order.takes(value)) {
                    return Err(match order {
                        Order::Words(words) if looser != "off" && looser != "host" => {
                            wrong(format!("{looser:?} is none of {}", words.join(", ")))
                        }
                        Order::Shorter => wrong(format!("{looser:?} is no time, such as 90s, 30m or 1h30m")),
                        Order::Fewer(most) => typed(format!("there are at most {most} without it")),
                        Order::Words(_) | Order::Servers => {
                            typed(format!("{looser:?} takes protection away"))
                        }
                    });
                }
            }
            Reach::Free | Reach::Elsewhere => {}
        }
        Ok(Some(Setting { flag: flag.clone(), values, source }))
    }

    /// It says that the flag is not there.
    pub fn is_off(&self) -> bool {
        match self.flag.kind {
            Kind::Switch => self.values == ["false"],
            Kind::Count => self.values == ["0"],
            Kind::One(Some((_, no))) => self.values == [no],
            Kind::One(None) | Kind::Many { .. } => false,
        }
    }

    /// What it says, where that may be told everywhere: values of other flags can be private.
    pub fn told(&self) -> Option<String> {
        matches!(self.flag.reach, Reach::Stricter(_)).then(|| self.values.join(" "))
    }
}

/// Strict, because an odd word in a switch is a mistake and not an answer.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn no_boolean(text: &str) -> String {
    format!("{text:?} is none of true, false, 1 and 0")
}
