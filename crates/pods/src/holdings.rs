//! What the processes of a container hold: a look at each of them, so made only where metrics ask.

use std::fs;

use cgroup::Cgroup;
use rustix::process::Pid;

use crate::view::Holdings;

/// RLIMIT_NOFILE by number.
const DESCRIPTORS: u32 = 7;

/// What the processes in `cgroup` hold; one that vanishes meanwhile holds nothing.
pub(crate) fn of(cgroup: &Cgroup, init: Option<u32>) -> Holdings {
    let mut holdings =
        Holdings { oom_kills: cgroup.oom_kills().unwrap_or_default(), ..Holdings::default() };
    for process in cgroup.processes().unwrap_or_default() {
        let (descriptors, sockets) = descriptors_of(process);
        holdings.descriptors += descriptors;
        holdings.sockets += sockets;
    }
    let init = init.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let limit = init.and_then(|pid| sys::limit::get(pid, DESCRIPTORS).ok());
    holdings.descriptors_max = limit.map(|limit| limit.soft);
    holdings
}

/// Open descriptors of a process, and how many of them are sockets.
fn descriptors_of(process: Pid) -> (u64, u64) {
    let (mut descriptors, mut sockets) = (0, 0);
    let listed = fs::read_dir(format!("/proc/{}/fd", process.as_raw_nonzero()));
    for entry in listed.into_iter().flatten().flatten() {
        descriptors += 1;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    (descriptors, sockets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_and_sockets_of_a_process_are_counted() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (plain, none) = descriptors_of(pid);
        child.kill().unwrap();
        child.wait().unwrap();
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = std::os::fd::OwnedFd::from(socket);
        let mut child =
            std::process::Command::new("sleep").arg("100").stdin(socket).spawn().unwrap();
        let found = descriptors_of(Pid::from_child(&child));
        child.kill().unwrap();
        child.wait().unwrap();
        // The harness may itself run with sockets as its standard streams.
        assert!(plain >= 3, "{plain}");
        assert!(found.1 > 0 && found.1 + 1 >= none, "{found:?} {none}");
        assert_eq!(descriptors_of(pid), (0, 0), "it is gone");
    }
}
