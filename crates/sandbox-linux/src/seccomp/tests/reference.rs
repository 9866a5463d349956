//! The meaning of a policy, read off the syntax tree for one call at a time, without sorting, folding or emitting.

use super::super::ast::{Ast, Bits, Call, Comparison, Condition, Filter, Machines, Name, Statement};
use super::super::syscalls::lookup;
use super::super::{Action, Arch};

pub fn decide(ast: &Ast<'_>, arch: Arch, nr: u32, audit: u32, args: [u64; 6]) -> Action {
    if audit != arch.audit() {
        return Action::Kill;
    }
    let default = ast.default.unwrap_or(Action::Kill);
    match first(ast, &ast.main, arch, nr, &args) {
        Some(action) => action,
        None if arch == Arch::X86_64 && nr & 0xc000_0000 != 0 && !default.refuses() => Action::Kill,
        None => default,
    }
}

fn first(ast: &Ast<'_>, list: &[Statement<'_>], arch: Arch, nr: u32, args: &[u64; 6]) -> Option<Action> {
    list.iter().find_map(|statement| match statement {
        Statement::Use(index) => first(ast, &ast.policies[*index], arch, nr, args),
        Statement::Act { action, filters } => {
            filters.iter().any(|filter| matches(filter, arch, nr, args)).then_some(*action)
        }
    })
}

fn matches(filter: &Filter<'_>, arch: Arch, nr: u32, args: &[u64; 6]) -> bool {
    let own = if arch == Arch::X86_64 { Machines::X86_64 } else { Machines::AARCH64 };
    if filter.machines.is_some_and(|machines| !machines.contains(own)) {
        return false;
    }
    let number = match &filter.call {
        Call::Number(number) => *number,
        Call::Named(name) => lookup(arch, name.text).unwrap().number,
    };
    number == nr && filter.condition.as_ref().is_none_or(|condition| holds(condition, filter, arch, args))
}

fn holds(condition: &Condition<Name<'_>>, filter: &Filter<'_>, arch: Arch, args: &[u64; 6]) -> bool {
    match condition {
        Condition::Not(inner) => !holds(inner, filter, arch, args),
        Condition::And(left, right) => holds(left, filter, arch, args) && holds(right, filter, arch, args),
        Condition::Or(left, right) => holds(left, filter, arch, args) || holds(right, filter, arch, args),
        Condition::Compare(comparison, left, right) => {
            let (left, right) = (value(left, filter, arch, args), value(right, filter, arch, args));
            let mask = if left.wide || right.wide { u64::MAX } else { 0xffff_ffff };
            let (left, right) = (left.bits & mask, right.bits & mask);
            match comparison {
                Comparison::Eq => left == right,
                Comparison::Ne => left != right,
                Comparison::Lt => left < right,
                Comparison::Le => left <= right,
                Comparison::Gt => left > right,
                Comparison::Ge => left >= right,
            }
        }
    }
}

/// A value, whether 64 bits of it count, and whether it is the same for every call.
#[derive(Clone, Copy)]
struct Value {
    bits: u64,
    wide: bool,
    fixed: bool,
}

fn value(bits: &Bits<Name<'_>>, filter: &Filter<'_>, arch: Arch, args: &[u64; 6]) -> Value {
    let number = |bits: u64| Value { bits, wide: bits >> 32 != 0, fixed: true };
    let (left, right, and) = match bits {
        Bits::Number(bits) => return number(*bits),
        Bits::Value(name) => {
            let (index, wide) = match (&filter.arguments, &filter.call) {
                (Some(names), _) => (names.iter().position(|own| own.text == name.text).unwrap(), true),
                (None, Call::Named(call)) => {
                    let (index, width) = lookup(arch, call.text).unwrap().argument(name.text).unwrap();
                    (index, width == 8)
                }
                (None, Call::Number(_)) => unreachable!("a bare number has no arguments"),
            };
            return Value { bits: args[index], wide, fixed: false };
        }
        Bits::And(left, right) => (left, right, true),
        Bits::Or(left, right) => (left, right, false),
    };
    let (left, right) = (value(left, filter, arch, args), value(right, filter, arch, args));
    let bits = if and { left.bits & right.bits } else { left.bits | right.bits };
    if left.fixed && right.fixed {
        return number(bits);
    }
    let (absorbing, neutral) = if and { (0, u64::MAX) } else { (u64::MAX, 0) };
    for (one, other) in [(left, right), (right, left)] {
        if one.fixed && one.bits == absorbing {
            return number(absorbing);
        }
        if one.fixed && one.bits == neutral {
            return other;
        }
    }
    Value { bits, wide: left.wide || right.wide, fixed: false }
}
