//! Classic BPF, written from its end: each instruction knows where it jumps to.

use std::collections::HashMap;

/// Operation codes (linux/bpf_common.h): class, size or operation, mode or source.
pub(crate) const LOAD: u16 = 0x20;
pub(crate) const AND: u16 = 0x54;
pub(crate) const JUMP: u16 = 0x05;
pub(crate) const JUMP_EQUAL: u16 = 0x15;
pub(crate) const JUMP_GREATER: u16 = 0x25;
pub(crate) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(crate) const RETURN: u16 = 0x06;

/// A conditional jump reaches 255 instructions. What lies farther is reached through an unconditional
/// one; the margin is for those that one branch may need itself.
const REACH: usize = 250;

/// One instruction (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) jump_true: u8,
    pub(crate) jump_false: u8,
    pub(crate) operand: u32,
}

/// An instruction that has been written, counted from the end of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// The test of a branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Default)]
pub(crate) struct Assembler {
    reversed: Vec<Instruction>,
    returns: HashMap<u32, Label>,
}

impl Assembler {
    /// The program in its order; it starts with what was written last.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    /// An end with this verdict, shared where one is near.
    pub(crate) fn end(&mut self, verdict: u32) -> Label {
        if let Some(&label) = self.returns.get(&verdict)
            && self.distance(label) < REACH
        {
            return label;
        }
        let label = self.push(RETURN, 0, 0, verdict);
        self.returns.insert(verdict, label);
        label
    }

    /// Loads a word of `struct seccomp_data`.
    pub(crate) fn load(&mut self, offset: u32, next: Label) -> Label {
        self.flow_into(next);
        self.push(LOAD, 0, 0, offset)
    }

    /// Masks the loaded word.
    pub(crate) fn and(&mut self, mask: u32, next: Label) -> Label {
        self.flow_into(next);
        self.push(AND, 0, 0, mask)
    }

    /// Tests the loaded word.
    pub(crate) fn branch(&mut self, test: Test, operand: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.bring_near(yes);
        let no = self.bring_near(no);
        let code = match test {
            Test::Equal => JUMP_EQUAL,
            Test::Greater => JUMP_GREATER,
            Test::GreaterEqual => JUMP_GREATER_EQUAL,
        };
        let (yes, no) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.push(code, yes, no, operand)
    }

    /// Makes `next` what follows the instruction that is written next.
    fn flow_into(&mut self, next: Label) {
        let distance = self.distance(next);
        if distance > 0 {
            self.push(JUMP, 0, 0, distance as u32);
        }
    }

    fn bring_near(&mut self, label: Label) -> Label {
        match self.distance(label) {
            near if near < REACH => label,
            far => self.push(JUMP, 0, 0, far as u32),
        }
    }

    /// How many instructions lie between the one that is written next and `label`.
    fn distance(&self, label: Label) -> usize {
        self.reversed.len() - label.0 - 1
    }

    fn push(&mut self, code: u16, jump_true: u8, jump_false: u8, operand: u32) -> Label {
        self.reversed.push(Instruction { code, jump_true, jump_false, operand });
        Label(self.reversed.len() - 1)
    }
}
