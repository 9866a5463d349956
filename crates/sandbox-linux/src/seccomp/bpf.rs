//! Classic BPF as seccomp runs it: the few instructions that [`emit`](super::emit) writes, and a machine for them.
//!
//! Shapes and numbers are those of linux/bpf_common.h and linux/seccomp.h. The machine follows kernel/seccomp.c; a
//! program that it cannot make sense of kills, as a jail's filter should.

use super::Action;

pub(super) const LD_ABS: u16 = 0x20;
pub(super) const LD_IMM: u16 = 0x00;
pub(super) const LDX_MEM: u16 = 0x61;
pub(super) const ST: u16 = 0x02;
pub(super) const TAX: u16 = 0x07;
pub(super) const ALU_OR: u16 = 0x44;
pub(super) const ALU_AND: u16 = 0x54;
pub(super) const JA: u16 = 0x05;
pub(super) const JEQ: u16 = 0x15;
pub(super) const JGT: u16 = 0x25;
pub(super) const JGE: u16 = 0x35;
pub(super) const RET: u16 = 0x06;
/// Added to an ALU or jump code: the operand is X, not the instruction's number.
pub(super) const WITH_X: u16 = 0x08;

/// Words of scratch memory.
pub(super) const MEMORY_WORDS: usize = 16;

/// Offsets in `struct seccomp_data`.
pub(super) const NR: u32 = 0;
pub(super) const ARCH: u32 = 4;

/// Offset of the low or the high word of an argument, on the little-endian machines that there are tables for.
pub(super) fn argument_offset(index: usize, high: bool) -> u32 {
    16 + 8 * u32::try_from(index).unwrap_or(u32::MAX / 16) + if high { 4 } else { 0 }
}

/// One instruction, with the fields of `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction {
    pub code: u16,
    /// Instructions to skip when a test holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    pub k: u32,
}

/// A filter that the kernel takes as it is: at most [`MAX_INSTRUCTIONS`](super::MAX_INSTRUCTIONS), forward jumps
/// only, ended by a return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    pub(super) fn new(instructions: Vec<Instruction>) -> Program {
        Program { instructions }
    }

    #[must_use]
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Every action that the program can end with, sorted.
    #[must_use]
    pub fn actions(&self) -> Vec<Action> {
        let returns = self.instructions.iter().filter(|instruction| instruction.code == RET);
        let mut actions: Vec<Action> = returns.map(|instruction| action_of(instruction.k)).collect();
        actions.sort_unstable();
        actions.dedup();
        actions
    }

    /// Whether some call is let through and noted in the kernel's log.
    #[must_use]
    pub fn logs(&self) -> bool {
        self.actions().contains(&Action::Log)
    }

    /// What the kernel would do with a call: its number, the machine (`AUDIT_ARCH_…`), the arguments, and the
    /// address that it comes from.
    #[must_use]
    pub fn run(&self, nr: u32, arch: u32, args: [u64; 6], ip: u64) -> Action {
        let mut data = [0_u32; 16];
        data[0] = nr;
        data[1] = arch;
        for (at, value) in std::iter::once(ip).chain(args).enumerate() {
            data[2 + 2 * at] = low(value);
            data[3 + 2 * at] = low(value >> 32);
        }
        self.execute(&data).map_or(Action::Kill, action_of)
    }

    fn execute(&self, data: &[u32; 16]) -> Option<u32> {
        let (mut a, mut x) = (0_u32, 0_u32);
        let mut memory = [0_u32; MEMORY_WORDS];
        let mut pc = 0_usize;
        // Jumps go forward only, so this ends.
        loop {
            let Instruction { code, jt, jf, k } = *self.instructions.get(pc)?;
            pc += 1;
            let word = usize::try_from(k).ok()?;
            let operand = if code & WITH_X != 0 { x } else { k };
            let mut jump = |holds: bool| pc += usize::from(if holds { jt } else { jf });
            match code {
                RET => return Some(k),
                LD_ABS if k.is_multiple_of(4) => a = *data.get(word / 4)?,
                LD_IMM => a = k,
                LDX_MEM => x = *memory.get(word)?,
                ST => *memory.get_mut(word)? = a,
                TAX => x = a,
                JA => pc = pc.checked_add(word)?,
                _ => match code & !WITH_X {
                    ALU_OR => a |= operand,
                    ALU_AND => a &= operand,
                    JEQ => jump(a == operand),
                    JGT => jump(a > operand),
                    JGE => jump(a >= operand),
                    _ => return None,
                },
            }
        }
    }
}

fn low(value: u64) -> u32 {
    // Truncation is the point.
    (value & u64::from(u32::MAX)) as u32
}

/// `SECCOMP_RET_…`.
pub(super) fn return_of(action: Action) -> u32 {
    match action {
        Action::KillProcess => 0x8000_0000,
        Action::Kill => 0,
        Action::Trap(value) => 0x0003_0000 | u32::from(value),
        Action::Errno(value) => 0x0005_0000 | u32::from(value),
        Action::Trace(value) => 0x7ff0_0000 | u32::from(value),
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
    }
}

fn action_of(value: u32) -> Action {
    let data = (value & 0xffff) as u16;
    match value & 0xffff_0000 {
        0x0003_0000 => Action::Trap(data),
        0x0005_0000 => Action::Errno(data),
        0x7ff0_0000 => Action::Trace(data),
        0x7ffc_0000 => Action::Log,
        0x7fff_0000 => Action::Allow,
        0 => Action::Kill,
        // The kernel takes what it does not know as the strongest.
        _ => Action::KillProcess,
    }
}
