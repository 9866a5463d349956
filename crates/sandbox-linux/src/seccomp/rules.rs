//! From a source to the rules of each system call of one architecture.
//!
//! Names of calls and arguments are looked up in every statement, used or not; a filter for other architectures is
//! skipped unread. A used policy stands where `USE` is, but only the first time: all that a repetition could match
//! was matched before it. That keeps the expansion as small as the source.
//!
//! Folding constants is part of the meaning, because a comparison is about 64 bits only if a 64-bit argument or a
//! number beyond 32 bits is left in it: `(fd & 0xffffffffffffffff) == 1` looks at the low word of an `int fd` only,
//! and so does `fd == 0xf00000000 & 1`.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ast::{Ast, Bits, Call, Comparison, Condition, Filter, Machines, Name, Statement};
use super::syscalls::{Syscall, customary, lookup};
use super::{Action, Arch, KafelError, Place};

/// An argument register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Argument {
    pub index: usize,
    /// All 64 bits count, in whatever it is compared with.
    pub wide: bool,
}

#[derive(Debug)]
pub(super) struct Rule {
    /// Without one the rule is the last of its call.
    pub condition: Option<Condition<Argument>>,
    pub action: Action,
    pub span: Range<usize>,
}

/// The first rule of a call that fits decides; without any, the default.
#[derive(Debug)]
pub(super) struct Rules {
    pub by_number: BTreeMap<u32, Vec<Rule>>,
    pub default: Action,
}

/// A condition after its constants were folded.
enum Folded {
    Always,
    Never,
    If(Condition<Argument>),
}

/// A statement list that is being walked, and the place in it.
struct Walk<'p, 'a> {
    statements: &'p [Statement<'a>],
    next: usize,
}

pub(super) fn collect(source: &str, ast: &Ast<'_>, arch: Arch) -> Result<Rules, KafelError> {
    let names = Names { source, arch };
    names.check(ast)?;
    let mut by_number = BTreeMap::<u32, Vec<Rule>>::new();
    let mut used = vec![false; ast.policies.len()];
    let mut walks = vec![Walk { statements: &ast.main, next: 0 }];
    while let Some(walk) = walks.last_mut() {
        let Some(statement) = walk.statements.get(walk.next) else {
            walks.pop();
            continue;
        };
        walk.next += 1;
        match statement {
            Statement::Use(index) => {
                if !std::mem::replace(&mut used[*index], true) {
                    walks.push(Walk { statements: &ast.policies[*index], next: 0 });
                }
            }
            Statement::Act { action, filters } => {
                for filter in filters {
                    let Some((number, folded)) = names.resolve(filter)? else { continue };
                    let condition = match folded {
                        Folded::Never => continue,
                        Folded::Always => None,
                        Folded::If(condition) => Some(condition),
                    };
                    let rules = by_number.entry(number).or_default();
                    if rules.last().is_none_or(|last| last.condition.is_some()) {
                        rules.push(Rule { condition, action: *action, span: filter.span.clone() });
                    }
                }
            }
        }
    }
    Ok(Rules { by_number, default: ast.default.unwrap_or(Action::Kill) })
}

/// What names stand for.
struct Names<'s> {
    source: &'s str,
    arch: Arch,
}

impl Names<'_> {
    /// Reports the first unknown name of the source, used or not.
    fn check(&self, ast: &Ast<'_>) -> Result<(), KafelError> {
        // Each of the two lists is in the order of the text.
        let inside = self.first_mistake(ast.policies.iter().flatten());
        let outside = self.first_mistake(ast.main.iter());
        let first = inside.into_iter().chain(outside).min_by_key(|error| error.place().span.start);
        first.map_or(Ok(()), Err)
    }

    fn first_mistake<'p, 'a: 'p>(
        &self,
        mut statements: impl Iterator<Item = &'p Statement<'a>>,
    ) -> Option<KafelError> {
        statements.find_map(|statement| match statement {
            Statement::Use(_) => None,
            Statement::Act { filters, .. } => filters.iter().find_map(|filter| self.resolve(filter).err()),
        })
    }

    /// The number and the condition of a filter; `None` if it is for other architectures.
    fn resolve(&self, filter: &Filter<'_>) -> Result<Option<(u32, Folded)>, KafelError> {
        let own = match self.arch {
            Arch::X86_64 => Machines::X86_64,
            Arch::Aarch64 => Machines::AARCH64,
        };
        if filter.machines.is_some_and(|machines| !machines.contains(own)) {
            return Ok(None);
        }
        let (number, call) = match &filter.call {
            Call::Number(number) => (*number, None),
            Call::Named(name) => {
                let call = lookup(self.arch, name.text).ok_or_else(|| self.no_such_call(name))?;
                (call.number, Some(call))
            }
        };
        let Some(condition) = &filter.condition else { return Ok(Some((number, Folded::Always))) };
        let folded = self.condition(condition, &|name| self.argument(filter, call, name))?;
        Ok(Some((number, folded)))
    }

    fn argument(
        &self,
        filter: &Filter<'_>,
        call: Option<&Syscall>,
        name: &Name<'_>,
    ) -> Result<Argument, KafelError> {
        let (found, known) = match (&filter.arguments, call) {
            (Some(names), _) => (
                names.iter().position(|own| own.text == name.text).map(|index| (index, 8)),
                names.iter().map(|own| own.text).collect::<Vec<_>>().join(", "),
            ),
            (None, Some(call)) => {
                let names = call.arguments.split(' ').filter_map(|argument| argument.split(':').next());
                (call.argument(name.text), names.collect::<Vec<_>>().join(", "))
            }
            (None, None) => (None, String::new()),
        };
        match found {
            Some((index, width)) => Ok(Argument { index, wide: width == 8 }),
            None => Err(KafelError::Undefined {
                place: Place::new(self.source, name.span.clone()),
                expected: if known.is_empty() {
                    "a number or a constant, this call has no named arguments".to_owned()
                } else {
                    format!("a number, a constant or an argument of the call ({known})")
                },
                name: name.text.to_owned(),
            }),
        }
    }

    fn no_such_call(&self, name: &Name<'_>) -> KafelError {
        let hint = match customary(name.text) {
            Some(other) if lookup(self.arch, other).is_some() => format!(" (Kafel calls it `{other}`)"),
            _ => String::new(),
        };
        KafelError::Undefined {
            place: Place::new(self.source, name.span.clone()),
            expected: format!("a constant or a system call of {}{hint}", self.arch),
            name: name.text.to_owned(),
        }
    }

    fn condition<'a>(
        &self,
        condition: &Condition<Name<'a>>,
        argument: &dyn Fn(&Name<'a>) -> Result<Argument, KafelError>,
    ) -> Result<Folded, KafelError> {
        use Folded::{Always, If, Never};
        Ok(match condition {
            Condition::Not(inner) => match self.condition(inner, argument)? {
                Always => Never,
                Never => Always,
                If(inner) => If(Condition::Not(Box::new(inner))),
            },
            Condition::And(left, right) => {
                match (self.condition(left, argument)?, self.condition(right, argument)?) {
                    (Never, _) | (_, Never) => Never,
                    (Always, other) | (other, Always) => other,
                    (If(left), If(right)) => If(Condition::And(Box::new(left), Box::new(right))),
                }
            }
            Condition::Or(left, right) => {
                match (self.condition(left, argument)?, self.condition(right, argument)?) {
                    (Always, _) | (_, Always) => Always,
                    (Never, other) | (other, Never) => other,
                    (If(left), If(right)) => If(Condition::Or(Box::new(left), Box::new(right))),
                }
            }
            Condition::Compare(comparison, left, right) => {
                let (left, right) = (bits(left, argument)?, bits(right, argument)?);
                let known = match (&left, &right) {
                    (Bits::Number(left), Bits::Number(right)) => Some(holds(*comparison, *left, *right)),
                    (Bits::Value(left), Bits::Value(right)) if left == right => {
                        Some(holds(*comparison, 0, 0))
                    }
                    _ => None,
                };
                match known {
                    Some(true) => Always,
                    Some(false) => Never,
                    None => If(Condition::Compare(*comparison, left, right)),
                }
            }
        })
    }
}

fn bits<'a>(
    value: &Bits<Name<'a>>,
    argument: &dyn Fn(&Name<'a>) -> Result<Argument, KafelError>,
) -> Result<Bits<Argument>, KafelError> {
    Ok(match value {
        Bits::Number(number) => Bits::Number(*number),
        Bits::Value(name) => Bits::Value(argument(name)?),
        Bits::And(left, right) => match (bits(left, argument)?, bits(right, argument)?) {
            (Bits::Number(left), Bits::Number(right)) => Bits::Number(left & right),
            (Bits::Number(0), _) | (_, Bits::Number(0)) => Bits::Number(0),
            (Bits::Number(u64::MAX), other) | (other, Bits::Number(u64::MAX)) => other,
            (left, right) => Bits::And(Box::new(left), Box::new(right)),
        },
        Bits::Or(left, right) => match (bits(left, argument)?, bits(right, argument)?) {
            (Bits::Number(left), Bits::Number(right)) => Bits::Number(left | right),
            (Bits::Number(u64::MAX), _) | (_, Bits::Number(u64::MAX)) => Bits::Number(u64::MAX),
            (Bits::Number(0), other) | (other, Bits::Number(0)) => other,
            (left, right) => Bits::Or(Box::new(left), Box::new(right)),
        },
    })
}

fn holds(comparison: Comparison, left: u64, right: u64) -> bool {
    match comparison {
        Comparison::Eq => left == right,
        Comparison::Ne => left != right,
        Comparison::Lt => left < right,
        Comparison::Le => left <= right,
        Comparison::Gt => left > right,
        Comparison::Ge => left >= right,
    }
}
