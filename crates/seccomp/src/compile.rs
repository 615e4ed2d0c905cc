use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};

use crate::assembler::{Assembler, Instruction, Label, Test};
use crate::syscalls::{Abi, X32_BIT};

/// The kernel's limit on the length of one program.
const LENGTH_MAX: usize = 4096;
const ARGUMENTS: usize = 6;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Flags of seccomp(2).
const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This processor's call numbers are not known.
    #[error("seccomp filters are not supported on {0}")]
    Processor(&'static str),
    /// The kernel would hand calls to a supervisor, and there is none.
    #[error("seccomp action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// A condition on an argument that no call has.
    #[error("seccomp rule for {names:?} has a condition on argument {index}; the last is 5")]
    Argument {
        /// The calls.
        names: Vec<String>,
        /// The argument.
        index: usize,
    },
    /// More rules than one program holds.
    #[error("seccomp profile makes {length} instructions; the kernel takes {LENGTH_MAX}")]
    TooLong {
        /// Instructions.
        length: usize,
    },
}

/// A compiled filter, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<[u8; 8]>,
    flags: u32,
}

impl Program {
    /// The instructions as the kernel reads them: `struct sock_filter`, one after another, without
    /// padding, in this machine's byte order.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.instructions.as_flattened()
    }

    /// The number of instructions.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "no program is empty")]
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// The flags of seccomp(2): `SECCOMP_FILTER_FLAG_LOG` and `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
    /// TSYNC has no meaning for a process of one thread, and WAIT_KILLABLE_RECV none without a
    /// supervisor.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags
    }
}

/// Compiles a profile for the processor that this runs on, and those of its other ABIs that the profile
/// names.
///
/// # Errors
/// [`Error`]. Unknown call names are none.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let instructions = instructions(Machine::native()?, profile)?;
    let flags = profile.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync
                | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 0,
            }
    });
    let instructions = instructions.iter().map(bytes).collect();
    Ok(Program { instructions, flags })
}

fn bytes(instruction: &Instruction) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..2].copy_from_slice(&instruction.code.to_ne_bytes());
    bytes[2] = instruction.jump_true;
    bytes[3] = instruction.jump_false;
    bytes[4..].copy_from_slice(&instruction.operand.to_ne_bytes());
    bytes
}

/// A processor and its ABIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    fn native() -> Result<Self, Error> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(Error::Processor(other)),
        }
    }
}

/// AUDIT_ARCH_* (linux/audit.h).
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARM: u32 = 0x4000_0028;

pub(crate) fn instructions(
    machine: Machine,
    profile: &LinuxSeccomp,
) -> Result<Vec<Instruction>, Error> {
    let rules = Rules::of(profile)?;
    let named = |arch| profile.architectures().iter().flatten().any(|other| *other == arch);
    let mut assembler = Assembler::default();
    let foreign = assembler.end(LinuxSeccompAction::ScmpActKillThread.as_u32(None));
    let ((native, native_code), (other, other_code)) = match machine {
        Machine::X86_64 => {
            let x86 = named(Arch::ScmpArchX86)
                .then(|| numbers(&mut assembler, &rules, Abi::X86))
                .map(|tree| assembler.load(NUMBER, tree));
            let x32 = named(Arch::ScmpArchX32).then(|| numbers(&mut assembler, &rules, Abi::X32));
            let plain = numbers(&mut assembler, &rules, Abi::X86_64);
            let x32 = x32.unwrap_or_else(|| {
                // A tracer sets the number -1 to skip a call; it is of no ABI.
                let skipped = assembler.end(rules.default);
                assembler.branch(Test::Equal, u32::MAX, skipped, foreign)
            });
            let split = assembler.branch(Test::GreaterEqual, X32_BIT, x32, plain);
            ((AUDIT_X86_64, assembler.load(NUMBER, split)), (AUDIT_I386, x86))
        }
        Machine::Aarch64 => {
            let arm = named(Arch::ScmpArchArm)
                .then(|| numbers(&mut assembler, &rules, Abi::Arm))
                .map(|tree| assembler.load(NUMBER, tree));
            let tree = numbers(&mut assembler, &rules, Abi::Aarch64);
            ((AUDIT_AARCH64, assembler.load(NUMBER, tree)), (AUDIT_ARM, arm))
        }
    };
    let other = match other_code {
        Some(code) => assembler.branch(Test::Equal, other, code, foreign),
        None => foreign,
    };
    let start = assembler.branch(Test::Equal, native, native_code, other);
    assembler.load(ARCHITECTURE, start);
    let instructions = assembler.finish();
    match instructions.len() {
        length if length > LENGTH_MAX => Err(Error::TooLong { length }),
        _ => Ok(instructions),
    }
}

/// A profile with its actions as the kernel's return values and its rules one by one.
struct Rules<'a> {
    default: u32,
    /// What calls get that are newer than all named ones.
    newer: u32,
    rules: Vec<(&'a LinuxSyscall, Rule<'a>)>,
    names: Vec<&'a str>,
}

/// When all conditions hold, the verdict.
#[derive(Debug)]
struct Rule<'a> {
    conditions: Vec<&'a LinuxSeccompArg>,
    verdict: u32,
}

impl<'a> Rules<'a> {
    fn of(profile: &'a LinuxSeccomp) -> Result<Self, Error> {
        let default = verdict(profile.default_action(), profile.default_errno_ret())?;
        let permissive = matches!(
            profile.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let newer = match permissive {
            true => default,
            false => LinuxSeccompAction::ScmpActErrno.as_u32(Some(ENOSYS)),
        };
        let mut rules = Vec::new();
        let mut names = Vec::new();
        for syscall in profile.syscalls().iter().flatten() {
            names.extend(syscall.names().iter().map(String::as_str));
            let verdict = verdict(syscall.action(), syscall.errno_ret())?;
            let conditions: Vec<_> = syscall.args().iter().flatten().collect();
            if let Some(bad) = conditions.iter().find(|arg| arg.index() >= ARGUMENTS) {
                let (names, index) = (syscall.names().clone(), bad.index());
                return Err(Error::Argument { names, index });
            }
            if verdict == default {
                continue;
            }
            if repeats(&conditions) {
                let each = conditions.into_iter().map(|condition| vec![condition]);
                rules.extend(each.map(|conditions| (syscall, Rule { conditions, verdict })));
            } else {
                rules.push((syscall, Rule { conditions, verdict }));
            }
        }
        Ok(Self { default, newer, rules, names })
    }

    /// The rules of each call that has any.
    fn by_number(&self, abi: Abi) -> BTreeMap<u32, Vec<Entry<'_>>> {
        let mut calls: BTreeMap<u32, Vec<Entry<'_>>> = BTreeMap::new();
        let mut add = |number, which, rule| {
            let entry = Entry { which, rule };
            let entries = calls.entry(number).or_default();
            match entries.last() {
                Some(last) if last.is_unconditional() => {}
                _ if entry.is_unconditional() => *entries = vec![entry],
                _ => entries.push(entry),
            }
        };
        for (syscall, rule) in &self.rules {
            for name in syscall.names() {
                if let Some((number, which)) = abi.multiplexed(name) {
                    add(number, Some(which), rule);
                }
                if let Some(number) = abi.number(name) {
                    add(number, None, rule);
                }
            }
        }
        calls
    }
}

/// A rule at a call number: the call itself, or one of those that a multiplexer serves.
#[derive(Debug)]
struct Entry<'a> {
    which: Option<u32>,
    rule: &'a Rule<'a>,
}

impl Entry<'_> {
    fn is_unconditional(&self) -> bool {
        self.which.is_none() && self.rule.conditions.is_empty()
    }
}

fn repeats(conditions: &[&LinuxSeccompArg]) -> bool {
    conditions.iter().enumerate().any(|(at, condition)| {
        conditions[..at].iter().any(|other| other.index() == condition.index())
    })
}

fn verdict(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, Error> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(Error::Notify),
        action => Ok(action.as_u32(Some(errno.unwrap_or(EPERM) & 0xffff))),
    }
}

/// Numbers from `start` to the next range's.
struct Range<'a> {
    start: u32,
    entries: Vec<Entry<'a>>,
    /// What calls get for which none of the entries fits.
    otherwise: u32,
}

/// The code for one ABI; it expects the call's number loaded.
fn numbers(assembler: &mut Assembler, rules: &Rules<'_>, abi: Abi) -> Label {
    let calls = rules.by_number(abi);
    let newest = rules.names.iter().filter_map(|name| abi.number(name)).max();
    let plain = |start, otherwise| Range { start, entries: Vec::new(), otherwise };
    let mut ranges = vec![plain(0, rules.default)];
    for (number, mut entries) in calls {
        let mut otherwise = rules.default;
        if let [entry] = entries.as_slice()
            && entry.is_unconditional()
        {
            otherwise = entry.rule.verdict;
            entries.clear();
        }
        ranges.push(Range { start: number, entries, otherwise });
        ranges.push(plain(number + 1, rules.default));
    }
    if let Some(newest) = newest {
        ranges.push(plain(newest + 1, rules.newer));
    }
    // Of ranges that begin at one number the last is meant; equal neighbours are one.
    ranges.reverse();
    ranges.dedup_by_key(|range| range.start);
    ranges.reverse();
    ranges.dedup_by(|later, earlier| {
        later.entries.is_empty()
            && earlier.entries.is_empty()
            && later.otherwise == earlier.otherwise
    });
    search(assembler, &ranges, abi)
}

fn search(assembler: &mut Assembler, ranges: &[Range<'_>], abi: Abi) -> Label {
    match ranges {
        [] => assembler.end(0),
        [range] => decide(assembler, range, abi),
        _ => {
            let (lower, upper) = ranges.split_at(ranges.len() / 2);
            let start = upper[0].start;
            let upper = search(assembler, upper, abi);
            let lower = search(assembler, lower, abi);
            assembler.branch(Test::GreaterEqual, start, upper, lower)
        }
    }
}

fn decide(assembler: &mut Assembler, range: &Range<'_>, abi: Abi) -> Label {
    let mut otherwise = assembler.end(range.otherwise);
    for entry in range.entries.iter().rev() {
        let mut then = assembler.end(entry.rule.verdict);
        for condition in entry.rule.conditions.iter().rev() {
            // Which call it is takes the place of the first argument; the true one is in memory.
            if entry.which.is_none() || condition.index() != 0 {
                then = compare(assembler, condition, abi.is_wide(), then, otherwise);
            }
        }
        if let Some(which) = entry.which {
            let test = assembler.branch(Test::Equal, which, then, otherwise);
            then = assembler.load(FIRST_ARGUMENT, test);
        }
        otherwise = then;
    }
    otherwise
}

/// One condition: on to `yes` where it holds, to `no` where it does not.
fn compare(
    assembler: &mut Assembler,
    condition: &LinuxSeccompArg,
    wide: bool,
    yes: Label,
    no: Label,
) -> Label {
    use LinuxSeccompOperator as Operator;
    let value = condition.value();
    let mut word = Words { assembler, argument: condition.index() as u32, wide };
    match condition.op() {
        Operator::ScmpCmpEq => word.masked_equal(u64::MAX, value, yes, no),
        Operator::ScmpCmpNe => word.masked_equal(u64::MAX, value, no, yes),
        Operator::ScmpCmpMaskedEq => {
            // Bits outside the mask are not looked at on either side.
            word.masked_equal(value, condition.value_two().unwrap_or(0) & value, yes, no)
        }
        Operator::ScmpCmpGt => word.above(Test::Greater, value, yes, no),
        Operator::ScmpCmpLe => word.above(Test::Greater, value, no, yes),
        Operator::ScmpCmpGe => word.above(Test::GreaterEqual, value, yes, no),
        Operator::ScmpCmpLt => word.above(Test::GreaterEqual, value, no, yes),
    }
}

/// An argument as the two words that a program can load. Both machines are little-endian.
struct Words<'a> {
    assembler: &'a mut Assembler,
    argument: u32,
    wide: bool,
}

impl Words<'_> {
    fn lower(&self) -> u32 {
        FIRST_ARGUMENT + 8 * self.argument
    }

    fn upper(&self) -> u32 {
        self.lower() + 4
    }

    fn masked_equal(&mut self, mask: u64, value: u64, yes: Label, no: Label) -> Label {
        let lower = self.word_equal(self.lower(), mask as u32, value as u32, yes, no);
        if !self.wide {
            return lower;
        }
        self.word_equal(self.upper(), (mask >> 32) as u32, (value >> 32) as u32, lower, no)
    }

    fn word_equal(&mut self, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
        if mask == 0 && value == 0 {
            return yes;
        }
        let mut test = self.assembler.branch(Test::Equal, value, yes, no);
        if mask != u32::MAX {
            test = self.assembler.and(mask, test);
        }
        self.assembler.load(offset, test)
    }

    /// `test` decides by the lower words where the upper ones are equal.
    fn above(&mut self, test: Test, value: u64, yes: Label, no: Label) -> Label {
        let lower = self.assembler.branch(test, value as u32, yes, no);
        let lower = self.assembler.load(self.lower(), lower);
        if !self.wide {
            return lower;
        }
        let upper = (value >> 32) as u32;
        let equal = self.assembler.branch(Test::Equal, upper, lower, no);
        let above = self.assembler.branch(Test::Greater, upper, yes, equal);
        self.assembler.load(self.upper(), above)
    }
}
