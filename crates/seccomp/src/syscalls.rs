//! System calls by name, for each ABI.

mod table;

use table::TABLE;

/// The place of a call that an ABI does not have.
const NONE: i32 = -1;

/// What tells an x32 call from an x86_64 one.
pub(crate) const X32_BIT: u32 = 1 << 30;

/// A calling convention with call numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Abi {
    /// Whether arguments have 64 bits; of others the lower half alone counts.
    pub(crate) fn is_wide(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64)
    }

    /// The number of a call, as the kernel shows it to a filter.
    pub(crate) fn number(self, name: &str) -> Option<u32> {
        let at = TABLE.binary_search_by_key(&name, |(name, _)| name).ok()?;
        let numbers = TABLE[at].1;
        let (number, bit) = match self {
            Self::X86_64 => (numbers[0], 0),
            Self::X86 => (numbers[1], 0),
            Self::X32 => (numbers[2], X32_BIT),
            Self::Aarch64 => (numbers[3], 0),
            Self::Arm => (numbers[4], 0),
        };
        Some(u32::try_from(number).ok()? | bit)
    }

    /// The older way into a call on 32-bit x86: a call that serves many, and which of them its first
    /// argument tells.
    pub(crate) fn multiplexed(self, name: &str) -> Option<(u32, u32)> {
        if self != Self::X86 {
            return None;
        }
        let among = |calls: &[(&str, u32)]| {
            calls.iter().find(|(call, _)| *call == name).map(|(_, which)| *which)
        };
        let by = |multiplexer, which| Some((self.number(multiplexer)?, which));
        match (among(&SOCKET_CALLS), among(&IPC_CALLS)) {
            (Some(which), _) => by("socketcall", which),
            (None, Some(which)) => by("ipc", which),
            (None, None) => None,
        }
    }
}

/// linux/net.h
const SOCKET_CALLS: [(&str, u32); 20] = [
    ("socket", 1),
    ("bind", 2),
    ("connect", 3),
    ("listen", 4),
    ("accept", 5),
    ("getsockname", 6),
    ("getpeername", 7),
    ("socketpair", 8),
    ("send", 9),
    ("recv", 10),
    ("sendto", 11),
    ("recvfrom", 12),
    ("shutdown", 13),
    ("setsockopt", 14),
    ("getsockopt", 15),
    ("sendmsg", 16),
    ("recvmsg", 17),
    ("accept4", 18),
    ("recvmmsg", 19),
    ("sendmmsg", 20),
];

/// linux/ipc.h
const IPC_CALLS: [(&str, u32); 12] = [
    ("semop", 1),
    ("semget", 2),
    ("semctl", 3),
    ("semtimedop", 4),
    ("msgsnd", 11),
    ("msgrcv", 12),
    ("msgget", 13),
    ("msgctl", 14),
    ("shmat", 21),
    ("shmdt", 22),
    ("shmget", 23),
    ("shmctl", 24),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_numbers_unique() {
        assert!(TABLE.is_sorted_by(|(a, _), (b, _)| a < b));
        for abi in 0..5 {
            let mut numbers: Vec<_> =
                TABLE.iter().map(|(_, row)| row[abi]).filter(|number| *number != NONE).collect();
            assert!(numbers.len() > 300);
            numbers.sort_unstable();
            assert!(numbers.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn each_abi_has_its_own_numbers() {
        let of = |name| {
            [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm].map(|abi| abi.number(name))
        };
        assert_eq!(of("openat"), [Some(257), Some(295), Some(X32_BIT | 257), Some(56), Some(322)]);
        assert_eq!(of("waitpid"), [None, Some(7), None, None, None]);
        assert_eq!(of("ioctl")[2], Some(X32_BIT | 514));
        assert_eq!(of("no_such_call"), [None; 5]);
        assert_eq!(Abi::X86.multiplexed("shmget"), Some((117, 23)));
        assert_eq!(Abi::X86.multiplexed("accept"), Some((102, 5)));
        assert_eq!(Abi::Arm.multiplexed("accept"), None);
    }
}
