//! New file systems, mount_setattr(2), and a mount namespace for one thread alone.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;

/// Makes a file system of a kind with these parameters, attached nowhere. Nothing in it can be executed,
/// is a device, or raises privileges.
///
/// # Errors
/// Those of fsopen(2), fsconfig(2) and fsmount(2): `ENODEV` where the kernel has no such kind.
pub fn filesystem(kind: &str, parameters: &[(&str, &str)]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in parameters {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, quiet)
}

/// A change to a mount's attributes, as mount_setattr(2) makes it: all of it or nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountChange<'fd> {
    /// Flags to set.
    pub set: Option<MountAttrFlags>,
    /// Flags to clear.
    pub clear: Option<MountAttrFlags>,
    /// `PRIVATE`, `DOWNSTREAM` (slave), `SHARED` or `UNBINDABLE`; none leaves it.
    pub propagation: Option<MountPropagationFlags>,
    /// Maps ids by this user namespace; only a detached mount that is not mapped yet takes it.
    pub id_map: Option<BorrowedFd<'fd>>,
}

/// Applies `change` to the mount at whose root `mount` stands, with all below it if `recursive`.
///
/// # Errors
/// Those of mount_setattr(2): `EINVAL` where the file system cannot be id-mapped, `EPERM` where the
/// mount already is.
pub fn mount_setattr(
    mount: impl AsFd,
    recursive: bool,
    change: &MountChange<'_>,
) -> io::Result<()> {
    let bits = |flags: Option<MountAttrFlags>| flags.map_or(0, |flags| u64::from(flags.bits()));
    let mut attr = libc::mount_attr {
        attr_set: bits(change.set),
        attr_clr: bits(change.clear),
        propagation: change.propagation.map_or(0, |propagation| u64::from(propagation.bits())),
        userns_fd: 0,
    };
    // The access-time modes are one field of two bits: any change of it has to clear the field.
    let atime = u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits());
    if (attr.attr_set | attr.attr_clr) & atime != 0 {
        attr.attr_clr |= atime;
    }
    if let Some(user_namespace) = change.id_map {
        attr.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attr.userns_fd = u64::from(user_namespace.as_raw_fd().unsigned_abs());
    }
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, `attr` is a whole mount_attr that lives over the
    // call together with its size, and the descriptors are borrowed for at least as long.
    #[expect(unsafe_code, reason = "rustix has no mount_setattr(2)")]
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_error()) }
}

/// Moves the calling thread, and no other, into a copy of its mount namespace, with a root and a
/// working directory of its own. The copy's mounts are still peers of the original's: make them
/// private before mounting anything.
///
/// # Errors
/// Those of unshare(2).
pub fn unshare_mounts() -> io::Result<()> {
    #[expect(unsafe_code, reason = "unshare(2) can split threads that share descriptors")]
    // SAFETY: rustix asks for care because threads that share a descriptor table are split by
    // `FILES`; `FS` and `NEWNS` leave descriptors and memory alone.
    unsafe {
        rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS)
    }
}

fn last_error() -> io::Errno {
    io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::INVAL)
}
