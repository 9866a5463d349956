//! The shape of a source. Constants and policies are looked up while reading, as in Kafel, because a later
//! definition does not count; names of calls and of arguments wait until the architecture is known.

use std::ops::Range;

use super::Action;

/// A word of the source and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub text: &'a str,
    pub span: Range<usize>,
}

/// A whole source.
#[derive(Debug, Default)]
pub(super) struct Ast<'a> {
    pub policies: Vec<Vec<Statement<'a>>>,
    /// The statements outside of policies: what is compiled.
    pub main: Vec<Statement<'a>>,
    pub default: Option<Action>,
}

#[derive(Debug)]
pub(super) enum Statement<'a> {
    /// Index of an earlier policy.
    Use(usize),
    Act {
        action: Action,
        filters: Vec<Filter<'a>>,
    },
}

/// One system call and when the rule is about it.
#[derive(Debug)]
pub(super) struct Filter<'a> {
    pub call: Call<'a>,
    pub span: Range<usize>,
    /// Names given to the arguments, 64 bits each; they replace those of the table.
    pub arguments: Option<Vec<Name<'a>>>,
    pub machines: Option<Machines>,
    pub condition: Option<Condition<Name<'a>>>,
}

#[derive(Debug)]
pub(super) enum Call<'a> {
    Named(Name<'a>),
    Number(u32),
}

/// A set of Kafel's architectures, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machines(pub u8);

impl Machines {
    pub(super) const X86_64: Machines = Machines(1);
    pub(super) const AARCH64: Machines = Machines(2);

    /// Case does not matter.
    pub(super) fn named(name: &str) -> Option<Machines> {
        Some(match name.to_ascii_lowercase().as_str() {
            "x86_64" | "amd64" => Self::X86_64,
            "aarch64" | "arm64" => Self::AARCH64,
            "arm" => Machines(4),
            "x86" | "i386" => Machines(8),
            "mips" | "mipso32" => Machines(16),
            "mips64" => Machines(32),
            "riscv64" | "rv64" => Machines(64),
            "m68k" => Machines(128),
            _ => return None,
        })
    }

    pub(super) fn contains(self, other: Machines) -> bool {
        self.0 & other.0 != 0
    }
}

/// A test of arguments. `V` is what stands for one: a name here, its place in the registers in
/// [`rules`](super::rules).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition<V> {
    Not(Box<Condition<V>>),
    And(Box<Condition<V>>, Box<Condition<V>>),
    Or(Box<Condition<V>>, Box<Condition<V>>),
    /// Unsigned.
    Compare(Comparison, Bits<V>, Bits<V>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A value made of arguments and numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Bits<V> {
    Number(u64),
    Value(V),
    And(Box<Bits<V>>, Box<Bits<V>>),
    Or(Box<Bits<V>>, Box<Bits<V>>),
}
