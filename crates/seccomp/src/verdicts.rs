//! Compiled programs against profiles read word by word.

use std::collections::HashMap;

use oci_spec::runtime::{
    Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator,
};

use crate::assembler::{
    AND, Instruction, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, RETURN,
};
use crate::compile::{Error, Machine, instructions};
use crate::syscalls::{Abi, X32_BIT};
use crate::{KernelVersion, compile, default_profile};

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x5_0001;
const ENOSYS: u32 = 0x5_0026;
const KILL_THREAD: u32 = 0;

/// Each ABI with its machine, what the kernel calls it, and its name in a profile.
const ABIS: [(Machine, u32, Abi, Arch); 5] = [
    (Machine::X86_64, 0xc000_003e, Abi::X86_64, Arch::ScmpArchX86_64),
    (Machine::X86_64, 0x4000_0003, Abi::X86, Arch::ScmpArchX86),
    (Machine::X86_64, 0xc000_003e, Abi::X32, Arch::ScmpArchX32),
    (Machine::Aarch64, 0xc000_00b7, Abi::Aarch64, Arch::ScmpArchAarch64),
    (Machine::Aarch64, 0x4000_0028, Abi::Arm, Arch::ScmpArchArm),
];

/// Runs a program as the kernel does; a jump out of it or an unknown instruction panics.
fn run(program: &[Instruction], arch: u32, number: u32, arguments: &[u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_le_bytes());
    data.extend(arch.to_le_bytes());
    data.extend([0; 8]);
    arguments.iter().for_each(|argument| data.extend(argument.to_le_bytes()));
    let (mut word, mut at) = (0, 0);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        let branch = |taken| usize::from(if taken { jump_true } else { jump_false });
        at += 1;
        match code {
            LOAD => {
                let offset = operand as usize;
                word = u32::from_le_bytes(data[offset..offset + 4].try_into().unwrap());
            }
            AND => word &= operand,
            JUMP => at += operand as usize,
            JUMP_EQUAL => at += branch(word == operand),
            JUMP_GREATER => at += branch(word > operand),
            JUMP_GREATER_EQUAL => at += branch(word >= operand),
            RETURN => return operand,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

/// Which of the calls behind a multiplexer is meant, the conditions, and the verdict.
type Line<'a> = (Option<u32>, &'a [LinuxSeccompArg], u32);

/// A profile on one ABI, word by word.
struct Said<'a> {
    abi: Abi,
    default: u32,
    /// The highest number that is named, where calls above it get ENOSYS.
    newest: Option<u32>,
    /// By number, in the profile's order.
    rules: HashMap<u32, Vec<Line<'a>>>,
}

impl<'a> Said<'a> {
    fn new(profile: &'a LinuxSeccomp, abi: Abi) -> Self {
        let default = profile.default_action().as_u32(profile.default_errno_ret());
        let rules = || profile.syscalls().iter().flatten();
        let named = rules().flat_map(|rule| rule.names());
        let permissive = matches!(
            profile.default_action(),
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
        );
        let newest = named.filter_map(|name| abi.number(name)).max().filter(|_| !permissive);
        let mut said = Self { abi, default, newest, rules: HashMap::new() };
        for rule in rules() {
            let verdict = rule.action().as_u32(rule.errno_ret());
            let conditions = rule.args().as_deref().unwrap_or_default();
            for name in rule.names().iter().filter(|_| verdict != default) {
                let direct = abi.number(name).map(|number| (number, None));
                let shared = abi.multiplexed(name).map(|(number, which)| (number, Some(which)));
                for (number, which) in direct.into_iter().chain(shared) {
                    said.rules.entry(number).or_default().push((which, conditions, verdict));
                }
            }
        }
        said
    }

    fn verdict(&self, number: u32, arguments: &[u64; 6]) -> u32 {
        if self.newest.is_some_and(|newest| number > newest) {
            return ENOSYS;
        }
        let Some(rules) = self.rules.get(&number) else { return self.default };
        let plain = rules.iter().find(|(which, args, _)| which.is_none() && args.is_empty());
        let fits = |(which, conditions, _): &&Line<'_>| {
            let fits = |arg: &LinuxSeccompArg| {
                which.is_some() && arg.index() == 0 || holds(arg, self.abi, arguments[arg.index()])
            };
            let several = |arg: &LinuxSeccompArg| {
                conditions.iter().filter(|other| other.index() == arg.index()).count() > 1
            };
            which.is_none_or(|which| arguments[0] as u32 == which)
                && match conditions.iter().any(several) {
                    true => conditions.iter().any(fits),
                    false => conditions.iter().all(fits),
                }
        };
        plain.or_else(|| rules.iter().find(fits)).map_or(self.default, |(_, _, verdict)| *verdict)
    }
}

fn holds(arg: &LinuxSeccompArg, abi: Abi, argument: u64) -> bool {
    let cut = |value: u64| if abi.is_wide() { value } else { value & 0xffff_ffff };
    let (argument, value) = (cut(argument), cut(arg.value()));
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => argument != value,
        LinuxSeccompOperator::ScmpCmpLt => argument < value,
        LinuxSeccompOperator::ScmpCmpLe => argument <= value,
        LinuxSeccompOperator::ScmpCmpEq => argument == value,
        LinuxSeccompOperator::ScmpCmpGe => argument >= value,
        LinuxSeccompOperator::ScmpCmpGt => argument > value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            argument & value == cut(arg.value_two().unwrap_or(0)) & value
        }
    }
}

/// Numbers without order, the same in each run (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 8) % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len() as u64) as usize]
    }
}

/// Compares all numbers of all ABIs, each with arguments around those that the profile names.
fn check(profile: &LinuxSeccomp, dice: &mut Dice) {
    let arguments =
        profile.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let mut values = vec![0, 1, 2, 3, 4, 1 << 32, u64::MAX];
    for value in arguments.flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]) {
        values.extend([value, value.wrapping_sub(1), value.wrapping_add(1), value ^ 1 << 32]);
    }
    for (machine, audit, abi, arch) in ABIS {
        let named = profile.architectures().iter().flatten().any(|other| *other == arch);
        let native = matches!(abi, Abi::X86_64 | Abi::Aarch64);
        let program = instructions(machine, profile).unwrap();
        let said = Said::new(profile, abi);
        let bit = if abi == Abi::X32 { X32_BIT } else { 0 };
        for number in (0..600).chain([0xf_0001, 0xf_0006, X32_BIT - 1]) {
            let times = if said.rules.contains_key(&(number | bit)) { 10 } else { 1 };
            for _ in 0..times {
                let arguments = std::array::from_fn(|_| *dice.pick(&values));
                let expected = match named || native {
                    true => said.verdict(number | bit, &arguments),
                    false => KILL_THREAD,
                };
                let verdict = run(&program, audit, number | bit, &arguments);
                assert_eq!(verdict, expected, "{abi:?} {number} {arguments:x?} {profile:?}");
            }
        }
        assert_eq!(run(&program, 0x8000_0016, 1, &[0; 6]), KILL_THREAD, "a foreign architecture");
    }
}

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn capabilities(names: &[&str]) -> Capabilities {
    serde_json::from_str(&serde_json::to_string(names).unwrap()).unwrap()
}

const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// The verdict on x86_64 by name.
fn on_x86_64(profile: &LinuxSeccomp, name: &str, arguments: &[u64; 6]) -> u32 {
    let program = instructions(Machine::X86_64, profile).unwrap();
    run(&program, 0xc000_003e, Abi::X86_64.number(name).unwrap(), arguments)
}

#[test]
fn the_default_profile_compiles_to_what_it_says() {
    let mut dice = Dice(1);
    for names in [
        &[][..],
        &["CAP_SYS_ADMIN"],
        &["CAP_SYS_PTRACE", "CAP_SYS_CHROOT", "CAP_DAC_READ_SEARCH", "CAP_SYS_TIME"],
        &["CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_RAWIO", "CAP_SYS_NICE"],
        &["CAP_SYS_TTY_CONFIG", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON"],
    ] {
        check(&default_profile(&capabilities(names), KERNEL), &mut dice);
    }
}

/// Found equal to containerd 2.4.2's profile through libseccomp 2.5.4, call by call.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_default_profile_allows_these_and_no_others() {
    let profile = default_profile(&Capabilities::new(), KERNEL);
    let program = instructions(Machine::X86_64, &profile).unwrap();
    let allowed = |audit, number| run(&program, audit, number, &[0; 6]) == ALLOW;
    let ranges = |audit| {
        let mut ranges = Vec::new();
        for number in 0..600 {
            if allowed(audit, number) && (number == 0 || !allowed(audit, number - 1)) {
                let end = (number..).find(|number| !allowed(audit, *number)).unwrap() - 1;
                ranges.push(format!("{number}-{end}"));
            }
        }
        ranges.join(" ")
    };
    assert_eq!(ranges(0xc000_003e), include_str!("../tests/golden/default-x86_64.txt").trim());
    assert_eq!(ranges(0x4000_0003), include_str!("../tests/golden/default-x86.txt").trim());
}

#[test]
fn the_default_profile_depends_on_arguments_and_capabilities() {
    let plain = default_profile(&Capabilities::new(), KERNEL);
    let admin = default_profile(&capabilities(&["CAP_SYS_ADMIN"]), KERNEL);
    let first = |value| [value, 0, 0, 0, 0, 0];
    for (family, verdict) in
        [(1, ALLOW), (2, ALLOW), (37, ALLOW), (38, EPERM), (40, EPERM), (46, EPERM)]
    {
        assert_eq!(on_x86_64(&plain, "socket", &first(family)), verdict, "family {family}");
    }
    for (flags, verdict) in [(0x11, ALLOW), (0x1000_0000, EPERM), (0x2_0011, EPERM)] {
        assert_eq!(on_x86_64(&plain, "clone", &first(flags)), verdict);
        assert_eq!(on_x86_64(&admin, "clone", &first(flags)), ALLOW);
    }
    assert_eq!(on_x86_64(&plain, "clone3", &[0; 6]), ENOSYS);
    assert_eq!(on_x86_64(&admin, "clone3", &[0; 6]), ALLOW);
    assert_eq!(on_x86_64(&plain, "personality", &first(0xffff_ffff)), ALLOW);
    assert_eq!(on_x86_64(&plain, "personality", &first(0x4_0000)), EPERM);
    let old = default_profile(&Capabilities::new(), KernelVersion { major: 4, minor: 7 });
    assert_eq!(on_x86_64(&plain, "ptrace", &[0; 6]), ALLOW);
    assert_eq!(on_x86_64(&old, "ptrace", &[0; 6]), EPERM);
}

#[test]
fn any_profile_compiles_to_what_it_says() {
    let mut dice = Dice(88_172_645_463_325_252);
    let names: Vec<_> = default_profile(&Capabilities::new(), KERNEL)
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names().clone())
        .chain(["no_such_call".to_owned(), "send".to_owned()])
        .collect();
    let actions = ["ALLOW", "ERRNO", "KILL_THREAD", "KILL_PROCESS", "LOG", "TRAP", "TRACE"];
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let values = [0, 1, 5, 0xffff_ffff, 1 << 32, 0x1_0000_0005, u64::MAX];
    let architectures = [r#""X86_64""#, r#""X86","ARM""#, r#""X32""#, r#""X86","X32""#];
    for _ in 0..60 {
        let mut rules = Vec::new();
        // The longest of these programs pass the reach of a conditional jump many times over.
        for _ in 0..=dice.roll(60) {
            let called: Vec<_> =
                (0..=dice.roll(4)).map(|_| format!("{:?}", dice.pick(&names))).collect();
            let conditions: Vec<_> = (0..dice.roll(4))
                .map(|_| {
                    let (index, value, two) = (dice.roll(6), dice.pick(&values), dice.pick(&values));
                    let op = dice.pick(&operators);
                    format!(
                        r#"{{"index":{index},"value":{value},"valueTwo":{two},"op":"SCMP_CMP_{op}"}}"#
                    )
                })
                .collect();
            rules.push(format!(
                r#"{{"names":[{}],"action":"SCMP_ACT_{}","errnoRet":{},"args":[{}]}}"#,
                called.join(","),
                dice.pick(&actions),
                1 + dice.roll(3),
                conditions.join(",")
            ));
        }
        let architectures =
            dice.pick(&architectures).replace('"', "").replace(',', r#"","SCMP_ARCH_"#);
        let json = format!(
            r#"{{"defaultAction":"SCMP_ACT_{}","defaultErrnoRet":1,
                "architectures":["SCMP_ARCH_{architectures}"],"syscalls":[{}]}}"#,
            dice.pick(&actions),
            rules.join(",")
        );
        check(&profile(&json), &mut dice);
    }
}

#[test]
fn a_rule_without_conditions_outweighs_the_others() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["mkdir"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]},
        {"names":["mkdir"],"action":"SCMP_ACT_ALLOW"},
        {"names":["mkdir"],"action":"SCMP_ACT_TRAP"},
        {"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}"#;
    assert_eq!(on_x86_64(&profile(json), "mkdir", &[1, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn the_skipped_call_of_a_tracer_gets_the_default() {
    let json = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_ALLOW"}]}"#;
    let program = instructions(Machine::X86_64, &profile(json)).unwrap();
    let verdict = |number| run(&program, 0xc000_003e, number, &[0; 6]);
    assert_eq!(verdict(u32::MAX), EPERM);
    assert_eq!(verdict(X32_BIT), KILL_THREAD);
    assert_eq!(verdict(0), ALLOW);
    assert_eq!(verdict(1), ENOSYS);
}

#[test]
fn a_program_has_at_most_4096_instructions() {
    let name =
        |at: usize| ["read", "write", "open", "close", "stat", "fstat", "poll", "lseek"][at % 8];
    let rule = |at: usize| {
        format!(
            r#"{{"names":["{}"],"action":"SCMP_ACT_TRAP","args":[
                {{"index":0,"value":{},"op":"SCMP_CMP_EQ"}}]}}"#,
            name(at),
            at << 30
        )
    };
    let with = |count| {
        let rules: Vec<_> = (0..count).map(rule).collect();
        let rules = rules.join(",");
        profile(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rules}]}}"#))
    };
    let fits = compile(&with(900)).unwrap();
    assert!(fits.len() > 3000 && fits.as_bytes().len() == 8 * fits.len());
    check(&with(900), &mut Dice(7));
    assert!(matches!(compile(&with(2000)), Err(Error::TooLong { length }) if length > 4096));
}

#[test]
fn what_cannot_be_is_refused() {
    let notify = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    assert!(matches!(compile(&profile(notify)), Err(Error::Notify)));
    let seventh = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],
        "action":"SCMP_ACT_TRAP","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#;
    assert!(matches!(compile(&profile(seventh)), Err(Error::Argument { index: 6, .. })));
}

#[test]
fn flags_are_passed_on() {
    let json = r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_SPEC_ALLOW"]}"#;
    assert_eq!(compile(&profile(json)).unwrap().flags(), 2 | 4);
}
