//! Kernel parameters (proc_sys(5)) of the namespaces that the caller lives in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io;

use crate::mount::filesystem;

/// After so many uses it is time for a new procfs.
const USES: u32 = 32;

/// A procfs of one's own, attached nowhere, to reach kernel parameters through.
///
/// The kernel keeps an entry for each name and namespace that was ever asked for through a procfs, and
/// looks at all of one name to find that of the caller's namespace. Through /proc, a parameter of a
/// pod's network namespace would take the longer to find the more pods there are.
#[derive(Debug)]
pub struct Parameters {
    procfs: OwnedFd,
    used: u32,
}

impl Parameters {
    /// Makes the procfs.
    ///
    /// # Errors
    /// Those of [`filesystem`].
    pub fn open() -> io::Result<Self> {
        let procfs = filesystem("proc", &[])?;
        Ok(Self { procfs, used: 0 })
    }

    /// The same procfs for another process.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn duplicate(&self) -> io::Result<Self> {
        Ok(Self { procfs: io::fcntl_dupfd_cloexec(&self.procfs, 0)?, used: 0 })
    }

    /// Writes a parameter by its path below /proc/sys, `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// Those of openat2(2) and write(2): `ENOENT` where there is no such parameter, `EXDEV` where the
    /// path leads out.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parameters = openat(&self.procfs, c"sys", flags, Mode::empty())?;
        let file = openat2(
            parameters,
            path,
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        io::write(file, value.as_bytes()).map(drop)
    }

    /// To be called once a namespace's parameters are written and who asked for it has the answer:
    /// from time to time the procfs gives way to a new one, which takes as long as the kernel needs to
    /// be rid of the old one. Where a new one cannot be made, the old one does as well.
    pub fn renew(&mut self) {
        self.used += 1;
        if self.used >= USES
            && let Ok(new) = Self::open()
        {
            *self = new;
        }
    }
}

impl AsFd for Parameters {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.procfs.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use rustix::thread::ThreadNameSpaceType;

    use super::*;
    use crate::namespace::unshare;

    #[test]
    fn parameters_of_ones_own_namespace_are_written() {
        const TTL: &str = "net/ipv4/ip_default_ttl";
        let mut parameters = Parameters::open().unwrap();
        let read = || std::fs::read_to_string(format!("/proc/sys/{TTL}")).unwrap();
        let here = read();
        for ttl in 100..100 + 2 * USES {
            let inside = std::thread::scope(|scope| {
                let visit = || {
                    unshare(ThreadNameSpaceType::NETWORK).unwrap();
                    parameters.write(TTL, &ttl.to_string()).unwrap();
                    read()
                };
                scope.spawn(visit).join().unwrap()
            });
            assert_eq!(inside.trim(), ttl.to_string());
            parameters.renew();
        }
        assert_eq!(read(), here);
        assert!(parameters.used < USES);
    }

    #[test]
    fn a_path_leads_to_a_parameter_or_nowhere() {
        let parameters = Parameters::open().unwrap();
        for (path, errno) in
            [("../uptime", Errno::XDEV), ("/proc/uptime", Errno::XDEV), ("net/none", Errno::NOENT)]
        {
            assert_eq!(parameters.write(path, "0"), Err(errno), "{path}");
        }
    }
}
