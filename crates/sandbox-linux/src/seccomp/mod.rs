//! System call filters in the Kafel language, compiled to the kernel's classic BPF.
//!
//! nsjail's policies describe their filter in Kafel (`seccomp_string`), and a jail of our own has to give such a
//! text the same meaning. A source goes through four steps: `lexer` cuts it into tokens, `parser` and `condition`
//! build the `ast`, `rules` resolves names against the table of one architecture (`syscalls`) and sorts the rules by
//! system call, and `emit` writes the [`Program`]. `bpf` can also run a program, to show what it does with a call
//! and to test it.
//!
//! Language and meaning follow google/kafel (README, `src/parser.y`, `src/lexer.l`, `src/expression.c`). What nsjail
//! lets through by oversight is refused here:
//!
//! - Numbers from 0x4000_0000 on (x32 calls on x86_64) that no rule names go to KILL when DEFAULT would run them.
//!   nsjail sends them to DEFAULT, past every rule of a deny list.
//! - `08` (octal with a digit that is none, 0 to nsjail), a `SYSCALL[n]` that does not fit 32 bits (cut to them by
//!   nsjail), a NUL (the text ends there for nsjail) and a comment that closes with an even number of asterisks
//!   (which does not close it for nsjail) are errors.
//! - More than [`MAX_NESTING`] parentheses inside each other, or more than [`MAX_INSTRUCTIONS`], are errors here
//!   with a place; the latter nsjail learns from the kernel only.
//! - `#include` is an error, as it always is in nsjail, which sets no search path. So is USER_NOTIF, which nobody
//!   would answer.

mod ast;
mod bpf;
mod condition;
mod emit;
mod lexer;
mod parser;
mod rules;
mod syscalls;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;

pub use bpf::{Instruction, Program};
pub use syscalls::syscall_name;

/// Longer sources are refused; a whole nsjail policy may have as much.
pub const MAX_SOURCE_BYTES: usize = 1 << 20;
/// The longest program that the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// How deep the tree of a condition may be, as in Kafel.
pub const MAX_DEPTH: usize = 200;
/// How many parentheses and `!` may be open at once. Kafel takes more; reading them takes stack.
pub const MAX_NESTING: usize = 64;

/// A machine whose calls a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Arch {
    X86_64,
    Aarch64,
}

impl Arch {
    /// The machine that this program was built for.
    #[must_use]
    pub const fn native() -> Arch {
        #[cfg(target_arch = "x86_64")]
        return Arch::X86_64;
        #[cfg(target_arch = "aarch64")]
        return Arch::Aarch64;
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        compile_error!("there are tables of system calls for x86_64 and aarch64 only");
    }

    /// The kernel's number for it in `seccomp_data` (`AUDIT_ARCH_…` of linux/audit.h).
    #[must_use]
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

/// What the kernel does with a system call; the numbers are those of `SECCOMP_RET_DATA`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The thread dies of SIGSYS (`KILL`, `KILL_THREAD`, `DENY`).
    Kill,
    /// The whole process dies of SIGSYS.
    KillProcess,
    /// SIGSYS, which the program may handle.
    Trap(u16),
    /// The call is not made and fails with this errno; 0 reads as success.
    Errno(u16),
    /// A tracer decides; without one the call fails with ENOSYS.
    Trace(u16),
    /// The call is made and noted in the audit log.
    Log,
    /// The call is made.
    Allow,
}

impl Action {
    /// Whether the call is not made, whoever asks. A tracer may let it through, so `Trace` is no refusal.
    #[must_use]
    pub const fn refuses(self) -> bool {
        matches!(self, Action::Kill | Action::KillProcess | Action::Trap(_) | Action::Errno(_))
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Kill => f.write_str("KILL"),
            Action::KillProcess => f.write_str("KILL_PROCESS"),
            Action::Trap(n) => write!(f, "TRAP({n})"),
            Action::Errno(n) => write!(f, "ERRNO({n})"),
            Action::Trace(n) => write!(f, "TRACE({n})"),
            Action::Log => f.write_str("LOG"),
            Action::Allow => f.write_str("ALLOW"),
        }
    }
}

/// Where in a source something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Bytes of the source.
    pub span: Range<usize>,
}

impl Place {
    pub(crate) fn new(source: &str, span: Range<usize>) -> Place {
        let mut start = span.start.min(source.len());
        while !source.is_char_boundary(start) {
            start -= 1;
        }
        let before = &source[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            span: start..span.end.clamp(start, source.len()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// Why a source is not a filter. Each kind says where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KafelError {
    /// The text breaks the grammar.
    #[error("{place}: expected {expected}, found {found}")]
    Syntax { place: Place, expected: String, found: String },
    /// A name that stands for nothing.
    #[error("{place}: expected {expected}, found `{name}`")]
    Undefined { place: Place, expected: String, name: String },
    /// Something was given a second meaning.
    #[error("{place}: {what} `{name}` is defined twice")]
    Redefined { place: Place, what: &'static str, name: String },
    /// A number outside of what its place takes.
    #[error("{place}: expected {expected}, found {number}")]
    Range { place: Place, expected: String, number: String },
    /// Part of the language, but not of what this program can do.
    #[error("{place}: {feature} is not supported: {reason}")]
    Unsupported { place: Place, feature: &'static str, reason: &'static str },
    /// Too large or too deep.
    #[error("{place}: expected {limit}")]
    Limit { place: Place, limit: String },
}

impl KafelError {
    /// Line, column and bytes.
    #[must_use]
    pub fn place(&self) -> &Place {
        match self {
            KafelError::Syntax { place, .. }
            | KafelError::Undefined { place, .. }
            | KafelError::Redefined { place, .. }
            | KafelError::Range { place, .. }
            | KafelError::Unsupported { place, .. }
            | KafelError::Limit { place, .. } => place,
        }
    }
}

/// Compiles a policy for one machine. nsjail joins the `seccomp_string` fields of a policy with line ends first.
///
/// Calls of another machine's numbering (32-bit calls on x86_64, for example) are killed by every program.
///
/// # Errors
/// [`KafelError`], at the first mistake. Mistakes of grammar come before names that stand for nothing.
pub fn compile(source: &str, arch: Arch) -> Result<Program, KafelError> {
    let policy = parser::parse(source)?;
    let rules = rules::collect(source, &policy, arch)?;
    emit::emit(source, &rules, arch)
}
