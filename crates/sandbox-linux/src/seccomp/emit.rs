//! Rules to instructions.
//!
//! A program is written from its end to its start: jumps only go forward, so what a test leads to stands already
//! when the test is written. A test reaches 255 instructions; beyond that it goes through a jump without a
//! condition, or a return is written once more. The call's number is found by halving the sorted ranges of
//! numbers that are treated alike.

use std::collections::HashMap;
use std::ops::Range;

use super::ast::{Bits, Comparison, Condition};
use super::bpf::{self, Instruction, Program};
use super::rules::{Argument, Rule, Rules};
use super::{Action, Arch, KafelError, MAX_INSTRUCTIONS, Place};

/// From here on numbers on x86_64 belong to the x32 ABI (`__X32_SYSCALL_BIT`).
const X32: u32 = 0x4000_0000;
const MAX_JUMP: usize = u8::MAX as usize;

/// What a test leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Act(Action),
    /// Index in [`Emitter::reversed`].
    At(usize),
}

/// Why there is no program.
enum Failure {
    TooLong,
    /// An expression needs more scratch memory than there is.
    Memory,
}

/// What happens to a range of numbers, which ends where the next one starts.
struct Span<'r> {
    first: u32,
    rules: &'r [Rule],
    otherwise: Action,
}

pub(super) fn emit(source: &str, rules: &Rules, arch: Arch) -> Result<Program, KafelError> {
    let spans = spans(rules, arch);
    let mut emitter = Emitter::default();
    let written = emitter.program(&spans, arch);
    written.map_err(|(failure, span)| KafelError::Limit {
        place: Place::new(source, span),
        limit: match failure {
            Failure::TooLong => {
                format!("a policy of at most {MAX_INSTRUCTIONS} instructions, the kernel takes no more")
            }
            Failure::Memory => {
                format!("a condition that needs at most {} intermediate results", bpf::MEMORY_WORDS)
            }
        },
    })?;
    emitter.reversed.reverse();
    Ok(Program::new(emitter.reversed))
}

/// Cuts all numbers into ranges; neighbours that end alike are one.
fn spans(rules: &Rules, arch: Arch) -> Vec<Span<'_>> {
    let x32 = if arch == Arch::X86_64 && !rules.default.refuses() { Action::Kill } else { rules.default };
    let background = |number| if number >= X32 { x32 } else { rules.default };
    let mut result: Vec<Span<'_>> = Vec::new();
    let gap = |result: &mut Vec<Span<'_>>, from: u64, to: u64| {
        for (first, end) in [(from, to.min(u64::from(X32))), (from.max(u64::from(X32)), to)] {
            if let Ok(first) = u32::try_from(first)
                && u64::from(first) < end
            {
                add(result, Span { first, rules: &[], otherwise: background(first) });
            }
        }
    };
    let mut next = 0_u64;
    for (number, rules) in &rules.by_number {
        gap(&mut result, next, u64::from(*number));
        let otherwise = background(*number);
        let span = match rules.as_slice() {
            [Rule { condition: None, action, .. }, ..] => {
                Span { first: *number, rules: &[], otherwise: *action }
            }
            rules => Span { first: *number, rules, otherwise },
        };
        add(&mut result, span);
        next = u64::from(*number) + 1;
    }
    gap(&mut result, next, 1 << 32);
    result
}

fn add<'r>(spans: &mut Vec<Span<'r>>, span: Span<'r>) {
    let alike = spans.last().is_some_and(|last| {
        last.rules.is_empty() && span.rules.is_empty() && last.otherwise == span.otherwise
    });
    if !alike {
        spans.push(span);
    }
}

/// The program, last instruction first.
#[derive(Debug, Default)]
struct Emitter {
    reversed: Vec<Instruction>,
    /// Where each return stands that was written last.
    returns: HashMap<Action, usize>,
}

impl Emitter {
    /// A failure comes with the bytes that it is about.
    fn program(&mut self, spans: &[Span<'_>], arch: Arch) -> Result<(), (Failure, Range<usize>)> {
        let tree = self.tree(spans)?;
        self.head(tree, arch).map_err(|failure| (failure, 0..0))
    }

    fn head(&mut self, tree: Target, arch: Arch) -> Result<(), Failure> {
        if tree == Target::Act(Action::Kill) {
            return self.enter(tree);
        }
        let mut policy = tree;
        if let Target::At(_) = tree {
            self.enter(tree)?;
            policy = self.write(bpf::LD_ABS, bpf::NR)?;
        }
        let all = self.branch(bpf::JEQ, Some(arch.audit()), policy, Target::Act(Action::Kill))?;
        self.enter(all)?;
        self.write(bpf::LD_ABS, bpf::ARCH)?;
        Ok(())
    }

    /// With the number in A.
    fn tree(&mut self, spans: &[Span<'_>]) -> Result<Target, (Failure, Range<usize>)> {
        let (left, right) = match spans {
            [] => return Ok(Target::Act(Action::Kill)),
            [span] => return self.chain(span),
            _ => spans.split_at(spans.len() / 2),
        };
        let (first, about) = (right[0].first, right[0].rules.first().map_or(0..0, |rule| rule.span.clone()));
        let above = self.tree(right)?;
        let below = self.tree(left)?;
        self.branch(bpf::JGE, Some(first), above, below).map_err(|failure| (failure, about))
    }

    fn chain(&mut self, span: &Span<'_>) -> Result<Target, (Failure, Range<usize>)> {
        let mut target = Target::Act(span.otherwise);
        for rule in span.rules.iter().rev() {
            let act = Target::Act(rule.action);
            target = match &rule.condition {
                None => act,
                Some(condition) => {
                    self.condition(condition, act, target).map_err(|failure| (failure, rule.span.clone()))?
                }
            };
        }
        Ok(target)
    }

    fn condition(
        &mut self,
        condition: &Condition<Argument>,
        yes: Target,
        no: Target,
    ) -> Result<Target, Failure> {
        match condition {
            Condition::Not(inner) => self.condition(inner, no, yes),
            Condition::And(left, right) => {
                let yes = self.condition(right, yes, no)?;
                self.condition(left, yes, no)
            }
            Condition::Or(left, right) => {
                let no = self.condition(right, yes, no)?;
                self.condition(left, yes, no)
            }
            Condition::Compare(comparison, left, right) => self.compare(*comparison, left, right, yes, no),
        }
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        left: &Bits<Argument>,
        right: &Bits<Argument>,
        yes: Target,
        no: Target,
    ) -> Result<Target, Failure> {
        let (more, equal, less) = match comparison {
            Comparison::Eq => (no, yes, no),
            Comparison::Ne => (yes, no, yes),
            Comparison::Lt => (no, no, yes),
            Comparison::Le => (no, yes, yes),
            Comparison::Gt => (yes, no, no),
            Comparison::Ge => (yes, yes, no),
        };
        let low = self.words(left, right, false, more, equal, less)?;
        if !wide(left) && !wide(right) {
            return Ok(low);
        }
        self.words(left, right, true, more, low, less)
    }

    /// Compares one word of two values.
    fn words(
        &mut self,
        left: &Bits<Argument>,
        right: &Bits<Argument>,
        high: bool,
        more: Target,
        equal: Target,
        less: Target,
    ) -> Result<Target, Failure> {
        let (a, b, more, less) = match (known(left, high), known(right, high)) {
            (Some(left), Some(right)) => {
                return Ok(match left.cmp(&right) {
                    std::cmp::Ordering::Less => less,
                    std::cmp::Ordering::Equal => equal,
                    std::cmp::Ordering::Greater => more,
                });
            }
            // The one in A must be the one that has to be loaded.
            (Some(_), None) => (right, left, less, more),
            _ => (left, right, more, less),
        };
        let before = self.reversed.len();
        let k = known(b, high);
        let target = if more == less {
            self.branch(bpf::JEQ, k, equal, less)?
        } else if more == equal {
            self.branch(bpf::JGE, k, more, less)?
        } else if equal == less {
            self.branch(bpf::JGT, k, more, less)?
        } else {
            let rest = self.branch(bpf::JEQ, k, equal, less)?;
            self.branch(bpf::JGT, k, more, rest)?
        };
        if self.reversed.len() == before {
            return Ok(target);
        }
        match k {
            Some(_) => self.load(a, high, 0),
            None => self.load_both(a, b, high, 0),
        }
    }

    /// Puts `a` in A and `b` in X; `memory` is the first free word.
    fn load_both(
        &mut self,
        a: &Bits<Argument>,
        b: &Bits<Argument>,
        high: bool,
        memory: usize,
    ) -> Result<Target, Failure> {
        if matches!(a, Bits::Value(_)) {
            self.load(a, high, memory)?;
            self.write(bpf::TAX, 0)?;
        } else {
            let word = u32::try_from(memory).ok().filter(|_| memory < bpf::MEMORY_WORDS);
            let word = word.ok_or(Failure::Memory)?;
            self.write(bpf::LDX_MEM, word)?;
            self.load(a, high, memory + 1)?;
            self.write(bpf::ST, word)?;
        }
        self.load(b, high, memory)
    }

    /// Puts one word of a value in A.
    fn load(&mut self, value: &Bits<Argument>, high: bool, memory: usize) -> Result<Target, Failure> {
        if let Some(word) = known(value, high) {
            return self.write(bpf::LD_IMM, word);
        }
        let (code, left, right) = match value {
            Bits::Number(_) => return Err(Failure::Memory),
            Bits::Value(argument) => {
                return self.write(bpf::LD_ABS, bpf::argument_offset(argument.index, high));
            }
            Bits::And(left, right) => (bpf::ALU_AND, left, right),
            Bits::Or(left, right) => (bpf::ALU_OR, left, right),
        };
        let (a, b) = if known(left, high).is_some() { (right, left) } else { (left, right) };
        match known(b, high) {
            Some(word) => {
                let changes_nothing = if code == bpf::ALU_AND { u32::MAX } else { 0 };
                if word != changes_nothing {
                    self.write(code, word)?;
                }
                self.load(a, high, memory)
            }
            None => {
                self.write(code | bpf::WITH_X, 0)?;
                self.load_both(a, b, high, memory)
            }
        }
    }

    /// A test of A against `k`, or against X. Writes nothing when the outcome is known.
    fn branch(&mut self, code: u16, k: Option<u32>, yes: Target, no: Target) -> Result<Target, Failure> {
        match (code, k) {
            _ if yes == no => return Ok(yes),
            (bpf::JGE, Some(0)) => return Ok(yes),
            (bpf::JGT, Some(u32::MAX)) => return Ok(no),
            _ => {}
        }
        let yes = Target::At(self.reach(yes)?);
        let no = self.reach(no)?;
        // What the second wrote may have pushed the first out of reach; then the second is near for certain.
        let yes = self.reach(yes)?;
        let (jt, jf) = (self.distance(yes), self.distance(no));
        let (Ok(jt), Ok(jf)) = (u8::try_from(jt), u8::try_from(jf)) else { return Err(Failure::TooLong) };
        let code = if k.is_none() { code | bpf::WITH_X } else { code };
        self.push(Instruction { code, jt, jf, k: k.unwrap_or(0) })
    }

    /// The index of an instruction that does what the target does and that the next one can jump to.
    fn reach(&mut self, target: Target) -> Result<usize, Failure> {
        let known = match target {
            Target::At(index) => Some(index),
            Target::Act(action) => self.returns.get(&action).copied(),
        };
        if let Some(index) = known.filter(|index| self.distance(*index) <= MAX_JUMP) {
            return Ok(index);
        }
        match target {
            Target::At(index) => {
                let distance = u32::try_from(self.distance(index)).map_err(|_| Failure::TooLong)?;
                self.write(bpf::JA, distance)?;
            }
            Target::Act(action) => {
                self.write(bpf::RET, bpf::return_of(action))?;
                self.returns.insert(action, self.reversed.len() - 1);
            }
        }
        Ok(self.reversed.len() - 1)
    }

    /// Makes what the next instruction falls through to the target.
    fn enter(&mut self, target: Target) -> Result<(), Failure> {
        let index = self.reach(target)?;
        if index + 1 != self.reversed.len() {
            let distance = u32::try_from(self.distance(index)).map_err(|_| Failure::TooLong)?;
            self.write(bpf::JA, distance)?;
        }
        Ok(())
    }

    /// What an instruction written now would have to skip to get there.
    fn distance(&self, index: usize) -> usize {
        self.reversed.len() - 1 - index
    }

    fn write(&mut self, code: u16, k: u32) -> Result<Target, Failure> {
        self.push(Instruction { code, jt: 0, jf: 0, k })
    }

    fn push(&mut self, instruction: Instruction) -> Result<Target, Failure> {
        if self.reversed.len() == MAX_INSTRUCTIONS {
            return Err(Failure::TooLong);
        }
        self.reversed.push(instruction);
        Ok(Target::At(self.reversed.len() - 1))
    }
}

/// The value of a word that does not depend on the arguments.
fn known(value: &Bits<Argument>, high: bool) -> Option<u32> {
    match value {
        Bits::Number(number) => u32::try_from(if high { number >> 32 } else { number & 0xffff_ffff }).ok(),
        Bits::Value(_) => None,
        Bits::And(left, right) => match (known(left, high), known(right, high)) {
            (Some(left), Some(right)) => Some(left & right),
            (Some(0), None) | (None, Some(0)) => Some(0),
            _ => None,
        },
        Bits::Or(left, right) => match (known(left, high), known(right, high)) {
            (Some(left), Some(right)) => Some(left | right),
            (Some(u32::MAX), None) | (None, Some(u32::MAX)) => Some(u32::MAX),
            _ => None,
        },
    }
}

/// Whether a comparison with this value is about all 64 bits.
fn wide(value: &Bits<Argument>) -> bool {
    match value {
        Bits::Number(number) => u32::try_from(*number).is_err(),
        Bits::Value(argument) => argument.wide,
        Bits::And(left, right) | Bits::Or(left, right) => wide(left) || wide(right),
    }
}
