//! Which device nodes may be opened and made: the OCI rules as v1 writes and as a v2 BPF program.
//!
//! Both start from nothing allowed, and a later rule outweighs an earlier one, for each kind of
//! access by itself: `allow rw` followed by `deny w` leaves `r`.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::bpf::{self, Instruction};

use crate::{Error, file};

/// Bits of an access, as `struct bpf_cgroup_dev_ctx` has them.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERY: u8 = MKNOD | READ | WRITE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Block,
    Char,
}

/// One OCI rule, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<i32>,
    minor: Option<i32>,
    access: u8,
}

impl Rule {
    fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, Error> {
        let invalid =
            |reason| Error::InvalidValue { field: "device rule", value: rule.to_string(), reason };
        let kind = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::A => Kind::Any,
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C | LinuxDeviceType::U => Kind::Char,
            LinuxDeviceType::P => return Err(invalid("a FIFO is no device")),
        };
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => i32::try_from(number)
                .ok()
                .filter(|number| *number >= 0)
                .map(Some)
                .ok_or_else(|| invalid("no device has such a number")),
        };
        let mut access = 0;
        for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
            access |= match letter {
                'r' => READ,
                'w' => WRITE,
                'm' => MKNOD,
                _ => return Err(invalid("access is made of r, w and m")),
            };
        }
        if access == 0 {
            return Err(invalid("access is empty"));
        }
        let (major, minor) = (number(rule.major())?, number(rule.minor())?);
        Ok(Self { allow: rule.allow(), kind, major, minor, access })
    }

    pub(crate) fn parse_all(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Self>, Error> {
        rules.iter().map(Self::parse).collect()
    }

    fn is_everything(self) -> bool {
        self.kind == Kind::Any
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == EVERY
    }

    /// Whether some device falls under both rules and some under one alone.
    fn overlaps_in_part(self, other: Self) -> bool {
        let meet = |a: Option<i32>, b: Option<i32>| a.is_none() || b.is_none() || a == b;
        self.kind == other.kind
            && self.access & other.access != 0
            && meet(self.major, other.major)
            && meet(self.minor, other.minor)
            && (self.major, self.minor) != (other.major, other.minor)
    }
}

/// As `devices.allow` and `devices.deny` take it. Type `a` would stand for every device whatever
/// the numbers, so a rule of that type with numbers is written once for each type.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::Any => "a",
            Kind::Block => "b",
            Kind::Char => "c",
        })?;
        for (separator, number) in [(' ', self.major), (':', self.minor)] {
            match number {
                Some(number) => write!(f, "{separator}{number}")?,
                None => write!(f, "{separator}*")?,
            }
        }
        f.write_str(" ")?;
        for (bit, letter) in [(READ, "r"), (WRITE, "w"), (MKNOD, "m")] {
            if self.access & bit != 0 {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// The rules as writes for v1: the file and the value, in order.
///
/// v1 keeps one default and a list of exceptions, and takes an exception back only by its exact
/// numbers. What that cannot express is refused rather than set wider or narrower than asked.
pub(crate) fn writes(rules: &[Rule]) -> Result<Vec<(&'static str, String)>, Error> {
    let file = |allow| if allow { "devices.allow" } else { "devices.deny" };
    // What came before a rule for everything no longer matters.
    let start = rules.iter().rposition(|rule| rule.is_everything());
    let default = start.is_some_and(|at| rules[at].allow);
    let mut writes = vec![(file(default), "a".to_owned())];
    let mut exceptions: Vec<Rule> = Vec::new();
    for rule in &rules[start.map_or(0, |at| at + 1)..] {
        let kinds: &[Kind] = match rule.kind {
            Kind::Any => &[Kind::Block, Kind::Char],
            Kind::Block => &[Kind::Block],
            Kind::Char => &[Kind::Char],
        };
        for &kind in kinds {
            let rule = Rule { kind, ..*rule };
            if rule.allow != default {
                exceptions.push(rule);
            } else if exceptions.iter().any(|exception| exception.overlaps_in_part(rule)) {
                return Err(Error::Unsupported {
                    field: format!("device rule \"{rule}\" within an opposite rule"),
                    on: "cgroup v1",
                });
            }
            writes.push((file(rule.allow), rule.to_string()));
        }
    }
    Ok(writes)
}

/// The program that was loaded last. Nearly all containers of a node have the same rules: they share
/// one, and are spared the 0.15 ms that loading takes.
#[derive(Debug, Default)]
pub(crate) struct LastProgram(Mutex<Option<(Vec<Rule>, Arc<OwnedFd>)>>);

impl LastProgram {
    /// Puts a program for the rules on a v2 directory in the place of any there. The new one is
    /// attached before the old ones go, so that nothing is ever open that both would deny.
    pub(crate) fn attach(&self, directory: &Path, rules: &[Rule]) -> Result<(), Error> {
        let failed = |step| move |errno| refused(directory, step, String::new(), errno);
        let cgroup = file::open(directory, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|errno| Error::read(directory, errno))?;
        let old = bpf::device_programs(cgroup.as_fd()).map_err(failed("list"))?;
        let load = || {
            bpf::load_device_program("minke_devices", &program(rules))
                .map(Arc::new)
                .map_err(|error| refused(directory, "load", error.log, error.errno))
        };
        // One program is attached to one cgroup once; the shared one may be among the old.
        let new = if old.is_empty() { self.get_or(rules, load)? } else { load()? };
        bpf::attach_device_program(cgroup.as_fd(), new.as_fd()).map_err(failed("attach"))?;
        old.iter().try_for_each(|old| {
            bpf::detach_device_program(cgroup.as_fd(), old.as_fd()).map_err(failed("detach"))
        })
    }

    fn get_or(
        &self,
        rules: &[Rule],
        load: impl FnOnce() -> Result<Arc<OwnedFd>, Error>,
    ) -> Result<Arc<OwnedFd>, Error> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((same, program)) if same == rules => Ok(program.clone()),
            _ => {
                let program = load()?;
                *last = Some((rules.to_vec(), program.clone()));
                Ok(program)
            }
        }
    }
}

fn refused(directory: &Path, step: &'static str, log: String, source: Errno) -> Error {
    Error::Devices { path: directory.to_owned(), step, log, source }
}

/// Registers of the program. 1 points to the context on entry.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const PENDING: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

/// Operation codes (linux/bpf.h): class, operation, source.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

const fn verdict(allow: bool) -> [Instruction; 2] {
    [instruction(MOVE, VERDICT, 0, 0, if allow { 1 } else { 0 }), instruction(EXIT, 0, 0, 0, 0)]
}

/// The program goes through the rules from the last to the first and keeps in `PENDING` the bits of the
/// access that none has decided yet. A deny that touches one of them ends it; so does an allow that
/// covers the last of them.
pub(crate) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, PENDING, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, PENDING, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        if rule.is_everything() {
            program.extend(verdict(rule.allow));
            return program;
        }
        let body = body(*rule);
        let kind = match rule.kind {
            Kind::Any => None,
            Kind::Block => Some(1),
            Kind::Char => Some(2),
        };
        let tests: Vec<_> = [(KIND, kind), (MAJOR, rule.major), (MINOR, rule.minor)]
            .into_iter()
            .filter_map(|(register, wanted)| Some((register, wanted?)))
            .collect();
        for (at, (register, wanted)) in tests.iter().enumerate() {
            let over = (tests.len() - at - 1 + body.len()) as i16;
            program.push(instruction(JUMP_NOT_EQUAL, *register, 0, over, *wanted));
        }
        program.extend(body);
    }
    program.extend(verdict(false));
    program
}

/// What a rule does to an access of its device.
fn body(rule: Rule) -> Vec<Instruction> {
    let access = i32::from(rule.access);
    let mut body = if rule.allow {
        vec![
            instruction(AND, PENDING, 0, 0, !access),
            instruction(JUMP_NOT_EQUAL, PENDING, 0, 2, 0),
        ]
    } else {
        vec![
            instruction(MOVE_REGISTER, SCRATCH, PENDING, 0, 0),
            instruction(AND, SCRATCH, 0, 0, access),
            instruction(JUMP_EQUAL, SCRATCH, 0, 2, 0),
        ]
    };
    body.extend(verdict(rule.allow));
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does; panics on anything that the generator does not emit.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0_usize;
        loop {
            let step = program[at];
            at += 1;
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            let immediate = i64::from(step.immediate) as u64;
            match step.code {
                LOAD_WORD => registers[to] = u64::from(context[step.offset as usize / 4]),
                MOVE => registers[to] = immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                JUMP_EQUAL if registers[to] == immediate => at += step.offset as usize,
                JUMP_NOT_EQUAL if registers[to] != immediate => at += step.offset as usize,
                JUMP_EQUAL | JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    /// The rules by their definition: each bit is as the last rule that names it says.
    fn allowed(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let fits = |rule: &Rule| {
            (rule.kind == Kind::Any || (rule.kind == Kind::Block) == (kind == 1))
                && rule.major.is_none_or(|number| number as u32 == major)
                && rule.minor.is_none_or(|number| number as u32 == minor)
        };
        [1, 2, 4].into_iter().filter(|bit| access & bit != 0).all(|bit| {
            let last = |rule: &&Rule| fits(rule) && u32::from(rule.access) & bit != 0;
            rules.iter().rev().find(last).is_some_and(|rule| rule.allow)
        })
    }

    fn rule(allow: bool, text: &str) -> Rule {
        let mut words = text.split([' ', ':']);
        let kind = match words.next() {
            Some("b") => Kind::Block,
            Some("c") => Kind::Char,
            _ => Kind::Any,
        };
        let mut number = || words.next().unwrap().parse().ok();
        let (major, minor) = (number(), number());
        let access = words.next().unwrap().chars().fold(0, |bits, letter| {
            bits | match letter {
                'r' => READ,
                'w' => WRITE,
                _ => MKNOD,
            }
        });
        Rule { allow, kind, major, minor, access }
    }

    #[test]
    fn the_program_decides_as_the_rules_are_defined() {
        let texts =
            ["a *:* rwm", "c *:* m", "b 8:* r", "c 1:5 rw", "c 1:5 w", "c 1:* rm", "a 1:3 rwm"];
        let pool: Vec<_> =
            texts.iter().flat_map(|text| [rule(true, text), rule(false, text)]).collect();
        for first in &pool {
            for second in &pool {
                for third in &pool {
                    let rules = [*first, *second, *third];
                    let program = program(&rules);
                    for kind in [1, 2] {
                        for access in 1..8 {
                            for (major, minor) in [(1, 3), (1, 5), (8, 0), (8, 1), (10, 200)] {
                                assert_eq!(
                                    run(&program, kind, access, major, minor),
                                    allowed(&rules, kind, access, major, minor),
                                    "{rules:?} {kind} {access} {major}:{minor}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_allowed_without_a_rule() {
        assert!(!run(&program(&[]), 2, 2, 1, 3));
        assert_eq!(writes(&[]).unwrap(), [("devices.deny", "a".to_owned())]);
    }

    #[test]
    fn v1_forgets_what_a_rule_for_everything_replaces() {
        let rules = [
            rule(true, "c 1:3 rwm"),
            rule(false, "a *:* rwm"),
            rule(true, "c *:* m"),
            rule(true, "a 1:5 rw"),
        ];
        let expected = [
            ("devices.deny", "a"),
            ("devices.allow", "c *:* m"),
            ("devices.allow", "b 1:5 rw"),
            ("devices.allow", "c 1:5 rw"),
        ];
        assert_eq!(writes(&rules).unwrap(), expected.map(|(file, value)| (file, value.to_owned())));
    }

    #[test]
    fn v1_refuses_what_it_cannot_express() {
        let nothing = rule(false, "a *:* rwm");
        let hole = [nothing, rule(true, "c *:* m"), rule(false, "c 1:3 rm")];
        assert!(matches!(writes(&hole), Err(Error::Unsupported { .. })));
        let taken_back = [nothing, rule(true, "c 1:3 rw"), rule(false, "c 1:3 w")];
        assert_eq!(writes(&taken_back).unwrap().len(), 3);
        let apart =
            [nothing, rule(true, "c 1:* r"), rule(false, "c 2:3 r"), rule(false, "b 1:3 r")];
        assert_eq!(writes(&apart).unwrap().len(), 4);
        let island = [rule(true, "a *:* rwm"), rule(false, "c *:* rwm"), rule(true, "c 1:3 r")];
        assert!(matches!(writes(&island), Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_rule_that_makes_no_sense_is_refused() {
        let parse = |text: &str| {
            let rule: LinuxDeviceCgroup = serde_json::from_str(text).unwrap();
            Rule::parse(&rule)
        };
        assert!(parse(r#"{"allow":true,"type":"c","major":1,"minor":3,"access":"rx"}"#).is_err());
        assert!(parse(r#"{"allow":true,"type":"c","major":-2,"access":"r"}"#).is_err());
        assert!(parse(r#"{"allow":true,"type":"p","access":"r"}"#).is_err());
        assert!(parse(r#"{"allow":true,"type":"c","access":""}"#).is_err());
        assert_eq!(parse(r#"{"allow":false}"#).unwrap(), rule(false, "a *:* rwm"));
    }
}
