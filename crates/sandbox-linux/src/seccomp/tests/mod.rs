//! What the compiler takes, what it refuses and where, and what its programs do: compared, by running them, with a
//! second reading of the source that shares only the parser.

mod grammar;
mod meaning;
mod random;
mod reference;
/// What runs beside nsjail.
#[path = "../../../tests/jails/kafel_sample.rs"]
mod sample;

use super::{Action, Arch, Program, compile};

const BOTH: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

/// Registers that tell widths and words apart.
const REGISTERS: [u64; 14] = [
    0,
    1,
    2,
    3,
    8,
    0x1234,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x1_0000_1234,
    0x8000_0000_0000_0000,
    0xf1f1_f1f1_0000_0000,
    u64::MAX,
];

fn native(source: &str) -> Program {
    compile(source, Arch::X86_64).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn run(source: &str, nr: u32, args: [u64; 6]) -> Action {
    native(source).run(nr, Arch::X86_64.audit(), args, 0)
}

/// What the kernel demands of a program before it runs it: length, jumps that stay inside, an end.
fn check_shape(program: &Program) {
    let instructions = program.instructions();
    assert!((1..=super::MAX_INSTRUCTIONS).contains(&instructions.len()));
    for (at, instruction) in instructions.iter().enumerate() {
        let targets = match instruction.code & 7 {
            5 if instruction.code == super::bpf::JA => vec![instruction.k as usize],
            5 => vec![usize::from(instruction.jt), usize::from(instruction.jf)],
            6 => continue,
            _ => vec![0],
        };
        for target in targets {
            assert!(at + 1 + target < instructions.len(), "{at}: {instruction:?}");
        }
    }
}
