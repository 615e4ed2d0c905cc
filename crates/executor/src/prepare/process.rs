//! The process part of a spec, with the kernel's numbers in place of names.

use std::path::Path;

use oci_spec::runtime::{
    Capabilities as Names, IOPriorityClass, LinuxCapabilities, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimitType, Process as Spec, Scheduler as SpecScheduler,
};

use super::Error;
use crate::plan::{Capabilities, Limits, Process, Rlimit, Scheduler, Seccomp};

/// Capabilities by number (capabilities(7)), without `CAP_`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The most processors that an affinity may name.
const PROCESSORS_MAX: u32 = 8192;

pub(super) fn process(spec: &Spec, seccomp: Option<Seccomp>) -> Result<Process, Error> {
    let args = spec.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(Error::spec("process.args", "names no program"));
    }
    let env = spec.env().clone().unwrap_or_default();
    let texts = args.iter().chain(&env);
    if let Some(text) = texts.clone().find(|text| text.contains('\0')) {
        return Err(Error::spec("process.args or process.env", format!("{text:?} holds a NUL")));
    }
    let user = spec.user();
    Ok(Process {
        args,
        executable: None,
        env,
        cwd: absolute("process.cwd", spec.cwd())?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: spec.capabilities().as_ref().map(capabilities).unwrap_or_default(),
        no_new_privileges: spec.no_new_privileges().unwrap_or_default(),
        seccomp,
        apparmor: some(spec.apparmor_profile().as_ref()),
        selinux: some(spec.selinux_label().as_ref()),
        io_priority: io_priority(spec)?,
        scheduler: spec.scheduler().as_ref().map(scheduler),
        affinity: Vec::new(),
    })
}

pub(super) fn limits(spec: &Spec) -> Result<Limits, Error> {
    let mut rlimits = Vec::new();
    for limit in spec.rlimits().iter().flatten() {
        if limit.soft() > limit.hard() {
            let reason = format!("the soft limit of {:?} is above the hard one", limit.typ());
            return Err(Error::spec("process.rlimits", reason));
        }
        let resource = resource(limit.typ());
        rlimits.push(Rlimit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(Limits { oom_score_adj: spec.oom_score_adj(), rlimits })
}

/// The processors that the spec wants an exec to end on.
pub(super) fn exec_affinity(spec: &Spec) -> Result<Vec<u32>, Error> {
    let wanted = spec.exec_cpu_affinity().as_ref();
    let Some(list) = wanted.and_then(|wanted| wanted.cpu_affinity_final().as_ref()) else {
        return Ok(Vec::new());
    };
    let wrong = || Error::spec("process.execCPUAffinity.final", format!("{list:?} is no CPU list"));
    let mut processors = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.trim().parse::<u32>().map_err(|_| wrong());
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= PROCESSORS_MAX {
            return Err(wrong());
        }
        processors.extend(first..=last);
    }
    Ok(processors)
}

/// A path of the container as text.
pub(super) fn absolute(field: &str, path: &Path) -> Result<String, Error> {
    match path.to_str() {
        Some(text) if text.starts_with('/') && !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Error::spec(field, format!("{path:?} is not an absolute path in UTF-8"))),
    }
}

fn some(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).cloned()
}

fn capabilities(sets: &LinuxCapabilities) -> Capabilities {
    let bits = |names: &Option<Names>| {
        names
            .iter()
            .flatten()
            .filter_map(|name| bit(&name.to_string()))
            .fold(0, |all, bit| all | bit)
    };
    Capabilities {
        bounding: bits(sets.bounding()),
        effective: bits(sets.effective()),
        permitted: bits(sets.permitted()),
        inheritable: bits(sets.inheritable()),
        ambient: bits(sets.ambient()),
    }
}

fn bit(name: &str) -> Option<u64> {
    CAPABILITIES.iter().position(|known| *known == name).map(|number| 1 << number)
}

fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// As ioprio_set(2) takes it: three bits of class above thirteen of level.
fn io_priority(spec: &Spec) -> Result<Option<u16>, Error> {
    let Some(wanted) = spec.io_priority() else { return Ok(None) };
    let class: u16 = match wanted.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(wanted.priority()) {
        Ok(level @ 0..=7) => Ok(Some(class << 13 | level)),
        _ => Err(Error::spec("process.ioPriority.priority", "is not within 0 to 7")),
    }
}

fn scheduler(spec: &SpecScheduler) -> Scheduler {
    let policy = match spec.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    let positive = |number: &Option<i32>| number.and_then(|number| u32::try_from(number).ok());
    Scheduler {
        policy,
        flags: spec.flags().iter().flatten().map(flag).fold(0, |all, flag| all | flag),
        nice: spec.nice().unwrap_or_default(),
        priority: positive(spec.priority()).unwrap_or_default(),
        runtime: spec.runtime().unwrap_or_default(),
        deadline: spec.deadline().unwrap_or_default(),
        period: spec.period().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{Capability, ExecCPUAffinityBuilder};

    use super::*;

    #[test]
    fn every_capability_has_the_kernels_number() {
        for (number, name) in CAPABILITIES.iter().enumerate() {
            let parsed: Capability = name.parse().unwrap();
            assert_eq!(bit(&parsed.to_string()), Some(1 << number), "{name}");
        }
        assert_eq!(bit("SYS_ADMIN"), Some(1 << 21));
        assert_eq!(bit("CHECKPOINT_RESTORE"), Some(1 << 40));
    }

    #[test]
    fn an_affinity_is_a_list_of_ranges() {
        let affinity = |list: &str| {
            let mut spec = Spec::default();
            let wanted = ExecCPUAffinityBuilder::default().cpu_affinity_final(list.to_owned());
            spec.set_exec_cpu_affinity(Some(wanted.build().ok()?));
            exec_affinity(&spec).ok()
        };
        assert_eq!(affinity("0-2,7").unwrap(), [0, 1, 2, 7]);
        assert_eq!(affinity("5-1"), None);
        assert_eq!(affinity("0-99999999"), None);
        assert_eq!(exec_affinity(&Spec::default()).unwrap(), [] as [u32; 0]);
    }
}
