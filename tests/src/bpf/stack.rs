//! How much stack a program takes, from its instructions as the kernel holds them. By hand, since the verifier says it
//! only to whoever loads the program.

use anyhow::{Context, Result, ensure};

/// The frame pointer: a stack grows down from what it holds.
const FRAME: u8 = 10;
/// More cannot be nested.
const CALLS: u32 = 8;

/// What all instructions have in common.
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    to: u8,
    from: u8,
    offset: i16,
    value: i32,
}

impl From<u64> for Instruction {
    fn from(word: u64) -> Instruction {
        let [code, registers, low, high, value @ ..] = word.to_le_bytes();
        Instruction {
            code,
            to: registers & 15,
            from: registers >> 4,
            offset: i16::from_le_bytes([low, high]),
            value: i32::from_le_bytes(value),
        }
    }
}

impl Instruction {
    /// The first instruction of the function that the one at `index` calls. A program that was translated to native code
    /// has the distance in the offset.
    fn called(self, index: usize) -> Option<usize> {
        const CALL: u8 = 0x85;
        const FUNCTION: u8 = 1;
        (self.code == CALL && self.from == FUNCTION)
            .then(|| (index + 1).saturating_add_signed(isize::from(self.offset)))
    }

    /// How far below the frame pointer it reaches. `next` follows it: an address on the stack is a copy of the frame
    /// pointer, then a sum.
    fn reach(self, next: Option<Instruction>) -> u32 {
        const COPY: u8 = 0xbf;
        const ADD: u8 = 0x07;
        let below = match self.code & 7 {
            // Loads have the address on the right, stores on the left.
            1 if self.from == FRAME => i32::from(self.offset),
            2 | 3 if self.to == FRAME => i32::from(self.offset),
            _ if self.code == COPY && self.from == FRAME => {
                next.filter(|next| next.code == ADD && next.to == self.to).map_or(0, |next| next.value)
            }
            _ => 0,
        };
        below.min(0).unsigned_abs()
    }
}

/// Bytes of stack in the deepest chain of calls, each function's own rounded up as the verifier does.
pub fn deepest(words: &[u64]) -> Result<u32> {
    let instructions: Vec<Instruction> = words.iter().copied().map(Instruction::from).collect();
    let mut starts: Vec<usize> =
        instructions.iter().enumerate().filter_map(|(index, instruction)| instruction.called(index)).collect();
    starts.push(0);
    starts.sort_unstable();
    starts.dedup();
    chain(&instructions, &starts, 0, CALLS)
}

fn chain(instructions: &[Instruction], starts: &[usize], start: usize, depth: u32) -> Result<u32> {
    const GRAIN: u32 = 32;
    ensure!(depth > 0, "a chain of more than {CALLS} calls");
    let end = starts.iter().copied().find(|&next| next > start).unwrap_or(instructions.len());
    let body = instructions.get(start..end).context("a call that leads out of the program")?;
    let mut own = 1;
    let mut below = 0;
    for (index, instruction) in body.iter().enumerate() {
        own = own.max(instruction.reach(body.get(index + 1).copied()));
        if let Some(called) = instruction.called(start + index) {
            below = below.max(chain(instructions, starts, called, depth - 1)?);
        }
    }
    Ok(own.next_multiple_of(GRAIN) + below)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXIT: u64 = 0x95;

    fn word(code: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = value.to_le_bytes();
        u64::from_le_bytes([code, from << 4 | to, low, high, a, b, c, d])
    }

    #[test]
    fn loads_stores_and_addresses_reach_below_the_frame_pointer() {
        let rows = [
            (vec![EXIT], 32),
            (vec![word(0x7b, 10, 1, -40, 0), EXIT], 64),
            (vec![word(0x79, 1, 10, -72, 0), EXIT], 96),
            (vec![word(0xbf, 2, 10, 0, 0), word(0x07, 2, 0, 0, -128), EXIT], 128),
            // Another register is no frame pointer, and a sum of another register is no address on the stack.
            (vec![word(0x7b, 9, 1, -400, 0), EXIT], 32),
            (vec![word(0xbf, 2, 10, 0, 0), word(0x07, 3, 0, 0, -128), EXIT], 32),
        ];
        for (number, (words, expected)) in rows.into_iter().enumerate() {
            assert_eq!(deepest(&words).unwrap(), expected, "row {number}");
        }
    }

    #[test]
    fn a_chain_of_calls_adds_up() {
        let call = |offset| word(0x85, 0, 1, offset, 1);
        let store = |offset| word(0x7b, 10, 1, offset, 0);
        // Two functions that the first calls one after the other; the second of them calls the third.
        let words = [store(-8), call(2), call(3), EXIT, store(-100), EXIT, store(-64), call(1), EXIT, store(-60), EXIT];
        assert_eq!(deepest(&words).unwrap(), 32 + 64 + 64);
        let recursive = [call(-1), EXIT];
        assert!(deepest(&recursive).is_err());
        assert!(deepest(&[call(100), EXIT]).is_err());
    }
}
